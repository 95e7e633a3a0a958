"""The log of a year: repeated lines are collapsed, and the journal learns how bad each line is."""

import copy
import logging
import os
import re
import time
from collections import OrderedDict
from typing import IO, Callable, Optional, Tuple

Clock = Callable[[], float]
Kind = Tuple[str, int, str]  # logger, level, message without its numbers

_AT_ONCE = 3  # so many lines of a kind are written before the rest is collapsed
_WINDOW_S = 600.0  # then one line stands for all of that time
_KINDS = 256  # that are remembered
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?")
# From syslog's: 2 critical, 3 error, 4 warning, 6 information, 7 debug (sd-daemon(3)).
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def install(verbose: bool, stream: IO[str], journal_stream: str = "") -> None:
    """Send all logging to ``stream``, collapsed, unless somebody has set it up already.

    Args:
        verbose: from DEBUG on, and every line as it comes.
        stream: the process's stderr.
        journal_stream: what systemd has put into the environment as JOURNAL_STREAM.
    """
    target = logging.StreamHandler(stream)
    to_journal = is_journal(stream, journal_stream)
    target.setFormatter(JournalFormatter() if to_journal else _formatter())
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        handlers=[target if verbose else CollapsingHandler(target)],
    )


def is_journal(stream: IO[str], journal_stream: str) -> bool:
    """Whether the stream goes into the journal: its device and inode are those systemd has named."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == "{}:{}".format(there.st_dev, there.st_ino)


def _formatter() -> logging.Formatter:
    return logging.Formatter("%(levelname)s %(name)s: %(message)s")


class JournalFormatter(logging.Formatter):
    """Puts ``<3>`` and its like before each line; the journal takes it off and shows errors in red."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, each with its priority: a traceback has several."""
        number = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(
            "<{}>{}".format(number, line) for line in super().format(record).split("\n")
        )


class _Repeats:
    """What has come of one kind of line."""

    __slots__ = ("written", "held", "latest", "since")

    def __init__(self, now: float) -> None:
        self.written = 0
        self.held = 0  # since the last one that was written
        self.latest: Optional[logging.LogRecord] = None
        self.since = now


class CollapsingHandler(logging.Handler):
    """Passes the first lines of a kind on at once, and then one for every ten minutes.

    Lines are of one kind when they differ in nothing but numbers; the one that is written is the newest,
    with how many it stands for. What is held back is written when its time is over and anything else is
    logged, and at the end. A kind that has been quiet for the whole time starts afresh.

    Args:
        target: writes what is left.
        clock: monotonic seconds.
    """

    def __init__(self, target: logging.Handler, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._target = target
        self._clock = clock
        self._kinds: "OrderedDict[Kind, _Repeats]" = OrderedDict()
        self._due_at = float("inf")  # when the first of them may have something to write

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or hold it back."""
        now = self._clock()
        if now >= self._due_at:
            self._write_due(now)
        kind = (record.name, record.levelno, _NUMBERS.sub("#", record.getMessage()))
        repeats = self._kinds.get(kind)
        if repeats is None:
            repeats = self._kinds[kind] = _Repeats(now)
            self._due_at = min(self._due_at, now + _WINDOW_S)
            self._forget_oldest(now)
        if repeats.written < _AT_ONCE:
            repeats.written += 1
            self._target.handle(record)
            return
        repeats.held += 1
        repeats.latest = record

    def flush(self) -> None:
        """Write what is held back."""
        self.acquire()
        try:
            for repeats in self._kinds.values():
                self._write_held(repeats, self._clock())
        finally:
            self.release()
        self._target.flush()

    def close(self) -> None:
        """Write what is held back, and end. Idempotent."""
        self.flush()
        super().close()

    def _write_due(self, now: float) -> None:
        for kind, repeats in list(self._kinds.items()):
            if now - repeats.since < _WINDOW_S:
                continue
            if not repeats.held:
                del self._kinds[kind]
            self._write_held(repeats, now)
            repeats.since = now
        since = [repeats.since for repeats in self._kinds.values()]
        self._due_at = min(since) + _WINDOW_S if since else float("inf")

    def _write_held(self, repeats: _Repeats, now: float) -> None:
        if repeats.latest is None:
            return
        record = copy.copy(repeats.latest)
        record.msg = "{} (repeated {} times in {})".format(
            record.getMessage(), repeats.held, _duration(now - repeats.since)
        )
        record.args = None
        repeats.held, repeats.latest = 0, None
        self._target.handle(record)

    def _forget_oldest(self, now: float) -> None:
        if len(self._kinds) > _KINDS:
            _, repeats = self._kinds.popitem(last=False)
            self._write_held(repeats, now)


def _duration(seconds: float) -> str:
    if seconds < 90.0:
        return "{:.0f} s".format(seconds)
    return "{:.0f} min".format(seconds / 60.0)
