import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from needs import require

from edge_app.clip import FileDisplay
from edge_app.errors import DisplayError
from edge_app.frames import Detections, Figures, Frame, Picture, Result, StepTimes


def picture_at(pts_s, width=64, height=48, ground=80, captured_at=None):
    pixels = np.full((height, width, 3), ground, np.uint8)
    frame = Frame(0, pts_s if captured_at is None else captured_at, pts_s, pixels)
    result = Result(frame, Detections.empty(), StepTimes(0.0, 0.0, 0.0), 0.0)
    return Picture(pixels, result.faces, result, Figures(0.0, 0.0, 0.0, 0.0, {}, {}))


def write(path, pictures):
    with FileDisplay(str(path)) as display:
        for picture in pictures:
            display.show(picture)


def read(path):
    """The clip again: pictures, rate."""
    import cv2

    reader = cv2.VideoCapture(str(path))
    pictures = []
    while True:
        ok, pixels = reader.read()
        if not ok:
            break
        pictures.append(pixels)
    rate = reader.get(cv2.CAP_PROP_FPS)
    reader.release()
    return pictures, rate


@pytest.mark.parametrize("rate", [5.0, 15.0, 25.0, 30.0])
def test_a_clip_has_the_rate_and_length_of_its_source(tmp_path, rate):
    write(tmp_path / "a.mp4", [picture_at(n / rate) for n in range(40)])
    pictures, written_rate = read(tmp_path / "a.mp4")
    assert len(pictures) == 40 and abs(written_rate - rate) < 0.01


def test_a_dropped_frame_is_filled_with_the_one_before(tmp_path):
    times = [n / 30.0 for n in range(60) if n < 30 or n % 3 == 0]
    grounds = [int(4 * round(t * 30)) for t in times]
    write(tmp_path / "a.mp4", [picture_at(t, ground=g) for t, g in zip(times, grounds)])
    pictures, _ = read(tmp_path / "a.mp4")
    assert len(pictures) == 58  # the last one is that of 57/30 s
    assert abs(pictures[50].mean() - 4 * 48) < 6


def test_faster_than_the_clip_is_thinned_not_stretched(tmp_path):
    times = [n / 10.0 for n in range(10)] + [1.0 + n / 40.0 for n in range(40)]
    write(tmp_path / "a.mp4", [picture_at(t) for t in times])
    pictures, rate = read(tmp_path / "a.mp4")
    assert rate == 10.0 and len(pictures) == 21


def test_jitter_does_not_change_the_length(tmp_path):
    random = np.random.RandomState(1)
    times = [n / 30.0 + random.uniform(-0.01, 0.01) for n in range(90)]
    write(tmp_path / "a.mp4", [picture_at(t) for t in times])
    pictures, rate = read(tmp_path / "a.mp4")
    assert abs(len(pictures) / rate - 3.0) < 0.1


def test_a_reopened_camera_goes_on_and_a_long_pause_is_shortened(tmp_path):
    first = [picture_at(n / 10.0, captured_at=100 + n / 10.0) for n in range(10)]
    again = [picture_at(n / 10.0, captured_at=5000 + n / 10.0) for n in range(10)]
    write(tmp_path / "a.mp4", first + again)
    pictures, rate = read(tmp_path / "a.mp4")
    assert rate == 10.0 and len(pictures) == 10 + 50 + 9


