"""Faults that happen to a running pipeline, injected for real, and how long the picture is away.

Every test prints the longest time without a picture; the times are shorter than the product's own, unless
EDGE_APP_DEFAULT_TIMES=1 is set, which is how the figures of docs/decisions/recovery.md were taken. The whole program under the same treatment is in
tests/appliance/test_recovery_program.py, the stages by themselves in tests/appliance/test_recovery.py.
A USB camera cannot be had here: its line runs with shared memory in place of the device, whose loss is the
same error on the bus (a resource that cannot be read), and a file in place of the device node.
"""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import cv2
import numpy as np
import pytest
from models import make_bright
from needs import require

from edge_app.appliance import recovery
from edge_app.appliance.recovery import DaemonRestart, DetectorWatch, RecoveringCamera
from edge_app.appliance.status import Status
from edge_app.camera import open_camera
from edge_app.clip import FileDisplay
from edge_app.config import CameraSettings, DetectorSettings, RecoverySettings, WebSettings
from edge_app.detector import OnnxDetector
from edge_app.display import Displays, NoDisplay
from edge_app.errors import StageError
from edge_app.frames import Picture
from edge_app.gstreamer import GStreamerCamera
from edge_app.launch import v4l2
from edge_app.meter import Meter
from edge_app.overlay import Overlay
from edge_app.pipeline import Pipeline

HERE = os.path.dirname(os.path.abspath(__file__))
HAS_DEFAULTS = os.environ.get("EDGE_APP_DEFAULT_TIMES") == "1"


def seconds(quick_s, default_s):
    """``quick_s`` in a test, the product's own when it is measured."""
    return default_s if HAS_DEFAULTS else quick_s


CSI = CameraSettings("csi://0", 160, 96, 60.0, timeout_s=seconds(0.3, 2.0))
LIMIT_S = 90.0


class Rig:
    """A pipeline on a recovering camera, used by ``with``; ``watch`` runs it until something has happened."""

    def __init__(self, model, make, ask=lambda: False, detector=None, **settings):
        self.status, self.meter = Status(), Meter()
        self.settings = RecoverySettings(**settings)
        camera = RecoveringCamera(
            make, self.settings, self.status, ask, patience_s=seconds(0.5, 4.0)
        )
        self.detector = detector or OnnxDetector(DetectorSettings(model=model, threads=1))
        self.pipeline = Pipeline(camera, self.detector, 0.8, self.meter)
        self.overlay, self.display = Overlay(), NoDisplay()
        self.results, self.gap_s, self._shown_at = [], 0.0, None

    def __enter__(self):
        self.pipeline.__enter__()
        return self

    def __exit__(self, *error):
        self.pipeline.stop()

    def watch(self, happened, limit_s=LIMIT_S):
        """Show what comes until ``happened()``."""
        deadline = time.monotonic() + limit_s
        while not happened():
            assert time.monotonic() < deadline, self.status.snapshot()
            result = self.pipeline.next(0.1)
            if result is None:
                self.display.idle()
                continue
            now = time.monotonic()
            self.gap_s = max(self.gap_s, now - (self._shown_at or now))
            self._shown_at = now
            self.results.append((result.frame.number, result.frame.size_wh))
            figures = self.meter.figures(now, now - result.frame.captured_at, self.pipeline.dropped)
            pixels = self.overlay.draw(result.frame.pixels, result.faces, figures)
            self.display.show(Picture(pixels, result.faces, result, figures))

    def watch_results(self, count, limit_s=LIMIT_S):
        wanted = len(self.results) + count
        self.watch(lambda: len(self.results) >= wanted, limit_s)

    def recover(self, limit_s=LIMIT_S):
        """Until the camera was reopened and gives frames; the longest gap is printed."""
        before = self.restarts("camera")
        self.watch(lambda: self.restarts("camera") > before, limit_s)
        self.watch_results(5)
        numbers = [number for number, _ in self.results]
        assert numbers == sorted(set(numbers))
        assert self.status.snapshot().waiting == {}
        print("longest time without a picture: {:.2f} s".format(self.gap_s))

    def restarts(self, stage):
        return self.status.snapshot().restarts.get(stage, 0)


