"""Heat and supply: watched, told, and answered with fewer frames before the board gives up."""

import logging
import threading
import time
from typing import Callable, Optional, Set

from edge_app.appliance.pace import Pace
from edge_app.appliance.sensors import Reading, Sensors
from edge_app.appliance.status import Status
from edge_app.config import PowerSettings
from edge_app.display import Display
from edge_app.frames import Frame, Picture
from edge_app.source import Camera

log = logging.getLogger(__name__)

_EVERY_S = 2.0  # between two readings
_ANSWER_S = 5.0  # a sensor that takes longer is asked no more
_SEARCH_EVERY = 30  # readings after which new sensors are looked for
_THROTTLED_S = 10.0  # so long must the kernel hold back before we do
_CALM_S = 60.0  # so long must nothing have happened before all frames count again
_WEAK_V, _STRONG_V = 4.65, 4.8  # of a 5 V supply; at about 4.5 V the hardware itself throttles
_FIVE_VOLTS = (3.5, 5.6)  # a supply in this range is meant to have 5 V
_STOP_S = 0.5  # how long closing may take


class Governor:
    """Decides when to hold back; no clock of its own, no side effects.

    Args:
        settings: limits in °C. ``cool_c`` counts as at least one degree below ``hot_c``.
    """

    def __init__(self, settings: PowerSettings) -> None:
        self._hot_c = settings.hot_c
        self._cool_c = min(settings.cool_c, settings.hot_c - 1.0)
        self._is_hot = False
        self._is_weak = False
        self._felt_at: Optional[float] = None  # when a temperature was last known
        self._events: Optional[int] = None
        self._event_at: Optional[float] = None
        self._throttled_since: Optional[float] = None
        self._throttled_at: Optional[float] = None

    def update(self, reading: Reading) -> str:
        """Take in a reading; returns why to hold back, in words, or ``""``."""
        reasons = [
            self._heat(reading),
            self._over_current(reading),
            self._supply(reading),
            self._throttling(reading),
        ]
        return ", ".join(reason for reason in reasons if reason)

    def _heat(self, reading: Reading) -> str:
        """From hot_c on until cool_c; when the sensors vanish meanwhile, for another minute."""
        if reading.hottest_c is None:
            if self._felt_at is None or reading.at - self._felt_at > _CALM_S:
                self._is_hot = False
            return "hot" if self._is_hot else ""
        self._felt_at = reading.at
        limit_c = self._cool_c if self._is_hot else self._hot_c
        is_above = reading.hottest_c > limit_c if self._is_hot else reading.hottest_c >= limit_c
        self._is_hot = is_above
        return "hot ({:.0f} °C)".format(reading.hottest_c) if self._is_hot else ""

    def _over_current(self, reading: Reading) -> str:
        """For a minute after the number of events has grown."""
        if reading.over_current is not None:
            if self._events is not None and reading.over_current > self._events:
                self._event_at = reading.at
            self._events = reading.over_current
        return "supply over its limit" if _within(self._event_at, reading.at, _CALM_S) else ""

    def _supply(self, reading: Reading) -> str:
        """A 5 V supply that sags, which comes before the board switches itself off."""
        volts = reading.supply_v
        if volts is None or not _FIVE_VOLTS[0] <= volts <= _FIVE_VOLTS[1]:
            self._is_weak = False
            return ""
        self._is_weak = volts < (_STRONG_V if self._is_weak else _WEAK_V)
        return "supply weak ({:.2f} V)".format(volts) if self._is_weak else ""

    def _throttling(self, reading: Reading) -> str:
        """From ten seconds of throttling on until a minute without."""
        if reading.throttled:
            if not _within(self._throttled_at, reading.at, _CALM_S):
                self._throttled_since = reading.at
            self._throttled_at = reading.at
        if self._throttled_since is None or not _within(self._throttled_at, reading.at, _CALM_S):
            self._throttled_since = None
            return ""
        assert self._throttled_at is not None
        is_long = self._throttled_at - self._throttled_since >= _THROTTLED_S
        return "throttled by the kernel" if is_long else ""


def _within(at: Optional[float], now: float, span_s: float) -> bool:
    return at is not None and now - at < span_s


