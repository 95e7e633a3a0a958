"""From a URI to a source; clips by GStreamer and by OpenCV, folders, and the scene as a camera."""

import logging
import os
import shutil
import struct
import sys
import time

import cv2
import numpy as np
import pytest

from edge_app.camera import (
    CameraOpener,
    find_camera,
    is_jetson,
    lasting_source,
    open_camera,
    usb_cameras,
)
from edge_app.config import FLIPS, CameraSettings
from edge_app.errors import CameraError, ConfigError, EndOfStream, ImageError
from edge_app.gstreamer import GStreamerCamera
from edge_app.launch import clip
from edge_app.reader import ReaderCamera, flipped
from edge_app.scene import Scene, write_clip

SMALL = CameraSettings("auto", 160, 96, 30.0, timeout_s=1.0)


def settings(source, **others):
    return SMALL._replace(source=str(source), **others)


def read_all(camera, limit_s=60.0):
    """Every frame of a source that ends."""
    frames = []
    deadline = time.monotonic() + limit_s
    with camera:
        while time.monotonic() < deadline:
            try:
                frame = camera.read(0.1)
            except EndOfStream:
                return frames
            if frame is not None:
                frames.append(frame)
    raise AssertionError("does not end; {} frames so far".format(len(frames)))


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    """A clip of 20 frames, 160x96."""
    path = str(tmp_path_factory.mktemp("clips") / "größer 人.mp4")
    write_clip(path, 2.0, (160, 96), 10.0)
    return path


@pytest.fixture(params=["gstreamer", "opencv"])
def backend(request, monkeypatch):
    """Each test runs on GStreamer and, with PyGObject hidden, on OpenCV's reader."""
    if request.param == "opencv":
        monkeypatch.setitem(sys.modules, "gi", None)
        return ReaderCamera
    request.getfixturevalue("gstreamer")
    return GStreamerCamera


def test_clip_is_read_whole_and_in_order(backend, movie):
    camera = open_camera(settings(movie))
    assert isinstance(camera, backend) and not camera.live
    frames = read_all(camera)
    assert [frame.number for frame in frames] == list(range(20))
    assert all(frame.pixels.shape == (96, 160, 3) for frame in frames)
    assert all(frame.pixels.dtype == np.uint8 for frame in frames)
    assert all(b.pts_s > a.pts_s for a, b in zip(frames, frames[1:]))
    assert camera.dropped == 0


def test_slow_reader_of_a_clip_misses_nothing(backend, movie):
    with open_camera(settings(movie)) as camera:
        numbers = []
        while len(numbers) < 12:
            frame = camera.read(1.0)
            if frame is not None:
                numbers.append(frame.number)
            time.sleep(0.02)
    assert numbers == list(range(12))


def test_both_readers_give_the_same_picture(gstreamer, movie, monkeypatch):
    first = read_all(open_camera(settings(movie)))[0].pixels.astype(int)
    monkeypatch.setitem(sys.modules, "gi", None)
    second = read_all(open_camera(settings("file://" + movie)))[0].pixels.astype(int)
    assert np.abs(first - second).mean() < 3


def test_file_uri_may_be_quoted(gstreamer, movie):
    from urllib.parse import quote

    assert len(read_all(open_camera(settings("file://" + quote(movie))))) == 20


def test_clip_can_be_closed_early_and_twice(backend, movie):
    camera = open_camera(settings(movie))
    with camera:
        assert camera.read(5.0) is not None
    camera.close()
    assert not camera.stuck


def test_missing_gstreamer_is_said(movie, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "gi", None)
    with caplog.at_level(logging.INFO):
        open_camera(settings(movie))
    assert "read by OpenCV, as GStreamer for Python is missing" in caplog.text
    with pytest.raises(CameraError, match="sudo apt install python3-gi"):
        open_camera(settings("csi://0")).__enter__()


@pytest.mark.parametrize("flip", FLIPS)
def test_both_readers_flip_alike(gstreamer, movie, monkeypatch, flip):
    upright = read_all(open_camera(settings(movie)))[0].pixels
    turned = read_all(open_camera(settings(movie, flip=flip)))[0].pixels
    np.testing.assert_array_equal(turned.shape, flipped(upright, flip).shape)
    assert np.abs(turned.astype(int) - flipped(upright, flip)).mean() < 3


def test_clip_that_says_nothing_of_time_gets_times(gstreamer, tmp_path):
    path = tmp_path / "bare.mjpeg"
    random = np.random.RandomState(0)
    pictures = [np.full((96, 160, 3), random.randint(0, 256, 3), np.uint8) for _ in range(20)]
    path.write_bytes(b"".join(cv2.imencode(".jpg", one)[1].tobytes() for one in pictures))
    frames = read_all(open_camera(settings(path)))
    assert [frame.pts_s for frame in frames] == pytest.approx([n / 30 for n in range(20)])


