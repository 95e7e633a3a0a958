"""Circles of objects are cleared away at set times, not when Python sees fit."""

import gc
import weakref

import pytest

from edge_app.appliance.leftovers import Leftovers


class Circle:
    def __init__(self):
        self.me = self.__init__  # as asyncio's transports


@pytest.fixture
def no_automatic_collection():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("turn", [lambda one: one.idle(), lambda one: one.show(None)])
def test_circles_go_after_five_minutes_and_not_before(turn, no_automatic_collection):
    now = [1000.0]
    leftovers = Leftovers(clock=lambda: now[0])
    gc.collect()
    for _ in range(3):  # again and again
        circle = weakref.ref(Circle())
        now[0] += 299.0
        turn(leftovers)
        assert circle() is not None
        now[0] += 1.0
        turn(leftovers)
        assert circle() is None


def test_it_is_part_of_every_run():
    from edge_app.appliance.status import Status
    from edge_app.cli import _Appliance
    from edge_app.config import Settings
    from edge_app.meter import Meter

    watchers = _Appliance(Settings(), Status(), Meter(), "").watchers(None)
    with watchers:
        assert any(isinstance(display, Leftovers) for _, display in watchers._open)
