"""What Prometheus reads, by its own parser."""

import logging
import platform
import sys
import time

import pytest
from pictures import picture
from programs import HOT, samples, used
from webclient import get, open_web

from edge_app import __version__
from edge_app.appliance.metrics import Metrics
from edge_app.appliance.status import Status
from edge_app.meter import Meter


def test_every_figure_has_its_name_and_its_unit():
    status, meter = used()
    with Metrics(status, meter) as metrics:
        for age_s in (0.035, 0.2, 30.0):
            metrics.show(picture(0, time.monotonic() - age_s))
        told = samples(metrics.render())
    frames = [told["edge_app_frames_total", stage] for stage in ("camera", "detect", "display")]
    assert frames == [8, 5, 3]
    assert told["edge_app_frames_per_second", "detect"] == pytest.approx(10.0)
    assert told["edge_app_latency_seconds_count",] == 3
    assert 30.235 <= told["edge_app_latency_seconds_sum",] < 35.0  # a busy machine is late
    assert told["edge_app_latency_seconds_bucket", "0.03"] == 0
    assert told["edge_app_latency_seconds_bucket", "5.0"] == 2
    assert told["edge_app_frame_age_seconds",] >= 30.0
    drops = [told["edge_app_dropped_total", cause] for cause in ("camera", "detector", "heat")]
    assert drops == [3, 4, 9]
    assert told["edge_app_step_seconds", "network"] == pytest.approx(0.25)
    assert told["edge_app_faces",] == 1
    assert told["edge_app_restarts_total", "camera"] == 2
    assert told["edge_app_waiting", "events"] == 1
    assert told["edge_app_temperature_celsius", "CPU-therm"] == 71.5
    assert told["edge_app_load_ratio", "gpu"] == 0.63
    assert (told["edge_app_supply_volts",], told["edge_app_supply_watts",]) == (4.87, 7.5)
    assert told["edge_app_throttled",] == 1 and told["edge_app_over_current_events_total",] == 2
    assert (
        told[("edge_app_build_info",) + tuple(sorted([platform.python_version(), __version__]))]
        == 1
    )
    assert told["process_resident_memory_bytes",] > 1e6


def test_before_the_first_picture_and_without_sensors_there_is_less():
    with Metrics(Status(), Meter()) as metrics:
        told = samples(metrics.render())
    assert told["edge_app_frames_total", "camera"] == 0
    names = {key[0] for key in told}
    assert "edge_app_faces" not in names and "edge_app_load_ratio" not in names


def test_a_camera_that_is_dead_from_the_start_raises_the_alarm_too(monkeypatch):
    """docs/api.md bids to watch the age: without a picture it counts from the start."""
    with Metrics(Status(), Meter()) as metrics:
        begun = time.monotonic()
        assert 0.0 <= samples(metrics.render())["edge_app_frame_age_seconds",] < 60.0
        monkeypatch.setattr(time, "monotonic", lambda: begun + 600.0)
        assert samples(metrics.render())["edge_app_frame_age_seconds",] >= 600.0
        metrics.show(picture(0, begun + 599.0))
        assert samples(metrics.render())["edge_app_frame_age_seconds",] == pytest.approx(1.0)


def test_how_often_the_program_began_can_be_asked():
    with Metrics(Status(), Meter()) as metrics:
        assert samples(metrics.render())["process_start_time_seconds",] > 1e9


def test_sensors_that_a_board_does_not_have_are_left_out():
    status = Status()
    status.measured(HOT._replace(gpu_load=None, over_current=None, supply_v=None))
    with Metrics(status, Meter()) as metrics:
        told = samples(metrics.render())
    assert ("edge_app_load_ratio", "gpu") not in told and ("edge_app_load_ratio", "cpu") in told
    assert ("edge_app_supply_volts",) not in told and ("edge_app_supply_watts",) in told
    assert ("edge_app_over_current_events_total",) not in told


def test_two_programs_in_one_process_do_not_mix():
    with Metrics(Status(), Meter()) as one, Metrics(Status(), Meter()) as other:
        one.show(picture())
        assert samples(one.render())["edge_app_latency_seconds_count",] == 1
        assert samples(other.render())["edge_app_latency_seconds_count",] == 0


def test_without_the_library_the_program_goes_on_and_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with caplog.at_level(logging.WARNING), Metrics(Status(), Meter()) as metrics:
        metrics.show(picture())
        assert b"not installed" in metrics.render()
    assert "make setup" in caplog.text


def test_over_http():
    status, meter = used()
    with Metrics(status, meter) as metrics, open_web(status, metrics) as display:
        display.show(picture())
        metrics.show(picture())
        code, body = get(display.url + "/metrics")
    assert code == 200 and samples(body)["edge_app_latency_seconds_count",] == 1
    with open_web() as display:
        assert get(display.url + "/metrics")[0] == 404
