"""Repeated lines are collapsed: a day of trouble stays below a megabyte."""

import io
import logging
import os
import subprocess
import sys

import pytest

from edge_app.appliance.logs import CollapsingHandler, JournalFormatter, is_journal


class Log:
    """A logger of its own into memory, and a clock that is set by hand."""

    def __init__(self):
        self.now = 0.0
        self.stream = io.StringIO()
        target = logging.StreamHandler(self.stream)
        target.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.handler = CollapsingHandler(target, clock=lambda: self.now)
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.handler)

    @property
    def lines(self):
        return self.stream.getvalue().splitlines()


@pytest.fixture
def log():
    return Log()


def test_different_lines_pass(log):
    for word in ("one", "two", "three", "four", "five"):
        log.logger.info("%s is here", word)
    assert len(log.lines) == 5


def test_repeated_lines_become_one_that_says_how_many(log):
    for second in range(1, 61):
        log.now = float(second)
        log.logger.warning("csi://0: no frame for %.1f s", second / 10.0)
    assert log.lines == ["WARNING csi://0: no frame for 0.{} s".format(n) for n in (1, 2, 3)]
    log.now = 602.0
    log.logger.info("something else")
    assert log.lines[3:] == [
        "WARNING csi://0: no frame for 6.0 s (repeated 57 times in 10 min)",
        "INFO something else",
    ]


def test_a_line_that_has_been_quiet_passes_again(log):
    for start in (0.0, 5000.0):
        for second in range(3):
            log.now = start + second
            log.logger.info("now and then")
    assert log.lines == ["INFO now and then"] * 6


def test_the_level_and_the_logger_make_another_line(log):
    for _ in range(10):
        log.logger.info("text")
    log.logger.error("text")
    other = logging.Logger("other")
    other.addHandler(log.handler)
    other.info("text")
    assert log.lines == ["INFO text"] * 3 + ["ERROR text", "INFO text"]


def test_the_end_writes_what_was_held_back_and_can_be_repeated(log):
    for _ in range(10):
        log.logger.info("text")
    log.handler.close()
    log.handler.close()
    assert log.lines == ["INFO text"] * 3 + ["INFO text (repeated 7 times in 0 s)"]


def test_a_traceback_goes_with_its_line(log):
    for _ in range(5):
        try:
            raise ValueError("cause")
        except ValueError:
            log.logger.exception("failed")
    log.handler.close()
    assert log.stream.getvalue().count("ValueError: cause") == 4


def test_memory_is_bounded_and_nothing_is_lost(log):
    for letter in range(400):
        for _ in range(5):
            log.logger.info("line %s", "x" * letter)
    log.handler.close()
    assert len(log.handler._kinds) <= 256
    held = [line.split("repeated ")[1].split()[0] for line in log.lines if "repeated" in line]
    assert sum(int(number) for number in held) == 800


def test_a_day_of_trouble_is_small(log):
    """Four kinds of line every ten seconds, as often as a dead camera is tried."""
    for second in range(0, 86400, 10):
        log.now = float(second)
        log.logger.warning("csi://0: no frame for %.1f s. %s", 2.0 + second % 7, "advice " * 20)
        log.logger.info("camera: waiting: csi://0: No cameras available. %s", "advice " * 20)
        log.logger.info("camera: asked for a restart of the camera daemon")
        log.logger.error("mqtt: broker gone, %d events lost", second)
    log.handler.close()
    size = len(log.stream.getvalue())
    print("a day: {} lines, {:.0f} kB".format(len(log.lines), size / 1e3))
    assert 400 < len(log.lines) < 1000 and size < 200000


def test_journal_formatter_gives_every_line_its_priority():
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "two\n%s", ("lines",), None)
    assert JournalFormatter().format(record) == "<3>a: two\n<3>lines"
    for level, number in ((10, 7), (20, 6), (30, 4), (50, 2)):
        record = logging.LogRecord("a", level, "f", 1, "text", (), None)
        assert JournalFormatter().format(record) == "<{}>a: text".format(number)


def test_the_journal_is_recognised_by_device_and_inode(tmp_path):
    with open(str(tmp_path / "log"), "w") as stream:
        there = os.fstat(stream.fileno())
        assert is_journal(stream, "{}:{}".format(there.st_dev, there.st_ino))
        assert not is_journal(stream, "{}:{}".format(there.st_dev, there.st_ino + 1))
        assert not is_journal(stream, "")
    assert not is_journal(io.StringIO(), "1:2")


PROGRAM = """
import logging, os, sys
from edge_app.appliance import logs
there = os.fstat(2)
logs.install({verbose}, sys.stderr, "{{}}:{{}}".format(there.st_dev, there.st_ino) if {journal} else "")
for _ in range(10):
    logging.getLogger("edge_app.camera").warning("gone")
logging.getLogger("edge_app.camera").debug("detail")
"""


@pytest.mark.parametrize(
    "verbose, journal, lines",
    [
        (False, False, ["WARNING edge_app.camera: gone"] * 3),
        (False, True, ["<4>edge_app.camera: gone"] * 3),
        (True, False, ["WARNING edge_app.camera: gone"] * 10 + ["DEBUG edge_app.camera: detail"]),
    ],
)
def test_installed_it_writes_to_the_stream_and_the_rest_at_the_end(verbose, journal, lines):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(verbose=verbose, journal=journal)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    said = done.stderr.splitlines()
    assert said[: len(lines)] == lines
    assert verbose or "(repeated 7 times in 0 s)" in said[-1]
