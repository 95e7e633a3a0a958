"""Memory for frames, taken once and used again."""

import sys
from typing import List, Tuple

import numpy as np

COUNT = 6  # drawn, in the slots (2), with the detector, on the screen, and the one before it


class Pool:
    """Arrays for pixels; one that nobody holds any more is given out again. Used by one thread.

    A frame is large. Taken anew from malloc each time, it is cut from what other threads have left of the
    last ones, and the process goes on growing by a part of a frame now and then, for hours.

    What is given out are views, and as long as there is one, or a slice of it, it holds the array behind
    it: the number of references to that array tells whether its memory is free.

    Args:
        shape: of each array.
        count: how many there are at once; more are made when more frames are held.
    """

    def __init__(self, shape: Tuple[int, ...], count: int = COUNT) -> None:
        self._shape = shape
        self._arrays: List[np.ndarray] = []
        self._make()
        self._alone = self._references(0)
        while len(self._arrays) < count:
            self._make()

    def __len__(self) -> int:
        return len(self._arrays)

    def take(self) -> np.ndarray:
        """An array of uint8 that nobody else holds; what stands in it is of no meaning."""
        for position in range(len(self._arrays)):
            if self._references(position) == self._alone:
                return self._arrays[position].view()
        self._make()
        return self._arrays[-1].view()

    def _make(self) -> None:
        self._arrays.append(np.full(self._shape, 0, np.uint8))  # full: written to now

    def _references(self, position: int) -> int:
        return sys.getrefcount(self._arrays[position])
