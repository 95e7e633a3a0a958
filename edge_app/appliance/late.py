"""A display that may come later, go, and come again: the window of a device whose screen is not up yet."""

import logging
import threading
import time
from typing import Callable, List, Optional

from edge_app.appliance.status import Status
from edge_app.display import AutoDisplay, Display, Displays, MakeDisplay
from edge_app.errors import DisplayError
from edge_app.frames import Picture

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 5.0  # after a failure; doubled from one to the next
_LONGEST_PAUSE_S = 60.0
_STEADY_S = 30.0  # shown for so long, and what happened before is forgotten
_STOP_S = 2.0  # how long an opening is waited for at the end
_AUTO = ("window", "web")
_LATE = ("window", "web")  # a clip is not begun again: that would overwrite it


def lasting_displays(kind: str, make: Callable[[str], Display], status: Status) -> Displays:
    """The displays of a service, each for itself: one that cannot be opened costs none of the others.

    ``auto`` is the window, as soon as there is a screen for it, and the page.

    Args:
        kind: as in the settings, with commas.
        make: the display of one kind, not yet opened.
        status: is told what comes and goes.

    Raises:
        ConfigError: an unknown kind.
    """
    make(kind)
    words: List[str] = []
    for word in (part.strip() for part in kind.split(",")):
        words += _AUTO if word == "auto" else (word,)
    return Displays([(word, _lasting(word, make, status)) for word in dict.fromkeys(words) if word])


def _lasting(word: str, make: Callable[[str], Display], status: Status) -> MakeDisplay:
    if word in _LATE:
        return lambda: LateDisplay(word, lambda: make(word), status)
    return lambda: AutoDisplay([(word, lambda: make(word))])


class _Opening(threading.Thread):
    """Opens a display; on a thread of its own, since a screen that hangs takes its time."""

    def __init__(self, make: MakeDisplay) -> None:
        super().__init__(name="display opening", daemon=True)
        self._make = make
        self._lock = threading.Lock()
        self._unwanted = False
        self.display: Optional[Display] = None
        self.error: Optional[Exception] = None
        self.start()

    def run(self) -> None:
        try:
            display = self._make().__enter__()
        except Exception as error:  # raised again, or told, by the main thread
            self.error = error
            return
        with self._lock:
            if not self._unwanted:
                self.display = display
                return
        display.close()

    def give_up(self) -> Optional[Display]:
        """What it has opened so far; whatever it opens later it closes itself."""
        self.join(_STOP_S)
        with self._lock:
            self._unwanted = True
            return self.display


class LateDisplay(Display):
    """Shows pictures wherever there is something to show them on; else it waits, and tries again.

    It never fails and never holds the main thread up. The first attempt begins on opening, the next five
    seconds after a failure, later ones once a minute.

    Args:
        name: for messages: "window".
        make: gives a fresh display, not yet opened.
        status: is told when it comes and goes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        make: MakeDisplay,
        status: Status,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._name = name
        self._make = make
        self._status = status
        self._clock = clock
        self._current: Optional[Display] = None
        self._opening: Optional[_Opening] = None
        self._failures = 0
        self._opened_at = 0.0
        self._retry_at = float("-inf")
        self._said = ""

    def __enter__(self) -> "LateDisplay":
        """Begin to open it."""
        self._step()
        return self

    def show(self, picture: Picture) -> None:
        """Show a picture, if there is something to show it on."""
        self._use(lambda display: display.show(picture))

    def idle(self) -> None:
        """Let the display look after itself, and see whether there is one by now."""
        self._use(lambda display: display.idle())

    def close(self) -> None:
        """Close what is open, and what is just being opened. Idempotent."""
        opening, self._opening = self._opening, None
        current, self._current = self._current, None
        late = opening.give_up() if opening is not None else None
        for display in (current, late):
            if display is not None:
                display.close()

    def _use(self, action: Callable[[Display], None]) -> None:
        self._step()
        display = self._current
        if display is None:
            return
        try:
            action(display)
        except DisplayError as error:
            self._current = None
            self._close_quietly(display)
            if self._clock() - self._opened_at >= _STEADY_S:
                self._failures = 0
            self._fail(error)
            return
        self.closed = display.closed

    def _step(self) -> None:
        """Open one where there is none, and take it when it is open."""
        if self._current is not None:
            return
        if self._opening is None:
            if self._clock() >= self._retry_at:
                self._opening = _Opening(self._make)
            return
        if self._opening.is_alive():
            return
        opening, self._opening = self._opening, None
        if isinstance(opening.error, DisplayError):
            self._fail(opening.error)
        elif opening.error is not None:
            raise opening.error
        else:
            self._current, self._opened_at, self._said = opening.display, self._clock(), ""
            self._status.note("display", "{}: open".format(self._name))

    def _fail(self, error: DisplayError) -> None:
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(self._failures, 10), _LONGEST_PAUSE_S)
        self._failures += 1
        self._retry_at = self._clock() + pause_s
        if str(error) != self._said:
            self._said = str(error)
            self._status.note("display", "{}: {}".format(self._name, error))

    def _close_quietly(self, display: Display) -> None:
        try:
            display.close()
        except DisplayError as error:
            log.debug("closing: %s", error)
