"""Evenly so many a second, whatever comes."""

import numpy as np
import pytest

from edge_app.appliance.pace import Pace


def taken(moments, rate_hz, pace=None):
    pace = pace or Pace()
    return [at for at in moments if pace.takes(at, rate_hz)]


@pytest.mark.parametrize("comes_hz, rate_hz", [(30, 10), (30, 20), (30, 29), (25, 24), (60, 7.5)])
def test_the_rate_is_kept_though_it_is_no_part_of_the_other(comes_hz, rate_hz):
    some = taken(np.arange(100 * comes_hz) / comes_hz, rate_hz)
    assert len(some) == pytest.approx(100 * rate_hz, abs=1)
    assert max(np.diff(some)) <= 1.0 / rate_hz + 1.0 / comes_hz + 1e-9


def test_what_comes_more_seldom_is_all_taken():
    moments = np.arange(50) / 5.0
    assert taken(moments, 10.0) == list(moments)


def test_one_that_is_late_delays_no_other():
    moments = [0.0, 0.11, 0.29, 0.31, 0.41]  # 0.2 is late
    assert taken(moments, 10.0) == moments


def test_after_a_pause_nothing_is_made_up_for():
    pace = Pace()
    taken(np.arange(100) / 30.0, 10.0, pace)
    assert len(taken(1000.0 + np.arange(30) / 30.0, 10.0, pace)) == 10


def test_a_clock_that_was_set_back_stops_nothing():
    pace = Pace()
    assert pace.takes(1000.0, 10.0) and pace.takes(3.0, 10.0)
    assert not pace.takes(3.05, 10.0)


def test_the_rate_may_change_at_any_time():
    pace = Pace()
    assert pace.takes(0.0, 1.0) and not pace.takes(0.5, 1.0)
    assert pace.takes(0.6, 10.0), "one that is due far away in tenths of a second is out of date"
