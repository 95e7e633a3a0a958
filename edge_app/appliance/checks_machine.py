"""The board: power mode, clocks, heat, memory, swap, disk, logs, and the clock on the wall."""

import os
import re
import time
from typing import List, Optional, Tuple

import edge_app
from edge_app.appliance.finding import Finding, failure, not_needed, ok, warning
from edge_app.appliance.machine import SERVICE_USER, STATE, Machine
from edge_app.appliance.sensors import Reading, Sensors
from edge_app.config import LoadedSettings

_MIB = 1 << 20
_NEEDED_MIB = 400  # what a run takes with the network on the CPU, and some
_BUILDING_MIB = 3500  # memory and swap with which an engine was never killed while it was built
_FULL_MIB, _LOW_MIB = 50, 500  # free on a disk
_LOG_MIB = 500  # a log of this size is a loop that nobody has noticed
_HOT_C = 80.0
_CPU = "sys/devices/system/cpu"
_SWAP = (
    "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile\n"
    "sudo swapon /swapfile && echo '/swapfile none swap sw 0 0' | sudo tee -a /etc/fstab"
)


def system(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """What this is."""
    model = machine.read("proc/device-tree/model")
    if machine.is_jetson:
        return [ok("system", "{}, L4T {}".format(model or "a Jetson", machine.l4t or "unknown"))]
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.read("etc/os-release"), re.MULTILINE)
    return [ok("system", "{}, not a Jetson".format(name.group(1) if name else "unknown"))]