def noted(movie, folder, matrix):
    """The clip as a camera writes it that was held sideways: turned, and with a note of how (ISO 14496-12)."""
    with open(movie, "rb") as file:
        data = bytearray(file.read())
    place = data.index(b"tkhd") + 4 + 40  # version 0: its matrix is 40 bytes further on
    assert struct.unpack_from(">9i", data, place)[0] == 0x10000
    struct.pack_into(">9i", data, place, *matrix)
    path = str(folder / "held sideways.mp4")
    with open(path, "wb") as file:
        file.write(data)
    return path


@pytest.mark.parametrize("flip", ["none", "horizontal-flip", "clockwise"])
def test_clip_of_a_camera_held_sideways_is_upright(gstreamer, movie, tmp_path, flip):
    matrix = (0, 0x10000, 0, -0x10000, 0, 0, 96 << 16, 0, 0x40000000)  # a quarter turn clockwise
    stored = read_all(open_camera(settings(movie)))
    frames = read_all(open_camera(settings(noted(movie, tmp_path, matrix), flip=flip)))
    assert len(frames) == len(stored) == 20
    for frame, before in zip(frames, stored):
        wanted = flipped(np.rot90(before.pixels, 3), flip)
        assert frame.pixels.shape == wanted.shape
        assert np.abs(frame.pixels.astype(int) - wanted).mean() < 3


def test_clip_held_sideways_on_a_jetson(nvstub, movie, tmp_path):
    matrix = (-0x10000, 0, 0, 0, -0x10000, 0, 160 << 16, 96 << 16, 0x40000000)  # upside down
    line = clip(noted(movie, tmp_path, matrix), SMALL._replace(flip="vertical-flip"), True)
    frames = read_all(GStreamerCamera(movie, line, 1.0))
    stored = read_all(open_camera(settings(movie)))
    assert len(frames) == 20
    assert np.abs(frames[0].pixels.astype(int) - stored[0].pixels[:, ::-1]).mean() < 3


def test_clip_on_a_jetson_goes_through_its_converter(nvstub, movie):
    line = clip(movie, SMALL, True)
    assert "nvvidconv" in line.text
    assert len(read_all(GStreamerCamera(movie, line, 1.0))) == 20


