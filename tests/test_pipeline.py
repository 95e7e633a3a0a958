"""Threads: the newest frame wins, a failing stage is named, everything is closed where it was opened."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from edge_app.detector import Detector
from edge_app.errors import CameraError, EndOfStream, StageError
from edge_app.frames import Detections, Frame, StepTimes
from edge_app.meter import Meter
from edge_app.pipeline import Pipeline
from edge_app.source import Camera

PIXELS = np.zeros((4, 6, 3), np.uint8)


class CountingCamera(Camera):
    """Gives numbered frames; notes the threads that open and close it. ``trouble`` is raised at a frame."""

    def __init__(self, frames=10, live=False, trouble=None, pace_s=0.0):
        super().__init__("counting", live)
        self.frames, self.trouble, self.pace_s = frames, trouble, pace_s
        self.number = 0
        self.threads = []

    def open(self):
        self.threads.append(threading.current_thread().name)

    def read(self, timeout_s):
        if self.number >= self.frames:
            raise self.trouble or EndOfStream(self.name)
        if self.pace_s:
            time.sleep(self.pace_s)
        self.number += 1
        now = time.monotonic()
        return Frame(self.number - 1, now, now, PIXELS)

    def close(self):
        self.threads.append(threading.current_thread().name)


class CountingDetector(Detector):
    """Finds nothing; may be slow, fail at a frame, or fail to open."""

    def __init__(self, delay_s=0.0, fails_at=None, opens=True):
        self.delay_s, self.fails_at, self.opens = delay_s, fails_at, opens
        self.number = 0
        self.threads = []

    def __enter__(self):
        if not self.opens:
            raise RuntimeError("no such network")
        self.threads.append(threading.current_thread().name)
        return self

    def __exit__(self, *error):
        self.threads.append(threading.current_thread().name)

    def detect(self, pixels, threshold):
        if self.number == self.fails_at:
            raise RuntimeError("network broke")
        self.number += 1
        time.sleep(self.delay_s)
        self.times = StepTimes(0.0, self.delay_s, 0.0)
        return Detections.empty()


def numbers(pipeline):
    """Numbers of all results until the source ends."""
    seen = []
    try:
        while True:
            result = pipeline.next(0.5)
            if result is not None:
                seen.append(result.frame.number)
    except EndOfStream:
        return seen


def test_a_file_loses_no_frame_however_slow_the_detector():
    with Pipeline(CountingCamera(30), CountingDetector(0.002), 0.5, Meter()) as pipeline:
        assert numbers(pipeline) == list(range(30))
        assert pipeline.dropped == {"camera": 0, "detector": 0, "display": 0}


def test_a_live_source_drops_and_counts_instead_of_growing_old():
    camera = CountingCamera(100, live=True, pace_s=0.002)
    with Pipeline(camera, CountingDetector(0.02), 0.5, Meter()) as pipeline:
        seen = numbers(pipeline)
        dropped = pipeline.dropped
    assert seen == sorted(set(seen)) and seen[-1] == 99
    assert len(seen) + dropped["detector"] + dropped["display"] == 100
    assert dropped["detector"] > 10


def test_frame_age_does_not_grow_with_a_slow_consumer():
    camera = CountingCamera(10 ** 6, live=True, pace_s=0.004)
    behind = []  # frames that the camera has given since
    with Pipeline(camera, CountingDetector(), 0.5, Meter()) as pipeline:
        while len(behind) < 20:
            result = pipeline.next(60)
            behind.append(camera.number - result.frame.number)
            time.sleep(0.03)
    assert np.median(behind[-5:]) < max(camera.number / 4, 10)  # in a queue nearly as many


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("wait_s", [0.0, 0.01, 0.03])
def test_every_frame_is_accounted_for_when_it_is_stopped(live, wait_s):
    meter = Meter()
    camera = CountingCamera(10 ** 6, live=live, pace_s=0.002)
    with Pipeline(camera, CountingDetector(0.003), 0.5, meter) as pipeline:
        for _ in range(10):
            assert pipeline.next(5) is not None
            time.sleep(wait_s)
    counts, dropped, left = meter.counts(), pipeline.dropped, pipeline.left
    assert counts["camera"] == counts["detect"] + dropped["detector"] + left["detector"]
    assert counts["detect"] == 10 + dropped["display"] + left["display"]
    assert sum(left.values()) <= 4


def test_each_resource_is_opened_and_closed_on_its_own_thread():
    camera, detector = CountingCamera(3), CountingDetector()
    with Pipeline(camera, detector, 0.5, Meter()) as pipeline:
        numbers(pipeline)
    assert camera.threads == ["camera", "camera"]
    assert detector.threads == ["detector", "detector"]


def test_leaving_early_closes_everything():
    camera, detector = CountingCamera(10 ** 6), CountingDetector()
    with Pipeline(camera, detector, 0.5, Meter()) as pipeline:
        assert pipeline.next(5).frame.number == 0
    assert pipeline.stop() == []
    assert camera.threads == ["camera"] * 2 and detector.threads == ["detector"] * 2


def test_a_camera_that_fails_is_named_and_what_it_gave_is_delivered():
    camera = CountingCamera(5, trouble=CameraError("ribbon cable"))
    detector = CountingDetector()
    with Pipeline(camera, detector, 0.5, Meter()) as pipeline:
        for number in range(5):
            assert pipeline.next(5).frame.number == number
        with pytest.raises(StageError, match="camera stage: ribbon cable") as raised:
            pipeline.next(5)
    assert raised.value.exit_status == CameraError.exit_status
    assert isinstance(raised.value.__cause__, CameraError)
    assert detector.threads == ["detector"] * 2


def test_a_detector_that_fails_is_named_and_the_camera_closed():
    camera = CountingCamera(10 ** 6)
    with Pipeline(camera, CountingDetector(fails_at=2), 0.5, Meter()) as pipeline:
        with pytest.raises(StageError, match="detector stage: network broke"):
            numbers(pipeline)
    assert camera.threads == ["camera"] * 2


def test_a_detector_that_does_not_open_leaves_the_camera_alone():
    camera = CountingCamera()
    with Pipeline(camera, CountingDetector(opens=False), 0.5, Meter()) as pipeline:
        with pytest.raises(StageError, match="detector stage: no such network"):
            pipeline.next(5)
    assert camera.threads == []


def test_a_stage_that_is_stuck_is_named_and_the_join_is_bounded():
    release = threading.Event()

    class StuckCamera(CountingCamera):
        def close(self):
            release.wait(30)

    pipeline = Pipeline(StuckCamera(10 ** 6), CountingDetector(), 0.5, Meter())
    with pipeline:
        pipeline.next(5)
        assert pipeline.stop() == ["camera"]
    release.set()
    assert pipeline.stop() == []


STUCK = """
import sys, threading
sys.path[:0] = {path!r}
from test_pipeline import CountingCamera, CountingDetector
from edge_app.meter import Meter
from edge_app.pipeline import Pipeline

class StuckDetector(CountingDetector):
    def detect(self, pixels, threshold):
        entered.set()
        threading.Event().wait()  # as in a driver that never comes back

entered = threading.Event()
with Pipeline(CountingCamera(), StuckDetector(), 0.5, Meter()):
    assert entered.wait(60)
print("the end")
"""


def test_a_stage_that_is_stuck_does_not_hold_up_the_end_of_the_process():
    words = [sys.executable, "-c", STUCK.format(path=sys.path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert process.communicate(timeout=60)[0] == b"the end\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
