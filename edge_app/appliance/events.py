"""Faces that appear and leave, as JSON lines: into a file, to standard output, over MQTT. Off by
default.

What a line holds is described in docs/events.md.
"""

import errno
import json
import os
import socket
import sys
import time
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from edge_app.appliance.mqtt import MqttOutbox
from edge_app.appliance.outbox import STOP_S, Outbox, seconds_left
from edge_app.appliance.status import Status
from edge_app.boxes import iou
from edge_app.config import EventsSettings
from edge_app.display import Display
from edge_app.errors import DisplayError
from edge_app.frames import Frame, Picture
from edge_app.source import Camera

_SAME_IOU = 0.3  # overlap at which a face that was just missed has come back, under whatever number
_SILENCE_S = 5.0  # without a picture for so long nobody is there any more
_FILE_MODE = 0o640


class _Face:
    """One that has appeared and not left."""

    __slots__ = ("number", "box", "score", "appeared_s", "seen_s", "captured_at", "size_wh")

    def __init__(self, number: int, box: np.ndarray, at_s: float) -> None:
        self.number = number  # in events: that of its first track
        self.box = box
        self.score = 0.0  # the best so far
        self.appeared_s = self.seen_s = at_s  # by the source's clock, as the tracker's memory
        self.captured_at = 0.0  # of the frame it was last seen in, monotonic seconds
        self.size_wh = (0, 0)


class Presence:
    """Makes events of what the tracker sees: time and tracks in, events out.

    A face that is missed for less than ``leave_s`` has not left: it is recognised by the number of
    its track, or, when the tracker has given it a new one, by its place.

    Args:
        leave_s: a face has left when it was not seen for this long.
        moment: when a frame was taken: ``Camera.moment``.
    """

    def __init__(self, leave_s: float, moment: Callable[[Frame], float]) -> None:
        self._leave_s = leave_s
        self._moment = moment
        self._faces: Dict[int, _Face] = {}  # by the number of its present track

    def update(self, picture: Picture) -> List[Dict[str, Any]]:
        """Take in the next picture; returns what happened, without time of day, source and host."""
        frame = picture.result.frame
        at_s = self._moment(frame)
        events = []
        for (box, score), track in zip(picture.faces, picture.tracks):
            if not np.isfinite(box).all():
                continue
            face = self._known(track, box, picture.tracks)
            is_new = face is None
            if face is None:
                face = _Face(track, box, at_s)
            self._faces[track] = face
            face.box, face.seen_s, face.size_wh = box.copy(), at_s, frame.size_wh
            face.captured_at = frame.captured_at
            face.score = max(face.score, score)
            if is_new:
                events.append(_event("appeared", face))
        return events + self._leave(lambda face: at_s - face.seen_s >= self._leave_s)

    def clear(self) -> List[Dict[str, Any]]:
        """Everybody leaves: nobody looks any more."""
        return self._leave(lambda face: True)

    def _known(self, track: int, box: np.ndarray, present: Any) -> Optional[_Face]:
        """The face of a track; for a new track one that is missing just there."""
        if track in self._faces:
            return self._faces[track]
        missing = [number for number in self._faces if number not in present]
        if not missing:
            return None
        boxes = np.asarray([self._faces[number].box for number in missing], np.float32)
        overlaps = iou(box[None].astype(np.float32), boxes)[0]
        best = int(np.argmax(overlaps))
        return self._faces.pop(missing[best]) if overlaps[best] >= _SAME_IOU else None

    def _leave(self, is_gone: Callable[[_Face], bool]) -> List[Dict[str, Any]]:
        gone = [track for track, face in self._faces.items() if is_gone(face)]
        faces = [self._faces.pop(track) for track in gone]
        return [_event("left", face) for face in faces]


def _event(kind: str, face: _Face) -> Dict[str, Any]:
    event = {
        "event": kind,
        "monotonic_s": round(face.captured_at, 3),
        "track": int(face.number),
        "box": [round(float(side), 1) for side in face.box],
        "score": round(float(face.score), 4),
        "width": face.size_wh[0],
        "height": face.size_wh[1],
    }
    if kind == "left":
        event["duration_s"] = round(face.seen_s - face.appeared_s, 3)
    return event


