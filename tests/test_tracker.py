"""Two thresholds: a face at 94 to 96% must not flicker, and one at 94% must not appear."""

import numpy as np
import pytest

from edge_app.config import FacesSettings
from edge_app.frames import Detections
from edge_app.tracker import Tracker

HERE, THERE = [10, 10, 50, 50], [200, 10, 240, 50]


def faces(*pairs):
    ordered = sorted(pairs, key=lambda pair: -pair[1])
    return Detections(
        np.asarray([box for box, _ in ordered], np.float32).reshape(-1, 4),
        np.asarray([score for _, score in ordered], np.float32),
    )


@pytest.fixture
def tracker():
    return Tracker(FacesSettings(show=0.95, keep=0.8, memory_s=0.3, match_iou=0.3))


def shown(tracker, scores, box=HERE, step_s=0.09):
    return [
        len(tracker.update(faces((box, score)) if score else faces(), number * step_s))
        for number, score in enumerate(scores)
    ]


def test_a_face_around_the_threshold_does_not_flicker(tracker):
    assert shown(tracker, [0.96, 0.94, 0.96, 0.94, 0.90]) == [1, 1, 1, 1, 1]


def test_a_face_that_never_reached_the_threshold_is_not_shown(tracker):
    assert shown(tracker, [0.94, 0.94, 0.949]) == [0, 0, 0]


def test_frames_that_are_unrelated_give_each_other_nothing():
    tracker = Tracker(FacesSettings(show=0.95, keep=0.8), related=False)
    assert shown(tracker, [0.96, 0.94, None, 0.96]) == [1, 0, 0, 1]
    assert tracker.tracks == (2,)


def test_a_face_under_the_lower_bound_goes_after_the_memory(tracker):
    assert shown(tracker, [0.96, 0.5, 0.5, 0.5, 0.5, 0.5]) == [1, 1, 1, 1, 0, 0]


def test_a_missed_face_is_remembered_for_a_moment_and_comes_back_with_a_lower_score(tracker):
    assert shown(tracker, [0.96, None, 0.85, None, None, None, None, 0.85]) == [1, 1, 1, 1, 1, 1, 0, 0]


def test_a_file_whose_times_jump_back_does_not_keep_its_faces(tracker):
    tracker.update(faces((HERE, 0.99)), 1000.0)
    assert len(tracker.update(faces(), 999.9)) == 1
    assert len(tracker.update(faces(), 0.0)) == 0


def test_a_low_score_elsewhere_gets_nothing_from_a_face_here(tracker):
    tracker.update(faces((HERE, 0.99)), 0.0)
    assert len(tracker.update(faces((HERE, 0.99), (THERE, 0.9)), 0.1)) == 1


def test_a_moving_face_is_followed(tracker):
    for number in range(10):
        box = [10 + 8 * number, 10, 50 + 8 * number, 50]
        now = tracker.update(faces((box, 0.96 if number == 0 else 0.85)), number * 0.1)
        assert now.boxes.tolist() == [box]


def test_a_fast_face_leaves_no_box_behind(tracker):
    for number in range(5):
        box = [10 + 40 * number, 10, 50 + 40 * number, 50]  # a whole width from frame to frame
        now = tracker.update(faces((box, 0.97)), number * 0.1)
        assert now.boxes.tolist() == [box]


def test_the_nearer_of_two_tracks_is_continued(tracker):
    beside = [52, 10, 92, 50]
    tracker.update(faces((HERE, 0.96), (beside, 0.99)), 0.0)
    moved = [20, 10, 60, 50]
    now = tracker.update(faces((moved, 0.9), ([60, 10, 100, 50], 0.9)), 0.1)
    assert sorted(now.boxes.tolist()) == [moved, [60, 10, 100, 50]]


def test_two_faces_keep_their_boxes_best_first(tracker):
    tracker.update(faces((HERE, 0.96), (THERE, 0.99)), 0.0)
    now = tracker.update(faces((HERE, 0.98), (THERE, 0.85)), 0.1)
    assert now.boxes.tolist() == [HERE, THERE]
    assert now.scores.tolist() == pytest.approx([0.98, 0.85])


def test_one_detection_keeps_one_face_only(tracker):
    tracker.update(faces((HERE, 0.99), ([30, 10, 70, 50], 0.97)), 0.0)
    assert len(tracker.update(faces((HERE, 0.99)), 0.4)) == 1


def test_nothing_in_nothing_out(tracker):
    assert len(tracker.update(Detections.empty(), 0.0)) == 0


def test_the_detector_is_asked_down_to_the_lower_bound(tracker):
    assert tracker.threshold == 0.8


def test_a_face_keeps_its_number_and_a_new_one_gets_a_new_one(tracker):
    tracker.update(faces((HERE, 0.96)), 0.0)
    assert tracker.tracks == (1,)
    tracker.update(faces((HERE, 0.96), (THERE, 0.99)), 0.1)
    assert tracker.tracks == (2, 1)  # best first, as the faces
    tracker.update(faces((THERE, 0.85)), 0.2)
    assert set(tracker.tracks) == {1, 2}
    tracker.update(faces(), 2.0)
    tracker.update(faces((HERE, 0.96)), 2.1)
    assert tracker.tracks == (3,)


def test_in_a_frame_of_another_size_nothing_of_before_is_shown(tracker):
    tracker.update(faces((HERE, 0.99), (THERE, 0.97)), 0.0, (640, 360))
    assert len(tracker.update(faces((HERE, 0.9)), 0.1, (640, 360))) == 2
    assert len(tracker.update(faces((HERE, 0.9)), 0.2, (320, 180))) == 0
    assert len(tracker.update(faces((HERE, 0.96)), 0.3, (320, 180))) == 1
    assert tracker.tracks == (3,), "nor is it taken for a face of before"
