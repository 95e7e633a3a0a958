"""The stages of recovery and their budgets, by a clock set by hand; tests/test_faults.py has real faults."""

import io
import logging
import threading
import time

import numpy as np
import pytest

from edge_app.appliance.logs import CollapsingHandler
from edge_app.appliance.recovery import DaemonRestart, DetectorWatch, RecoveringCamera
from edge_app.appliance.status import Status
from edge_app.config import RecoverySettings
from edge_app.detector import Detector
from edge_app.errors import CameraError, ConfigError, EndOfStream, ImageError, StageError
from edge_app.frames import Detections, Frame, StepTimes
from edge_app.meter import Meter
from edge_app.pipeline import Pipeline
from edge_app.source import Camera


class PlannedCamera(Camera):
    """Gives as many frames as planned, 0.1 s apart, and then fails, falls silent, ends or gets stuck."""

    def __init__(self, rig, name, frames, then, size_wh=(8, 4)):
        super().__init__(name, live=True)
        self._rig, self._frames, self._then, self._size_wh = rig, frames, then, size_wh
        self._number = 0

    def open(self):
        self._rig.opened.append(self._rig.now)
        if self._then == "stuck opening":
            self.stuck = True
        if self._then in ("refuses", "stuck opening"):
            raise CameraError("{}: refuses".format(self.name))
        if isinstance(self._then, threading.Event):
            self._then.wait(30)

    def read(self, timeout_s):
        if self._number < self._frames:
            self.dropped += 1  # every second frame is dropped
            self._number += 2
            pixels = np.zeros(self._size_wh[::-1] + (3,), np.uint8)
            return Frame(self._number - 2, self._rig.now, 100.0 + self._rig.now, pixels)
        if self._then == "silent":
            return None
        if isinstance(self._then, Exception):
            raise self._then
        raise CameraError("{}: has failed".format(self.name))

    def close(self):
        self._rig.closed += 1
        if self._then == "stuck":
            self.stuck = True


class Rig:
    """A recovering camera on planned ones; the last plan is repeated. A plan may be an error of ``make``."""

    def __init__(self, plans, name="csi://0", daemon=True, **settings):
        self.now = 1000.0
        self.plans, self.name, self.daemon = list(plans), name, daemon
        self.made, self.asked, self.opened, self.closed = 0, [], [], 0
        self.status = Status()
        self.camera = RecoveringCamera(
            self.make, RecoverySettings(**settings), self.status, self.ask, clock=lambda: self.now
        )

    def make(self):
        plan = self.plans[min(self.made, len(self.plans) - 1)]
        self.made += 1
        if isinstance(plan, Exception):
            raise plan
        return PlannedCamera(self, self.name, *plan)

    def ask(self):
        self.asked.append(self.now)
        return self.daemon

    def read(self, seconds, step_s=0.1):
        """The frames of so many seconds."""
        frames = []
        end = self.now + seconds
        while self.now < end:
            for thread in threading.enumerate():
                if thread.name in ("camera opening", "camera closing"):
                    thread.join(60)
            frame = self.camera.read(0.0)
            if frame is not None:
                frames.append(frame)
            self.now += step_s
        return frames

    @property
    def notes(self):
        return [note.text for note in self.status.snapshot().notes]


def test_reopening_backs_off_and_gives_up_in_time():
    rig = Rig([(4, "fails"), (0, "refuses")], name="rtsp://camera")
    with rig.camera:
        with pytest.raises(
            CameraError, match="no frame for 2[56] s, 8 attempts.*refuses"
        ) as caught:
            rig.read(60)
    pauses = np.diff(rig.opened[1:])
    assert np.allclose(pauses, [1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0], atol=0.35), rig.opened
    assert 25 < rig.now - 1000.0 < 26.5
    assert "starts it anew" in str(caught.value) and not rig.camera.stuck
    assert rig.asked == []  # a network camera has no daemon


def test_without_a_first_frame_it_waits_for_ever():
    rig = Rig([CameraError("no such device"), (0, "refuses")], daemon=False)
    with rig.camera:
        assert rig.read(4 * 3600, step_s=0.5) == []
        assert rig.status.snapshot().waiting == {"camera": "csi://0: refuses"}
        assert 8 < np.diff(rig.opened).max() < 12
        rig.plans = [(1000, "fails")]
        frames = rig.read(30)
    assert frames and frames[0].number == 0
    assert rig.status.snapshot().waiting == {} and rig.status.snapshot().restarts == {}
    assert len(rig.status.snapshot().notes) < 10  # the same reason is noted once


def test_numbers_times_and_drops_go_on():
    rig = Rig([(6, "fails"), (4, "fails"), (200, "fails")])
    with rig.camera:
        frames = rig.read(8)
        assert len(frames) > 20 and len(frames) == len({frame.number for frame in frames})
        for earlier, later in zip(frames, frames[1:]):
            assert later.number > earlier.number
            passed_s = later.captured_at - earlier.captured_at
            assert later.pts_s - earlier.pts_s == pytest.approx(passed_s, abs=1e-3)
        assert rig.camera.dropped == len(frames)
    assert rig.camera.dropped == len(frames)
    assert rig.status.snapshot().restarts == {"camera": 2}
    assert [note for note in rig.notes if note.startswith("frames again after 0.")]


