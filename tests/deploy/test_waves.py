"""In which order a fleet is deployed to, and when it stops."""

import pytest

from deploy.inventory import Device
from deploy.waves import Outcome, Plan, roll_out, table, wave_size


class Devices:
    """Devices whose outcomes are given, and the waves in which they were asked."""

    def __init__(self, number, **kinds):
        self.all = [Device("d{}".format(index)) for index in range(number)]
        self.kinds = kinds
        self.waves = []

    def deploy(self, some):
        self.waves.append([device.name for device in some])
        return [Outcome(one.name, self.kinds.get(one.name, "deployed")) for one in some]

    def roll_out(self, *plan):
        outcomes = roll_out(self.all, Plan(*plan), self.deploy, lambda text: None)
        assert [one.device for one in outcomes] == [device.name for device in self.all]
        return {one.device: one.kind for one in outcomes}


def test_the_canary_goes_first_then_waves():
    devices = Devices(7)
    devices.roll_out(1, "3", 0)
    assert devices.waves == [["d0"], ["d1", "d2", "d3"], ["d4", "d5", "d6"]]


@pytest.mark.parametrize("kind", ["failed", "rolled back", "refused", "lost"])
def test_a_canary_that_fails_ends_it(kind):
    devices = Devices(5, d0=kind)
    kinds = devices.roll_out(1, "", 3)
    assert devices.waves == [["d0"]] and kinds["d4"] == "not tried"


@pytest.mark.parametrize("kind", ["unreachable", "busy"])
def test_a_canary_that_is_down_is_replaced_by_the_next(kind):
    devices = Devices(5, d0=kind)
    kinds = devices.roll_out(1, "", 0)
    assert devices.waves == [["d0"], ["d1"], ["d2", "d3", "d4"]] and kinds["d4"] == "deployed"


def test_more_failures_than_allowed_stop_the_next_wave():
    devices = Devices(9, d1="rolled back", d3="rolled back")
    kinds = devices.roll_out(1, "2", 1)
    assert devices.waves == [["d0"], ["d1", "d2"], ["d3", "d4"]] and kinds["d5"] == "not tried"


def test_devices_that_are_down_do_not_count_as_failures_of_the_release():
    devices = Devices(9, d1="unreachable", d2="unreachable", d3="unreachable")
    assert "not tried" not in devices.roll_out(1, "2", 0).values()


def test_one_device_needs_no_canary():
    devices = Devices(1)
    devices.roll_out(1, "", 0)
    assert devices.waves == [["d0"]]


@pytest.mark.parametrize(
    "wave, total, size",
    [("10%", 500, 50), ("10%", 3, 1), ("7", 500, 7), ("", 500, 50), ("", 5, 10)],
)
def test_sizes_of_waves(wave, total, size):
    assert wave_size(wave, total) == size


@pytest.mark.parametrize("wave", ["0", "-1", "110%", "0%", "some", "inf", "nan"])
def test_a_wave_that_is_none_is_refused(wave):
    with pytest.raises(ValueError):
        wave_size(wave, 10)


def test_the_table_has_a_line_for_every_device():
    lines = table(
        [
            Outcome("a", "deployed", "", (), "1.0", 29.9, 31.0, 250000),
            Outcome("b", "unreachable", "why"),
        ]
    )
    rows = [line.split() for line in lines.splitlines()]
    assert rows[1] == ["a", "deployed", "1.0", "29.9", "31", "0.2"]
    assert rows[2] == ["b", "unreachable", "why"]
