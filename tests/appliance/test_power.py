"""Heat and supply, on file systems like a Nano's, an Orin's and a PC's; the effect in a real run."""

import os
import threading
import time

import numpy as np
import pytest
from waiting import until

from edge_app.appliance.power import Governor, PacedCamera, PowerWatch
from edge_app.appliance.sensors import Reading, Sensors
from edge_app.appliance.status import Status
from edge_app.config import PowerSettings
from edge_app.errors import EndOfStream
from edge_app.frames import Frame
from edge_app.source import Camera

SETTINGS = PowerSettings(hot_c=85.0, cool_c=78.0, slow_rate_hz=10.0)

# Names, units and peculiarities as the boards have them: a Nano with R32 (its PMIC-Die is a constant
# 100 °C and no sensor; a fan is among its cooling devices; the driver of its supply is ina3221x).
NANO = {
    "sys/class/thermal/thermal_zone0/type": "AO-therm",
    "sys/class/thermal/thermal_zone0/temp": "45000",
    "sys/class/thermal/thermal_zone1/type": "CPU-therm",
    "sys/class/thermal/thermal_zone1/temp": "41500",
    "sys/class/thermal/thermal_zone2/type": "GPU-therm",
    "sys/class/thermal/thermal_zone2/temp": "40000",
    "sys/class/thermal/thermal_zone3/type": "PLL-therm",
    "sys/class/thermal/thermal_zone3/temp": "39500",
    "sys/class/thermal/thermal_zone4/type": "PMIC-Die",
    "sys/class/thermal/thermal_zone4/temp": "100000",
    "sys/class/thermal/thermal_zone5/type": "thermal-fan-est",
    "sys/class/thermal/thermal_zone5/temp": "41000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "2",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/devices/gpu.0/load": "637",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1479000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "614400",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_voltage0_input": "5016",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_current0_input": "1480",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_1": "POM_5V_GPU",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_voltage1_input": "5008",
    "proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 100 0 100 700 100 0 0 0 0 0",
    "dev/kmsg": "6,1,1,-;soctherm: OC ALARM 0x00000001\n",  # long ago
    "var/lib/nvpmodel/status": "pmode:0000",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_1 1\n< POWER_MODEL ID=1 NAME=5W >",
}
# An Orin Nano with R36: zones of engines that are switched off cannot be read, counters are in hwmon.
ORIN = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "51093",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "49500",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone2/temp": "",
    "sys/class/thermal/thermal_zone3/type": "cv1-thermal",
    "sys/class/thermal/thermal_zone3/temp": "-256000",
    "sys/class/thermal/thermal_zone10/type": "tj-thermal",
    "sys/class/thermal/thermal_zone10/temp": "52250",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "1",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "1",
    "sys/class/thermal/cooling_device2/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device2/cur_state": "3",
    "sys/class/devfreq/17000000.gpu/device/load": "250",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1510400",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_input": "4936",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input": "1250",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "1",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "0",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "12",
    "sys/class/hwmon/hwmon3/oc1_throt_en": "1",
    "proc/stat": "cpu  0 0 0 0 0 0 0 0 0 0",
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
}
# A PC whose zones are in hwmon only, with a screen among its cooling devices.
PC = {
    "sys/class/hwmon/hwmon0/name": "nvme",
    "sys/class/hwmon/hwmon0/temp1_input": "38850",
    "sys/class/hwmon/hwmon4/name": "coretemp",
    "sys/class/hwmon/hwmon4/temp1_input": "61000",
    "sys/class/hwmon/hwmon4/temp2_input": "59000",
    "sys/class/thermal/cooling_device0/type": "LCD",
    "sys/class/thermal/cooling_device0/cur_state": "40",
    "sys/class/thermal/cooling_device1/type": "Processor",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/thermal/cooling_device2/type": "TCC Offset",
    "sys/class/thermal/cooling_device2/cur_state": "10",
    "sys/class/thermal/cooling_device3/type": "intel_powerclamp",
    "sys/class/thermal/cooling_device3/cur_state": "-1",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "4800000",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "800000",
    "proc/stat": "cpu  10 0 10 80 0 0 0 0 0 0",
}


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".fresh")
    fresh.write_text(text + "\n")
    fresh.replace(file)  # at once, as in sysfs: nobody ever reads an empty file


