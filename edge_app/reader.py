"""OpenCV's own reader, for files and USB cameras where GStreamer is not installed."""

import logging
import threading
import time
from typing import Any, Optional, Union

from edge_app.errors import CameraError, EndOfStream, ImageError
from edge_app.frames import Frame
from edge_app.launch import Launch
from edge_app.slot import LatestSlot, SlotClosed
from edge_app.source import Camera

log = logging.getLogger(__name__)

_OPEN_S = 10.0
_FLIP_CODES = {"rotate-180": -1, "horizontal-flip": 1, "vertical-flip": 0}  # for cv2.flip
_DIAGONALS = {  # turned across the main diagonal, then flipped
    "counterclockwise": 0,
    "clockwise": 1,
    "upper-right-diagonal": -1,
    "upper-left-diagonal": None,
}


class ReaderCamera(Camera):
    """Reads on a thread of its own, since OpenCV's ``read`` has no time-out.

    Args:
        name: for messages.
        launch: whose ``source`` properties say what to open: ``device`` or ``location``.
        settings: size, rate and flip wanted.
    """

    def __init__(self, name: str, launch: Launch, settings: Any) -> None:
        super().__init__(name, launch.live)
        self._launch = launch
        self._settings = settings
        self._thread: Optional[threading.Thread] = None

    def open(self) -> None:
        """Start the reading thread and wait until it has opened the source."""
        self._slot: LatestSlot[Frame] = LatestSlot(lossless=not self.live)
        self._opened = threading.Event()
        self._failure: Optional[Exception] = None
        self._frames = 0
        self._dropped_before = self.dropped
        self._heard_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="opencv reader", daemon=True)
        self._thread.start()
        if not self._opened.wait(_OPEN_S):
            raise self._complaint("does not open within {:g} s".format(_OPEN_S))
        if self._failure is not None:
            raise self._failure

    def read(self, timeout_s: float) -> Optional[Frame]:
        """See ``Camera.read``."""
        try:
            frame = self._slot.take(timeout_s)
        except SlotClosed:
            raise (self._failure or EndOfStream(self.name)) from None
        self.dropped = self._dropped_before + self._slot.dropped
        now = time.monotonic()
        if frame is not None:
            self._frames += 1
            self._heard_at = now
            return frame
        limit_s = self._settings.timeout_s if self._frames and self.live else _OPEN_S
        if now - self._heard_at >= limit_s:
            raise CameraError(
                "{}: no frame for {:.1f} s. {}".format(self.name, limit_s, self._launch.advice)
            )
        return None

    def close(self) -> None:
        """Stop the thread; if OpenCV does not come back in time, leave it: ``stuck``."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._slot.close()
        thread.join(self.stop_s)
        if thread.is_alive():
            self.stuck = True
            log.warning("%s: OpenCV does not let go of the camera", self.name)

    def _run(self) -> None:
        """On the reading thread."""
        try:
            capture = self._capture()
            try:
                self._opened.set()
                self._deliver(capture)
            finally:
                capture.release()
        except SlotClosed:
            pass
        except Exception as error:  # handed to the reading side
            self._failure = error
        finally:
            self._opened.set()
            self._slot.close()

    def _capture(self) -> Any:
        import cv2

        wanted: Union[int, str] = self._launch.properties.get("location", "")
        if self.live:
            wanted = self._launch.properties["device"]
            capture = cv2.VideoCapture(wanted, cv2.CAP_V4L2)
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._settings.width_px)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._settings.height_px)
            capture.set(cv2.CAP_PROP_FPS, self._settings.rate_hz)
        else:
            is_gif = str(wanted).lower().endswith(".gif")  # whose end GStreamer does not find
            capture = cv2.VideoCapture(wanted, cv2.CAP_FFMPEG if is_gif else cv2.CAP_ANY)
        if not capture.isOpened():
            raise self._complaint("OpenCV cannot open it")
        return capture

    def _deliver(self, capture: Any) -> None:
        import cv2

        number = 0
        started_at = time.monotonic()
        while True:
            done, pixels = capture.read()
            if not done:
                break
            now = time.monotonic()
            pts_s = now - started_at if self.live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            self._slot.put(Frame(number, now, pts_s, flipped(pixels, self._settings.flip)))
            number += 1
        if self.live:
            raise self._complaint("the camera ended by itself")
        if number == 0:
            raise self._complaint("holds no frames")

    def _complaint(self, text: str) -> Exception:
        line = "{}: {}. {}".format(self.name, text, self._launch.advice)
        return CameraError(line) if self.live else ImageError(line)


def flipped(pixels: Any, flip: str) -> Any:
    """(H, W, 3) turned the way nvvidconv's flip method of that name turns it."""
    import cv2

    if flip in _FLIP_CODES:
        return cv2.flip(pixels, _FLIP_CODES[flip])
    if flip in _DIAGONALS:
        pixels, code = cv2.transpose(pixels), _DIAGONALS[flip]
        return pixels if code is None else cv2.flip(pixels, code)
    return pixels