def test_the_daemon_is_asked_for_after_three_failures_once():
    rig = Rig([(4, "fails"), (0, "refuses")])
    with rig.camera:
        with pytest.raises(CameraError):
            rig.read(60)
    assert len(rig.asked) == 1
    assert rig.opened[2] <= rig.asked[0] < rig.opened[3]  # the loss and two attempts
    assert rig.status.snapshot().restarts == {"camera-daemon": 1}


def test_a_new_time_of_trouble_may_ask_again():
    rig = Rig([(4, "fails"), (0, "refuses"), (0, "refuses"), (400, "fails"), (0, "refuses")])
    with rig.camera:
        with pytest.raises(CameraError):
            rig.read(90)
    assert len(rig.asked) == 2
    assert rig.status.snapshot().restarts == {"camera": 1, "camera-daemon": 2}


def test_while_there_is_no_camera_the_daemon_is_asked_for_every_ten_minutes():
    rig = Rig([(0, "refuses")])
    with rig.camera:
        rig.read(3600, step_s=0.5)
    assert 5 <= len(rig.asked) <= 6


def test_a_camera_that_keeps_failing_after_a_few_frames_is_not_restarted_in_a_hurry():
    rig = Rig([(60, "fails")])  # three seconds of them
    with rig.camera:
        rig.read(120)
    assert len(rig.asked) == 1
    assert np.diff(rig.opened)[-1] > 3.0 + 3.5


@pytest.mark.parametrize("plan", [(0, "refuses"), (4, "fails")], ids=["away", "comes and goes"])
def test_a_day_of_trouble_is_a_small_log(plan, caplog):
    """Computed from an hour; it is the same all day."""
    rig = Rig([plan])
    stream = io.StringIO()
    handler = CollapsingHandler(logging.StreamHandler(stream), clock=lambda: rig.now)
    caplog.set_level(logging.INFO, "edge_app")
    logging.getLogger("edge_app").addHandler(handler)
    try:
        with rig.camera:
            rig.read(3600, step_s=0.25)
    finally:
        logging.getLogger("edge_app").removeHandler(handler)
        handler.close()
    size = 24 * len(stream.getvalue().encode())
    print("a day: {:.0f} kB, {} attempts".format(size / 1e3, 24 * len(rig.opened)))
    assert len(rig.opened) > 300 and 0 < size < 200000


def test_a_reopened_camera_that_stays_silent_is_reopened_again():
    rig = Rig([(4, "fails"), (0, "silent"), (0, "silent"), (100, "fails")])
    with rig.camera:
        frames = rig.read(25)
    assert 8 < max(np.diff([frame.captured_at for frame in frames])) < 20
    assert len(rig.asked) == 1
    assert any("gives nothing" in note for note in rig.notes)


def test_a_network_camera_may_take_its_time_for_the_first_frame():
    rig = Rig([(4, "fails"), (0, "silent")], name="rtsp://camera")
    with rig.camera:
        with pytest.raises(CameraError, match="no frame for 25 s, 1 attempts"):
            rig.read(60)
    assert len(rig.opened) == 2


@pytest.mark.parametrize("plan", [(4, "stuck"), (0, "stuck opening")])
def test_a_stuck_driver_ends_it_at_once(plan):
    rig = Rig([plan])
    with rig.camera:
        with pytest.raises(CameraError):
            rig.read(60)
    assert rig.camera.stuck and rig.now < 1003.0
    assert len(rig.asked) == 1  # so that the next process finds a fresh one


def test_stuck_from_the_start_and_nothing_that_helps_is_left_slowly():
    """Or a day of it would write thousands of starts into the log."""
    rig = Rig([(0, "stuck opening")], name="v4l2:///dev/video0")
    with rig.camera:
        assert rig.read(290) == []
        assert "refuses" in rig.status.snapshot().waiting["camera"]
        with pytest.raises(CameraError):
            rig.read(20)
    assert rig.camera.stuck and len(rig.opened) == 1


def test_a_driver_that_never_comes_back_is_stuck():
    never = threading.Event()
    rig = Rig([(0, never)])
    try:
        with pytest.raises(CameraError, match="does not come back"):
            with rig.camera:
                for _ in range(300):
                    rig.camera.read(0.0)
                    rig.now += 0.1
    finally:
        never.set()
    assert rig.camera.stuck and 1020 <= rig.now < 1021


def test_reading_and_closing_do_not_wait_for_the_driver():
    slow = threading.Event()
    rig = Rig([(100, slow)])
    with rig.camera:
        started = time.monotonic()
        for _ in range(10):
            assert rig.camera.read(0.02) is None
        assert 0.15 < time.monotonic() - started < 15
    assert rig.camera.stuck and time.monotonic() - started < 30
    slow.set()
    for thread in threading.enumerate():
        if thread.name == "camera opening":
            thread.join(60)
    assert rig.closed == 1  # what opens too late is closed again


