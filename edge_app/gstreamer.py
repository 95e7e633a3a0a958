"""Frames out of GStreamer, by PyGObject: bounded pull, bus messages as events, bounded stop."""

import ctypes
import logging
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Optional, Tuple

import numpy as np

from edge_app.errors import CameraError, EndOfStream, ImageError
from edge_app.frames import Frame
from edge_app.launch import Launch, missing_element
from edge_app.passwords import hide
from edge_app.source import Camera

log = logging.getLogger(__name__)

PACKAGES = (
    "python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav"
)
_STEP_S = 0.05  # how soon a message on the bus is noticed while waiting for a frame
_UNTIMED_RATE_HZ = 30.0  # of a file that says nothing of time, such as bare JPEGs one after the other
_FILE_SILENCE_S = 10.0  # a file on a slow disk may be silent for longer than a camera


def load_gstreamer() -> Any:
    """The Gst module, initialised.

    Raises:
        ImportError: PyGObject or GStreamer's description for it is not installed.
    """
    _prefer_libgcc()
    import gi

    try:
        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
    except ValueError as error:
        raise ImportError(str(error)) from error
    from gi.repository import Gst, GstApp  # noqa: F401  GstApp gives appsink its methods

    Gst.init(None)
    return Gst


def _prefer_libgcc() -> None:
    """Make libgcc's exception handling the one that libraries loaded later find.

    Debian's GStreamer brings libunwind, and GObject's introspection puts its symbols before those of
    whatever is loaded after it. libunwind also has an ``_Unwind_Resume``, which does not fit exceptions
    that libgcc began: the first one that ONNX Runtime threw inside itself was a segmentation fault.
    """
    try:
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        log.debug("no libgcc_s here, so nothing to put first")


