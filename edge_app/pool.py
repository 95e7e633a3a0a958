"""Memory for frames, taken once and used again."""

import weakref
from typing import Callable, List, Optional, Tuple

import numpy as np

COUNT = 6  # drawn, in the slots (2), with the detector, on the screen, and the one before it


class Pool:
    """Arrays for pixels; memory that nobody looks at any more is given out again. Used by one thread.

    A frame is large. Taken anew from malloc each time, it is cut from what other threads have left of the
    last ones, and the process goes on growing by a part of a frame now and then, for hours.

    NumPy lets every view of an array, and every view of a view, hold the array that was made on the
    memory itself. That one is made anew each time, and only they hold it: when it is gone, all are.

    Args:
        shape: of each array.
        count: how many there are at once; more are made when more frames are held.
    """

    def __init__(self, shape: Tuple[int, ...], count: int = COUNT) -> None:
        self._shape = shape
        self._memory = [self._make() for _ in range(count)]
        self._roots: List[Callable[[], Optional[np.ndarray]]] = [_nobody] * count

    def __len__(self) -> int:
        return len(self._memory)

    def take(self) -> np.ndarray:
        """An array of uint8 that nobody else holds; what stands in it is of no meaning."""
        position = next((n for n, root in enumerate(self._roots) if root() is None), len(self))
        if position == len(self):
            self._memory.append(self._make())
            self._roots.append(_nobody)
        root = np.frombuffer(self._memory[position], np.uint8)
        self._roots[position] = weakref.ref(root)
        return root.reshape(self._shape)

    def _make(self) -> memoryview:
        return memoryview(np.full(int(np.prod(self._shape)), 0, np.uint8))  # full: written to now


def _nobody() -> None:
    """What a weak reference gives whose array is gone."""