class PowerWatch(Display):
    """Reads the sensors every two seconds, on a thread of its own, and says when to hold back.

    ``show`` and ``idle`` only look whether that thread still answers: reading an I2C sensor takes
    milliseconds, and one that is broken may block for ever. Such a one is left out from then on.

    Args:
        settings: limits, and the rate when they are passed.
        status: is given every reading, and told when the rate changes.
        root: of the file system with sys, proc, dev and var.
        every_s: between two readings.

    Attributes:
        rate_hz: frames a second to look at now; ``None`` for all of them. May be read by any
        thread.
    """

    def __init__(
        self, settings: PowerSettings, status: Status, root: str = "/", every_s: float = _EVERY_S
    ) -> None:
        super().__init__()
        self.rate_hz: Optional[float] = None
        self.status = status
        self._settings = settings
        self._root = root
        self._every_s = every_s
        self._governor = Governor(settings)
        self._is_obeyed = False
        self._slowed = ""
        self._left_out: Set[str] = set()
        self._reader: Optional[_Reader] = None

    def obeyed(self) -> None:
        """Somebody goes by ``rate_hz``; without that it only tells how the board is."""
        self._is_obeyed = True

    def __enter__(self) -> "PowerWatch":
        """Start reading."""
        self._start()
        return self

    def show(self, picture: Picture) -> None:
        """See that the sensors answer."""
        self.idle()

    def idle(self) -> None:
        """See that the sensors answer; go on without one that does not."""
        reader = self._reader
        if reader is None or not reader.is_stuck(time.monotonic()):
            return
        path = reader.sensors.asking
        if path:
            self._left_out.add(path)
            self.status.note(
                "power", "the sensor {} does not answer; going on without it".format(path)
            )
        reader.stop(0.0)
        self._start()

    def close(self) -> None:
        """Stop reading, within half a second. Idempotent."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop(_STOP_S)

    def _start(self) -> None:
        sensors = Sensors(self._root, set(self._left_out))
        self._reader = _Reader(sensors, self._every_s, self._take)
        self._reader.start()

    def _take(self, reading: Reading) -> None:
        """On the reading thread: decide, and tell."""
        slowed = self._governor.update(reading)
        if bool(slowed) != bool(self._slowed):
            self.rate_hz = self._settings.slow_rate_hz if slowed else None
            self.status.note("power", self._news(slowed))
        self._slowed = slowed
        self.status.measured(reading._replace(slowed=slowed if self._is_obeyed else ""))

    def _news(self, slowed: str) -> str:
        if not slowed:
            return "the board is well again" + (": all frames count" if self._is_obeyed else "")
        text = "the board is {}: looking at {:g} frames a second until it is well again"
        return (text if self._is_obeyed else "the board is {}").format(
            slowed, self._settings.slow_rate_hz
        )


class _Reader(threading.Thread):
    """Reads sensors until it is stopped. A daemon: one that blocks must not keep the process alive."""

    def __init__(self, sensors: Sensors, every_s: float, take: Callable[[Reading], None]) -> None:
        super().__init__(name="power", daemon=True)
        self.sensors = sensors
        self._every_s = every_s
        self._take = take
        self._stopping = threading.Event()
        self._asked_at: Optional[float] = None

    def is_stuck(self, now: float) -> bool:
        """Whether a reading has been under way for too long."""
        asked_at = self._asked_at
        return asked_at is not None and now - asked_at > _ANSWER_S

    def stop(self, limit_s: float) -> None:
        """End; waits for at most ``limit_s``."""
        self._stopping.set()
        self.join(limit_s)

    def run(self) -> None:
        readings = 0
        try:
            while not self._stopping.is_set():
                self._asked_at = time.monotonic()
                if readings % _SEARCH_EVERY == 0:
                    self.sensors.open()
                reading = self.sensors.read(time.monotonic())
                self._asked_at = None
                if not self._stopping.is_set():
                    self._take(reading)
                readings += 1
                self._stopping.wait(self._every_s)
        finally:
            self.sensors.close()


class PacedCamera(Camera):
    """A camera of which, while the board is unwell, only some frames are passed on.

    A live camera's other frames are taken and dropped, counted as "heat", so that it does not fall
    silent; a file waits instead.

    Args:
        camera: the one that gives the frames.
        watch: says how many.
    """

    def __init__(self, camera: Camera, watch: PowerWatch) -> None:
        # Not Camera.__init__: its name and state are those of the camera within, at any time.
        self._camera = camera
        self._watch = watch
        watch.obeyed()
        self._pace = Pace()  # in monotonic seconds of capture

    @property
    def name(self) -> str:  # type: ignore[override]
        """Another one than before when a USB camera came back under another number."""
        return self._camera.name

    @property
    def live(self) -> bool:  # type: ignore[override]
        """Whether frames that nobody takes are dropped."""
        return self._camera.live

    @property
    def related(self) -> bool:  # type: ignore[override]
        """Whether a frame shows what the one before it showed."""
        return self._camera.related

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Frames lost inside the camera, before we saw them."""
        return self._camera.dropped

    @property
    def stuck(self) -> bool:  # type: ignore[override]
        """The driver did not let go in time."""
        return self._camera.stuck

    def open(self) -> None:
        """Open the camera."""
        self._camera.open()

    def close(self) -> None:
        """Close the camera. Idempotent."""
        self._camera.close()

    def read(self, timeout_s: float) -> Optional[Frame]:
        """The next frame that counts; ``None`` when none came in time."""
        deadline = time.monotonic() + timeout_s
        if not self.live:
            return self._read_late(deadline)
        while True:
            frame = self._camera.read(max(0.0, deadline - time.monotonic()))
            rate_hz = self._watch.rate_hz
            if frame is None or rate_hz is None or self._pace.takes(frame.captured_at, rate_hz):
                return frame
            self._watch.status.dropped("heat")
            if time.monotonic() >= deadline:
                return None

    def _read_late(self, deadline: float) -> Optional[Frame]:
        """A file loses no frame: the next one comes later."""
        now = time.monotonic()
        rate_hz = self._watch.rate_hz
        if rate_hz is not None and now < self._pace.due_at:
            time.sleep(max(0.0, min(self._pace.due_at, deadline) - now))
            if self._pace.due_at > deadline:
                return None
        frame = self._camera.read(max(0.0, deadline - time.monotonic()))
        if frame is not None and rate_hz is not None:
            self._pace.takes(time.monotonic(), rate_hz)
        return frame