class GStreamerCamera(Camera):
    """A pipeline that ends in an appsink.

    A live frame's capture time comes from its presentation time on the pipeline's clock; a file's
    is the moment it was read. Frames are counted where they reach the appsink, so that a gap in their
    numbers is what the appsink dropped for newer ones.

    Args:
        name: for messages.
        launch: what to run.
        timeout_s: silence after which a live source counts as dead.
    """

    def __init__(self, name: str, launch: Launch, timeout_s: float) -> None:
        super().__init__(name, launch.live)
        self._launch = launch
        self._silence_s = timeout_s if launch.live else max(timeout_s, _FILE_SILENCE_S)
        self._pipeline: Any = None
        self._pad: Any = None
        self._probe = 0

    def open(self) -> None:
        """Build the pipeline and start it."""
        try:
            gst = load_gstreamer()
        except ImportError as error:
            raise CameraError(
                "{}: GStreamer for Python is missing ({}). Install it: sudo apt install {}".format(
                    self.name, error, PACKAGES
                )
            ) from error
        self._gst = gst
        self._arrived: Deque[Tuple[int, int]] = deque(maxlen=32)  # (PTS, number) of live frames
        self._arrivals = 0
        self._next_number = 0
        self._failure: Optional[Tuple[str, str]] = None
        self._pipeline = self._parse()
        self._sink = self._pipeline.get_by_name("appsink")
        self._bus = self._pipeline.get_bus()
        if self.live:
            self._pad = self._sink.get_static_pad("sink")
            self._probe = self._pad.add_probe(gst.PadProbeType.BUFFER, self._count)
        self._heard_at = self._started_at = time.monotonic()
        self._start()

    def read(self, timeout_s: float) -> Optional[Frame]:
        """See ``Camera.read``."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._listen()
            if self._failure is not None and self.live:
                raise self._error()
            remaining_s = min(_STEP_S, max(0.0, deadline - time.monotonic()))
            sample = self._sink.try_pull_sample(int(remaining_s * self._gst.SECOND))
            if sample is not None:
                return self._frame(sample)
            self._check()
            if time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        """Stop the pipeline; if the driver does not let go in time, leave it: ``stuck``."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is None or self.stuck:
            return
        if self._probe:
            self._pad.remove_probe(self._probe)  # it refers to us, and we to its pipeline: neither would go
        self._pad = self._sink = self._bus = None
        self._probe = 0
        null = self._gst.State.NULL
        if _within(self.stop_s, lambda: pipeline.set_state(null)) is None:
            self.stuck = True
            log.warning("%s: the driver does not let go of the camera", self.name)

    def _parse(self) -> Any:
        from gi.repository import GLib

        try:
            pipeline = self._gst.parse_launch(self._launch.text)
        except GLib.Error as error:
            unknown = error.matches(self._gst.parse_error_quark(), 1)  # NO_SUCH_ELEMENT
            advice = missing_element(error.message) if unknown else self._launch.advice
            raise CameraError("{}: {}. {}".format(self.name, error.message, advice)) from error
        for key, value in self._launch.properties.items():
            pipeline.get_by_name("source").set_property(key, value)
        return pipeline

    def _start(self) -> None:
        """To PLAYING, on a helper thread, since a camera daemon that hangs would hang us too."""
        pipeline, playing = self._pipeline, self._gst.State.PLAYING
        limit_s = self._launch.first_frame_s
        result = _within(limit_s, lambda: pipeline.set_state(playing))
        if result is None:
            self.stuck = True
            raise CameraError(
                "{}: does not open within {:g} s. {}".format(
                    self.name, limit_s, self._launch.advice
                )
            )
        if result == self._gst.StateChangeReturn.FAILURE:
            self._listen(wait_s=0.5)
            raise self._error()

    def _count(self, pad: Any, info: Any) -> Any:
        """On the streaming thread, for every frame that reaches the appsink."""
        self._arrived.append((info.get_buffer().pts, self._arrivals))
        self._arrivals += 1
        return self._gst.PadProbeReturn.OK

    def _listen(self, wait_s: float = 0.0) -> None:
        """Empty the bus: remember the first error, log warnings."""
        kinds = self._gst.MessageType
        wanted = kinds.ERROR | kinds.WARNING
        message = self._bus.timed_pop_filtered(int(wait_s * self._gst.SECOND), wanted)
        while message is not None:
            if message.type == kinds.ERROR:
                error, details = message.parse_error()
                log.debug("%s: %s (%s)", self.name, hide(error.message), hide(details or ""))
                self._failure = self._failure or (error.message, self._advice(error))
            else:
                log.warning("%s: %s", self.name, hide(message.parse_warning()[0].message))
            message = self._bus.timed_pop_filtered(0, wanted)

    def _advice(self, error: Any) -> str:
        gst = self._gst
        codec = error.matches(gst.stream_error_quark(), int(gst.StreamError.CODEC_NOT_FOUND))
        if codec or error.matches(gst.core_error_quark(), int(gst.CoreError.MISSING_PLUGIN)):
            return (
                "Install more codecs: sudo apt install gstreamer1.0-libav gstreamer1.0-plugins-bad"
            )
        return self._launch.advice

    def _check(self) -> None:
        """Nothing came: is that the end, a failure, or too long a silence?"""
        ended = self._sink.get_property("eos")
        self._listen()
        if self._failure is not None:
            raise self._error()
        if ended and self.live:
            raise self._complaint("the camera ended by itself")
        if ended and self._next_number == 0:
            raise self._complaint("holds no frames")
        if ended:
            raise EndOfStream(self.name)
        limit_s = self._silence_s if self._next_number else self._launch.first_frame_s
        if time.monotonic() - self._heard_at >= limit_s:
            raise self._complaint("no frame for {:.1f} s".format(limit_s))

    def _error(self) -> Exception:
        text, advice = self._failure or ("cannot be started", self._launch.advice)
        if self._next_number and not self.live:
            text = "is damaged after frame {}: {}".format(self._next_number - 1, text)
        return self._complaint(text, advice)

    def _complaint(self, text: str, advice: str = "") -> Exception:
        line = "{}: {}. {}".format(self.name, text.rstrip("."), advice or self._launch.advice)
        return CameraError(line) if self.live else ImageError(line)

    def _frame(self, sample: Any) -> Frame:
        now = time.monotonic()
        pixels = _pixels(sample, self._gst)
        pts = sample.get_buffer().pts
        known = pts != self._gst.CLOCK_TIME_NONE
        captured_at = now - self._age_s(sample, pts) if self.live and known else now
        number = self._number(pts)
        self.dropped += number - self._next_number
        self._next_number = number + 1
        self._heard_at = now
        if known:
            pts_s = pts / self._gst.SECOND
        else:
            pts_s = now - self._started_at if self.live else number / _UNTIMED_RATE_HZ
        return Frame(number, captured_at, pts_s, pixels)

    def _age_s(self, sample: Any, pts: int) -> float:
        """How long ago the pipeline's clock showed this frame's time; never negative."""
        running = sample.get_segment().to_running_time(self._gst.Format.TIME, pts)
        clock = self._pipeline.get_clock()
        if running == self._gst.CLOCK_TIME_NONE or clock is None:
            return 0.0
        age = clock.get_time() - self._pipeline.get_base_time() - running
        return max(0.0, age / self._gst.SECOND)

    def _number(self, pts: int) -> int:
        while self._arrived:
            arrived_pts, number = self._arrived.popleft()
            if arrived_pts == pts and number >= self._next_number:
                return number
        return self._next_number


def _pixels(sample: Any, gst: Any) -> np.ndarray:
    """(H, W, 3) uint8 BGR, our own copy; rows in the buffer are padded to four bytes."""
    shape = sample.get_caps().get_structure(0)
    width, height = shape.get_value("width"), shape.get_value("height")
    stride = (3 * width + 3) // 4 * 4
    buffer = sample.get_buffer()
    done, mapped = buffer.map(gst.MapFlags.READ)
    if not done:
        raise CameraError("GStreamer: a frame cannot be mapped; is the machine out of memory?")
    try:
        data = mapped.data  # PyGObject copies here, into bytes; newer bindings give a memoryview
        if not isinstance(data, bytes):
            data = bytes(data)
    finally:
        buffer.unmap(mapped)
    rows = np.frombuffer(data, np.uint8, stride * height).reshape(height, stride)
    return np.ascontiguousarray(rows[:, : 3 * width].reshape(height, width, 3))


def _within(limit_s: float, call: Callable[[], Any]) -> Any:
    """The result of ``call``, or ``None`` when it does not return in time and is left behind."""
    results = []
    thread = threading.Thread(
        target=lambda: results.append(call()), name="gstreamer state", daemon=True
    )
    thread.start()
    thread.join(limit_s)
    return results[0] if results else None
