"""Faces that appear and leave: what becomes an event, and how lines get into a file."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime

import numpy as np
import pytest
from needs import require
from waiting import until

from edge_app.appliance import events as module
from edge_app.appliance.events import Events, FileOutbox, Presence
from edge_app.appliance.outbox import Outbox
from edge_app.appliance.status import Status
from edge_app.config import EventsSettings
from edge_app.errors import DisplayError
from edge_app.frames import Detections, Figures, Frame, Picture, Result, StepTimes
from edge_app.playback import FolderCamera, SceneCamera

HERE = (100.0, 100.0, 200.0, 220.0)
THERE = (400.0, 50.0, 460.0, 120.0)
CAMERA = SceneCamera("test://", (640, 360), 0, 30.0, live=True)


def picture(at, *faces, pts_s=0.0):
    """A picture captured at ``at`` with faces (track, box, score)."""
    boxes = np.asarray([box for _, box, _ in faces], np.float32).reshape(-1, 4)
    scores = np.asarray([score for _, _, score in faces], np.float32)
    found = Detections(boxes, scores)
    pixels = np.zeros((360, 640, 3), np.uint8)
    result = Result(Frame(0, at, pts_s, pixels), found, StepTimes(0, 0, 0), at)
    figures = Figures(0, 0, 0, 0, {}, {})
    return Picture(pixels, found, result, figures, tuple(track for track, _, _ in faces))


def told(presence, *pictures):
    """What happens over some pictures, as "kind track" words."""
    events = [event for one in pictures for event in presence.update(one)]
    return ["{} {}".format(event["event"], event["track"]) for event in events]


def test_a_face_comes_and_goes():
    presence = Presence(1.0, CAMERA.moment)
    events = presence.update(picture(10.0, (7, HERE, 0.96)))
    assert events == [
        {
            "event": "appeared", "monotonic_s": 10.0, "track": 7, "box": [100.0, 100.0, 200.0, 220.0],
            "score": 0.96, "width": 640, "height": 360,
        }
    ]  # fmt: skip
    moved = (110.0, 100.0, 210.0, 220.0)
    assert presence.update(picture(10.5, (7, moved, 0.99))) == []
    assert presence.update(picture(11.0, (7, moved, 0.97))) == []
    assert presence.update(picture(11.9)) == []
    (left,) = presence.update(picture(12.0))
    assert left == {
        "event": "left", "monotonic_s": 11.0, "track": 7, "box": [110.0, 100.0, 210.0, 220.0],
        "score": 0.99, "width": 640, "height": 360, "duration_s": 1.0,
    }  # fmt: skip
    assert presence.update(picture(13.0)) == []


def test_a_face_that_is_missed_for_a_moment_has_not_left():
    seen, nobody = (7, HERE, 0.96), ()
    presence = Presence(1.0, CAMERA.moment)
    assert told(presence, picture(0.0, seen), picture(0.9, *nobody), picture(1.2, seen)) == [
        "appeared 7"
    ]
    assert told(presence, picture(2.1), picture(2.3)) == ["left 7"]


def test_a_face_under_a_new_number_at_the_same_place_is_the_same():
    nearby = (115.0, 105.0, 215.0, 225.0)
    presence = Presence(2.0, CAMERA.moment)
    assert told(presence, picture(0.0, (1, HERE, 0.96)), picture(0.5)) == ["appeared 1"]
    assert told(presence, picture(1.0, (2, nearby, 0.96))) == []
    assert told(presence, picture(1.5), picture(4.0)) == ["left 1"], "events keep its first number"
    assert told(presence, picture(5.0, (3, nearby, 0.96))) == ["appeared 3"], "it had left"


def test_a_new_face_elsewhere_is_another_one_and_two_are_told_apart():
    presence = Presence(1.0, CAMERA.moment)
    assert told(presence, picture(0.0, (1, HERE, 0.96)), picture(0.5, (2, THERE, 0.99))) == [
        "appeared 1",
        "appeared 2",
    ]
    assert told(presence, picture(1.0, (2, THERE, 0.9))) == ["left 1"]
    both = picture(1.1, (2, THERE, 0.9), (3, THERE, 0.95))
    assert told(presence, both) == ["appeared 3"], "over a face that is there, not instead of it"


def test_a_slow_rate_makes_nobody_leave():
    presence = Presence(0.5, CAMERA.moment)
    assert told(presence, *[picture(2.0 * step, (7, HERE, 0.96)) for step in range(5)]) == [
        "appeared 7"
    ]


def test_who_is_in_a_film_leaves_by_its_own_time():
    film = SceneCamera("test://?live=0", (640, 360), 0, 30.0, live=False)
    slow, fast = Presence(1.0, film.moment), Presence(1.0, film.moment)
    shown = picture(10.0, (7, HERE, 0.96), pts_s=3.0)
    assert told(slow, shown, picture(90.0, pts_s=3.9)) == ["appeared 7"]
    assert told(fast, shown, picture(10.1, (7, HERE, 0.96), pts_s=3.5)) == ["appeared 7"]
    (left,) = fast.update(picture(10.2, pts_s=4.5))
    assert left["duration_s"] == 0.5 and left["monotonic_s"] == 10.1


def test_nobody_goes_from_one_picture_of_a_folder_to_the_next(tmp_path):
    folder = FolderCamera("pictures", [str(tmp_path)], 30.0)
    with Events(settings(tmp_path), Status(), folder) as events:
        for track in (1, 2):
            events.show(picture(time.monotonic(), (track, HERE, 0.99)))
    lines = lines_of(tmp_path / "events.jsonl")
    assert [(line["event"], line["track"]) for line in lines] == [
        ("appeared", 1), ("left", 1), ("appeared", 2), ("left", 2),
    ]  # fmt: skip


def test_boxes_that_are_not_numbers_are_left_out():
    presence = Presence(1.0, CAMERA.moment)
    assert told(presence, picture(0.0, (1, (np.nan, 0.0, 1.0, 1.0), 0.99))) == []


def settings(tmp_path, **more):
    return EventsSettings(**dict({"file": str(tmp_path / "events.jsonl")}, **more))


def lines_of(path):
    return [json.loads(line) for line in open(str(path)).read().splitlines()]


def test_a_file_of_lines(tmp_path):
    before, status = time.time(), Status()
    camera = SceneCamera("test://", (640, 360), 0, 30.0, live=True)
    with Events(settings(tmp_path), status, camera) as events:
        for step in range(3):
            events.show(
                picture(
                    time.monotonic(), (step, (100.0 * step, 0.0, 100.0 * step + 50, 60.0), 0.97)
                )
            )
        camera.name = "test://?faces=1"  # as a USB camera that comes back under another number
    lines = lines_of(tmp_path / "events.jsonl")
    assert [line["event"] for line in lines] == ["appeared"] * 3 + ["left"] * 3
    assert lines[-1]["source"] == "test://?faces=1"
    assert sorted(lines[0]) == [
        "box", "event", "height", "host", "monotonic_s", "score", "source", "time", "track", "width",
    ]  # fmt: skip
    assert lines[0]["source"] == "test://" and lines[0]["host"] == os.uname().nodename
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", lines[0]["time"])
    at = datetime.strptime(lines[0]["time"] + "+0000", "%Y-%m-%dT%H:%M:%S.%fZ%z").timestamp()
    assert before - 0.002 <= at <= time.time()
    assert status.snapshot().dropped == {} and status.snapshot().notes == ()
    assert os.stat(str(tmp_path / "events.jsonl")).st_mode & 0o007 == 0, "nobody else may read it"


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = threading.active_count()
    with Events(EventsSettings(), Status(), CAMERA) as events:
        events.show(picture(0.0, (1, HERE, 0.99)))
        events.idle()
        assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_everybody_leaves_when_the_camera_falls_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SILENCE_S", 0.05)
    with Events(settings(tmp_path), Status(), CAMERA) as events:
        events.show(picture(time.monotonic(), (1, HERE, 0.99)))
        events.idle()
        time.sleep(0.06)
        events.idle()
        events.idle()
    assert [line["event"] for line in lines_of(tmp_path / "events.jsonl")] == ["appeared", "left"]


def test_lines_are_appended_and_the_file_may_be_taken_away(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event":"older"}\n')
    outbox = FileOutbox(settings(tmp_path), Status())
    outbox.open()
    outbox.send('{"event":"one"}')
    until(lambda: path.exists() and "one" in path.read_text())
    os.replace(str(path), str(tmp_path / "moved"))
    outbox.send('{"event":"two"}')
    outbox.close()
    assert [line["event"] for line in lines_of(tmp_path / "moved")] == ["older", "one"]
    assert [line["event"] for line in lines_of(path)] == ["two"]


def test_two_files_of_bounded_size_hold_the_latest_lines(tmp_path):
    outbox = FileOutbox(settings(tmp_path, max_file_mb=0.001, buffer=10000), Status())
    outbox.open()
    for number in range(500):
        outbox.send(json.dumps({"number": number}))
    until(lambda: outbox.is_empty)
    outbox.close()
    older, newer = tmp_path / "events.jsonl.1", tmp_path / "events.jsonl"
    assert sorted(one.name for one in tmp_path.iterdir()) == [newer.name, older.name]
    assert older.stat().st_size <= 1000 and newer.stat().st_size <= 1000
    numbers = [line["number"] for line in lines_of(older) + lines_of(newer)]
    assert numbers == list(range(numbers[0], 500)) and len(numbers) > 40


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    require(done.returncode == 0, "the right to mount: {}".format(done.stdout.decode()))
    yield folder
    subprocess.check_call(["umount", str(folder)])


def test_a_full_disk_costs_lines_and_nothing_else(small_disk):
    path, status = small_disk / "events.jsonl", Status()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(60 << 10))
    outbox = FileOutbox(EventsSettings(file=str(path), buffer=1000), status)
    outbox.open()
    long_line = json.dumps({"text": "x" * 3000})
    for _ in range(10):
        outbox.send(long_line)
    until(lambda: outbox.is_empty)
    written = len(lines_of(path))
    assert 0 < written < 10 and status.snapshot().dropped == {"events": 10 - written}
    (note,) = status.snapshot().notes
    assert "No space left" in note.text and str(path) in note.text
    ballast.unlink()
    outbox.send(long_line)
    until(lambda: outbox.is_empty)
    outbox.close()
    assert len(lines_of(path)) == written + 1, "no half line is left in between"
    assert status.snapshot().notes[-1].text == "events are written to {} again".format(path)


def test_a_disk_that_becomes_read_only(small_disk):
    path, status = small_disk / "events.jsonl", Status()
    outbox = FileOutbox(EventsSettings(file=str(path)), status)
    outbox.open()
    outbox.send("1")
    until(lambda: outbox.is_empty)
    for mode, number in (("ro", "2"), ("rw", "3")):
        subprocess.check_call(["mount", "-o", "remount," + mode, str(small_disk)])
        outbox.send(number)
        until(lambda: outbox.is_empty)
    outbox.close()
    assert lines_of(path) == [1, 3] and status.snapshot().dropped == {"events": 1}
    assert "Read-only" in status.snapshot().notes[0].text


def test_a_folder_that_is_missing_is_told_once(tmp_path):
    status = Status()
    with Events(EventsSettings(file=str(tmp_path / "no" / "events")), status, CAMERA) as events:
        for track in range(5):
            events.show(picture(float(track), (track, HERE, 0.99)))
    assert len(status.snapshot().notes) == 1 and status.snapshot().dropped["events"] == 2


def test_a_place_that_is_insisted_on_is_looked_at_before(tmp_path):
    missing = settings(tmp_path)._replace(file=str(tmp_path / "nowhere" / "a.jsonl"))
    with pytest.raises(DisplayError, match="nowhere/a.jsonl: No such file .* events.file"):
        Events(missing, Status(), CAMERA, insists=True).__enter__()
    for well in ("-", str(tmp_path / "pipe"), str(tmp_path / "new.jsonl")):
        if well.endswith("pipe"):
            os.mkfifo(well)
        with Events(settings(tmp_path)._replace(file=well), Status(), CAMERA, insists=True):
            pass


def test_a_pipe_that_nobody_reads_holds_nothing_up(tmp_path):
    """Opening it would wait for ever: the thread does, nobody else."""
    os.mkfifo(str(tmp_path / "events.jsonl"))
    status = Status()
    outbox = FileOutbox(settings(tmp_path, buffer=10), status)
    outbox.open()
    started = time.monotonic()
    for number in range(1000):
        outbox.send(str(number))
    assert time.monotonic() - started < 15
    outbox.close()
    outbox.close()
    assert status.snapshot().dropped == {"events": 1000}
    with open(str(tmp_path / "events.jsonl")):  # lets the thread that was left behind go
        pass


class Stuck(Outbox):
    """One whose delivery hangs, as in a pipe that nobody reads or a handshake that nobody answers."""

    def __init__(self, status):
        super().__init__("stuck", 10, status)
        self.door = threading.Event()

    def deliver(self):
        self.door.wait()


def test_ending_takes_its_time_at_most_however_many_hang(monkeypatch):
    monkeypatch.setattr(module, "STOP_S", 0.4)
    status, events = Status(), Events(EventsSettings(), Status(), CAMERA)
    stuck = [Stuck(status) for _ in range(10)]
    for one in stuck:
        one.open()
        one.send("line")
    with events:
        events._outboxes = list(stuck)
        started = time.monotonic()
    assert time.monotonic() - started < 10 * 0.4, "they end side by side"
    assert all(one.stopping.is_set() for one in stuck)
    assert status.snapshot().dropped == {"events": 10}
    for one in stuck:
        one.door.set()


def test_standard_output(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests/appliance'); sys.path.insert(0, 'tests')\n"
        "from test_events import *\n"
        "with Events(EventsSettings(file='-'), Status(), CAMERA) as events:\n"
        "    events.show(picture(1.0, (1, HERE, 0.99)))\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    kinds = [json.loads(line)["event"] for line in done.stdout.decode().splitlines()]
    assert done.returncode == 0 and kinds == ["appeared", "left"]
    assert not (tmp_path / "-").exists()


def test_the_document_names_every_field_and_no_other():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(os.path.join(root, "docs", "events.md"), encoding="utf-8") as file:
        text = file.read()
    table = text.split("| field |")[1].split("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    fields = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    presence = Presence(0.0, CAMERA.moment)
    events = presence.update(picture(0.0, (1, HERE, 0.97))) + presence.clear()
    assert fields == {name for event in events for name in event} | {"time", "source", "host"}
    for example in re.findall(r'^\{"event".*$', text, re.MULTILINE):
        assert set(json.loads(example)) <= fields
