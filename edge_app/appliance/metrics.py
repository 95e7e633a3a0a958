"""Figures for Prometheus, under standard names and in base units; docs/api.md lists them.

Almost everything is counted elsewhere already and only read when somebody asks. A frame costs one
observation of the latency.
"""

import logging
import platform
import time
from typing import Any, Iterator, NamedTuple, Optional

from edge_app import __version__
from edge_app.appliance.status import Status
from edge_app.display import Display
from edge_app.frames import Figures, Picture
from edge_app.meter import Meter

log = logging.getLogger(__name__)

_LATENCY_BUCKETS_S = (
    0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip


class _Newest(NamedTuple):
    """What is kept of the newest picture."""

    captured_at: float
    faces: int
    figures: Figures


class Metrics(Display):
    """Observes every picture that is shown; a display, to be the last of several.

    The latency is measured when its turn comes, so that the displays before it are part of it.

    Args:
        status: restarts, drops, temperature, what is waited for.
        meter: counts of frames.

    Attributes:
        content_type: of what ``render`` returns.
    """

    def __init__(self, status: Status, meter: Meter) -> None:
        super().__init__()
        self._status = status
        self._meter = meter
        self._newest: Optional[_Newest] = None
        self._started_at = time.monotonic()
        self._registry: Any = None
        self.content_type = "text/plain; charset=utf-8"

    def __enter__(self) -> "Metrics":
        """Prepare a registry; without prometheus_client the program goes on, and ``render`` says so."""
        try:
            import prometheus_client
        except ImportError:
            log.warning("prometheus_client is not installed, so /metrics stays empty: 'make setup'")
            return self
        self._registry = prometheus_client.CollectorRegistry()
        self._latency = prometheus_client.Histogram(
            "edge_app_latency_seconds",
            "From the capture of a frame until it was shown.",
            registry=self._registry,
            buckets=_LATENCY_BUCKETS_S,
        )
        self._registry.register(self)
        prometheus_client.ProcessCollector(registry=self._registry)
        self.content_type = prometheus_client.CONTENT_TYPE_LATEST
        return self

    def show(self, picture: Picture) -> None:
        """Note how old the picture is, and keep its figures."""
        if self._registry is not None:
            captured_at = picture.result.frame.captured_at
            self._latency.observe(time.monotonic() - captured_at)
            self._newest = _Newest(captured_at, len(picture.faces), picture.figures)

    def render(self) -> bytes:
        """Everything in Prometheus' text format; may be called from any thread."""
        if self._registry is None:
            return b"# prometheus_client is not installed: make setup\n"
        import prometheus_client

        return prometheus_client.generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """What is read when somebody asks; the library calls this."""
        from prometheus_client.core import InfoMetricFamily

        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("edge_app_build", "The program.", value=build)
        known = self._status.snapshot()
        counts = self._meter.counts()
        frames = {stage: counts.get(stage, 0) for stage in ("camera", "detect", "display")}
        yield _counter("frames", "Frames that passed a stage.", "stage", frames)
        newest, now = self._newest, time.monotonic()
        dropped = dict(newest.figures.dropped if newest else {}, **known.dropped)
        yield _counter("dropped", "Frames, or events, that were left out.", "cause", dropped)
        yield _counter("restarts", "Stages that were started anew.", "stage", known.restarts)
        waiting = {part: 1 for part in known.waiting}
        yield _gauge("waiting", "1 for each part that waits for something.", "part", waiting)
        age_s = now - (newest.captured_at if newest else self._started_at)
        text = "Age of the picture on the screen; before the first one since the start."
        yield _gauge("frame_age_seconds", text, "", {"": age_s})
        if newest is not None:
            figures = self._meter.figures(now, age_s, newest.figures.dropped)
            yield from _of_picture(figures, newest.faces)
        if known.power is not None:
            yield from _of_board(known.power)


def _of_picture(figures: Figures, faces: int) -> Iterator[Any]:
    rates = {
        "camera": figures.camera_fps,
        "detect": figures.detect_fps,
        "display": figures.display_fps,
    }
    yield _gauge("frames_per_second", "Over the last two seconds.", "stage", rates)
    steps = {step: milliseconds / 1000.0 for step, milliseconds in figures.steps_ms.items()}
    yield _gauge("step_seconds", "Median time of a step, last 60 frames.", "step", steps)
    yield _gauge("faces", "Faces on the screen now.", "", {"": faces})


def _of_board(reading: Any) -> Iterator[Any]:
    """A ``power.Reading``: only what this board has a sensor for."""
    yield _gauge("temperature_celsius", "By sensor.", "zone", reading.temperatures_c)
    loads = {"gpu": reading.gpu_load, "cpu": reading.cpu_load}
    yield _gauge("load_ratio", "Share of time at work.", "processor", _there(loads))
    yield _gauge("supply_volts", "Of the board.", "", _there({"": reading.supply_v}))
    yield _gauge("supply_watts", "Of the board.", "", _there({"": reading.supply_w}))
    throttled = {"": int(bool(reading.throttled))}
    yield _gauge("throttled", "1 while the board slows itself down.", "", throttled)
    events = _there({"": reading.over_current})
    yield _counter("over_current_events", "Too much current.", "", events)


def _there(values: Any) -> Any:
    return {name: value for name, value in values.items() if value is not None}


def _counter(name: str, text: str, label: str, values: Any) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily("edge_app_" + name, text, labels=_labels(label)), values)


def _gauge(name: str, text: str, label: str, values: Any) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily("edge_app_" + name, text, labels=_labels(label)), values)


def _labels(label: str) -> Any:
    return [label] if label else []


def _filled(family: Any, values: Any) -> Any:
    """A family with a sample for each value; those of a family without a label have the name ""."""
    for name, value in values.items():
        family.add_metric([name] if name else [], value)
    return family
