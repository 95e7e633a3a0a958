"""Lines on their way out: taken over at once, delivered by a thread, bounded, counted when lost."""

import threading
import time
from collections import deque
from typing import Deque, Optional, Sequence

from edge_app.appliance.status import Status

STOP_S = 2.0  # how long closing may take, delivered or not


class Outbox:
    """Something that delivers lines on a thread of its own, so that whoever sends never waits.

    When it is full the oldest line goes. What is lost, or still there after closing, is counted as
    "events".

    Args:
        name: of the thread.
        limit: lines kept at most, those under way included.
        status: told what is lost, and when delivery stops and goes on again.
    """

    def __init__(self, name: str, limit: int, status: Status) -> None:
        self.status = status
        self.stopping = threading.Event()
        self._limit = limit
        self._lines: Deque[str] = deque()
        self._changed = threading.Condition()
        self._under_way = 0  # taken, and not yet known to have arrived
        self._is_closed = False
        self.trouble = ""  # what keeps lines from arriving, in words
        # A daemon: a card, pipe or network that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self.deliver, name=name, daemon=True)

    def open(self) -> None:
        """Start delivering."""
        self._thread.start()

    def send(self, line: str) -> None:
        """Take a line over; never waits."""
        lost = 0
        with self._changed:
            while self._lines and len(self._lines) + self._under_way >= self._limit:
                self._lines.popleft()
                lost += 1
            self._lines.append(line)
            self._changed.notify()
        if lost:
            self.status.dropped("events", lost)

    def end(self) -> None:
        """Deliver what is left, if that is quick; does not wait for it."""
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()

    def close(self, within_s: float = STOP_S) -> None:
        """Deliver what is left for so long at most, and end. Idempotent."""
        self.end()
        if self._thread.ident is not None and not self._is_closed:
            self._thread.join(within_s)
        self._is_closed = True
        with self._changed:
            lost = len(self._lines) + self._under_way
            self._lines.clear()
            self._under_way = 0
        if lost:
            self.status.dropped("events", lost)

    def deliver(self) -> None:
        """On the thread: deliver until ``stopping`` is set, then what is left, if that is quick."""
        raise NotImplementedError

    def take(self, wait_s: float) -> Optional[str]:
        """For ``deliver``: the oldest line, under way from now on; ``None`` when none came."""
        with self._changed:
            if not self._lines and not self.stopping.is_set():
                self._changed.wait(wait_s)
            if not self._lines:
                return None
            self._under_way += 1
            return self._lines.popleft()

    def arrived(self) -> None:
        """For ``deliver``: a line that was under way has arrived."""
        with self._changed:
            self._under_way = max(0, self._under_way - 1)

    def put_back(self, lines: Sequence[str]) -> None:
        """For ``deliver``: lines under way, oldest first, have not arrived; they come next again."""
        with self._changed:
            self._lines.extendleft(reversed(lines))
            self._under_way = max(0, self._under_way - len(lines))

    def lost(self) -> None:
        """For ``deliver``: a line that was under way will never arrive."""
        self.arrived()
        self.status.dropped("events")

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        with self._changed:
            return not self._lines and self._under_way == 0

    def tell(self, trouble: str, well: str) -> None:
        """For ``deliver``: what keeps lines from arriving, or ``""``; repeats are not noted."""
        before, self.trouble = self.trouble, trouble
        if trouble != before:
            self.status.note("events", trouble or well)


def seconds_left(deadline: float) -> float:
    """From now to ``deadline`` (monotonic seconds); never negative."""
    return max(0.0, deadline - time.monotonic())