@pytest.fixture
def board(tmp_path):
    """Function: lay out a file system, open its sensors."""
    opened = []

    def make(files):
        for path, text in files.items():
            write(tmp_path, path, text)
        sensors = Sensors(str(tmp_path))
        sensors.open()
        opened.append(sensors)
        return tmp_path, sensors

    yield make
    for sensors in opened:
        sensors.close()
        sensors.close()


def reading(at, **values):
    """A reading of a board that is well, but for ``values``."""
    well = {
        "temperatures_c": {},
        "hottest_c": 50.0,
        "gpu_load": None,
        "cpu_load": None,
        "throttled": (),
        "over_current": 0,
        "mode": "",
        "supply_v": 5.05,
        "supply_w": None,
    }
    return Reading(at=at, **dict(well, **values))


def test_a_nano(board):
    root, sensors = board(NANO)
    first = sensors.read(10.0)
    assert first.at == 10.0
    assert first.temperatures_c == {
        "AO-therm": 45.0, "CPU-therm": 41.5, "GPU-therm": 40.0, "PLL-therm": 39.5, "thermal-fan-est": 41.0,
    }  # fmt: skip
    assert first.hottest_c == 45.0, "the PMIC's constant 100 °C is no temperature"
    assert first.gpu_load == pytest.approx(0.637)
    assert first.cpu_load is None, "a load is a difference"
    assert first.throttled == (), "a fan that turns holds nothing back, nor does an idle processor"
    assert first.over_current == 0, "alarms from before the start are not ours"
    assert first.mode == "0 MAXN"
    assert (first.supply_v, first.supply_w) == (
        pytest.approx(5.016),
        pytest.approx(7.424, abs=0.001),
    )
    write(root, "proc/stat", "cpu  190 0 100 710 100 0 0 0 0 0")
    with open(str(root / "dev/kmsg"), "a") as kernel:
        kernel.write("6,2,2,-;usb 1-2: new device\n3,3,3,-;soctherm: OC ALARM 0x00000001\n")
    second = sensors.read(12.0)
    assert second.cpu_load == pytest.approx(0.9)
    assert second.over_current == 1


def test_an_orin(board):
    _, sensors = board(ORIN)
    one = sensors.read(0.0)
    assert one.temperatures_c == {"cpu-thermal": 51.093, "gpu-thermal": 49.5, "tj-thermal": 52.25}
    assert one.hottest_c == 52.25
    assert one.gpu_load == pytest.approx(0.25)
    assert one.over_current == 13
    assert one.throttled == ("cpufreq-cpu0", "gpu-throttle-alert")
    assert one.mode == "2 MAXN_SUPER"
    assert (one.supply_v, one.supply_w) == (pytest.approx(4.936), pytest.approx(6.17))


def test_a_pc(board):
    _, sensors = board(PC)
    one = sensors.read(0.0)
    assert one.temperatures_c == {"coretemp": 61.0, "coretemp 2": 59.0}
    assert one.throttled == () and one.over_current is None and one.mode == ""
    assert one.gpu_load is None and one.supply_v is None and one.supply_w is None


def test_nothing_at_all(board):
    root, sensors = board({})
    assert sensors.read(1.0) == Reading(1.0, {}, None, None, None, (), None, "", None, None, "")


def test_this_machine():
    sensors = Sensors("/")
    sensors.open()
    sensors.read(0.0)
    deadline = time.monotonic() + 60
    load = None
    while (
        load is None and time.monotonic() < deadline
    ):  # the kernel counts in hundredths of a second
        time.sleep(0.05)
        load = sensors.read(1.0).cpu_load
    sensors.close()
    assert load is not None and 0.0 <= load <= 1.0


