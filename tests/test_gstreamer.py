"""The production line of csi://0 on the stand-in elements, and GStreamer's faults as a camera shows them."""

import gc
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from edge_app.camera import open_camera
from edge_app.config import FLIPS, CameraSettings
from edge_app.errors import CameraError
from edge_app.gstreamer import GStreamerCamera
from edge_app.launch import csi, missing_element, rtsp, v4l2

SMALL = CameraSettings("csi://0", 160, 96, 60.0, timeout_s=0.3)
BARS = "videotestsrc is-live=true pattern=smpte"


def settings(source, **others):
    return SMALL._replace(source=source, **others)


def collect(camera, count, limit_s=60.0):
    """``count`` frames of an open camera."""
    frames = []
    deadline = time.monotonic() + limit_s
    while len(frames) < count:
        assert time.monotonic() < deadline, "only {} frames came".format(len(frames))
        frame = camera.read(0.1)
        if frame is not None:
            frames.append(frame)
    return frames


def read_until_error(camera, limit_s=60.0):
    """The frames an open camera gives before it fails, and the error."""
    frames = []
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            frame = camera.read(0.05)
        except CameraError as error:
            return frames, str(error)
        if frame is not None:
            frames.append(frame)
    raise AssertionError("no error in {} s, {} frames".format(limit_s, len(frames)))


def test_production_line_is_what_a_jetson_needs():
    line = csi(1, CameraSettings("csi://1", flip="rotate-180", rate_hz=29.97))
    assert line.text == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM), width=1280, height=720, format=NV12, framerate=2997/100 ! "
        "nvvidconv flip-method=2 ! video/x-raw, format=BGRx ! "
        "videoconvert ! video/x-raw, format=BGR ! "
        "appsink name=appsink drop=true max-buffers=1 sync=false"
    )


def test_production_line_gives_frames(nvstub):
    with open_camera(settings("csi://0")) as camera:
        before = time.monotonic()
        frames = collect(camera, 20)
        assert camera.live and not camera.stuck and camera.name == "csi://0"
    for frame in frames:
        assert frame.pixels.shape == (96, 160, 3) and frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        assert before - 1 < frame.captured_at <= time.monotonic()
    for earlier, later in zip(frames, frames[1:]):
        assert later.number > earlier.number
        assert later.pts_s > earlier.pts_s
        assert later.captured_at > earlier.captured_at
    assert frames[-1].number == 19 + camera.dropped


@pytest.mark.parametrize("flip", FLIPS)
def test_flip_method_turns_the_picture(nvstub, monkeypatch, flip):
    """The eight methods against NumPy; the picture is bright in its upper left quarter only."""
    scene = "videotestsrc is-live=true pattern=solid-color foreground-color=0xffffffff"
    monkeypatch.setenv("NVSTUB_SCENE", scene + " ! videobox right=-80 bottom=-48")
    with open_camera(settings("csi://0", flip=flip)) as camera:
        pixels = collect(camera, 1)[0].pixels
    upright = np.zeros((96, 160), bool)
    upright[:48, :80] = True
    turned = {
        "none": upright,
        "counterclockwise": np.rot90(upright),
        "rotate-180": np.rot90(upright, 2),
        "clockwise": np.rot90(upright, 3),
        "horizontal-flip": upright[:, ::-1],
        "upper-right-diagonal": np.rot90(upright, 2).T,
        "vertical-flip": upright[::-1],
        "upper-left-diagonal": upright.T,
    }[flip]
    assert pixels.shape[:2] == turned.shape
    quarters = [
        (bool(q.mean() > 0.5), r.mean() > 128) for q, r in zip(_quarters(turned), _quarters(pixels))
    ]
    assert all(wanted == seen for wanted, seen in quarters), quarters


def _quarters(picture):
    high, wide = picture.shape[0] // 2, picture.shape[1] // 2
    inset_y, inset_x = high // 4, wide // 4
    return [
        picture[y + inset_y : y + high - inset_y, x + inset_x : x + wide - inset_x]
        for y in (0, high)
        for x in (0, wide)
    ]


def test_no_camera_is_said_with_what_to_do(nvstub):
    with pytest.raises(CameraError, match="csi://3: No cameras available.*nvargus-daemon"):
        open_camera(settings("csi://3")).__enter__()


def test_end_of_a_camera_is_an_error(nvstub, monkeypatch):
    monkeypatch.setenv("NVSTUB_FAULT", "identity eos-after=8")
    with open_camera(settings("csi://0")) as camera:
        frames, error = read_until_error(camera)
    assert frames and "ended by itself" in error and "ribbon cable" in error


def test_error_on_the_bus_reaches_the_reader_at_once(nvstub, monkeypatch):
    monkeypatch.setenv("NVSTUB_FAULT", "identity error-after=8")
    with open_camera(settings("csi://0", timeout_s=60.0)) as camera:
        frames, error = read_until_error(camera)
    assert frames and error.startswith("csi://0: ") and "no frame" not in error


