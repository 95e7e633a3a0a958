"""What a board says of its heat, load and supply, read from sysfs; a Jetson's files and a PC's.

Where they lie was taken from the Jetson Linux Developer Guide ("Platform Power and Performance",
R32 to R36), from jetson-stats and from kernel sources; on hardware none of it was verified.
"""

import glob
import os
import re
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

_RANGE_C = (-40.0, 130.0)  # a sensor that is switched off reads -256 °C or so
# "PMIC-Die" of a Nano is a constant 100 °C: a stand-in in the device tree, not a sensor.
_NO_SENSORS = ("pmic",)
_PC_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")  # names below hwmon
# Cooling devices that hold a processor back; fans, screens, chargers and Wi-Fi are others.
_HOLDING_BACK = re.compile(
    r"throttle|balanced|emergency|cpufreq|devfreq|processor|powerclamp", re.I
)
_WARM_C = (
    65.0  # a processor whose limit falls while nothing is warm was given that limit by somebody
)
_GPU_LOADS = (
    "sys/devices/gpu.0/load",  # R32, R35: a link to the GPU whatever its name
    "sys/devices/platform/gpu.0/load",  # R36
    "sys/class/devfreq/*.gpu/device/load",
    "sys/class/devfreq/*.g[avp]1[0-9]b/device/load",
)
_SUPPLY_RAILS = ("POM_5V_IN", "VDD_IN")  # the Nano's, everybody else's
_KERNEL_ALARM = re.compile(
    rb"OC ALARM|[Oo]ver-current|[Uu]ndervoltage detected|[Uu]nder-voltage detected"
)
_KERNEL_LINES = 500  # taken in at one reading at most


class Reading(NamedTuple):
    """The state of a board at one moment. ``None``: it has no such sensor, or may not be asked."""

    at: float  # monotonic seconds
    temperatures_c: Dict[str, float]  # by zone
    hottest_c: Optional[float]
    gpu_load: Optional[float]  # 0..1
    cpu_load: Optional[float]  # 0..1 over all cores, since the reading before
    throttled: Tuple[str, ...]  # what the kernel holds back, in words
    over_current: Optional[
        int
    ]  # events: a Jetson's counters, else the kernel's messages since the start
    mode: str  # nvpmodel's number and name, such as "0 MAXN"
    supply_v: Optional[float]
    supply_w: Optional[float]
    slowed: str = (
        ""  # why fewer frames are looked at just now, in words; filled in by power.PowerWatch
    )


