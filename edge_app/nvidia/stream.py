"""The one stream that everything of a frame is queued on, and the marks between its steps."""

from typing import Any, List, Optional

import numpy as np

from edge_app.nvidia.context import explained, import_driver


class Stream:
    """Needs a current context from ``__enter__`` to ``close``.

    Pass this object about, never ``raw``: pycuda destroys its stream with the last reference, and a
    reference in the traceback of an error would keep it until after its context is gone.

    Args:
        marks: how many ``mark`` there are.
    """

    def __init__(self, marks: int = 0) -> None:
        self._count = marks
        self._events: List[Any] = []
        self.raw: Optional[Any] = None  # pycuda's

    def __enter__(self) -> "Stream":
        driver = import_driver()
        with explained("making a stream"):
            wait = driver.event_flags.BLOCKING_SYNC  # sleep instead of spinning on a core
            self._events = [driver.Event(wait) for _ in range(self._count)]
            self.raw = driver.Stream()
        return self

    @property
    def handle(self) -> int:
        """CUDA's own, for TensorRT."""
        assert self.raw is not None, "used outside 'with'"
        return int(self.raw.handle)

    def mark(self, number: int) -> None:
        """Queue a mark behind what was queued so far."""
        self._events[number].record(self.raw)

    def wait_for(self, number: int) -> None:
        """Wait until the GPU has come to a mark."""
        self._events[number].synchronize()

    def between_s(self, first: int, second: int) -> float:
        """Seconds of GPU time between two marks that were passed."""
        return float(self._events[second].time_since(self._events[first])) * 1e-3

    def upload(self, address: int, array: np.ndarray) -> None:
        """Queue a copy from page-locked memory."""
        import_driver().memcpy_htod_async(address, array, self.raw)

    def synchronize(self) -> None:
        """Wait for everything that was queued."""
        assert self.raw is not None, "used outside 'with'"
        self.raw.synchronize()

    def close(self) -> None:
        """Give it up. Idempotent."""
        self._events = []
        self.raw = None

    def __exit__(self, *_: object) -> None:
        self.close()
