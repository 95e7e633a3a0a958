"""Covered faces: nothing downstream ever sees the camera's own pixels of a face."""

import numpy as np
import pytest

from edge_app.config import PrivacySettings
from edge_app.frames import Detections, Frame, Result, StepTimes
from edge_app.privacy import Privacy, pixelate

BLUR = PrivacySettings(mode="blur", score=0.3, memory_s=1.0)


def noise(height=120, width=160):
    return np.random.RandomState(1).randint(0, 256, (height, width, 3)).astype(np.uint8)


def result(pixels, captured_at, *rows):
    rows = np.asarray(rows, np.float32).reshape(-1, 5)
    frame = Frame(0, captured_at, captured_at, pixels)
    return Result(frame, Detections(rows[:, :4], rows[:, 4]), StepTimes(0, 0, 0), captured_at)


def cover(privacy, one):
    return privacy.cover(one, one.frame.captured_at)


def test_a_suspicion_is_enough_and_the_frame_of_the_camera_stays_as_it_is():
    pixels = noise()
    pixels.flags.writeable = False
    covered = cover(Privacy(BLUR), result(pixels, 0.0, [40, 30, 100, 90, 0.31])).frame.pixels
    face = covered[30:90, 40:100].reshape(60, 60, 3)
    assert len(np.unique(face.reshape(-1, 3), axis=0)) <= 64  # cells, not pixels
    assert (covered[:15] == pixels[:15]).all() and (covered[:, 120:] == pixels[:, 120:]).all()


def test_a_face_that_is_missed_for_a_moment_stays_covered():
    pixels, privacy = noise(), Privacy(BLUR)
    cover(privacy, result(pixels, 0.0, [40, 30, 100, 90, 0.9]))
    missed = cover(privacy, result(pixels, 0.9)).frame.pixels
    assert not (missed[30:90, 40:100] == pixels[30:90, 40:100]).all()
    gone = cover(privacy, result(pixels, 2.0)).frame.pixels
    assert (gone == pixels).all()


def test_in_a_frame_of_another_size_only_its_own_faces_are_covered():
    privacy, small = Privacy(BLUR), noise(60, 80)
    cover(privacy, result(noise(), 0.0, [40, 30, 100, 90, 0.9]))
    covered = cover(privacy, result(small, 0.1, [0, 0, 20, 20, 0.9])).frame.pixels
    assert (covered[30:, 40:] == small[30:, 40:]).all()
    assert not (covered[:20, :20] == small[:20, :20]).all()


def test_the_detector_is_asked_for_weaker_faces_only_when_they_are_covered():
    assert Privacy(BLUR).threshold(0.8) == 0.3
    assert Privacy(PrivacySettings()).threshold(0.8) == 0.8
    plain = result(noise(), 0.0, [40, 30, 100, 90, 0.9])
    assert cover(Privacy(PrivacySettings()), plain) is plain


@pytest.mark.parametrize(
    "box", [[-50, -50, 10, 10], [150, 110, 400, 400], [0, 0, 160, 120], [7, 7, 8, 8]]
)
def test_faces_at_the_edge_are_covered_as_far_as_they_can_be_seen(box):
    pixels = noise()
    canvas = pixels.copy()
    pixelate(canvas, Detections(np.asarray([box], np.float32), np.asarray([0.9], np.float32)))
    x1, y1, x2, y2 = np.clip(box, 0, [160, 120, 160, 120])
    assert not (canvas[y1:y2, x1:x2] == pixels[y1:y2, x1:x2]).all()


def test_nonsense_is_left_alone():
    pixels = noise()
    canvas = pixels.copy()
    boxes = np.asarray([[np.nan, 0, 10, 10], [300, 300, 400, 400], [50, 50, 40, 40]], np.float32)
    pixelate(canvas, Detections(boxes, np.full(3, 0.9, np.float32)))
    assert (canvas == pixels).all()