def test_a_limit_that_falls_is_throttling_unless_the_mode_did_it(board):
    root, sensors = board(NANO)
    limit = "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"
    assert sensors.read(0.0).throttled == ()
    write(root, limit, "918000")
    assert sensors.read(1.0).throttled == (), "nothing is warm: somebody has set this"
    write(root, "sys/class/thermal/thermal_zone1/temp", "80000")
    assert sensors.read(2.0).throttled == ("CPU at most 918 of 1479 MHz",)
    write(root, "var/lib/nvpmodel/status", "pmode:0001")
    five_watts = sensors.read(3.0)
    assert five_watts.mode == "1 5W" and five_watts.throttled == ()


@pytest.mark.parametrize(
    "nonsense", ["", "hot", "-256000", "999999999", "\x00\xff", "1e400", "41500 mC"]
)
def test_a_sensor_with_nonsense_counts_as_absent(board, nonsense):
    root, sensors = board(NANO)
    write(root, "sys/class/thermal/thermal_zone0/temp", nonsense)
    one = sensors.read(0.0)
    assert "AO-therm" not in one.temperatures_c and one.hottest_c == 41.5


def test_sensors_that_vanish_and_come(board):
    root, sensors = board(NANO)
    for path in list(NANO):
        if path != "dev/kmsg":
            (root / path).unlink()
    assert sensors.read(0.0) == Reading(0.0, {}, None, None, None, (), 0, "", None, None, "")
    write(root, "sys/class/thermal/thermal_zone7/type", "iwlwifi")
    write(root, "sys/class/thermal/thermal_zone7/temp", "39000")
    sensors.open()
    assert sensors.read(1.0).temperatures_c == {"iwlwifi": 39.0}


def test_hot_and_cool_again():
    governor = Governor(SETTINGS)
    told = [
        governor.update(reading(at, hottest_c=value))
        for at, value in enumerate((84.9, 85.0, 80.0, 78.1))
    ]
    assert told == ["", "hot (85 °C)", "hot (80 °C)", "hot (78 °C)"]
    assert governor.update(reading(9, hottest_c=78.0)) == ""
    assert governor.update(reading(10, hottest_c=84.0)) == ""


def test_limits_the_wrong_way_round_do_not_flutter():
    governor = Governor(PowerSettings(hot_c=70.0, cool_c=90.0))
    assert governor.update(reading(0, hottest_c=70.0))
    assert governor.update(reading(1, hottest_c=69.5))
    assert not governor.update(reading(2, hottest_c=69.0))


def test_heat_is_remembered_for_a_minute_when_the_sensors_vanish():
    governor = Governor(SETTINGS)
    assert governor.update(reading(0, hottest_c=90.0))
    assert governor.update(reading(59, hottest_c=None)) == "hot"
    assert governor.update(reading(61, hottest_c=None)) == ""


def test_over_current_counts_while_it_grows():
    governor = Governor(SETTINGS)
    assert governor.update(reading(0, over_current=13)) == "", "events of the past"
    assert governor.update(reading(2, over_current=14)) == "supply over its limit"
    assert governor.update(reading(4, over_current=None)) == "supply over its limit"
    assert governor.update(reading(61, over_current=14)) == "supply over its limit"
    assert governor.update(reading(63, over_current=14)) == ""


def test_a_weak_supply():
    governor = Governor(SETTINGS)
    told = [bool(governor.update(reading(0, supply_v=v))) for v in (4.66, 4.6, 4.75, 4.81, 4.75)]
    assert told == [False, True, True, False, False]
    assert not governor.update(reading(1, supply_v=19.1)), "a board that is fed with 19 V"
    assert not governor.update(reading(1, supply_v=0.0)), "a sensor without a rail"