class CameraDaemon:
    """The process behind a camera. ``scene`` reads it."""

    def __init__(self, folder, size_wh=(160, 96)):
        self.socket = os.path.join(str(folder), "camera")
        self.size_wh = size_wh
        self.scene = (
            "shmsrc socket-path={} is-live=true do-timestamp=true ! video/x-raw, format=NV12, "
            "width={}, height={}, framerate=60/1".format(self.socket, *size_wh)
        )
        self._process = None

    def start(self):
        program = os.path.join(HERE, "camera_daemon.py")
        size = [str(side) for side in self.size_wh]
        self._process = subprocess.Popen(
            [sys.executable, program, self.socket] + size, stdout=subprocess.PIPE
        )
        assert self._process.stdout.readline() == b"ready\n"

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def daemon(gstreamer, tmp_path):
    camera_daemon = CameraDaemon(tmp_path)
    yield camera_daemon
    camera_daemon.kill()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_bright(tmp_path_factory.mktemp("model"))


def open_csi():
    return open_camera(CSI)


@pytest.mark.parametrize(
    "variable, value",
    [
        ("NVSTUB_FAULT", "identity error-after=20"),
        ("NVSTUB_FAULT", "identity eos-after=20"),
        ("NVSTUB_HANG", "20"),
        ("NVSTUB_HANG", "20:{}".format(seconds(1.0, 3.0))),
    ],
    ids=["error on the bus", "ends by itself", "silent for ever", "silent for a while"],
)
def test_a_camera_that_fails_is_reopened(nvstub, monkeypatch, model, variable, value):
    monkeypatch.setenv(variable, value)
    with Rig(model, open_csi) as rig:
        rig.watch_results(1)
        monkeypatch.delenv(variable)  # the next camera is sound
        rig.recover()
    assert rig.gap_s < 60


def test_a_program_without_a_camera_waits_for_it(nvstub, monkeypatch, model):
    monkeypatch.setenv("NVSTUB_CAMERAS", "0")
    with Rig(model, open_csi, give_up_s=1.0) as rig:
        rig.watch(lambda: rig.status.snapshot().waiting)
        assert "No cameras available" in rig.status.snapshot().waiting["camera"]
        end = time.monotonic() + 2.0  # longer than the budget of a camera that was alive
        rig.watch(lambda: time.monotonic() > end)
        monkeypatch.setenv("NVSTUB_CAMERAS", "1")
        rig.watch_results(5)
    assert rig.status.snapshot().waiting == {} and rig.restarts("camera") == 0


def test_a_camera_that_stays_away_ends_the_pipeline(nvstub, monkeypatch, model):
    monkeypatch.setenv("NVSTUB_FAULT", "identity eos-after=20")
    with Rig(model, open_csi, give_up_s=seconds(4.0, 25.0)) as rig:
        rig.watch_results(1)
        monkeypatch.setenv("NVSTUB_CAMERAS", "0")
        with pytest.raises(
            StageError, match="camera stage: csi://0: no frame for .*No cameras"
        ) as caught:
            rig.watch(lambda: False)
    assert caught.value.exit_status == 69 and not rig.pipeline.camera.stuck


