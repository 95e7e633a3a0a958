"""Rates, percentiles and counters, with a clock that the test turns."""

import math
import sys

import pytest

from edge_app.meter import Meter, Rate, Recent, percentiles


def test_thirty_frames_a_second_are_thirty_not_thirty_one():
    rate = Rate(window_s=10)
    for number in range(31):
        rate.tick(number / 30.0)
    assert rate.per_second(1.0) == pytest.approx(30.0)


def test_a_rate_forgets():
    rate = Rate(window_s=1.0)
    for number in range(10):
        rate.tick(number / 10.0)
    assert rate.per_second(5.0) == 0.0


def test_one_event_is_no_rate():
    rate = Rate()
    rate.tick(1.0)
    assert rate.per_second(1.0) == 0.0


def test_percentiles_in_milliseconds():
    values = percentiles([number / 1000.0 for number in range(101)])
    assert values == pytest.approx((50.0, 95.0, 99.0))
    assert math.isnan(percentiles([]).p50)


def test_figures_are_worked_out_at_intervals_but_age_is_always_now():
    meter = Meter(refresh_s=1.0)
    for number in range(11):
        meter.tick("camera", number / 10.0)
    first = meter.figures(1.0, 0.02, {"camera": 1})
    assert first.camera_fps == pytest.approx(10.0)
    meter.tick("camera", 1.05)
    second = meter.figures(1.1, 0.03, {"camera": 2})
    assert second.camera_fps == first.camera_fps
    assert (second.age_ms, second.dropped) == (pytest.approx(30.0), {"camera": 2})
    assert meter.figures(2.5, 0.03, {}).camera_fps != first.camera_fps


def test_a_year_of_frames_takes_no_more_memory_than_a_minute():
    meter = Meter(keep=100)
    for number in range(1000):
        meter.add("network", number / 1000.0)
    assert meter.summary()["network"].p50 == pytest.approx(949.5)


def test_what_is_remembered_takes_its_memory_at_once():
    meter = Meter(keep=10000)
    meter.add("network", 0.0)
    before = sys.getallocatedblocks()
    for number in range(20000):
        meter.add("network", number / 1000.0)
    assert sys.getallocatedblocks() - before < 100  # floats in a deque would be 10,000


def test_the_newest_values_come_oldest_first():
    recent = Recent(4)
    assert recent.newest(3).tolist() == []
    for value in range(3):
        recent.append(value)
    assert recent.newest(10).tolist() == [0, 1, 2]
    for value in range(3, 10):
        recent.append(value)
    assert recent.newest(10).tolist() == [6, 7, 8, 9]
    assert recent.newest(2).tolist() == [8, 9]


def test_averages_span_the_whole_run():
    meter = Meter()
    for number in range(101):
        meter.tick("display", number * 0.5)
    assert meter.average_rates() == {"display": pytest.approx(2.0)}
    assert meter.shown == 101


def test_what_came_before_it_is_cleared_counts_nowhere():
    meter = Meter()
    for at in (0.0, 90.0, 100.0, 101.0):
        if at == 100.0:
            meter.clear()
        meter.tick("display", at)
        meter.count("faces", 1)
        meter.add("network", at)
    assert meter.counts() == {"display": 2, "faces": 2}
    assert meter.average_rates() == {"display": 1.0}
    assert meter.summary()["network"].p50 == pytest.approx(100500.0)