def test_throttling_counts_when_it_lasts():
    governor = Governor(SETTINGS)
    held = ("cpu-throttle-alert",)
    assert governor.update(reading(0, throttled=held)) == ""
    assert governor.update(reading(4, throttled=())) == ""
    assert governor.update(reading(10, throttled=held)) == "throttled by the kernel"
    assert governor.update(reading(69, throttled=())) == "throttled by the kernel"
    assert governor.update(reading(70, throttled=())) == ""
    assert governor.update(reading(100, throttled=held)) == "", "a moment only"


def test_several_reasons():
    one = reading(0, hottest_c=88.0, supply_v=4.5)
    assert Governor(SETTINGS).update(one) == "hot (88 °C), supply weak (4.50 V)"


class Clockwork(Camera):
    """Gives frames of given times at once; then none, or the end."""

    def __init__(self, times, live=True):
        super().__init__("clockwork", live)
        self.times, self.opened = list(times), 0

    def open(self):
        self.opened += 1

    def close(self):
        self.opened -= 1

    def read(self, timeout_s):
        if not self.times:
            if not self.live:
                raise EndOfStream(self.name)
            time.sleep(timeout_s)
            return None
        return Frame(0, self.times.pop(0), 0.0, np.zeros((1, 1, 3), np.uint8))


class FixedWatch:
    def __init__(self, rate_hz):
        self.rate_hz, self.status = rate_hz, Status()

    def obeyed(self):
        pass


def captured(times, watch):
    """The capture times of the frames that pass."""
    inner = Clockwork(times)
    camera, passed = PacedCamera(inner, watch), []
    while inner.times:
        frame = camera.read(0.01)
        if frame is not None:
            passed.append(frame.captured_at)
    return passed


def test_all_frames_pass_while_the_board_is_well():
    times = [number / 30.0 for number in range(60)]
    watch = FixedWatch(None)
    assert captured(times, watch) == times
    assert watch.status.snapshot().dropped == {}


@pytest.mark.parametrize("rate_hz", [1.0, 7.0, 10.0, 29.0, 60.0])
def test_the_slow_rate_is_met_whatever_the_rhythm_of_the_camera(rate_hz):
    random = np.random.RandomState(3)
    times = [1000.0 + number / 30.0 + random.uniform(-0.003, 0.003) for number in range(301)]
    watch = FixedWatch(rate_hz)
    passed = captured(times, watch)
    assert len(passed) == pytest.approx(min(rate_hz, 30.0) * 10.0 + 1, abs=1)
    assert watch.status.snapshot().dropped.get("heat", 0) == 301 - len(passed)


def test_after_a_pause_of_the_camera_there_is_no_burst():
    times = [0.0, 0.05, 5.0, 5.03, 5.06, 5.09, 5.12]
    assert captured(times, FixedWatch(10.0)) == [0.0, 5.0, 5.12]


def test_a_file_loses_no_frame_but_takes_its_time():
    camera = PacedCamera(Clockwork(range(5), live=False), FixedWatch(50.0))
    started, frames = time.monotonic(), []
    with pytest.raises(EndOfStream):
        while True:
            frames.append(camera.read(0.005))
    assert [frame.captured_at for frame in frames if frame is not None] == [0, 1, 2, 3, 4]
    assert time.monotonic() - started >= 4 / 50.0


def test_the_camera_within_shines_through():
    inner = Clockwork([])
    inner.name, inner.dropped, inner.stuck = "csi://0", 7, True
    with PacedCamera(inner, FixedWatch(None)) as camera:
        assert (camera.name, camera.live, camera.dropped, camera.stuck) == (
            "csi://0",
            True,
            7,
            True,
        )
        assert inner.opened == 1
        inner.name, inner.live, inner.related, inner.dropped = "csi://1", False, False, 8
        assert (camera.name, camera.live, camera.related, camera.dropped) == (
            "csi://1",
            False,
            False,
            8,
        )
    assert inner.opened == 0


