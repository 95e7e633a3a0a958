"""The jetson-utils back end, on a stand-in of both of its generations."""

import sys
import types

import fake_jetson_utils
import numpy as np
import pytest
import standins  # noqa: F401: puts standin/ on the path

from edge_app.config import CameraSettings, DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.errors import CameraError, DisplayError
from edge_app.frames import Detections, Figures, Frame, Picture, Result, StepTimes
from edge_app.nvidia import jetson
from edge_app.nvidia.detector import CudaDetector
from edge_app.nvidia.jetson import JetsonCamera, JetsonDisplay
from edge_app.scene import Scene

GENERATIONS = ("2022", "2024")


@pytest.fixture
def utils(monkeypatch):
    """Function: install a generation that gives frames; its clock is the camera's."""

    def install(generation, frames=()):
        made = fake_jetson_utils.module(generation, list(frames))
        if generation == "2022":  # only jetson.utils; jetson_utils came later
            package = types.ModuleType("jetson")
            package.utils = made
            monkeypatch.setitem(sys.modules, "jetson_utils", None)
            monkeypatch.setitem(sys.modules, "jetson", package)
            monkeypatch.setitem(sys.modules, "jetson.utils", made)
        else:
            monkeypatch.setitem(sys.modules, "jetson_utils", made)
        monkeypatch.setattr(jetson.time, "monotonic", lambda: made.clock[0])
        return made

    return install


def picture(seed=0, size_wh=(160, 90)):
    width, height = size_wh
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_frames_come_as_bgr_and_know_where_they_are(utils, generation):
    rgb = picture()
    module = utils(generation, [rgb, None, rgb])
    with JetsonCamera("csi://0", CameraSettings(timeout_s=2.0)) as camera:
        first = camera.read(0.1)
        assert (first.pixels == rgb[:, :, ::-1]).all() and first.size_wh == (160, 90)
        assert first.pixels.on_gpu[1:] == ("RGB", (160, 90), 480)
        assert camera.read(0.1) is None
        assert camera.read(0.1).number == 1
        assert camera.live and camera.name == "jetson:csi://0"
    camera.close()
    assert module.sources[0].closed


def test_frames_outlive_the_ring_of_the_source(utils):
    module = utils("2024", [picture(seed) for seed in range(20)])
    with JetsonCamera("csi://0", CameraSettings()) as camera:
        frames = [camera.read(0.1) for _ in range(6)]
        for seed, frame in enumerate(frames):
            assert (frame.pixels == picture(seed)[:, :, ::-1]).all()
        for _ in range(10):
            camera.read(0.1)
    assert module.allocated == jetson.RING


@pytest.mark.parametrize(
    "uri,flip,word",
    [
        ("csi://0", "none", "rotate-180"),
        ("csi://0", "rotate-180", "none"),
        ("csi://0", "horizontal-flip", "horizontal"),
        ("/dev/video0", "none", "none"),
        ("/dev/video0", "rotate-180", "rotate-180"),
        ("/dev/video0", "clockwise", "clockwise"),
    ],
)
def test_size_rate_and_flip_are_passed_on(utils, uri, flip, word):
    module = utils("2024")
    settings = CameraSettings(width_px=640, height_px=480, rate_hz=60.0, flip=flip)
    with JetsonCamera(uri, settings):
        assert module.sources[0].argv == [
            "--input-width=640",
            "--input-height=480",
            "--input-rate=60",
            "--input-flip=" + word,
        ]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_silent_camera_is_an_error_after_its_timeout(utils, generation):
    utils(generation, [picture()])
    with JetsonCamera("csi://0", CameraSettings(timeout_s=2.0)) as camera:
        camera.read(0.5)
        for _ in range(4):
            assert camera.read(0.5) is None
        with pytest.raises(CameraError, match="gave nothing for 2.5 s.*nvargus-daemon"):
            camera.read(0.5)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_first_frame_may_take_ten_seconds(utils, generation):
    utils(generation, [None] * 19 + [picture()])
    camera = JetsonCamera("rtsp://host/x", CameraSettings(timeout_s=2.0))
    with camera:
        for _ in range(19):
            assert camera.read(0.5) is None
        assert camera.read(0.5).number == 0
    with camera:  # opened again, it has its time again
        for _ in range(20):
            assert camera.read(0.5) is None
        with pytest.raises(CameraError, match="gave nothing for 10.5 s"):
            camera.read(0.5)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_failing_camera_is_an_error_at_once(utils, generation):
    utils(generation, [Exception("end of stream")])
    with JetsonCamera("csi://0", CameraSettings()) as camera:
        with pytest.raises(CameraError, match="jetson:csi://0 failed: end of stream"):
            camera.read(0.5)


def test_what_cannot_be_opened_is_told(utils):
    utils("2024")
    with pytest.raises(CameraError, match="csi://9 cannot be opened: .*videoSource"):
        with JetsonCamera("csi://9", CameraSettings()):
            pass
    with pytest.raises(DisplayError, match="display://9 cannot be opened: .*--display web"):
        with JetsonDisplay("display://9"):
            pass


def test_without_jetson_utils_or_with_the_namesake(monkeypatch):
    monkeypatch.setitem(sys.modules, "jetson_utils", None)
    with pytest.raises(CameraError, match="not installed.*PyPI is something else"):
        with JetsonCamera("csi://0", CameraSettings()):
            pass
    monkeypatch.setitem(sys.modules, "jetson_utils", types.ModuleType("jetson_utils"))
    with pytest.raises(DisplayError, match="is not NVIDIA's"):
        with JetsonDisplay():
            pass


def test_the_detector_takes_frames_where_they_are(utils, standin, converted):
    """No copy to the detector's own memory, and the same faces as from the CPU."""
    scene = Scene((320, 180))
    utils("2024", [scene.render(n)[:, :, ::-1] for n in (0, 20)])
    settings = DetectorSettings(model=converted(), threads=1)
    camera = JetsonCamera("csi://0", CameraSettings())
    with camera, CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        for _ in range(2):
            frame = camera.read(0.1)
            found = cuda.detect(frame.pixels, 0.5)
            wanted = cpu.detect(np.ascontiguousarray(frame.pixels), 0.5)
            np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-2)
            assert len(found) > 10
    assert standin.alive() == {}


def test_the_display_draws_on_the_gpu(utils):
    module = utils("2024")
    bgr = picture()
    faces = Detections(np.array([[20, 40, 60, 80]], np.float32), np.array([0.97], np.float32))
    frame = Frame(0, 0.0, 0.0, bgr)
    result = Result(frame, faces, StepTimes(0, 0, 0), 0.0)
    shown = Picture(np.zeros_like(bgr), faces, result, Figures(30, 30, 29.5, 40, {}, {}))
    with JetsonDisplay() as display:
        display.show(shown)
        display.show(shown)
        output = module.outputs[0]
        assert not display.closed and module.allocated == 1
        output.streaming = False
        display.show(shown)
        assert display.closed
    display.close()
    drawn = output.rendered[0]
    for x, y in ((20, 40), (40, 40), (60, 60), (40, 80), (20, 60)):
        assert tuple(drawn[y, x]) == jetson.GREEN[:3]
    assert (drawn[60, 30:50] == bgr[60, 30:50, ::-1]).all()  # inside: the frame itself
    assert module.texts == ["97%"] * 3 and "29.5 frames/s shown" in output.status
    assert output.closed
