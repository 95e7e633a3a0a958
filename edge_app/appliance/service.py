"""What systemd is told: that frames are looked at, that they keep being looked at, what is missing.

The protocol is sd_notify(3): datagrams of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``.
"""

import logging
import socket
import time
from typing import Callable, Optional

from edge_app.appliance.status import Snapshot, Status
from edge_app.display import Display
from edge_app.errors import DisplayError
from edge_app.frames import Figures, Picture

log = logging.getLogger(__name__)

_FED_S = 1.0  # the watchdog is fed at most this often
_STATUS_S = 5.0  # between two status lines while all goes well
_MORE_TIME_S = 60.0  # asked for at a time
_ASK_S = 10.0  # between two requests, well below _MORE_TIME_S
_LONGEST_START_S = 3600.0  # for anything but a camera, which may be away for ever
_SILENT_S = 2.0  # without a picture for so long, its figures are no longer told
_LINE = 300  # characters of a status line


class Notifier(Display):
    """Tells systemd of a run; a display, so that only a frame that went all the way counts.

    READY=1 comes with the first picture, WATCHDOG=1 with pictures and with nothing else: whatever hangs, be it
    camera, network or screen, systemd notices. While something is waited for before the first picture, systemd is
    asked for more time; a start that waits for nothing and does not come to an end runs into TimeoutStartSec.

    Args:
        status: says what is waited for, and holds the latest reading of the sensors.
        address: of systemd's socket: a path, or ``@name`` for an abstract one.
        clock: monotonic seconds.
    """

    def __init__(
        self, status: Status, address: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._status = status
        self._address = address
        self._clock = clock
        self._socket: Optional[socket.socket] = None
        self._is_ready = False
        self._fed_at = self._told_at = self._asked_at = self._shown_at = float("-inf")
        self._told = ""
        self._figures: Optional[Figures] = None

    def __enter__(self) -> "Notifier":
        """Open the socket.

        Raises:
            DisplayError: systemd's socket cannot be reached; without it the start would never count as one.
        """
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            self._socket.connect(address)
        except OSError as error:
            self.close()
            raise DisplayError(
                "NOTIFY_SOCKET={}: cannot be reached: {}. Start the program by systemd, or unset the "
                "variable.".format(self._address, error.strerror or error)
            ) from error
        self._opened_at = self._clock()
        self._tell(self._opened_at, "starting")
        return self

    def show(self, picture: Picture) -> None:
        """A frame was looked at: the service is ready, and lives."""
        now = self._clock()
        if now - self._shown_at > _SILENT_S:
            self._told_at = float("-inf")  # the silence that may have been told is over
        self._shown_at = now
        self._figures = picture.figures
        if not self._is_ready:
            self._is_ready = self._send("READY=1\nWATCHDOG=1")
            self._fed_at, self._told_at = now, float("-inf")
        elif now - self._fed_at >= _FED_S and self._send("WATCHDOG=1"):
            self._fed_at = now
        self._tell_state(now)

    def idle(self) -> None:
        """Nothing to show: say what is missing; before the first picture ask for more time."""
        now = self._clock()
        snapshot = self._tell_state(now)
        if not self._is_ready and now - self._asked_at >= _ASK_S and self._may_wait(snapshot, now):
            self._asked_at = now
            self._send("EXTEND_TIMEOUT_USEC={:.0f}".format(_MORE_TIME_S * 1e6))

    def close(self) -> None:
        """Say that the end is intended. Idempotent."""
        if self._socket is None:
            return
        self._send("STOPPING=1\nSTATUS=stopping")
        self._socket.close()
        self._socket = None

    def _may_wait(self, snapshot: Snapshot, now: float) -> bool:
        """A camera may be plugged in next year; anything else that takes an hour hangs."""
        is_early = now - self._opened_at < _LONGEST_START_S
        return set(snapshot.waiting) == {"camera"} or bool(snapshot.waiting and is_early)

    def _tell_state(self, now: float) -> Snapshot:
        """Every few seconds, and at once when something else is waited for."""
        snapshot = self._status.snapshot()
        missing = "; ".join("{}: {}".format(*item) for item in sorted(snapshot.waiting.items()))
        if missing != self._told or (self._is_ready and now - self._told_at >= _STATUS_S):
            self._told = missing
            self._tell(now, describe(snapshot, self._figures, now - self._shown_at))
        return snapshot

    def _tell(self, now: float, text: str) -> None:
        self._told_at = now
        self._send("STATUS=" + " ".join(text.split())[:_LINE])

    def _send(self, text: str) -> bool:
        """Whether systemd took it; a full queue, or one that is gone for a moment, is no reason to stop."""
        if self._socket is None:
            return False
        try:
            self._socket.send(text.encode("utf-8", "replace"))
        except OSError as error:
            log.debug("systemd was not told %r: %s", text, error)
            return False
        return True


def describe(snapshot: Snapshot, figures: Optional[Figures], silent_s: float) -> str:
    """One line for ``systemctl status``: what is waited for, else rates, latency and temperature.

    Args:
        figures: of the newest picture; ``None`` before the first.
        silent_s: how long ago it was shown.
    """
    parts = ["waiting for {}: {}".format(*item) for item in sorted(snapshot.waiting.items())]
    if not parts and figures is None:
        parts.append("starting")
    elif not parts and silent_s > _SILENT_S:
        parts.append("no picture for {:.0f} s".format(silent_s))
    elif not parts and figures is not None:
        text = "camera {:.1f} fps, detect {:.1f} fps, latency {:.0f} ms"
        parts.append(text.format(figures.camera_fps, figures.detect_fps, figures.age_ms))
    if snapshot.power is not None and snapshot.power.hottest_c is not None:
        parts.append("{:.0f} °C".format(snapshot.power.hottest_c))
    return ", ".join(parts)