def test_watching_costs_the_main_thread_nothing_and_ends_at_once(board):
    root, _ = board(NANO)
    status = Status()
    with PowerWatch(SETTINGS, status, str(root), every_s=0.01) as watch:
        until(lambda: status.snapshot().power is not None)
        spent = []
        for _ in range(500):
            started = time.perf_counter()
            watch.idle()
            spent.append(time.perf_counter() - started)
        assert np.median(spent) < 0.002
    before = status.snapshot().power
    watch.close()
    assert "power" not in [thread.name for thread in threading.enumerate()]
    assert status.snapshot().power is before


def test_where_nobody_goes_by_it_only_the_board_is_told_of(board):
    root, _ = board(dict(NANO, **{"sys/class/thermal/thermal_zone0/temp": "91000"}))
    status = Status()
    with PowerWatch(SETTINGS, status, str(root), every_s=0.01):
        until(lambda: status.snapshot().power is not None)
    assert [note.text for note in status.snapshot().notes] == ["the board is hot (91 °C)"]
    assert status.snapshot().power.slowed == ""


def test_a_sensor_that_blocks_is_left_out(board, monkeypatch):
    root, _ = board(NANO)
    blocked = root / "sys/class/thermal/thermal_zone1/temp"
    blocked.unlink()
    os.mkfifo(str(blocked))  # opening it waits for a writer that never comes
    monkeypatch.setattr("edge_app.appliance.power._ANSWER_S", 0.2)
    status = Status()
    with PowerWatch(SETTINGS, status, str(root), every_s=0.01) as watch:

        def answered():
            watch.idle()
            return status.snapshot().power is not None

        until(answered)
        assert status.snapshot().power.hottest_c == 45.0
        assert "CPU-therm" not in status.snapshot().power.temperatures_c
    (note,) = status.snapshot().notes
    assert note.kind == "power" and str(blocked) in note.text
    with open(str(blocked), "w"):  # lets the thread that was left behind go
        pass


def test_a_run_slows_down_while_the_board_is_hot(board):
    from edge_app.detector import Detector
    from edge_app.frames import Detections, StepTimes
    from edge_app.meter import Meter
    from edge_app.pipeline import Pipeline

    class Seeing(Detector):
        times = StepTimes(0.0, 0.0, 0.0)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def detect(self, pixels, threshold):
            return Detections.empty()

    class Live(Camera):
        """A hundred frames a second."""

        def __init__(self):
            super().__init__("live", True)
            self.number = 0

        def open(self):
            pass

        def close(self):
            pass

        def read(self, timeout_s):
            time.sleep(0.01)
            self.number += 1
            return Frame(self.number, time.monotonic(), 0.0, np.zeros((8, 8, 3), np.uint8))

    root, _ = board(NANO)
    status = Status()
    watch = PowerWatch(SETTINGS, status, str(root), every_s=0.02)
    pipeline = Pipeline(PacedCamera(Live(), watch), Seeing(), 0.5, Meter())

    def rate_of_twenty_frames(count=20):
        times = []
        while len(times) < count:
            watch.idle()
            result = pipeline.next(0.1)
            if result is not None:
                times.append(result.frame.captured_at)
        return (count - 1) / (times[-1] - times[0])

    def heat(celsius):
        write(root, "sys/class/thermal/thermal_zone2/temp", str(celsius * 1000))
        wanted = 10.0 if celsius > 78 else None
        until(lambda: watch.rate_hz == wanted)
        rate_of_twenty_frames(2)  # those already under way

    def left_out():
        return status.snapshot().dropped.get("heat", 0)

    with watch, pipeline:
        heat(50)
        rate_of_twenty_frames()
        assert left_out() == 0
        heat(86)
        assert rate_of_twenty_frames() < 11.5
        assert status.snapshot().power.slowed == "hot (86 °C)"
        heat(80)
        assert rate_of_twenty_frames() < 11.5
        assert left_out() > 0
        heat(70)
        before = left_out()
        rate_of_twenty_frames()
        assert left_out() == before
    assert [note.text for note in status.snapshot().notes] == [
        "the board is hot (86 °C): looking at 10 frames a second until it is well again",
        "the board is well again: all frames count",
    ]
