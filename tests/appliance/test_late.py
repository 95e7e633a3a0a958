"""A window whose screen comes later, goes, and comes again."""

import subprocess
import threading
import time

import pytest
from waiting import until

from edge_app.appliance.late import LateDisplay, lasting_displays
from edge_app.appliance.status import Status
from edge_app.config import DisplaySettings
from edge_app.display import Display, NoDisplay, open_displays
from edge_app.errors import ConfigError, DisplayError
from edge_app.window import WindowDisplay


class Place:
    """Makes displays that work while it is ``up``."""

    def __init__(self):
        self.up, self.now = False, 100.0
        self.tried_at, self.open, self.shown = [], 0, []
        self.trouble, self.slow = DisplayError("no screen"), threading.Event()
        self.slow.set()
        self.status = Status()
        self.late = LateDisplay("window", lambda: Shown(self), self.status, lambda: self.now)

    def pass_time(self, seconds, step_s=0.5):
        for _ in range(int(seconds / step_s)):
            self.now += step_s
            for thread in threading.enumerate():
                if thread.name == "display opening":
                    thread.join(60)
            self.late.idle()

    @property
    def notes(self):
        return [note.text for note in self.status.snapshot().notes]


class Shown(Display):
    def __init__(self, place):
        super().__init__()
        self._place = place

    def __enter__(self):
        self._place.tried_at.append(self._place.now)
        self._place.slow.wait(10)
        if not self._place.up:
            raise self._place.trouble
        self._place.open += 1
        return self

    def show(self, picture):
        if not self._place.up:
            raise self._place.trouble
        self._place.shown.append(picture)

    def idle(self):
        self.show(None)

    def close(self):
        self._place.open -= 1


@pytest.fixture
def place():
    return Place()


def test_a_screen_that_comes_later_gets_its_window(place):
    with place.late:
        place.late.show(1)
        place.pass_time(300)
        assert not place.shown and place.notes == ["window: no screen"]
        place.up = True
        place.pass_time(62)
        place.late.show(2)
        assert place.shown[-1] == 2 and place.notes[-1] == "window: open"
    assert place.open == 0


def test_it_is_tried_less_and_less_often(place):
    with place.late:
        place.pass_time(400)
    pauses = [b - a for a, b in zip(place.tried_at, place.tried_at[1:])]
    assert pauses[:4] == pytest.approx([5, 10, 20, 40], abs=2)
    assert all(58 < pause < 63 for pause in pauses[4:])


def test_a_screen_that_goes_is_left_and_found_again(place):
    place.up = True
    with place.late:
        place.pass_time(40)
        place.up = False
        place.late.show(1)
        assert place.open == 0
        place.up = True
        place.pass_time(7)
        place.late.show(2)
        assert place.shown[-1] == 2
    place.late.close()
    assert place.open == 0


def test_a_screen_that_hangs_holds_nobody_up(place):
    place.up = True
    place.slow.clear()
    with place.late:
        started = time.monotonic()
        for _ in range(100):
            place.late.show(1)
        assert time.monotonic() - started < 15
        threading.Timer(0.2, place.slow.set).start()
    assert place.open == 0 and not place.shown


def test_the_end_does_not_wait_for_a_screen_that_hangs(place):
    place.up = True
    place.slow.clear()
    with place.late:
        started = time.monotonic()
    assert time.monotonic() - started < 30
    place.slow.set()
    for thread in threading.enumerate():
        if thread.name == "display opening":
            thread.join(60)
    assert place.open == 0  # what opens too late is closed again


def test_closing_the_window_closes(place):
    place.up = True
    with place.late:
        place.pass_time(1)
        place.late._current.closed = True
        place.late.show(1)
        assert place.late.closed


def test_a_real_window_comes_back_with_its_screen(screen, place):
    """Xvfb, killed and started again under the same number."""
    display = LateDisplay("window", WindowDisplay, place.status, lambda: place.now)

    def until(text, count, limit_s=60.0):
        deadline = time.monotonic() + limit_s
        while [text in note for note in place.notes].count(True) < count:
            assert time.monotonic() < deadline, place.notes
            display.idle()
            time.sleep(0.02)

    with display:
        until("window: open", 1)
        screen.kill()
        until("does not show a window", 1)
        again = subprocess.Popen(["Xvfb", screen.display, "-screen", "0", "1280x800x24", "-ac"])
        try:
            place.now += 60
            until("window: open", 2)
        finally:
            display.close()
            again.kill()
            again.wait()


def open_one(folder):
    def make(kind):
        return open_displays(DisplaySettings(kind=kind), NoDisplay)

    return lasting_displays("none, file:{}/nowhere/a.mp4, auto".format(folder), make, Status())


def test_one_display_that_cannot_be_opened_costs_no_other(tmp_path, no_screen, caplog):
    caplog.set_level("INFO")
    with open_one(tmp_path) as displays:
        deadline = time.monotonic() + 60
        while "web: open" not in caplog.text:
            assert time.monotonic() < deadline
            displays.idle()
    assert "display: none" in caplog.text and "there is no folder" in caplog.text
    assert "window: no screen" in caplog.text


def test_auto_in_the_name_of_a_file_stays_as_it_is():
    asked = []

    def make(kind):
        asked.append(kind)
        return NoDisplay()

    with lasting_displays("file:/data/auto-clip.mp4, auto,web", make, Status()):
        until(lambda: len(asked) == 4)
    assert asked[1] == "file:/data/auto-clip.mp4"
    assert sorted(asked[2:]) == ["web", "window"], "each once"


def test_an_unknown_display_is_said_before_anything_is_opened():
    def make(kind):
        return open_displays(DisplaySettings(kind=kind), NoDisplay)

    with pytest.raises(ConfigError, match="hologram"):
        lasting_displays("web,hologram", make, Status())


def test_what_is_not_a_missing_screen_is_an_error(place):
    place.trouble = ConfigError("display.kind: wrong")
    with place.late:
        with pytest.raises(ConfigError):
            place.pass_time(2)
