"""A one-place mailbox between two threads: the newest item wins, and what it replaces is counted."""

import threading
import time
from typing import Generic, Optional, TypeVar

Item = TypeVar("Item")


class SlotClosed(Exception):
    """The other side has closed the slot; nothing more will come through."""


class LatestSlot(Generic[Item]):
    """Holds at most one item.

    Args:
        lossless: ``put`` waits until the last item was taken (files) instead of replacing it (cameras).
    """

    def __init__(self, lossless: bool = False) -> None:
        self._lossless = lossless
        self._changed = threading.Condition()
        self._item: Optional[Item] = None
        self._closed = False
        self._dropped = 0
        self._refused = 0

    @property
    def dropped(self) -> int:
        """Items replaced before anyone took them."""
        with self._changed:
            return self._dropped

    @property
    def left(self) -> int:
        """Items that were under way when it was closed: refused since, and one that nobody took."""
        with self._changed:
            return self._refused + int(self._closed and self._item is not None)

    def put(self, item: Item) -> None:
        """Offer an item.

        Raises:
            SlotClosed: also while waiting for room.
        """
        with self._changed:
            if self._lossless:
                self._changed.wait_for(lambda: self._item is None or self._closed)
            if self._closed:
                self._refused += 1
                raise SlotClosed()
            if self._item is not None:
                self._dropped += 1
            self._item = item
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Optional[Item]:
        """Wait for the next item; ``None`` when none came in time.

        Raises:
            SlotClosed: the slot is closed and empty; an item put before closing is still delivered.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._item is None:
                if self._closed:
                    raise SlotClosed()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Wake both sides. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