def test_silence_is_an_error_after_the_time_out(nvstub, monkeypatch):
    monkeypatch.setenv("NVSTUB_HANG", "8")
    with open_camera(settings("csi://0")) as camera:
        frames, error = read_until_error(camera)
    assert 1 <= len(frames) <= 8
    assert "no frame for 0.3 s" in error
    assert not camera.stuck


def test_first_frame_may_take_longer_than_a_stall(nvstub, monkeypatch):
    monkeypatch.setenv("NVSTUB_HANG", "0:0.8")
    with open_camera(settings("csi://0")) as camera:
        assert collect(camera, 3)


def test_short_stall_is_waited_for(nvstub, monkeypatch):
    monkeypatch.setenv("NVSTUB_HANG", "5:0.4")
    with open_camera(settings("csi://0", timeout_s=2.0)) as camera:
        frames = collect(camera, 12)
    assert max(b.pts_s - a.pts_s for a, b in zip(frames, frames[1:])) > 0


def test_read_returns_none_in_time_while_nothing_comes(nvstub, monkeypatch):
    monkeypatch.setenv("NVSTUB_HANG", "0")
    with open_camera(settings("csi://0")) as camera:
        started = time.monotonic()
        assert camera.read(0.1) is None
        assert 0.09 < time.monotonic() - started < 15


STUCK = """
import sys, time, os
from edge_app.camera import open_camera
from edge_app.config import CameraSettings
from edge_app.errors import CameraError
camera = open_camera(CameraSettings("csi://0", 160, 96, 60.0, timeout_s=0.3))
try:
    with camera:
        while True:
            camera.read(0.05)
            stopping = time.monotonic()
except CameraError as error:
    took = time.monotonic() - stopping
    camera.close()
    print(camera.stuck, took < 15, error)
sys.stdout.flush()
os._exit(0)
"""


def test_stuck_streaming_thread_does_not_hold_close(nvstub, monkeypatch):
    """In a process of its own, since such a thread can only be ended with it."""
    monkeypatch.setenv("NVSTUB_HANG", "5:hard")
    done = subprocess.run(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=120,
    )
    assert done.stdout.startswith("True True csi://0: no frame for 0.3 s"), done.stderr


def test_slow_consumer_gets_fresh_frames_and_drops_are_counted(nvstub):
    """A reader at a sixth of the camera's rate: the age of frames must not grow."""
    ages, numbers = [], []
    with open_camera(settings("csi://0")) as camera:
        for _ in range(12):
            frame = collect(camera, 1)[0]
            ages.append(time.monotonic() - frame.captured_at)
            numbers.append(frame.number)
            time.sleep(0.1)
        dropped = camera.dropped
    assert numbers[-1] - numbers[0] > 3 * len(numbers)
    assert dropped == numbers[-1] + 1 - len(numbers)
    assert np.median(ages[6:]) < np.median(ages[:6]) + 0.3


def test_frames_lost_by_the_camera_itself_do_not_disturb(nvstub, monkeypatch):
    monkeypatch.setenv("NVSTUB_FAULT", "identity drop-probability=0.3")
    with open_camera(settings("csi://0")) as camera:
        frames = collect(camera, 15)
    assert all(later.pts_s > earlier.pts_s for earlier, later in zip(frames, frames[1:]))


@pytest.mark.parametrize("width_px", [97, 98, 99, 101, 1])
def test_rows_padded_in_memory_come_out_straight(gstreamer, width_px):
    line = "gst://{} ! video/x-raw, format=BGR, width={}, height=37".format(BARS, width_px)
    with open_camera(settings(line)) as camera:
        pixels = collect(camera, 1)[0].pixels
    assert pixels.shape == (37, width_px, 3)
    assert np.ptp(pixels[:20].astype(int), axis=0).max() == 0  # colour bars are upright


def test_another_size_in_mid_stream_is_delivered(gstreamer):
    part = BARS + " num-buffers=12 ! video/x-raw, width={}, height={}, framerate=60/1 ! "
    line = (
        "gst://concat name=both "
        + part.format(64, 48)
        + "both. "
        + part.format(99, 50)
        + "both. both."
    )
    with open_camera(settings(line)) as camera:
        frames, error = read_until_error(camera)
    sizes = [frame.size_wh for frame in frames]
    assert set(sizes) == {(64, 48), (99, 50)} and sizes == sorted(sizes)
    assert all(later.number > earlier.number for earlier, later in zip(frames, frames[1:]))
    assert "ended by itself" in error


def test_camera_can_be_opened_again_and_closed_twice(nvstub):
    camera = open_camera(settings("csi://0"))
    for _ in range(2):
        with camera:
            assert collect(camera, 2)[0].number == 0 or camera.dropped
        camera.close()
    camera.close()


