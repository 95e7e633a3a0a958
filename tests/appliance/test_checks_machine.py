"""Power mode, clocks, heat, memory, disk, logs, clock."""

import os

import pytest
from trees import NANO, loaded, machine

from edge_app.appliance import checks_machine
from edge_app.appliance.finding import FAILURE, NOT_NEEDED, OK, WARNING

CPU0 = "sys/devices/system/cpu/cpu0/cpufreq/"
FULL_SPEED = {
    CPU0 + "cpuinfo_max_freq": "1479000",
    CPU0 + "scaling_max_freq": "1479000",
    CPU0 + "scaling_min_freq": "102000",
    CPU0 + "scaling_governor": "schedutil",
}


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_what_a_nano_says_of_itself(tmp_path):
    found = only(checks_machine.system(loaded(), machine(tmp_path, NANO)))
    assert found.seen == "NVIDIA Jetson Nano Developer Kit, L4T 32.7.1"
    tree = {"etc/os-release": 'NAME="x"\nPRETTY_NAME="Debian 12"\n'}
    found = only(checks_machine.system(loaded(), machine(tmp_path / "pc", tree)))
    assert found.seen == "Debian 12, not a Jetson"


def test_a_nano_in_its_saving_mode(tmp_path):
    here = machine(tmp_path, NANO)
    assert only(checks_machine.power_mode(loaded(), here)).state == OK
    tree = {"var/lib/nvpmodel/status": "pmode:0001", "sys/devices/system/cpu/online": "0-1"}
    found = only(checks_machine.power_mode(loaded(), machine(tmp_path, tree)))
    assert found.state == WARNING and "nvpmodel 1, 2 of 4 cores" in found.seen
    assert found.fix == "sudo nvpmodel -m 0"
    assert only(checks_machine.power_mode(loaded(), machine(tmp_path / "pc"))).state == NOT_NEEDED


@pytest.mark.parametrize(
    "change, state, words",
    [
        ({}, OK, "CPU up to 1479 of 1479 MHz"),
        ({CPU0 + "scaling_min_freq": "1479000"}, OK, "pinned"),
        ({CPU0 + "scaling_governor": "powersave"}, WARNING, "always at the lowest"),
        ({CPU0 + "scaling_max_freq": "600000"}, WARNING, "held down"),
        ({CPU0 + "cpuinfo_max_freq": ""}, NOT_NEEDED, "does not tell"),
    ],
)
def test_clocks(tmp_path, change, state, words):
    found = only(checks_machine.clocks(loaded(), machine(tmp_path, FULL_SPEED, change)))
    assert found.state == state and words in found.seen


def zone(number, kind, thousandths):
    folder = "sys/class/thermal/thermal_zone{}/".format(number)
    return {folder + "type": kind, folder + "temp": str(thousandths)}


def test_heat_leaves_out_the_sensor_that_always_says_100(tmp_path):
    assert only(checks_machine.heat(loaded(), machine(tmp_path / "bare"))).state == NOT_NEEDED
    here = machine(tmp_path, zone(0, "CPU-therm", 45500), zone(1, "PMIC-Die", 100000))
    assert only(checks_machine.heat(loaded(), here)) == ("temperature", OK, "46 °C", "")
    here = machine(tmp_path, zone(0, "CPU-therm", 91000))
    assert only(checks_machine.heat(loaded(), here)).state == WARNING
    cooling = "sys/class/thermal/cooling_device0/"
    here = machine(tmp_path, {cooling + "type": "cpu-throttle", cooling + "cur_state": "2"})
    assert "slows itself down (cpu-throttle)" in only(checks_machine.heat(loaded(), here)).seen


def test_a_supply_that_is_too_weak(tmp_path):
    counter = "sys/class/hwmon/hwmon2/oc1_event_cnt"
    here = machine(tmp_path, NANO, {counter: "0"})
    assert only(checks_machine.supply(loaded(), here)).state == OK
    found = only(checks_machine.supply(loaded(), machine(tmp_path, {counter: "3"})))
    assert found.state == WARNING and "3 over-current events" in found.seen
    assert only(checks_machine.supply(loaded(), machine(tmp_path / "pc"))).state == NOT_NEEDED