@pytest.mark.parametrize("size_wh", [(1, 1), (33, 7), (639, 359)])
def test_odd_sizes(tmp_path, size_wh):
    write(tmp_path / "a.mp4", [picture_at(n / 10.0, *size_wh) for n in range(5)])
    pictures, _ = read(tmp_path / "a.mp4")
    assert len(pictures) == 5
    assert abs(int(pictures[2][pictures[2].shape[0] // 2, pictures[2].shape[1] // 2, 1]) - 80) < 5


def test_another_size_gets_bars(tmp_path):
    wide = [picture_at(n / 10.0, 320, 160, 200) for n in range(10)]
    tall = [picture_at(n / 10.0, 80, 160, 200) for n in range(10, 20)]
    write(tmp_path / "a.mp4", wide + tall)
    pictures, _ = read(tmp_path / "a.mp4")
    last = pictures[-1][:, :, 1].astype(int)
    assert len(pictures) == 20 and last.shape == (160, 320)
    assert last[:, :100].max() < 30 and last[:, 220:].max() < 30 and last[:, 140:180].min() > 180


def test_one_picture_is_a_clip_and_none_is_harmless(tmp_path):
    write(tmp_path / "one.mp4", [picture_at(0.0)])
    assert len(read(tmp_path / "one.mp4")[0]) == 1
    write(tmp_path / "none.mp4", [])
    assert os.listdir(str(tmp_path)) == ["one.mp4"]


def test_a_clip_stays_until_another_one_is_finished(tmp_path):
    clip, growing = tmp_path / "a.mp4", tmp_path / "a.unfinished.mp4"
    (tmp_path / "link.mp4").symlink_to(clip)
    write(tmp_path / "link.mp4", [picture_at(n / 30.0) for n in range(3)])
    before = clip.read_bytes()
    write(clip, [])  # as when the camera cannot be opened
    assert clip.read_bytes() == before
    with FileDisplay(str(clip)) as display:
        for number in range(20):
            display.show(picture_at(number / 30.0))
        assert clip.read_bytes() == before and growing.stat().st_size > 0  # what a crash leaves
    assert len(read(clip)[0]) == 20 and len(read(tmp_path / "link.mp4")[0]) == 20
    assert sorted(os.listdir(str(tmp_path))) == ["a.mp4", "link.mp4"]


def test_behind_a_link_it_is_the_other_disk_that_must_have_room(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "elsewhere" / "a.mp4")
    asked, real = set(), shutil.disk_usage

    def disk_usage(path):
        asked.add(path)
        return real(path)

    monkeypatch.setattr("edge_app.clip.shutil.disk_usage", disk_usage)
    write(tmp_path / "link.mp4", [picture_at(n / 30.0) for n in range(3)])
    assert asked == {str(tmp_path / "elsewhere")}
    shutil.rmtree(str(tmp_path / "elsewhere"))
    with pytest.raises(DisplayError, match="there is no folder .*elsewhere; make it with mkdir -p"):
        write(tmp_path / "link.mp4", [])


def test_a_clip_that_cannot_take_its_place_is_said_and_kept(tmp_path):
    display = FileDisplay(str(tmp_path / "a.mp4"))
    with pytest.raises(DisplayError, match="a.mp4: Is a directory"):
        with display:
            display.show(picture_at(0.0))
            (tmp_path / "a.mp4").mkdir()
    display.close()
    assert len(read(tmp_path / "a.unfinished.mp4")[0]) == 1


def test_close_can_be_repeated(tmp_path):
    display = FileDisplay(str(tmp_path / "a.mp4"))
    with display:
        display.show(picture_at(0.0))
        display.close()
    display.close()
    assert len(read(tmp_path / "a.mp4")[0]) == 1


def test_what_cannot_be_written_is_said_at_once(tmp_path):
    with pytest.raises(DisplayError, match="no folder .*missing; make it with mkdir"):
        FileDisplay(str(tmp_path / "missing" / "a.mp4")).__enter__()
    with pytest.raises(DisplayError, match="ends in .mp4"):
        FileDisplay(str(tmp_path / "a.txt")).__enter__()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DisplayError, match="folder.mp4: Is a directory"):
        FileDisplay(str(tmp_path / "folder.mp4")).__enter__()
    with pytest.raises(DisplayError, match="name that is UTF-8"):
        FileDisplay(str(tmp_path / os.fsdecode(b"\xff.mp4"))).__enter__()


FILL_A_DISK = """
import sys
sys.path[:0] = {path!r}
import numpy as np
from test_clip import picture_at, read
from edge_app.clip import FileDisplay
from edge_app.errors import DisplayError
noise = np.random.RandomState(0)
try:
    with FileDisplay("{disk}/a.mp4") as display:
        for n in range(3000):
            picture = picture_at(n / 30.0, 640, 480)
            picture.pixels[:] = noise.randint(0, 255, (480, 640, 3))
            display.show(picture)
    print("never full")
except DisplayError as error:
    print(error)
print(len(read("{disk}/a.mp4")[0]) == display.written, display.written)
"""


def test_a_full_disk_is_an_error_and_the_clip_so_far_can_be_played(tmp_path):
    code = tmp_path / "fill.py"
    disk = tmp_path / "disk"
    disk.mkdir()
    paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    code.write_text(FILL_A_DISK.format(path=paths, disk=disk))
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    script = "mount -t tmpfs -o size=24m disk {} && {} {}".format(disk, sys.executable, code)
    require(shutil.which("unshare"), "unshare (util-linux)")
    can_mount = subprocess.run(
        mount + ["mount -t tmpfs -o size=1m disk {}".format(disk)]
    ).returncode
    require(can_mount == 0, "the right to mount a tmpfs in a namespace")
    done = subprocess.run(mount + [script], stdout=subprocess.PIPE)
    said = done.stdout.decode()
    assert "is full" in said and "True" in said
