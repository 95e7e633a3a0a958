"""Where pictures go: a window, a web page, a clip, nothing, or several of them at once."""

import logging
from types import MappingProxyType, TracebackType
from typing import Callable, List, Mapping, Optional, Sequence, Tuple, Type

from edge_app.config import DisplaySettings
from edge_app.errors import ConfigError, DisplayError
from edge_app.frames import Picture

_LOG = logging.getLogger(__name__)

MakeDisplay = Callable[[], "Display"]
Plugged = Mapping[str, Callable[[str], "Display"]]


class Display:
    """Shows pictures; opened, used and closed by the main thread, through ``with``.

    Attributes:
        closed: the person closed the window or pressed q; the program should end.
    """

    def __init__(self) -> None:
        self.closed = False

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def show(self, picture: Picture) -> None:
        """Show a picture; keep no reference to its pixels.

        Raises:
            DisplayError: nothing can be shown here any more.
        """
        raise NotImplementedError

    def idle(self) -> None:
        """Called at least every 100 ms when there is nothing to show."""

    def close(self) -> None:
        """Give everything back. Idempotent.

        Raises:
            DisplayError: what was shown is lost (a clip that could not be finished).
        """


class NoDisplay(Display):
    """Shows nothing."""

    def show(self, picture: Picture) -> None:
        """Do nothing."""


class AutoDisplay(Display):
    """The first of several displays that works; when it fails later, the next one takes over.

    It never fails: after the last one it shows nothing, and the log says so.

    Args:
        choices: names and makers of displays, best first.
    """

    def __init__(self, choices: Sequence[Tuple[str, MakeDisplay]]) -> None:
        super().__init__()
        self._choices = list(choices)
        self._current: Display = NoDisplay()

    def __enter__(self) -> "AutoDisplay":
        """Open the first display that can be opened."""
        self._open_next()
        return self

    def show(self, picture: Picture) -> None:
        """Show a picture on the display that works."""
        self._use(lambda: self._current.show(picture))

    def idle(self) -> None:
        """Let the display look after itself."""
        self._use(lambda: self._current.idle())

    def close(self) -> None:
        """Close the display in use. Idempotent."""
        current, self._current = self._current, NoDisplay()
        current.close()

    def _use(self, action: Callable[[], None]) -> None:
        try:
            action()
        except DisplayError as error:
            _LOG.warning("%s", error)
            _close_quietly(self._current)
            self._current = NoDisplay()
            self._open_next()
        self.closed = self._current.closed

    def _open_next(self) -> None:
        while self._choices:
            name, make = self._choices.pop(0)
            try:
                self._current = make().__enter__()
            except DisplayError as error:
                _LOG.log(logging.WARNING if not self._choices else logging.INFO, "%s", error)
                continue
            _LOG.info("display: %s", name)
            return
        _LOG.warning("there is nowhere to show the picture; going on without")


class Displays(Display):
    """Several displays at once. One that fails is closed, and the others go on.

    Args:
        members: names and makers of displays; opened in this order.
    """

    def __init__(self, members: Sequence[Tuple[str, MakeDisplay]]) -> None:
        super().__init__()
        self._makers = list(members)
        self._open: List[Tuple[str, Display]] = []

    def __enter__(self) -> "Displays":
        """Open all.

        Raises:
            DisplayError: one of them cannot be opened; those opened before are closed again.
        """
        try:
            for name, make in self._makers:
                self._open.append((name, make().__enter__()))
        except BaseException:
            self._close_all(quietly=True)
            raise
        return self

    def show(self, picture: Picture) -> None:
        """Show a picture on all.

        Raises:
            DisplayError: the last display that was left has failed.
        """
        self._each(lambda display: display.show(picture))

    def idle(self) -> None:
        """Let all look after themselves.

        Raises:
            DisplayError: the last display that was left has failed.
        """
        self._each(lambda display: display.idle())

    def close(self) -> None:
        """Close all, whatever happens to one of them. Idempotent.

        Raises:
            DisplayError: of the first that failed to close.
        """
        self._close_all(quietly=False)

    def _each(self, action: Callable[[Display], None]) -> None:
        for entry in list(self._open):
            name, display = entry
            try:
                action(display)
            except DisplayError as error:
                self._open.remove(entry)
                _close_quietly(display)
                if not self._open:
                    raise
                _LOG.warning("display %s has failed and is closed: %s", name, error)
                continue
            self.closed = self.closed or display.closed

    def _close_all(self, quietly: bool) -> None:
        first_error: Optional[BaseException] = None
        while self._open:
            _, display = self._open.pop()
            try:
                display.close()
            except BaseException as error:
                first_error = first_error or error
        if first_error is not None and not quietly:
            raise first_error


def _close_quietly(display: Display) -> None:
    """Close a display that has already failed; a second complaint would hide the first."""
    try:
        display.close()
    except DisplayError as error:
        _LOG.debug("closing: %s", error)


def open_displays(
    settings: DisplaySettings, make_web: MakeDisplay, plugged: Plugged = MappingProxyType({})
) -> Displays:
    """The displays that the settings ask for, to be opened by ``with``.

    ``settings.kind`` is a comma-separated list of ``window``, ``web``, ``file:PATH``, ``none`` and
    ``auto``, which is a window where there is a screen and the web page elsewhere.

    Args:
        make_web: makes the web page, which is not this module's business.
        plugged: further kinds, by name; each is given what stands behind ``NAME:``.

    Raises:
        ConfigError: an unknown kind, or none at all.
    """
    members = [
        (word, _maker(word, make_web, plugged, settings.fullscreen))
        for word in (part.strip() for part in settings.kind.split(","))
        if word
    ]
    if not members:
        raise ConfigError("display.kind: is empty; use --display none to show nothing")
    return Displays(members)


def _maker(
    word: str, make_web: MakeDisplay, plugged: Plugged, fullscreen: bool
) -> MakeDisplay:
    def make_window() -> Display:
        from edge_app.window import WindowDisplay

        return WindowDisplay(fullscreen=fullscreen)

    def make_file() -> Display:
        from edge_app.clip import FileDisplay

        return FileDisplay(word[len("file:") :])

    simple = {
        "window": make_window,
        "web": make_web,
        "none": NoDisplay,
        "auto": lambda: AutoDisplay([("window", make_window), ("web", make_web)]),
    }
    if word.startswith("file:") and len(word) > len("file:"):
        return make_file
    kind, _, rest = word.partition(":")
    if kind in plugged:
        return lambda: plugged[kind](rest)
    if word not in simple:
        raise ConfigError(
            "display.kind: {!r} is not a display; choose from {}, or several with commas "
            "between".format(word, ", ".join(["window", "web", "file:PATH", "none", "auto", *plugged]))
        )
    return simple[word]