@pytest.mark.parametrize(
    "variable, value",
    [("NVSTUB_CAMERAS", "0"), ("NVSTUB_FAULT", "identity eos-after=3")],
    ids=["cannot be opened", "dies again and again"],
)
def test_trying_for_a_year_leaves_nothing_behind(nvstub, monkeypatch, variable, value):
    """File descriptors and threads after three attempts and after nine; pauses pass by a clock set by hand."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(recovery, "_STUCK_S", 1e9)  # by that clock opening takes half a minute
    now, made = [0.0], []

    def make():
        made.append(now[0])
        return open_csi()

    def left(attempts):
        while len(made) <= attempts:
            camera.read(0.02)
            now[0] += 1.0
        return open_files()

    def open_files():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    camera = RecoveringCamera(
        make, RecoverySettings(), Status(), lambda: False, clock=lambda: now[0]
    )
    with camera:
        few = left(3)
        left(9)
        deadline = time.monotonic() + 30.0
        while open_files() > few + 4:  # one may be open now that was not then
            assert time.monotonic() < deadline
            camera.read(0.02)
    assert "camera opening" not in [thread.name for thread in threading.enumerate()]


def test_a_camera_daemon_that_dies_and_returns(nvstub, monkeypatch, model, daemon):
    daemon.start()
    monkeypatch.setenv("NVSTUB_SCENE", daemon.scene)
    with Rig(model, open_csi) as rig:
        rig.watch_results(5)
        daemon.kill()
        rig.watch(lambda: rig.status.snapshot().waiting)
        daemon.start()
        rig.recover()


class ServiceManager(threading.Thread):
    """What systemd's path unit does: restarts the daemon when the file is written."""

    def __init__(self, path, daemon):
        super().__init__()
        self.ended = threading.Event()
        self._path, self._daemon = path, daemon
        self.restarts = 0

    def run(self):
        seen = None
        while not self.ended.wait(0.05):
            changed = os.stat(self._path).st_mtime_ns if os.path.exists(self._path) else None
            if changed != seen:
                seen = changed
                self._daemon.kill()
                self._daemon.start()
                self.restarts += 1


def test_a_camera_daemon_that_hangs_is_restarted(nvstub, monkeypatch, model, daemon, tmp_path):
    """SIGSTOP: the camera says nothing any more, and neither does the next one that is opened."""
    daemon.start()
    monkeypatch.setenv("NVSTUB_SCENE", daemon.scene)
    path = str(tmp_path / "restart-camera")
    manager = ServiceManager(path, daemon)
    manager.start()
    try:
        with Rig(model, open_csi, DaemonRestart(6, path)) as rig:
            rig.watch_results(5)
            daemon.signal(signal.SIGSTOP)
            rig.recover()
    finally:
        manager.ended.set()
        manager.join()
    assert manager.restarts == 1 and rig.restarts("camera-daemon") == 1


def test_a_usb_camera_pulled_and_put_back(gstreamer, model, daemon, tmp_path):
    """The line of v4l2://, its device a file, and shared memory for what comes out of it."""
    node = str(tmp_path / "video0")
    launch = v4l2(node, CSI, False)
    head = daemon.scene.replace("shmsrc", "shmsrc name=source")
    text = launch.text.replace("v4l2src name=source", head)
    text = text.replace('caps="video/x-raw, ', 'caps="video/x-raw, format=NV12; video/x-raw, ')
    assert text.startswith("shmsrc") and "decodebin" in text

    def make():
        if not os.path.exists(node):
            return open_camera(CSI._replace(source="v4l2://" + node))  # says that it is not there
        return GStreamerCamera(
            "v4l2://" + node, launch._replace(text=text, properties={}), CSI.timeout_s
        )

    def plug():
        daemon.start()
        open(node, "w").close()

    with Rig(model, make) as rig:
        rig.watch(lambda: rig.status.snapshot().waiting)
        assert "is the camera plugged in?" in rig.status.snapshot().waiting["camera"]
        plug()
        rig.watch_results(5)
        os.unlink(node)
        daemon.kill()
        rig.watch(lambda: "there is no" in rig.status.snapshot().waiting.get("camera", ""))
        plug()
        rig.recover()