class Events(Display):
    """Tells of faces that appear and leave; delivering is done by threads and never holds up a
    picture.

    Args:
        settings: where to; nowhere by default.
        status: told what could not be delivered (dropped by cause "events").
        camera: its name is written into every line, its clock says who has left, and of pictures that
            have nothing to do with each other nobody stays for the next one.
        insists: on the file; without, one that cannot be written may come back, or costs its lines.

    Raises:
        ConfigError: on opening: the broker's address or a file of its settings is wrong.
        DisplayError: on opening: a library is missing, or the file cannot be written.
    """

    def __init__(
        self, settings: EventsSettings, status: Status, camera: Camera, insists: bool = False
    ) -> None:
        super().__init__()
        self._insists = insists
        self._settings = settings
        self._status = status
        self._camera = camera
        self._host = socket.gethostname()
        self._presence = Presence(settings.leave_s, camera.moment)
        self._outboxes: List[Outbox] = []
        self._shown_at = 0.0

    def __enter__(self) -> "Events":
        wanted: List[Outbox] = []
        if self._settings.file:
            file = FileOutbox(self._settings, self._status)
            if self._insists:
                file.see_place()
            wanted.append(file)
        if self._settings.mqtt:
            wanted.append(MqttOutbox(self._settings, self._status))
        with ExitStack() as opened:
            for outbox in wanted:
                outbox.open()
                opened.callback(outbox.close)
            opened.pop_all()
        self._outboxes = wanted
        return self

    def show(self, picture: Picture) -> None:
        """Tell of faces that are new in this picture, or have been missing for long enough."""
        if not self._outboxes:
            return
        self._shown_at = time.monotonic()
        if not self._camera.related:
            self._tell(self._presence.clear())
        self._tell(self._presence.update(picture))

    def idle(self) -> None:
        """When there are no more pictures, everybody leaves."""
        if self._outboxes and time.monotonic() - self._shown_at >= _SILENCE_S:
            self._tell(self._presence.clear())

    def close(self) -> None:
        """Everybody leaves; deliver for two seconds at most. Idempotent."""
        self._tell(self._presence.clear())
        outboxes, self._outboxes = self._outboxes, []
        deadline = time.monotonic() + STOP_S  # one for all: they end side by side
        for outbox in outboxes:
            outbox.end()
        for outbox in outboxes:
            outbox.close(seconds_left(deadline))

    def _tell(self, events: List[Dict[str, Any]]) -> None:
        if not events:
            return
        ago_s = time.time() - time.monotonic()
        for event in events:
            line = {"event": event.pop("event"), "time": _time_of_day(event["monotonic_s"] + ago_s)}
            line.update(event)
            line.update(source=self._camera.name, host=self._host)
            text = json.dumps(line, separators=(",", ":"))
            for outbox in self._outboxes:
                outbox.send(text)


def _time_of_day(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    at = datetime.fromtimestamp(seconds, timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + "{:03d}Z".format(at.microsecond // 1000)


class FileOutbox(Outbox):
    """Appends lines to a file, or to standard output.

    The file is opened for each line: events are rare, and so a file that was moved away, deleted,
    or on a card that came back is no special case. When it is full (``max_file_mb``) it becomes
    FILE.1, in place of the one before, and a new one begins: never more than twice that size is
    taken.

    Args:
        settings: file, size, how many lines may wait.
        status: told what is lost and why.
    """

    def __init__(self, settings: EventsSettings, status: Status) -> None:
        super().__init__("events", settings.buffer, status)
        self._path = settings.file
        self._limit_bytes = int(settings.max_file_mb * 1e6)

    def see_place(self) -> None:
        """Look whether lines can be written; makes the file where there is none.

        Raises:
            DisplayError: they cannot.
        """
        if self._path == "-":
            return
        try:
            os.close(self._open(os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # a pipe that nobody reads yet
                raise DisplayError(
                    "events cannot be written to {}: {}. Give a file in a folder that exists and is "
                    "writable to events.file.".format(self._path, error.strerror)
                ) from error

    def deliver(self) -> None:
        """Write line by line; one that cannot be written is lost, the next one is tried anew."""
        while True:
            line = self.take(1.0)
            if line is None:
                if self.stopping.is_set():
                    return
                continue
            try:
                self._write(line.encode("ascii") + b"\n")
            except OSError as error:
                self.lost()
                text = "events cannot be written to {}: {}; they are counted as dropped"
                self.tell(text.format(self._path, error.strerror or error), "")
            else:
                self.arrived()
                self.tell("", "events are written to {} again".format(self._path))

    def _write(self, line: bytes) -> None:
        """
        Raises:
            OSError: it was not written, or only in part, which is then taken back.
        """
        if self._path == "-":
            _write_all(sys.stdout.fileno(), line)
            return
        file = self._open()
        try:
            size = os.fstat(file).st_size
            if size and size + len(line) > self._limit_bytes:
                os.close(file)
                file = -1
                os.replace(self._path, self._path + ".1")
                file = self._open()
                size = 0
            try:
                _write_all(file, line)
            except OSError:
                with suppress(OSError):  # a pipe or a device cannot be cut
                    os.ftruncate(file, size)
                raise
        finally:
            if file >= 0:
                os.close(file)

    def _open(self, flags: int = 0) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, _FILE_MODE)


def _write_all(file: int, line: bytes) -> None:
    while line:
        written = os.write(file, line)
        if written <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        line = line[written:]
