"""What systemd is told, over a real socket."""

import os
import socket

import numpy as np
import pytest

from edge_app.appliance.sensors import Reading
from edge_app.appliance.service import Notifier
from edge_app.appliance.status import Status
from edge_app.errors import DisplayError
from edge_app.frames import Detections, Figures, Frame, Picture, Result, StepTimes


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def told(self):
        """Every line since the last call."""
        lines = []
        while True:
            try:
                lines += self._socket.recv(4096).decode("utf-8").split("\n")
            except BlockingIOError:
                return lines

    def close(self):
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def address(request, tmp_path):
    if request.param == "path":
        return str(tmp_path / "notify")
    return "@edge-app-test-{}-{}".format(os.getpid(), tmp_path.name)


@pytest.fixture
def systemd(address):
    server = Systemd(address)
    yield server
    server.close()


@pytest.fixture
def clock():
    return Clock()


def picture(fps=29.97):
    pixels = np.zeros((36, 64, 3), np.uint8)
    figures = Figures(fps, 24.0, 24.0, 41.6, {}, {})
    result = Result(Frame(0, 0.0, 0.0, pixels), Detections.empty(), StepTimes(0, 0, 0), 0.0)
    return Picture(pixels, Detections.empty(), result, figures)


def reading(hottest_c):
    return Reading(0.0, {}, hottest_c, None, None, (), None, "", None, None)


def idle_for(notifier, clock, seconds):
    for _ in range(int(seconds * 10)):
        clock.now += 0.1
        notifier.idle()


def test_ready_comes_with_the_first_picture_and_only_once(systemd, address, clock):
    with Notifier(Status(), address, clock) as notifier:
        idle_for(notifier, clock, 5)
        assert "READY=1" not in systemd.told()
        notifier.show(picture())
        assert systemd.told().count("READY=1") == 1
        clock.now += 2
        notifier.show(picture())
        assert "READY=1" not in systemd.told()


def test_the_watchdog_is_fed_by_pictures_alone_and_at_most_once_a_second(systemd, address, clock):
    with Notifier(Status(), address, clock) as notifier:
        idle_for(notifier, clock, 20)
        assert "WATCHDOG=1" not in systemd.told()
        for _ in range(
            100
        ):  # ten seconds at 10 Hz; the tenths do not add up to whole seconds exactly
            notifier.show(picture())
            clock.now += 0.1
        assert 9 <= systemd.told().count("WATCHDOG=1") <= 11
        idle_for(notifier, clock, 60)
        assert "WATCHDOG=1" not in systemd.told()


def test_a_start_that_waits_for_a_camera_gets_more_time_for_ever(systemd, address, clock):
    status = Status()
    with Notifier(status, address, clock) as notifier:
        status.waiting("camera", "csi://0: no cameras\navailable")
        idle_for(notifier, clock, 1)
        told = systemd.told()
        assert "STATUS=waiting for camera: csi://0: no cameras available" in told
        assert "EXTEND_TIMEOUT_USEC=60000000" in told
        clock.now += 7 * 86400
        idle_for(notifier, clock, 30)
        assert 2 <= systemd.told().count("EXTEND_TIMEOUT_USEC=60000000") <= 4
        notifier.show(picture())
        idle_for(notifier, clock, 30)
        assert not [line for line in systemd.told() if line.startswith("EXTEND")]


def test_a_start_that_waits_for_nothing_gets_none(systemd, address, clock):
    with Notifier(Status(), address, clock) as notifier:
        idle_for(notifier, clock, 30)
        assert systemd.told() == ["STATUS=starting"]


def test_another_part_may_take_an_hour(systemd, address, clock):
    status = Status()
    with Notifier(status, address, clock) as notifier:
        status.waiting("detector", "building the engine")
        status.waiting("camera", "no camera")
        idle_for(notifier, clock, 20)
        assert "EXTEND_TIMEOUT_USEC=60000000" in systemd.told()
        clock.now += 3600
        idle_for(notifier, clock, 20)
        assert not [line for line in systemd.told() if line.startswith("EXTEND")]


def test_the_status_line_has_rates_latency_and_temperature(systemd, address, clock):
    status = Status()
    with Notifier(status, address, clock) as notifier:
        status.measured(reading(51.5))
        notifier.show(picture())
        line = "STATUS=camera 30.0 fps, detect 24.0 fps, latency 42 ms, 52 °C"
        assert line in systemd.told()
        clock.now += 1
        notifier.show(picture())
        assert not [line for line in systemd.told() if line.startswith("STATUS")]
        clock.now += 5
        status.measured(reading(None))
        notifier.show(picture(15.0))
        assert "STATUS=camera 15.0 fps, detect 24.0 fps, latency 42 ms" in systemd.told()


def test_the_status_line_says_when_nothing_comes_any_more(systemd, address, clock):
    status = Status()
    with Notifier(status, address, clock) as notifier:
        notifier.show(picture())
        systemd.told()
        idle_for(notifier, clock, 6)
        assert systemd.told() == ["STATUS=no picture for 5 s"]
        clock.now += 1.0
        notifier.show(picture())
        assert any(line.startswith("STATUS=camera") for line in systemd.told())
        status.waiting("camera", "reopening")
        notifier.idle()
        assert systemd.told() == ["STATUS=waiting for camera: reopening"]
        status.waiting("camera", "")
        notifier.show(picture())
        assert [line for line in systemd.told() if line.startswith("STATUS=camera 30.0 fps")]


def test_the_end_is_told_once(systemd, address, clock):
    notifier = Notifier(Status(), address, clock)
    with notifier:
        systemd.told()
    assert systemd.told() == ["STOPPING=1", "STATUS=stopping"]
    notifier.close()
    assert systemd.told() == []


def test_a_long_text_is_cut(systemd, address, clock):
    status = Status()
    with Notifier(status, address, clock) as notifier:
        systemd.told()
        status.waiting("camera", "x" * 10000)
        notifier.idle()
        (line,) = [line for line in systemd.told() if line.startswith("STATUS")]
        assert len(line) == len("STATUS=") + 300


def test_a_systemd_that_does_not_listen_stops_nothing(systemd, address, clock):
    """Nobody reads: the queue fills up, and the first word that fits again is READY."""
    status = Status()
    with Notifier(status, address, clock) as notifier:
        for number in range(2000):
            status.waiting("camera", str(number))
            notifier.idle()
        notifier.show(picture())
        assert "READY=1" not in systemd.told()
        notifier.show(picture())
        assert "READY=1" in systemd.told()
        systemd.close()
        clock.now += 10
        notifier.show(picture())


def test_a_socket_that_is_not_there_is_an_error(address):
    notifier = Notifier(Status(), address)
    with pytest.raises(DisplayError, match="NOTIFY_SOCKET=.*cannot be reached.*unset"):
        notifier.__enter__()
    notifier.close()