class Sensors:
    """Finds a board's sensors once and reads them; used by one thread.

    A file that is missing, unreadable or holds nonsense counts as absent. One that blocks is named
    by ``asking``, so that another thread can have it left out.

    Args:
        root: of the file system; tests put a tree of their own here.
        left_out: paths never to be opened.
    """

    def __init__(self, root: str = "/", left_out: Optional[Set[str]] = None) -> None:
        self._root = root
        self._left_out = left_out if left_out is not None else set()
        self.asking = ""  # the file that is being read; "" between readings
        self._cpu_times: Optional[Tuple[int, int]] = None
        self._highest_khz: Dict[str, int] = (
            {}
        )  # by cpufreq policy: the highest limit seen in this mode
        self._mode = ""
        self._kernel = -1
        self._alarms: Optional[int] = None
        self._zones: List[Tuple[str, str]] = []
        self._cooling: List[Tuple[str, str]] = []

    def open(self) -> None:
        """Find the sensors; repeated it finds those that came later.

        The kernel's messages count from the first time on.
        """
        self._zones = self._find_zones()
        self._cooling = [
            (name, folder + "/cur_state")
            for folder in self._glob("sys/class/thermal/cooling_device*")
            for name in [self._text(folder + "/type")]
            if _HOLDING_BACK.search(name) and "fan" not in name.lower()
        ]
        self._gpu = next((path for pattern in _GPU_LOADS for path in self._glob(pattern)), "")
        self._policies = self._glob("sys/devices/system/cpu/cpufreq/policy*") or self._glob(
            "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
        )
        self._counters = self._glob("sys/class/hwmon/hwmon*/oc[0-9]_event_cnt")
        self._supply = self._find_supply()
        if self._kernel < 0 and not self._counters:
            self._open_kernel()

    def close(self) -> None:
        """Let go of the kernel's messages. Idempotent."""
        kernel, self._kernel = self._kernel, -1
        if kernel >= 0:
            os.close(kernel)

    def read(self, now: float) -> Reading:
        """Everything, at ``now`` (monotonic seconds)."""
        temperatures = {name: value for name, path in self._zones for value in self._celsius(path)}
        self._note_mode()
        voltage, power = self._supply()
        load = self._number(self._gpu) if self._gpu else None
        hottest = max(temperatures.values()) if temperatures else None
        reading = Reading(
            at=now,
            temperatures_c=temperatures,
            hottest_c=hottest,
            gpu_load=None if load is None else min(max(load / 1000.0, 0.0), 1.0),
            cpu_load=self._cpu_load(),
            throttled=self._throttled(hottest),
            over_current=self._over_current(),
            mode=self._mode,
            supply_v=voltage,
            supply_w=power,
        )
        self.asking = ""
        return reading

    def _find_zones(self) -> List[Tuple[str, str]]:
        """(name, file in thousandths of °C) of each sensor; names that repeat are numbered."""
        zones: List[Tuple[str, str]] = []
        for folder in self._glob("sys/class/thermal/thermal_zone*"):
            name = self._text(folder + "/type") or os.path.basename(folder)
            if not name.lower().startswith(_NO_SENSORS):
                zones.append((_unused(name, zones), folder + "/temp"))
        if zones:
            return zones
        for folder in self._glob("sys/class/hwmon/hwmon*"):
            name = self._text(folder + "/name")
            if name in _PC_SENSORS:
                for path in self._glob(os.path.relpath(folder, self._root) + "/temp*_input"):
                    zones.append((_unused(name, zones), path))
        return zones

    def _find_supply(self) -> Callable[[], Tuple[Optional[float], Optional[float]]]:
        """A function that reads volts and watts of the board's own supply."""
        labels = self._glob("sys/bus/i2c/drivers/ina3221*/*/iio:device*/rail_name_*")
        labels += self._glob("sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label")
        for label in labels:
            if self._text(label) not in _SUPPLY_RAILS:
                continue
            folder, name = os.path.split(label)
            number = "".join(re.findall(r"\d", name))
            if name.startswith("rail_name_"):  # R32's driver
                voltage, current = "in_voltage{}_input", "in_current{}_input"
            else:
                voltage, current = "in{}_input", "curr{}_input"
            paths = [os.path.join(folder, one.format(number)) for one in (voltage, current)]
            return lambda: self._volts_and_watts(*paths)
        return lambda: (None, None)

    def _volts_and_watts(
        self, voltage_path: str, current_path: str
    ) -> Tuple[Optional[float], Optional[float]]:
        millivolts, milliamperes = self._number(voltage_path), self._number(current_path)
        if millivolts is None:
            return None, None
        watts = None if milliamperes is None else round(millivolts * milliamperes / 1e6, 3)
        return millivolts / 1000.0, watts

    def _celsius(self, path: str) -> List[float]:
        value = self._number(path)
        return [value / 1000.0] if value is not None and _in_range(value / 1000.0) else []

    def _throttled(self, hottest_c: Optional[float]) -> Tuple[str, ...]:
        """Cooling devices in action, and processors whose limit fell below the mode's own while it
        is warm.

        That a processor runs below its limit says nothing: it does so whenever it has little to do,
        and a PC's limit is a turbo that it reaches for seconds only.
        """
        held = {name for name, path in self._cooling if (self._number(path) or 0) > 0}
        for folder in self._policies:
            limit = self._number(folder + "/scaling_max_freq")
            if limit is None:
                continue
            highest = self._highest_khz[folder] = max(int(limit), self._highest_khz.get(folder, 0))
            if limit < highest and hottest_c is not None and hottest_c >= _WARM_C:
                held.add("CPU at most {:.0f} of {:.0f} MHz".format(limit / 1e3, highest / 1e3))
        return tuple(sorted(held))

    def _note_mode(self) -> None:
        """nvpmodel writes its mode to a file; another mode has other limits of its own."""
        match = re.search(r"pmode:(\d+)", self._text(self._path("var/lib/nvpmodel/status")))
        mode = ""
        if match:
            number = int(match.group(1))
            named = re.search(
                r"POWER_MODEL\s+ID={}\s+NAME=(\S+)".format(number),
                self._text(self._path("etc/nvpmodel.conf"), 65536),
            )
            mode = "{} {}".format(number, named.group(1) if named else "").strip()
        if mode != self._mode:
            self._mode = mode
            self._highest_khz.clear()

    def _cpu_load(self) -> Optional[float]:
        """The share of all cores' time that was not idle: first line of /proc/stat, see proc(5)."""
        fields = self._text(self._path("proc/stat")).split("\n")[0].split()
        if (
            len(fields) < 6
            or fields[0] != "cpu"
            or not all(field.isdigit() for field in fields[1:9])
        ):
            return None
        numbers = [int(field) for field in fields[1:9]]
        now = (sum(numbers), numbers[3] + numbers[4])
        before, self._cpu_times = self._cpu_times, now
        if before is None or now[0] <= before[0]:
            return None
        return min(max(1.0 - (now[1] - before[1]) / (now[0] - before[0]), 0.0), 1.0)

    def _over_current(self) -> Optional[int]:
        if self._counters:
            counts = [self._number(path) for path in self._counters]
            known = [int(count) for count in counts if count is not None]
            return sum(known) if known else None
        self._listen_to_kernel()
        return self._alarms

    def _open_kernel(self) -> None:
        """A Nano has no counters: its kernel only says "soctherm: OC ALARM" among its messages."""
        path = self._path("dev/kmsg")
        if path in self._left_out:
            return
        self.asking = path
        try:
            self._kernel = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._kernel, 0, os.SEEK_END)
            self._alarms = 0
        except OSError:  # kernel.dmesg_restrict, or a service without this device
            self.close()

    def _listen_to_kernel(self) -> None:
        """Count the alarms among the new messages; /dev/kmsg gives one at a time."""
        for _ in range(_KERNEL_LINES if self._kernel >= 0 else 0):
            try:
                text = os.read(self._kernel, 8192)
            except BrokenPipeError:  # messages were overwritten before we came
                continue
            except OSError:  # EAGAIN: no more
                return
            if not text:
                return
            self._alarms = (self._alarms or 0) + len(_KERNEL_ALARM.findall(text))

    def _path(self, below: str) -> str:
        return os.path.join(self._root, below)

    def _glob(self, pattern: str) -> List[str]:
        def by_number(path: str) -> List[object]:
            return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]

        return sorted(glob.glob(os.path.join(glob.escape(self._root), pattern)), key=by_number)

    def _text(self, path: str, limit: int = 4096) -> str:
        if path in self._left_out:
            return ""
        self.asking = path
        try:
            with open(path, "rb") as file:
                return file.read(limit).decode("ascii", "replace").strip()
        except OSError:
            return ""

    def _number(self, path: str) -> Optional[float]:
        try:
            return float(int(self._text(path)))
        except ValueError:
            return None


def _in_range(celsius: float) -> bool:
    return _RANGE_C[0] <= celsius <= _RANGE_C[1]


def _unused(name: str, taken: List[Tuple[str, str]]) -> str:
    """The name, or with a number when it is taken."""
    names = {one for one, _ in taken}
    number = 2
    candidate = name
    while candidate in names:
        candidate = "{} {}".format(name, number)
        number += 1
    return candidate
