"""Two stage threads and the slots between them; the third stage is whoever calls ``next``."""

import logging
import threading
import time
from types import TracebackType
from typing import Callable, Dict, List, Optional, Type

from edge_app.camera import Camera
from edge_app.detector import Detector
from edge_app.errors import EndOfStream, StageError
from edge_app.frames import Frame, Result
from edge_app.meter import Meter
from edge_app.slot import LatestSlot, SlotClosed

log = logging.getLogger(__name__)

_POLL_S = 0.1  # how soon a stage notices that it should stop
STOP_S = 1.5  # how long stopping may take before a stage counts as stuck


class Pipeline:
    """Camera thread ─Frame→ detector thread ─Result→ the caller, each step newest-wins for live sources.

    Each stage opens its resource on its own thread, through ``with``, and closes it there. The camera
    opens once the detector is ready, so that no frame grows old while a network loads.

    Args:
        camera: not yet opened.
        detector: not yet opened.
        threshold: lowest score the caller has a use for.
        meter: is told of every frame and every step.
    """

    def __init__(self, camera: Camera, detector: Detector, threshold: float, meter: Meter) -> None:
        self.camera = camera
        self.detector = detector
        self._threshold = threshold
        self._meter = meter
        self._frames: LatestSlot[Frame] = LatestSlot(lossless=not camera.live)
        self._results: LatestSlot[Result] = LatestSlot(lossless=not camera.live)
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._stages = [
            _Stage("detector", self._detect, self._end_detecting),
            _Stage("camera", self._capture, self._frames.close),
        ]

    def __enter__(self) -> "Pipeline":
        for stage in self._stages:
            stage.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def next(self, timeout_s: float) -> Optional[Result]:
        """Wait for the next result; ``None`` when none came in time.

        Raises:
            StageError: a stage failed; it is named, and its own error is the cause.
            EndOfStream: the source has ended and everything it gave was delivered.
        """
        try:
            return self._results.take(timeout_s)
        except SlotClosed:
            for stage in reversed(self._stages):  # the camera's error first: it is nearer to the cause
                if stage.error is not None:
                    raise StageError(stage.name, stage.error) from stage.error
            raise EndOfStream(self.camera.name) from None

    @property
    def is_ready(self) -> bool:
        """Whether the detector is open (or will not be any more), so that frames are looked at."""
        return self._ready.is_set()

    @property
    def dropped(self) -> Dict[str, int]:
        """Frames dropped so far, by the step before which they were lost."""
        return {
            "camera": self.camera.dropped,
            "detector": self._frames.dropped,
            "display": self._results.dropped,
        }

    @property
    def left(self) -> Dict[str, int]:
        """Frames that were under way when it was stopped, by the step that they did not reach."""
        return {"detector": self._frames.left, "display": self._results.left}

    def stop(self) -> List[str]:
        """End both stages; bounded by ``STOP_S``. Idempotent.

        Returns:
            Names of the stages that are stuck inside a driver. Python cannot end such a thread: the
            process must leave by ``os._exit``.
        """
        self._stopping.set()
        self._ready.set()
        self._frames.close()
        self._results.close()
        deadline = time.monotonic() + STOP_S
        for stage in self._stages:
            if stage.ident is not None:
                stage.join(max(0.0, deadline - time.monotonic()))
        stuck = [stage.name for stage in self._stages if stage.is_alive()]
        return stuck + (["camera"] if self.camera.stuck and "camera" not in stuck else [])

    def _capture(self) -> None:
        self._ready.wait()
        if self._stopping.is_set():
            return
        with self.camera:
            while not self._stopping.is_set():
                frame = self.camera.read(_POLL_S)
                if frame is not None:
                    self._meter.tick("camera", time.monotonic())
                    self._frames.put(frame)

    def _detect(self) -> None:
        with self.detector:
            self._ready.set()
            while True:
                frame = self._frames.take(_POLL_S)
                if frame is None:
                    continue
                faces = self.detector.detect(frame.pixels, self._threshold)
                now = time.monotonic()
                times = self.detector.times
                for step, seconds in zip(("preprocess", "network", "postprocess"), times):
                    self._meter.add(step, seconds)
                self._meter.tick("detect", now)
                self._results.put(Result(frame, faces, times, now))

    def _end_detecting(self) -> None:
        self._stopping.set()  # a camera that still waits for the detector must not open any more
        self._ready.set()
        self._frames.close()
        self._results.close()


class _Stage(threading.Thread):
    """A named thread that remembers the error that ended it.

    Args:
        work: runs until it returns or raises; ``SlotClosed`` and ``EndOfStream`` are normal ends.
        leave: wakes the neighbours, whatever happened.
    """

    def __init__(self, name: str, work: Callable[[], None], leave: Callable[[], None]) -> None:
        # A daemon: ``Pipeline.stop`` waits for it, and the end of the process must not do so again.
        super().__init__(name=name, daemon=True)
        self._work = work
        self._leave = leave
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        try:
            self._work()
        except (SlotClosed, EndOfStream):
            log.debug("%s stage ended", self.name)
        except Exception as error:
            self.error = error
        finally:
            self._leave()
