"""What the appliance knows of itself: one object, written by its parts, read by page, metrics and service."""

import logging
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, NamedTuple, Optional, Tuple

from edge_app.display import Display
from edge_app.frames import Picture

log = logging.getLogger(__name__)

_NOTES = 200  # how many are remembered


class Note(NamedTuple):
    """Something that happened."""

    at: float  # time.time() seconds
    kind: str  # "camera", "detector", "display", "power", "events", "service"
    text: str


class Snapshot(NamedTuple):
    """The state at one moment; nothing in it changes any more."""

    waiting: Dict[str, str]  # by part: what it waits for, in words
    restarts: Dict[str, int]  # since the start, by stage: "camera", "camera-daemon"
    dropped: Dict[str, int]  # since the start, by cause, besides those of the path: "heat", "events"
    notes: Tuple[Note, ...]  # oldest first
    power: Optional[Any]  # the latest power.Reading; None where there are no sensors


class Status:
    """Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Dict[str, str] = {}
        self._restarts: Dict[str, int] = {}
        self._dropped: Dict[str, int] = {}
        self._notes: Deque[Note] = deque(maxlen=_NOTES)
        self._power: Optional[Any] = None

    def note(self, kind: str, text: str) -> None:
        """Remember, and log, that something happened."""
        log.info("%s: %s", kind, text)
        with self._lock:
            self._notes.append(Note(time.time(), kind, text))

    def waiting(self, part: str, text: str) -> None:
        """A part waits for something, told in ``text``; with an empty one it waits no longer."""
        with self._lock:
            changed = self._waiting.get(part, "") != text
            self._waiting.pop(part, None)
            if text:
                self._waiting[part] = text
        if changed:
            self.note(part, "waiting: {}".format(text) if text else "goes on")

    def restarted(self, stage: str) -> None:
        """A stage was started anew."""
        with self._lock:
            self._restarts[stage] = self._restarts.get(stage, 0) + 1

    def dropped(self, cause: str, number: int = 1) -> None:
        """So many frames, or events, were left out."""
        with self._lock:
            self._dropped[cause] = self._dropped.get(cause, 0) + number

    def measured(self, reading: Any) -> None:
        """The newest ``power.Reading``."""
        with self._lock:
            self._power = reading

    def snapshot(self) -> Snapshot:
        """Everything, as it is now."""
        with self._lock:
            return Snapshot(
                dict(self._waiting), dict(self._restarts), dict(self._dropped),
                tuple(self._notes), self._power,
            )  # fmt: skip


class FirstPicture(Display):
    """With a picture nobody waits for the detector any more."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status: Optional[Status] = status

    def show(self, picture: Picture) -> None:
        """Say so, once."""
        status, self._status = self._status, None
        if status is not None:
            status.waiting("detector", "")