def test_closing_can_be_repeated_and_opening_too():
    rig = Rig([(4, "fails")])
    for _ in range(2):
        with rig.camera:
            assert rig.read(2)
        rig.camera.close()
    assert rig.closed >= 2 and not rig.camera.stuck


@pytest.mark.parametrize(
    "error",
    [EndOfStream("a.mp4"), ImageError("a.mp4: is damaged"), ConfigError("camera.source: no")],
)
def test_what_is_not_a_dead_camera_passes(error):
    rig = Rig([(4, error)])
    with rig.camera:
        with pytest.raises(type(error)):
            rig.read(10)
    with pytest.raises(type(error)):
        Rig([error])


def test_a_file_is_not_read_from_its_start_again():
    rig = Rig([(4, CameraError("a.mp4: no frame for 10.0 s"))])
    rig.camera.live = False
    with rig.camera:
        with pytest.raises(CameraError, match="a.mp4: no frame"):
            rig.read(10)
    assert len(rig.opened) == 1


def test_a_stand_in_for_the_camera_is_refused():
    rig = Rig([(4, "fails")], name="v4l2:///dev/video0")
    with rig.camera:
        rig.read(1)
        rig.name = "test://"  # what auto finds once the USB camera is gone
        with pytest.raises(CameraError, match="v4l2:///dev/video0: is gone .*Plug it in again"):
            rig.read(60)
        rig.name = "v4l2:///dev/video1"  # and what it may be after it was plugged in again
        rig.camera.close()
    with rig.camera:
        pass


def test_another_size_is_noted():
    rig = Rig([(4, "fails", (8, 4)), (4, "fails", (16, 9))])
    with rig.camera:
        frames = rig.read(3)
    assert {frame.size_wh for frame in frames} == {(8, 4), (16, 9)}
    assert [note for note in rig.notes if "frames are" in note] == [
        "frames are 8x4", "frames are 16x9"
    ]  # fmt: skip


class NoFaces(Detector):
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def detect(self, pixels, threshold):
        self.times = StepTimes(0.0, 0.0, 0.0)
        return Detections.empty()


def test_the_pipeline_stops_at_once_while_the_camera_is_away():
    def make():
        raise CameraError("no such device")

    camera = RecoveringCamera(make, RecoverySettings(), Status(), lambda: False)
    with Pipeline(camera, NoFaces(), 0.5, Meter()) as pipeline:
        assert pipeline.next(0.3) is None
        started = time.monotonic()
        assert pipeline.stop() == []
        assert time.monotonic() - started < 15
    assert pipeline.dropped["camera"] == 0


def test_the_restart_file_says_when_and_keeps_the_budget(tmp_path):
    path = tmp_path / "restart-camera"
    now = [5000.0]
    ask = DaemonRestart(3, str(path), clock=lambda: now[0])
    assert ask() and path.read_text() == "5000.0\n"
    now[0] += 60
    assert ask()
    anew = DaemonRestart(3, str(path), clock=lambda: now[0])  # the program was started anew
    assert anew() and not anew()
    now[0] += 3541
    assert anew() and not anew()
    assert path.read_text() == "5060.0\n5060.0\n8601.0\n"


@pytest.mark.parametrize("content", ["", "yes\n", "1e9\n", "nan\n"])
def test_a_restart_file_touched_by_others_does_not_disturb(tmp_path, content):
    path = tmp_path / "restart-camera"
    path.write_text(content)
    assert DaemonRestart(1, str(path), clock=lambda: 50.0)()
    assert path.read_text() == "50.0\n"


def test_where_nobody_listens_the_daemon_is_not_asked_for(tmp_path):
    assert not DaemonRestart(3, str(tmp_path / "nowhere" / "restart-camera"))()
    assert not DaemonRestart(0, str(tmp_path / "restart-camera"))()


class Watched:
    """A watch, its meter, and a clock set by hand."""

    def __init__(self):
        self.now, self.meter = 50.0, Meter()
        self.watch = DetectorWatch(self.meter, RecoverySettings(), clock=lambda: self.now)

    def pass_time(self, seconds, frames=True):
        for _ in range(int(seconds * 10)):
            self.now += 0.1
            if frames:
                self.meter.tick("camera", self.now)
            self.watch.idle()


def test_frames_without_results_end_the_program():
    watched = Watched()
    with watched.watch:
        watched.pass_time(600)  # an engine may be built before the first result
        watched.watch.show(None)
        with pytest.raises(
            StageError, match="detector stage: has answered nothing for 10 s"
        ) as caught:
            watched.pass_time(20)
    assert watched.now == pytest.approx(660.2, abs=0.3)
    assert caught.value.stage == "detector" and caught.value.exit_status == 70
    assert "dmesg" in str(caught.value.__cause__)


def test_a_dead_camera_is_not_the_detectors_fault():
    watched = Watched()
    watched.pass_time(1)
    watched.watch.show(None)
    watched.pass_time(300, frames=False)
    watched.pass_time(9)
    watched.watch.show(None)
    watched.pass_time(9)
