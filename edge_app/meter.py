"""Rates, percentiles and drops. Time enters as an argument, so that tests need no clock."""

import threading
from collections import deque
from typing import Deque, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from edge_app.frames import Figures


class Percentiles(NamedTuple):
    """Of a series in milliseconds; NaN when it is empty."""

    p50: float
    p95: float
    p99: float


def percentiles(seconds: Union[Sequence[float], np.ndarray]) -> Percentiles:
    """p50, p95 and p99 of a series of seconds, in milliseconds."""
    if len(seconds) == 0:
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


class Recent:
    """The newest values of a series, in memory that is taken at once and never again.

    Python floats in a deque would go on taking memory until it is full, and leave it in pieces.

    Args:
        keep: how many; 8 bytes each.
    """

    def __init__(self, keep: int) -> None:
        self._values = np.full(keep, np.nan, np.float64)  # written to, or it would not be there yet
        self._count = 0

    def append(self, value: float) -> None:
        """Note a value, in place of the oldest when there is no more room."""
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def newest(self, number: int) -> np.ndarray:
        """A copy, (at most ``number``,) float64, oldest first."""
        number = min(number, self._count, len(self._values))
        return self._values.take(np.arange(self._count - number, self._count), mode="wrap")


class Meter:
    """What every stage tells of itself, and what the screen and the summary make of it.

    Every method may be called from any thread.

    Args:
        keep: how many durations of a step are remembered, so that a year of frames takes no more
            memory than the first one.
        refresh_s: how often the figures for the screen are worked out anew.
    """

    def __init__(self, keep: int = 10000, refresh_s: float = 0.25) -> None:
        self._keep = keep
        self._refresh_s = refresh_s
        self._lock = threading.Lock()
        self._rates: Dict[str, Rate] = {}
        self._counts: Dict[str, int] = {}
        self._spans: Dict[str, Tuple[float, float]] = {}  # first and latest time of an event
        self._steps: Dict[str, Recent] = {}
        self._figures: Optional[Figures] = None
        self._refreshed_at = float("-inf")

    def tick(self, event: str, now: float) -> None:
        """Count one event: "camera", "detect" or "display"; its rate is worked out from ``now``."""
        with self._lock:
            self._counts[event] = self._counts.get(event, 0) + 1
            self._rates.setdefault(event, Rate()).tick(now)
            self._spans[event] = (self._spans.get(event, (now, now))[0], now)

    def count(self, event: str, number: int) -> None:
        """Add to a counter without a rate, for instance "faces"."""
        with self._lock:
            self._counts[event] = self._counts.get(event, 0) + number

    def add(self, step: str, seconds: float) -> None:
        """Note how long a step took."""
        with self._lock:
            if step not in self._steps:
                self._steps[step] = Recent(self._keep)
            self._steps[step].append(seconds)

    def clear(self) -> None:
        """Begin anew: what came so far was the burn-in."""
        with self._lock:
            for remembered in (self._rates, self._counts, self._spans, self._steps):
                remembered.clear()

    def figures(self, now: float, age_s: float, dropped: Dict[str, int]) -> Figures:
        """Figures for the screen: age and drops as given, the rest at most ``refresh_s`` old."""
        with self._lock:
            if self._figures is None or now - self._refreshed_at >= self._refresh_s:
                self._refreshed_at = now
                self._figures = self._work_out(now)
            return self._figures._replace(age_ms=age_s * 1000.0, dropped=dropped)

    @property
    def shown(self) -> int:
        """Pictures shown since the start."""
        with self._lock:
            return self._counts.get("display", 0)

    def counts(self) -> Dict[str, int]:
        """Events since the start."""
        with self._lock:
            return dict(self._counts)

    def average_rates(self) -> Dict[str, float]:
        """Events a second from the first to the latest one; 0.0 with fewer than two."""
        with self._lock:
            return {
                event: (self._counts[event] - 1) / (last - first) if last > first else 0.0
                for event, (first, last) in self._spans.items()
            }

    def summary(self) -> Dict[str, Percentiles]:
        """Percentiles of what is remembered of each step, in the order in which the steps first came."""
        with self._lock:
            return {
                step: percentiles(values.newest(self._keep)) for step, values in self._steps.items()
            }

    def _work_out(self, now: float) -> Figures:
        rates = {
            event: self._rates[event].per_second(now) if event in self._rates else 0.0
            for event in ("camera", "detect", "display")
        }
        steps = {step: percentiles(values.newest(60)).p50 for step, values in self._steps.items()}
        return Figures(rates["camera"], rates["detect"], rates["display"], 0.0, steps, {})