def power_mode(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """nvpmodel: a Nano in its 5 W mode has half its cores, at two thirds of their speed."""
    if not machine.is_jetson:
        return [not_needed("power mode", "not a Jetson")]
    there, running = _count(machine.read(_CPU + "/present")), _count(machine.read(_CPU + "/online"))
    mode = _reading(machine).mode or "unknown"
    seen = "nvpmodel {}, {} of {} cores run".format(mode, running, there)
    if running < there:
        text = (
            "{}: a saving mode. Only with a supply that gives 4 A (barrel jack, jumper J48)".format(
                seen
            )
        )
        return [warning("power mode", text, "sudo nvpmodel -m 0")]
    return [ok("power mode", seen)]


def _count(ranges: str) -> int:
    """How many numbers "0-1,3" holds."""
    count = 0
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", ranges):
        count += int(last or first) - int(first) + 1
    return count


def clocks(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Whether the processor may go as fast as it can."""
    folder = _CPU + "/cpu0/cpufreq/"
    fastest, allowed = machine.number(folder + "cpuinfo_max_freq"), machine.number(
        folder + "scaling_max_freq"
    )
    lowest, governor = machine.number(folder + "scaling_min_freq"), machine.read(
        folder + "scaling_governor"
    )
    if fastest is None or allowed is None:
        return [not_needed("clocks", "this machine does not tell")]
    seen = "CPU up to {:.0f} of {:.0f} MHz, governor {}".format(
        allowed / 1e3, fastest / 1e3, governor
    )
    if governor == "powersave" and machine.read(folder + "scaling_driver") != "intel_pstate":
        fix = "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        return [warning("clocks", seen + ": always at the lowest", fix)]
    if allowed < 0.9 * fastest and not machine.is_jetson:  # a Jetson's limit is its power mode's
        fix = "echo {} | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq".format(
            fastest
        )
        return [warning("clocks", seen + ": held down", fix)]
    pinned = lowest == allowed
    return [
        ok("clocks", seen + (", pinned" if pinned else "; they follow the load, as they should"))
    ]


def heat(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """The hottest place, and whether the kernel holds anything back for it."""
    reading = _reading(machine)
    if reading.hottest_c is None:
        return [not_needed("temperature", "no sensors here")]
    seen = "{:.0f} °C".format(reading.hottest_c)
    fan = (
        "sudo sh -c 'echo 255 > /sys/devices/pwm-fan/target_pwm'"
        if machine.is_jetson
        else "sensors"
    )
    if reading.throttled:
        text = "{}: the board slows itself down ({})".format(seen, ", ".join(reading.throttled))
        return [warning("temperature", text + ". Give it air, or a fan", fan)]
    if reading.hottest_c >= min(_HOT_C, loaded.settings.power.hot_c):
        text = "{}: soon the board slows itself down. Give it air, or a fan".format(seen)
        return [warning("temperature", text, fan)]
    return [ok("temperature", seen)]


def supply(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Whether the board has ever asked for more current than it got."""
    reading = _reading(machine)
    if not machine.is_jetson or reading.over_current is None:
        return [not_needed("power supply", "no counter of over-current events here")]
    volts = "" if reading.supply_v is None else ", {:.2f} V now".format(reading.supply_v)
    if reading.over_current:
        text = (
            "{} over-current events since the start{}: the supply or its cable is too weak".format(
                reading.over_current, volts
            )
        )
        return [warning("power supply", text, "sudo nvpmodel -m 1")]
    return [ok("power supply", "no over-current event since the start{}".format(volts))]


def _reading(machine: Machine) -> Reading:
    sensors = Sensors(machine.root)
    sensors.open()
    try:
        return sensors.read(time.monotonic())
    finally:
        sensors.close()


def memory(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """What is left of it, and whether an engine can be built in it."""
    known = machine.memory()
    free, swap = known.get("MemAvailable", 0) // _MIB, known.get("SwapTotal", 0) // _MIB
    total = known.get("MemTotal", 0) // _MIB
    seen = "{} of {} MiB available, {} MiB of swap".format(free, total, swap)
    if free < _NEEDED_MIB:
        text = "{}: a run needs {}. Close what takes most".format(seen, _NEEDED_MIB)
        return [warning("memory", text, "ps aux --sort=-rss | head")]
    if machine.is_jetson and total + swap < _BUILDING_MIB + 1024 and swap < _BUILDING_MIB:
        text = "{}: building an engine may be ended for want of memory (takes 4 GB of disk)".format(
            seen
        )
        return [warning("memory", text, _SWAP)]
    return [ok("memory", seen)]


def disk(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Is there room, and may we write, where engines, state and clips go?"""
    return [_place(purpose, path, machine) for purpose, path in _places(loaded, machine)]


def _places(loaded: LoadedSettings, machine: Machine) -> List[Tuple[str, str]]:
    """What is written, and the folder it is written to."""
    settings = loaded.settings
    engines = settings.detector.engines or os.path.dirname(os.path.abspath(settings.detector.model))
    places = []
    if machine.is_jetson or settings.detector.backend == "tensorrt":
        places.append(("engines", engines))
    if machine.exists(STATE):
        places.append(("state", "/" + STATE))
    for kind in settings.display.kind.split(","):
        if kind.strip().startswith("file:"):
            places.append(("clip", os.path.dirname(os.path.abspath(kind.strip()[len("file:") :]))))
    if settings.events.file not in ("", "-"):
        places.append(("events", os.path.dirname(os.path.abspath(settings.events.file))))
    return places + [("shared memory", "/dev/shm"), ("system", "/")]


def _place(purpose: str, path: str, machine: Machine) -> Finding:
    name = "disk for " + purpose
    real = machine.path(path)
    if not os.path.isdir(real):
        return failure(name, "there is no folder {}".format(path), "mkdir -p {}".format(path))
    facts = os.statvfs(real)
    free = facts.f_bavail * facts.f_frsize // _MIB
    seen = "{}: {} MiB free".format(path, free)
    room = "sudo journalctl --vacuum-size=100M; sudo apt clean\nsudo du -xh / | sort -h | tail -20"
    if free < _FULL_MIB:
        return failure(name, seen + ": full", room)
    if facts.f_favail == 0 and facts.f_files:
        return failure(name, seen + ", but no more files can be made (no free inodes)", room)
    if purpose != "system":
        denied = _why_not_writable(real, path, machine)
        if denied:
            return denied._replace(name=name)
    if free < _LOW_MIB and purpose != "shared memory":
        return warning(name, seen + ": soon full", room)
    return ok(name, seen)


def _why_not_writable(real: str, path: str, machine: Machine) -> Optional[Finding]:
    """A finding without a name; None when the one who will write there may do so."""
    if os.statvfs(real).f_flag & os.ST_RDONLY:
        text = "{}: mounted for reading only; a damaged card is (see dmesg)".format(path)
        return failure(
            "",
            text,
            "dmesg | grep -iE 'ext4|mmc|remount' | tail\nsudo reboot",
        )
    writer = machine.users().get(SERVICE_USER) if path.startswith("/" + STATE) else None
    if writer is not None:
        if not machine.allows(writer, path, os.W_OK):
            fix = "sudo chown -R {0}:{0} {1}".format(SERVICE_USER, path)
            return failure("", "{}: the service's user may not write there".format(path), fix)
    elif not os.access(real, os.W_OK):
        fix = "sudo chown $USER {}".format(path)
        return failure("", "{}: we may not write there".format(path), fix)
    return None


def logs(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """A camera daemon in an error loop writes gigabytes into the log."""
    sizes = []
    for name in machine.names("var/log"):
        try:
            taken = os.stat(machine.path("var/log/" + name)).st_blocks * 512  # lastlog has holes
        except OSError:
            continue
        sizes.append((taken // _MIB, "/var/log/" + name))
    if not sizes:
        return [not_needed("system logs", "no /var/log to be read here")]
    size, path = max(sizes)
    if size >= _LOG_MIB:
        text = "{} has {} MiB: something repeats itself; look at its end, then empty it".format(
            path, size
        )
        fix = "sudo tail -3 {0}\nsudo truncate -s 0 {0}\n{1}".format(
            path, "sudo systemctl restart nvargus-daemon"
        )
        return [warning("system logs", text, fix)]
    return [ok("system logs", "the largest has {} MiB".format(size))]


def clock(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """A Nano has no battery: without a network it believes in a time long past."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(now))
    if now < os.path.getmtime(edge_app.__file__) - 86400.0:
        text = "{}: before this program was installed, so it is wrong".format(shown)
        return [warning("clock", text, "sudo timedatectl set-ntp true\ntimedatectl")]
    is_set = machine.exists("run/systemd/timesync/synchronized")
    if machine.exists("run/systemd/timesync") and not is_set:
        text = "{}: not set by the network since the start".format(shown)
        return [warning("clock", text, "sudo timedatectl set-ntp true\ntimedatectl")]
    return [ok("clock", shown)]
