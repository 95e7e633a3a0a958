"""What Python leaves lying about, cleared away at set times: left to itself it waits for hours.

A connection that was closed is a circle of objects (asyncio's transport holds methods of its own), and lists
of free tuples grow with every frame, to 2000 of each size. Python clears circles away when there are 700 new
objects more than before, old ones when they are a quarter of all, and the lists with those: on a program
that runs evenly after minutes, days and never, and until then it grows.
"""

import gc
import time
from typing import Callable

from edge_app.display import Display
from edge_app.frames import Picture

_PERIOD_S = 300.0  # between two clearings, each some 10 ms of one core of a laptop


class Leftovers(Display):
    """A display that shows nothing, so that it is called by the main thread, between two pictures.

    Args:
        clock: monotonic seconds.
        collect: clears away.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        collect: Callable[[], int] = gc.collect,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._collect = collect
        self._cleared_at = clock()

    def show(self, picture: Picture) -> None:
        """Clear away when it is time."""
        self.idle()

    def idle(self) -> None:
        """Clear away when it is time."""
        now = self._clock()
        if now - self._cleared_at >= _PERIOD_S:
            self._collect()
            self._cleared_at = now
