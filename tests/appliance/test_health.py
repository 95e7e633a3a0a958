"""The judgement, at times of our own."""

import pytest

from edge_app.appliance.health import READY_S, SILENT_S, STARTING_S, STUCK_S, judge

NO_CAMERA = {"camera": "csi://0 is not there"}


@pytest.mark.parametrize(
    "now, turned_at, inferred_at, waiting, expected",
    [
        (1.0, 1.0, None, {}, ("starting", True, False)),
        (STARTING_S, STARTING_S, None, {}, ("starting", True, False)),
        (STARTING_S + 1, STARTING_S + 1, None, {}, ("silent", False, False)),
        (STARTING_S + 1, STARTING_S + 1, None, {"detector": "an engine"}, ("waiting", True, False)),
        (9e9, 9e9, None, NO_CAMERA, ("waiting", True, False)),
        (100.0, 100.0, 99.9, {}, ("live", True, True)),
        (100.0, 100.0, 100.0 - READY_S, {}, ("live", True, True)),
        (100.0, 100.0, 99.0 - READY_S, {}, ("silent", True, False)),
        (100.0, 100.0, 99.0 - READY_S, NO_CAMERA, ("waiting", True, False)),
        (100.0, 100.0, 99.0 - SILENT_S, {}, ("silent", False, False)),
        (100.0, 100.0, 99.0 - SILENT_S, {"events": "the broker"}, ("silent", False, False)),
        (100.0, 100.0, 99.9, {"events": "the broker"}, ("live", True, True)),
        (100.0, 99.0 - STUCK_S, 99.9, {}, ("stuck", False, False)),
        (100.0, 99.0 - STUCK_S, None, NO_CAMERA, ("stuck", False, False)),
    ],
)
def test_every_state(now, turned_at, inferred_at, waiting, expected):
    health = judge(now, 0.0, turned_at, inferred_at, waiting)
    assert health[:3] == expected
    assert bool(health.reasons) == (health.state != "live" or bool(waiting))


def test_the_reasons_name_what_is_missing():
    health = judge(100.0, 0.0, 0.0, 50.0, NO_CAMERA)
    assert health.reasons == (
        "the main loop has stood still for 100 s",
        "camera: csi://0 is not there",
    )