def gif(width, height, greys, delay_cs):
    """An animated GIF of plain pictures: CompuServe's GIF89a, its LZW codes kept at eight bits."""
    table = bytes(value for grey in range(128) for value in (2 * grey,) * 3)
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF6, 0, 0) + table
    data += b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"  # again and again
    for grey in greys:
        data += b"\x21\xf9\x04\x00" + struct.pack("<H", delay_cs) + b"\x00\x00"
        data += b"\x2c" + struct.pack("<HHHHBB", 0, 0, width, height, 0, 7)
        rows = (b"\x80" + bytes([grey // 2]) * width) * height + b"\x81"  # 128: forget, 129: the end
        for start in range(0, len(rows), 255):
            block = rows[start : start + 255]
            data += bytes([len(block)]) + block
        data += b"\x00"
    return data + b"\x3b"


def test_animated_gif_plays_to_its_end(tmp_path):
    clip = tmp_path / "a.GIF"
    clip.write_bytes(gif(64, 48, [0, 100, 250], 20))
    frames = read_all(open_camera(settings(clip)))
    assert [int(frame.pixels.mean()) for frame in frames] == [0, 100, 250]
    assert [round(frame.pts_s - frames[0].pts_s, 3) for frame in frames] == [0.0, 0.2, 0.4]


def test_gif_that_cannot_be_played_says_what_to_do(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a and no more")
    with pytest.raises(ImageError, match="a.gif: .* Make a clip of it: `ffmpeg"):
        read_all(open_camera(settings(tmp_path / "a.gif")))


def broken_clip(kind, movie, folder):
    path = str(folder / (kind + ".mp4"))
    with open(movie, "rb") as file:
        data = file.read()
    content = {
        "empty": b"",
        "text": b"These are words, not a video.\n" * 200,
        "truncated": data[: len(data) // 2],
        "zeros": bytes(100000),
    }[kind]
    with open(path, "wb") as file:
        file.write(content)
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "zeros"])
def test_broken_clips_are_one_clear_line(backend, movie, tmp_path, kind):
    path = broken_clip(kind, movie, tmp_path)
    with pytest.raises(ImageError) as caught:
        read_all(open_camera(settings(path)))
    message = str(caught.value)
    assert message.startswith(path + ": ") and "\n" not in message
    assert message.endswith(("tell.", "record it again"))


def test_clip_that_is_only_a_beginning_is_given_up(gstreamer, movie, tmp_path):
    """In most runs decodebin swallows the error about an MPEG-4 file that ends after its type."""
    path = str(tmp_path / "beginning.mp4")
    with open(movie, "rb") as whole, open(path, "wb") as file:
        file.write(whole.read(24))
    line = clip(path, SMALL, False)
    assert line.first_frame_s >= 5
    camera = GStreamerCamera(path, line._replace(first_frame_s=0.5), 0.5)
    with pytest.raises(ImageError, match="beginning.mp4: (no frame for 0.5 s|This file)"):
        read_all(camera)


def test_clip_without_its_second_half_gives_the_first(backend, tmp_path):
    path = str(tmp_path / "half.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (128, 96))
    noise = np.random.RandomState(1).randint(0, 60, (96, 128, 3)).astype(np.uint8)
    for number in range(30):
        writer.write(noise + number * 6)
    writer.release()
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) // 2)
    frames = read_all(open_camera(settings(path)))
    assert 12 <= len(frames) <= 16
    for frame in frames[:-1]:  # a decoder may make half a picture of the last
        assert frame.pixels.mean() == pytest.approx(29.5 + frame.number * 6, abs=4)


def test_clip_whose_name_no_reader_takes(backend, movie, tmp_path):
    path = str(tmp_path / os.fsdecode(b"\xff.mp4"))
    shutil.copy(movie, path)
    with pytest.raises(ImageError, match="name of a clip must be UTF-8.*ln -s"):
        open_camera(settings(path))


def test_missing_file_names_what_is_known():
    with pytest.raises(
        ImageError, match="there is no file or folder csi0; known sources are auto, csi"
    ):
        open_camera(settings("csi0"))


@pytest.mark.parametrize(
    "source", ["ftp://host/clip", "csi://", "csi://front", "test://?face=3", "test://?live=maybe"]
)
@pytest.mark.parametrize("also", ["", "&seconds=-1"])
def test_wrong_uris_are_configuration_errors(source, also):
    with pytest.raises(ConfigError, match="camera.source: "):
        open_camera(settings(source + also))


def test_unknown_kind_lists_the_known_and_hides_the_password():
    with pytest.raises(ConfigError) as caught:
        open_camera(settings("ftp://me:secret@host/clip"))
    assert "v4l2:///dev/video0" in str(caught.value) and "secret" not in str(caught.value)


def test_missing_device_is_said(gstreamer):
    for source in ("v4l2:///dev/video97", "/dev/video97"):
        with pytest.raises(CameraError, match="there is no /dev/video97"):
            open_camera(settings(source))


def test_cameras_that_are_there_are_named_by_what_stays(tmp_path):
    """A second node of a camera (index 1) gives metadata, no pictures; a path is named where there is no identity."""
    (tmp_path / "dev").mkdir()
    assert usb_cameras(str(tmp_path)) == ""
    (tmp_path / "dev" / "video1").write_bytes(b"")
    assert usb_cameras(str(tmp_path)) == "there are /dev/video1"
    for kind in ("by-path", "by-id"):
        folder = tmp_path / "dev" / "v4l" / kind
        folder.mkdir(parents=True)
        for index in (0, 1):
            (folder / "usb-Maker_Camera-video-index{}".format(index)).write_bytes(b"")
        link = "v4l2:///dev/v4l/{}/usb-Maker_Camera-video-index0".format(kind)
        assert usb_cameras(str(tmp_path)) == "there are /dev/video1; a name that stays: " + link


def test_a_usb_camera_is_known_by_the_link_that_stays(tmp_path):
    for kind, target in (("by-path", "video0"), ("by-id", "video2")):
        folder = tmp_path / "dev" / "v4l" / kind
        folder.mkdir(parents=True)
        (tmp_path / "dev" / target).write_bytes(b"")
        (folder / "usb-Camera-index0").symlink_to("../../" + target)
    root = str(tmp_path)
    stays = "v4l2:///dev/v4l/{}/usb-Camera-index0"
    assert lasting_source("v4l2:///dev/video2", root) == stays.format("by-id")
    assert lasting_source("v4l2:///dev/video0", root) == stays.format("by-path")
    for other in ("v4l2:///dev/video1", stays.format("by-id"), "auto", "csi://0", "clip.mp4"):
        assert lasting_source(other, root) == other


def test_an_opener_goes_on_by_the_lasting_name(monkeypatch, caplog):
    """The camera itself is not opened here; tests/device/test_usb_camera.py pulls a real one."""
    asked, lasting = [], {"v4l2:///dev/video0": "v4l2:///dev/v4l/by-path/one-index0"}
    monkeypatch.setattr("edge_app.camera.open_camera", lambda wanted: asked.append(wanted.source))
    monkeypatch.setattr("edge_app.camera.lasting_source", lambda source: lasting.get(source, source))
    opener = CameraOpener(settings("v4l2:///dev/video0"))
    with caplog.at_level("INFO"):
        for _ in range(3):
            opener()
    assert asked == ["v4l2:///dev/video0"] + ["v4l2:///dev/v4l/by-path/one-index0"] * 2
    assert caplog.text.count("from now on") == 1


def test_device_that_is_no_camera_is_said(backend, tmp_path):
    """Any file that is there but is not a camera: here the null device."""
    with pytest.raises(CameraError, match="v4l2:///dev/null: .*fuser -v /dev/null"):
        with open_camera(settings("v4l2:///dev/null")) as camera:
            for _ in range(100):
                camera.read(0.1)


def test_forbidden_device_names_the_group(as_nobody):
    path = as_nobody / "video0"
    path.write_bytes(b"")
    path.chmod(0)
    with pytest.raises(CameraError, match="usermod -aG video"):
        open_camera(settings("v4l2://{}".format(path)))


def test_auto_takes_the_ribbon_camera_of_a_jetson(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("video10", "video2", "video-x", "null"):
        (tmp_path / "dev" / name).write_bytes(b"")
    root = str(tmp_path)
    assert not is_jetson(root)
    assert find_camera(root) == "v4l2:///dev/video2"
    tree = tmp_path / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"nvidia,p3450-0000\0nvidia,jetson-nano\0nvidia,tegra210\0")
    assert is_jetson(root) and find_camera(root) == "csi://0"


def test_auto_without_any_camera_is_the_scene(tmp_path):
    assert find_camera(str(tmp_path)) == "test://"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R32 (release), REVISION: 7.1")
    assert find_camera(str(tmp_path)) == "csi://0"


def test_folder_gives_each_image_in_order(tmp_path, caplog):
    for number, name in enumerate(["c.png", "a.png", "b.jpg"]):
        cv2.imwrite(str(tmp_path / name), np.full((10 + number, 20, 3), number, np.uint8))
    (tmp_path / "b-broken.jpg").write_bytes(b"words")
    camera = open_camera(settings(tmp_path))
    frames = read_all(camera)
    assert [frame.size_wh[1] for frame in frames] == [11, 12, 10]
    assert [frame.number for frame in frames] == [0, 2, 3]
    assert camera.dropped == 1 and "b-broken.jpg" in caplog.text
    assert not camera.live


def test_one_image_is_a_source(tmp_path):
    path = str(tmp_path / "one.png")
    cv2.imwrite(path, np.zeros((3, 5, 3), np.uint8))
    assert [frame.size_wh for frame in read_all(open_camera(settings(path)))] == [(5, 3)]


def test_folder_without_a_readable_image_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="no images there"):
        read_all(open_camera(settings(tmp_path)))
    (tmp_path / "a.jpg").write_bytes(b"words")
    with pytest.raises(ImageError, match="a.jpg: not an image"):
        read_all(open_camera(settings(tmp_path)))


def test_scene_without_pace_is_whole():
    camera = open_camera(settings("test://?live=0&seconds=0.5&faces=2"))
    frames = read_all(camera)
    assert not camera.live
    assert [frame.number for frame in frames] == list(range(15))
    assert frames[14].pts_s == pytest.approx(14 / 30)
    assert frames[0].size_wh == (160, 96)
    scene = Scene((160, 96), faces=2, rate_hz=30.0)
    for frame in frames:  # all of them held, and none drawn over
        np.testing.assert_array_equal(frame.pixels, scene.render(frame.number))


def test_live_scene_keeps_pace_and_drops_for_a_slow_reader():
    camera = open_camera(settings("test://?seconds=1.0", rate_hz=60.0))
    assert camera.live
    numbers, ages = [], []
    with camera:
        with pytest.raises(EndOfStream):
            while True:
                frame = camera.read(0.5)
                numbers.append(frame.number)
                ages.append(time.monotonic() - frame.captured_at)
                time.sleep(0.05)
    assert all(b > a for a, b in zip(numbers, numbers[1:]))
    assert numbers[-1] + 1 - len(numbers) <= camera.dropped  # those after the last count too
    assert camera.dropped > len(numbers)
    assert min(ages) >= 0 and np.median(ages[-5:]) < np.median(ages[:5]) + 0.3


def test_live_scene_waits_no_longer_than_asked():
    with open_camera(settings("test://", rate_hz=1.0)) as camera:
        assert camera.read(0.5).number == 0
        assert camera.read(0.01) is None


def test_import_needs_neither_gstreamer_nor_opencv():
    import subprocess

    hide = "import sys; sys.modules['gi'] = sys.modules['cv2'] = None; "
    subprocess.check_call([sys.executable, "-c", hide + "import edge_app.camera"])