def test_nothing_is_left_behind_by_a_failed_opening(nvstub, monkeypatch):
    camera = open_camera(settings("csi://3"))
    with pytest.raises(CameraError):
        camera.__enter__()
    monkeypatch.setenv("NVSTUB_CAMERAS", "4")
    with camera:
        assert collect(camera, 1)


def test_unknown_element_names_the_package(gstreamer):
    with pytest.raises(CameraError, match='no element "nosuchthing".*gst-inspect-1.0'):
        open_camera(settings("gst://nosuchthing")).__enter__()
    assert "plugins-good" in missing_element('no element "rtspsrc"')
    assert "plugins-good" in missing_element("Kein Element \u201crtspsrc\u201d")
    assert "comes with a Jetson" in missing_element('no element "nvarguscamerasrc"')


def test_unknown_property_is_an_error_not_a_hang(gstreamer):
    with pytest.raises(CameraError, match="nope"):
        open_camera(settings("gst://videotestsrc nope=1")).__enter__()


def test_refused_formats_are_an_error(nvstub):
    line = "gst://nvarguscamerasrc ! nvvidconv ! video/x-raw, format=BGR"
    with pytest.raises(CameraError):
        with open_camera(settings(line)) as camera:
            collect(camera, 1)


@pytest.mark.parametrize("source", ["video/x-raw, width=640, height=480", "image/jpeg"])
@pytest.mark.parametrize("jetson", [False, True])
def test_usb_cameras_line_takes_raw_and_jpeg(nvstub, source, jetson):
    """The line of v4l2:// with a test picture in place of the device, which cannot be made here."""
    launch = v4l2("/dev/video0", SMALL, jetson)
    encoder = "jpegenc ! image/jpeg" if source == "image/jpeg" else "identity"
    head = "videotestsrc is-live=true ! {} ! {}".format(
        "video/x-raw, width=640, height=480, format=I420, framerate=30/1", encoder
    )
    text = launch.text.replace("v4l2src name=source", head)
    assert text != launch.text
    with GStreamerCamera("usb", launch._replace(text=text, properties={}), 1.0) as camera:
        assert collect(camera, 3)[0].size_wh == (640, 480)


@pytest.fixture
def server(gstreamer, request):
    """A running RTSP server; skipped where its description for Python is missing."""
    from needs import require

    import gi

    try:
        gi.require_version("GstRtspServer", "1.0")
    except ValueError:
        require(False, "apt install gir1.2-gst-rtsp-server-1.0")
    line = (
        "( videotestsrc is-live=true ! video/x-raw, width=160, height=96, framerate=30/1 ! "
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96 )"
    )
    program = __file__.replace("test_gstreamer.py", "rtsp_server.py")
    process = subprocess.Popen(
        [sys.executable, program, line], stdout=subprocess.PIPE, universal_newlines=True
    )
    process.port = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_network_camera_gives_frames_and_its_end_is_an_error(server):
    source = "rtsp://127.0.0.1:{}/cam".format(server.port)
    with open_camera(settings(source, timeout_s=2.0)) as camera:
        frames = collect(camera, 15)
        server.kill()
        _, error = read_until_error(camera)
    assert frames[0].size_wh == (160, 96)
    assert all(later.pts_s > earlier.pts_s for earlier, later in zip(frames, frames[1:]))
    assert time.monotonic() - frames[-1].captured_at < 60
    assert error.startswith(source) and "network" in error


def test_network_camera_that_is_not_there_is_said(gstreamer):
    with pytest.raises(CameraError, match="rtsp://me:\\*\\*\\*@127.0.0.1:9/cam: .*network"):
        with open_camera(settings("rtsp://me:secret@127.0.0.1:9/cam")) as camera:
            read = read_until_error(camera)
            raise CameraError(read[1])


def test_network_address_with_odd_characters_reaches_the_source_unchanged():
    uri = 'rtsp://host/cam?a=1&b="x" ! fakesink'
    launch = rtsp(uri, SMALL, False)
    assert launch.properties["location"] == uri and "fakesink" not in launch.text


def test_libraries_loaded_after_gstreamer_can_still_throw(gstreamer, tmp_path):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"not a network")
    script = (
        "from edge_app.gstreamer import load_gstreamer\n"
        "load_gstreamer()\n"
        "import onnxruntime\n"
        "try:\n"
        "    onnxruntime.InferenceSession({!r})\n"
        "except Exception as error:\n"
        "    print('thrown')\n"
    ).format(str(path))
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"thrown\n")


def test_a_camera_that_is_made_anew_leaves_nothing_behind(gstreamer):
    """As recovery does, for a year: each time a few file descriptors were left, until none could be opened."""
    counts = []
    for _ in range(3):
        with open_camera(settings("gst://" + BARS)) as camera:
            collect(camera, 1)
        del camera
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] == counts[0]
