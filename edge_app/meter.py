"""Rates, percentiles and drops. Time enters as an argument, so that tests need no clock."""

from collections import deque
from typing import Deque, Dict, List, NamedTuple, Sequence

import numpy as np


class Percentiles(NamedTuple):
    """Of a series in milliseconds; NaN when it is empty."""

    p50: float
    p95: float
    p99: float


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """p50, p95 and p99 of a series of seconds, in milliseconds."""
    if not seconds:
        return Percentiles(float("nan"), float("nan"), float("nan"))
    p50, p95, p99 = np.percentile(np.asarray(seconds, np.float64) * 1000.0, (50, 95, 99))
    return Percentiles(float(p50), float(p95), float(p99))


class Rate:
    """Events a second over a sliding window. n events span n - 1 intervals.

    Args:
        window_s: how far back it looks.
    """

    def __init__(self, window_s: float = 2.0) -> None:
        self._window_s = window_s
        self._times: Deque[float] = deque()

    def tick(self, now: float, count: int = 1) -> None:
        """Note ``count`` events at ``now`` (monotonic seconds)."""
        self._times.extend([now] * count)
        self._forget(now)

    def per_second(self, now: float) -> float:
        """The rate at ``now``; 0.0 when nothing happened within the window."""
        self._forget(now)
        if len(self._times) < 2 or self._times[-1] <= self._times[0]:
            return 0.0
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])

    def _forget(self, now: float) -> None:
        while self._times and now - self._times[0] > self._window_s:
            self._times.popleft()


class Series:
    """Durations by name: the latest ones for the screen, all of them for the summary.

    Args:
        keep: how many values of a name are remembered; older ones are forgotten, so that a year of
            frames takes no more memory than a minute.
    """

    def __init__(self, keep: int = 10000) -> None:
        self._keep = keep
        self._values: Dict[str, Deque[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """Note one duration."""
        self._values.setdefault(name, deque(maxlen=self._keep)).append(seconds)

    def recent_ms(self, count: int = 60) -> Dict[str, float]:
        """Median of the latest ``count`` values of each name, in milliseconds."""
        return {
            name: percentiles(list(values)[-count:]).p50 for name, values in self._values.items()
        }

    def summary(self) -> Dict[str, Percentiles]:
        """Percentiles of everything remembered, in the order in which the names first came."""
        return {name: percentiles(list(values)) for name, values in self._values.items()}

    def values(self, name: str) -> List[float]:
        """What is remembered of one name, oldest first."""
        return list(self._values.get(name, ()))