def start_rtsp_server(port="0"):
    line = (
        "( videotestsrc is-live=true ! video/x-raw, width=160, height=96, framerate=30/1 ! "
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96 )"
    )
    process = subprocess.Popen(
        [sys.executable, os.path.join(HERE, "rtsp_server.py"), line, port],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    return process, process.stdout.readline().strip()


def test_a_network_camera_that_comes_and_goes(gstreamer, model):
    import gi

    try:
        gi.require_version("GstRtspServer", "1.0")
    except ValueError:
        require(False, "apt install gir1.2-gst-rtsp-server-1.0")
    server, port = start_rtsp_server()
    settings = CSI._replace(source="rtsp://127.0.0.1:{}/cam".format(port), timeout_s=2.0)
    try:
        with Rig(model, lambda: open_camera(settings)) as rig:
            rig.watch_results(5)
            server.kill()
            rig.watch(lambda: rig.status.snapshot().waiting)
            server.wait()
            server.stdout.close()
            server, _ = start_rtsp_server(port)
            rig.recover()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


class Visitor(threading.Thread):
    """Somebody who looks at one picture of the page."""

    def __init__(self, url):
        super().__init__()
        self._url = url
        self.jpeg = b""

    def run(self):
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            self.jpeg = answer.read()


def test_another_size_and_rate_in_mid_stream(gstreamer, model, tmp_path):
    """Detector, overlay, clip and page take it; the clip keeps the size it began with."""
    from edge_app.appliance.web import WebDisplay

    part = "videotestsrc is-live=true num-buffers={} ! video/x-raw, width={}, height={}, framerate={}/1 ! "
    line = "gst://concat name=both {}both. {}both. both.".format(
        part.format(30, 160, 96, 30), part.format(60, 321, 242, 15)
    )
    clip = str(tmp_path / "a.mp4")
    rig = Rig(model, lambda: open_camera(CSI._replace(source=line, timeout_s=2.0)))
    web = WebDisplay(WebSettings(port=0), rig.detector, rig.pipeline.camera)
    with Displays([("clip", lambda: FileDisplay(clip)), ("web", lambda: web)]) as rig.display, rig:
        rig.watch(lambda: rig.results and rig.results[-1][1] == (321, 242))
        visitor = Visitor(web.url + "/snapshot.jpg")
        visitor.start()
        rig.watch(lambda: visitor.jpeg)
        rig.watch(lambda: [size for _, size in rig.results].count((321, 242)) > 8)
    jpeg = cv2.imdecode(np.frombuffer(visitor.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert jpeg.shape == (242, 321, 3)
    assert [size for _, size in rig.results][0] == (160, 96)
    assert "frames are 321x242" in [note.text for note in rig.status.snapshot().notes]
    reader = cv2.VideoCapture(clip)
    assert reader.get(cv2.CAP_PROP_FRAME_WIDTH) == 160
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) > 20
    reader.release()


class StuckDetector(OnnxDetector):
    """Hangs at its tenth picture, as a GPU driver may."""

    def __init__(self, settings):
        super().__init__(settings)
        self.pictures, self.freed = 0, threading.Event()

    def detect(self, pixels, threshold):
        self.pictures += 1
        if self.pictures == 10:
            self.freed.wait(60)
        return super().detect(pixels, threshold)


def test_a_detector_that_hangs_ends_the_program(nvstub, model):
    detector = StuckDetector(DetectorSettings(model=model, threads=1))
    with Rig(model, open_csi, detector=detector, detector_s=seconds(1.0, 10.0)) as rig:
        rig.display = DetectorWatch(rig.meter, rig.settings)
        started = time.monotonic()
        with pytest.raises(StageError, match="detector stage: has answered nothing for 10? s"):
            rig.watch(lambda: False)
        print("noticed {:.1f} s after the start".format(time.monotonic() - started))
        assert rig.pipeline.stop() == ["detector"]  # so that the process leaves by os._exit
        detector.freed.set()
    assert 0 < len(rig.results) <= 9  # a busy machine may show the newest of two
