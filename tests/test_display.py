"""Several displays at once, and what becomes of those that fail."""

import logging

import pytest

from edge_app.clip import FileDisplay
from edge_app.config import DisplaySettings
from edge_app.display import AutoDisplay, Display, Displays, NoDisplay, open_displays
from edge_app.errors import ConfigError, DisplayError

PICTURE = object()  # no display here looks into it


class Wall(Display):
    """A display that remembers what it was shown and fails when it is told to."""

    def __init__(self, opens=True, shows=3, closes=True):
        super().__init__()
        self.opens, self.shows, self.closes = opens, shows, closes
        self.is_open = False
        self.shown = 0

    def __enter__(self):
        if not self.opens:
            raise DisplayError("the wall is not there")
        self.is_open = True
        return self

    def show(self, picture):
        if self.shown == self.shows:
            raise DisplayError("the wall has fallen")
        self.shown += 1

    def close(self):
        self.is_open = False
        if not self.closes:
            raise DisplayError("the wall is stuck")


def members(*walls):
    return [("wall {}".format(n), lambda wall=wall: wall) for n, wall in enumerate(walls)]


def test_all_are_opened_shown_and_closed():
    first, second = Wall(), Wall()
    with Displays(members(first, second)) as displays:
        assert first.is_open and second.is_open
        displays.show(PICTURE)
        displays.idle()
    assert (first.shown, second.shown) == (1, 1)
    assert not first.is_open and not second.is_open
    displays.close()


def test_one_that_fails_is_closed_and_said_and_the_others_go_on(caplog):
    failing, lasting = Wall(shows=1), Wall(shows=10)
    with Displays(members(failing, lasting)) as displays:
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                displays.show(PICTURE)
        assert not failing.is_open and lasting.is_open
    assert lasting.shown == 5
    assert [r.getMessage() for r in caplog.records] == [
        "display wall 0 has failed and is closed: the wall has fallen"
    ]


def test_the_last_one_that_fails_is_an_error():
    with pytest.raises(DisplayError, match="has fallen"):
        with Displays(members(Wall(shows=1), Wall(shows=2))) as displays:
            for _ in range(5):
                displays.show(PICTURE)


def test_one_that_cannot_be_opened_is_an_error_and_the_others_are_closed():
    first = Wall()
    with pytest.raises(DisplayError, match="not there"):
        Displays(members(first, Wall(opens=False))).__enter__()
    assert not first.is_open


def test_one_that_cannot_be_closed_keeps_nobody_from_closing():
    first, stuck = Wall(), Wall(closes=False)
    with pytest.raises(DisplayError, match="stuck"):
        with Displays(members(first, stuck)):
            pass
    assert not first.is_open


def test_closing_one_closes_all():
    first, second = Wall(), Wall()
    with Displays(members(first, second)) as displays:
        displays.show(PICTURE)
        assert not displays.closed
        first.closed = True
        displays.idle()
        assert displays.closed


def test_auto_takes_the_first_that_opens_and_moves_on_when_it_fails(caplog):
    absent, falling, lasting = Wall(opens=False), Wall(shows=2), Wall(shows=10)
    with AutoDisplay(members(absent, falling, lasting)) as display:
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                display.show(PICTURE)
        assert not falling.is_open
    assert (falling.shown, lasting.shown) == (2, 2)  # the one at which it failed is not repeated
    assert "has fallen" in caplog.text and not lasting.is_open


def test_auto_never_fails(caplog):
    with AutoDisplay(members(Wall(opens=False), Wall(shows=1, closes=False))) as display:
        for _ in range(5):
            display.show(PICTURE)
            display.idle()
        assert not display.closed
    assert "nowhere to show the picture" in caplog.text


def test_auto_without_a_screen_is_the_web_page(no_screen):
    page = Wall(shows=10)
    with open_displays(DisplaySettings(), lambda: page) as displays:
        displays.show(PICTURE)
    assert page.shown == 1


def test_window_without_a_screen_is_an_error(no_screen):
    with pytest.raises(DisplayError, match="no screen"):
        with open_displays(DisplaySettings("window"), NoDisplay):
            pass


def test_kinds_are_combined(tmp_path, no_screen):
    page = Wall()
    kind = " web, file:{}/a.mp4 ,none".format(tmp_path)
    with open_displays(DisplaySettings(kind), lambda: page) as displays:
        assert page.is_open
        assert [type(display) for _, display in displays._open] == [Wall, FileDisplay, NoDisplay]


@pytest.mark.parametrize("kind", ["widnow", "file:", "web;none", "window,,screen", "", " , "])
def test_an_unknown_kind_is_a_wrong_setting(kind):
    with pytest.raises(ConfigError, match="^display.kind: "):
        open_displays(DisplaySettings(kind), NoDisplay)
