"""The ``bench`` command: what each step costs on one thread, then what the whole pipeline reaches.

A shorter copy of the main loop, so that what is measured can be read here.
"""

import itertools
import time
from typing import Any, Callable, Dict, NamedTuple, Optional

from edge_app.camera import Camera, open_camera
from edge_app.config import Settings
from edge_app.detector import Detector
from edge_app.display import NoDisplay
from edge_app.errors import CameraError, EndOfStream
from edge_app.frames import Frame, Picture, Result
from edge_app.meter import Meter
from edge_app.overlay import Overlay
from edge_app.pipeline import Pipeline
from edge_app.summary import Summary, steps_table
from edge_app.tracker import Tracker

BURN_IN = 20  # frames that are run but not counted: caches fill, clocks rise, memory is touched
_WAIT_S = 0.1


class Report(NamedTuple):
    """Both halves of the measurement."""

    single: Summary  # one after the other on this thread, network on one thread
    pipeline: Summary  # three threads, network on as many as the settings say

    def overhead(self) -> float:
        """Preprocessing and postprocessing as a share of the bare network call (medians)."""
        steps = self.single.steps_ms
        return (steps["preprocess"].p50 + steps["postprocess"].p50) / steps["network"].p50

    def beside(self) -> float:
        """Capture, overlay and display together: milliseconds a frame on one core (medians)."""
        steps = self.single.steps_ms
        return sum(steps[name].p50 for name in ("capture", "overlay", "display"))

    def as_dict(self) -> Dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "single": self.single.as_dict(),
            "pipeline": self.pipeline.as_dict(),
            "overhead": self.overhead(),
            "beside_ms": self.beside(),
        }

    def table(self) -> str:
        """For a terminal."""
        return "\n".join(
            [
                "One frame at a time on one thread ({} frames, after {})".format(
                    self.single.frames["shown"], BURN_IN
                ),
                steps_table(self.single.steps_ms),
                "preprocess + postprocess are {:.1%} of the network call".format(self.overhead()),
                "capture + overlay + display are {:.2f} ms a frame".format(self.beside()),
                "",
                "The whole pipeline on its threads",
                self.pipeline.table(),
            ]
        )


def measure(settings: Settings, frames: int, open_detector: Callable[[Settings], Detector]) -> Report:
    """Run both measurements.

    Args:
        settings: source, model and thresholds as in ``run``.
        frames: how many are counted, after the burn-in; a shorter source is played again.
        open_detector: gives a detector, not yet opened.

    Raises:
        CameraError: the source gave no frame at all.
    """
    return Report(_single(settings, frames, open_detector), _pipeline(settings, frames, open_detector))


def _single(settings: Settings, frames: int, open_detector: Callable[[Settings], Detector]) -> Summary:
    alone = settings._replace(detector=settings.detector._replace(threads=1))
    camera = _Repeating(open_camera(settings.camera))
    tracker, overlay = Tracker(settings.faces, camera.related), Overlay()
    meter = Meter(keep=frames)
    with open_detector(alone) as detector, camera, NoDisplay() as display:
        for number in itertools.count():
            if number == BURN_IN:
                meter.clear()
            if number == BURN_IN + frames:
                break
            started = time.perf_counter()
            frame: Optional[Frame] = None
            while frame is None:
                frame = camera.read(_WAIT_S)
            meter.add("capture", time.perf_counter() - started)
            meter.tick("camera", time.monotonic())
            faces = detector.detect(frame.pixels, tracker.threshold)
            for step, seconds in zip(("preprocess", "network", "postprocess"), detector.times):
                meter.add(step, seconds)
            meter.tick("detect", time.monotonic())
            shown = tracker.update(faces, camera.moment(frame), frame.size_wh)
            drawing = time.perf_counter()
            figures = meter.figures(time.monotonic(), 0.0, {})
            pixels = overlay.draw(frame.pixels, shown, figures)
            drawn = time.perf_counter()
            result = Result(frame, faces, detector.times, time.monotonic())
            display.show(Picture(pixels, shown, result, figures))
            meter.add("overlay", drawn - drawing)
            meter.add("display", time.perf_counter() - drawn)
            meter.count("faces", len(shown))
            meter.count("frames_with_faces", int(len(shown) > 0))
            meter.tick("display", time.monotonic())
        return Summary.of(meter, {}, {}, camera.name, detector.description)


def _pipeline(
    settings: Settings, frames: int, open_detector: Callable[[Settings], Detector]
) -> Summary:
    camera, detector = _Repeating(open_camera(settings.camera)), open_detector(settings)
    tracker, overlay = Tracker(settings.faces, camera.related), Overlay()
    meter = Meter(keep=frames)
    before: Dict[str, int] = {}  # dropped during the burn-in
    with Pipeline(camera, detector, tracker.threshold, meter) as pipeline:
        shown = 0
        while shown < BURN_IN + frames:
            result = pipeline.next(_WAIT_S)
            if result is None:
                continue
            if shown == BURN_IN:
                meter.clear()
                before = pipeline.dropped
            frame = result.frame
            faces = tracker.update(result.faces, camera.moment(frame), frame.size_wh)
            figures = meter.figures(time.monotonic(), 0.0, pipeline.dropped)
            overlay.draw(frame.pixels, faces, figures)
            meter.add("latency", time.monotonic() - frame.captured_at)
            meter.count("faces", len(faces))
            meter.count("frames_with_faces", int(len(faces) > 0))
            meter.tick("display", time.monotonic())
            shown += 1
        dropped = {cause: count - before[cause] for cause, count in pipeline.dropped.items()}
        return Summary.of(meter, dropped, pipeline.left, camera.name, detector.description)


class _Repeating(Camera):
    """A source that begins again at its end."""

    def __init__(self, camera: Camera) -> None:
        super().__init__(camera.name, camera.live, camera.related)
        self._camera = camera
        self._given = 0  # frames since it was opened

    def open(self) -> None:
        """From its beginning."""
        self._given = 0
        self._camera.open()

    def read(self, timeout_s: float) -> Optional[Frame]:
        """See ``Camera.read``; ``None`` also where it begins again.

        Raises:
            CameraError: the source has no frame at all.
        """
        try:
            frame = self._camera.read(timeout_s)
        except EndOfStream:
            if not self._given:
                raise CameraError("{} holds no frame to measure with.".format(self.name)) from None
            self.close()
            self.open()
            return None
        self._given += int(frame is not None)
        self.dropped = self._camera.dropped
        return frame

    def close(self) -> None:
        """Close the source. Idempotent."""
        self._camera.close()
        self.stuck = self._camera.stuck