def test_memory(tmp_path):
    assert only(checks_machine.memory(loaded(), machine(tmp_path, NANO))).state == OK
    small = "MemTotal: 4059712 kB\nMemAvailable: 3000000 kB\nSwapTotal: 0 kB"
    found = only(checks_machine.memory(loaded(), machine(tmp_path, {"proc/meminfo": small})))
    assert found.state == WARNING and "swapon /swapfile" in found.fix
    small = "MemTotal: 4059712 kB\nMemAvailable: 100000 kB\nSwapTotal: 0 kB"
    found = only(checks_machine.memory(loaded(), machine(tmp_path, {"proc/meminfo": small})))
    assert "a run needs" in found.seen


def test_a_folder_that_is_missing_or_closed(tmp_path, as_nobody):
    inside = as_nobody / "closed"
    inside.mkdir()
    inside.chmod(0o500)
    there = [
        one for one in _disk("display.kind=file:{}/a.mp4".format(as_nobody)) if "clip" in one.name
    ]
    assert only(there).state == OK
    there = [
        one for one in _disk("display.kind=file:{}/a.mp4".format(inside)) if "clip" in one.name
    ]
    assert only(there).state == FAILURE and "may not write" in there[0].seen
    there = [one for one in _disk("events.file=/nowhere/at/all/e.json") if "events" in one.name]
    assert only(there).fix == "mkdir -p /nowhere/at/all"


def _disk(*assignments):
    from edge_app.appliance.machine import Machine

    return checks_machine.disk(loaded(*assignments), Machine("/"))


def test_the_services_folder_must_be_the_services(tmp_path):
    (tmp_path / "var" / "lib" / "edge-app").mkdir(parents=True)
    owner = os.geteuid()
    user = "edge-app:x:{}:{}::/:/bin/sh"
    here = machine(tmp_path, {"etc/passwd": user.format(owner, owner)})
    assert checks_machine._place("state", "/var/lib/edge-app", here).state == OK
    here = machine(tmp_path, {"etc/passwd": user.format(owner + 1, owner + 1)})
    found = checks_machine._place("state", "/var/lib/edge-app", here)
    assert (
        found.state == FAILURE and found.fix == "sudo chown -R edge-app:edge-app /var/lib/edge-app"
    )


def test_a_full_and_a_read_only_disk(tmp_path, monkeypatch):
    class Facts:
        f_bavail, f_frsize, f_favail, f_files, f_flag = 10, 4096, 5, 10, 0

    monkeypatch.setattr(os, "statvfs", lambda path: Facts)
    here = machine(tmp_path)
    assert "full" in checks_machine._place("clip", "/", here).seen
    Facts.f_bavail = 1 << 30
    Facts.f_favail = 0
    assert "inodes" in checks_machine._place("clip", "/", here).seen
    Facts.f_favail, Facts.f_flag = 5, os.ST_RDONLY
    found = checks_machine._place("clip", "/", here)
    assert "mounted for reading only" in found.seen
    assert found.fix.splitlines()[1:] == ["sudo reboot"], "nothing can be written there first"


def test_a_log_that_has_run_away(tmp_path, monkeypatch):
    monkeypatch.setattr(checks_machine, "_LOG_MIB", 2)
    here = machine(tmp_path, {"var/log/syslog": "x", "var/log/kern.log": "y"})
    assert only(checks_machine.logs(loaded(), here)).state == OK
    with open(str(tmp_path / "var/log/lastlog"), "wb") as file:
        file.truncate(600 << 20)  # a place for each user there could be, and nothing in it
    assert only(checks_machine.logs(loaded(), here)).state == OK
    with open(str(tmp_path / "var/log/syslog"), "wb") as file:
        file.write(os.urandom(3 << 20))
        os.fsync(file.fileno())
    found = only(checks_machine.logs(loaded(), here))
    assert found.state == WARNING and "truncate -s 0 /var/log/syslog" in found.fix


def test_a_clock_that_is_behind(tmp_path, monkeypatch):
    here = machine(tmp_path)
    assert only(checks_machine.clock(loaded(), here)).state == OK
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    assert "not set by the network" in only(checks_machine.clock(loaded(), here)).seen
    monkeypatch.setattr(checks_machine.time, "time", lambda: 0.0)
    found = only(checks_machine.clock(loaded(), here))
    assert found.state == WARNING and "so it is wrong" in found.seen
