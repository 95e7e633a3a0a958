"""Made-up machines: a folder with the files of /proc, /sys and /etc that a check looks at."""

from edge_app import config
from edge_app.appliance.machine import Machine

NANO = {
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref",
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
    "sys/devices/system/cpu/present": "0-3",
    "sys/devices/system/cpu/online": "0-3",
    "var/lib/nvpmodel/status": "pmode:0000 fmode:fanNull",
    "etc/group": "root:x:0:\nvideo:x:44:nano",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nnano:x:1000:1000::/home/nano:/bin/bash",
    "proc/meminfo": "MemTotal: 4059712 kB\nMemAvailable: 3000000 kB\nSwapTotal: 4194304 kB",
}


def machine(root, *trees):
    """A machine whose files are those of the trees; a later tree changes an earlier one."""
    files = {}
    for tree in trees:
        files.update(tree)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(str(root))


def process(number, name, state="S", cgroup="", maps="", uid=0):
    """Files of a running program."""
    folder = "proc/{}/".format(number)
    return {
        folder + "stat": "{} ({}) {} 1 1 1".format(number, name, state),
        folder + "status": "Name:\t{}\nUid:\t{}\t0\t0\t0".format(name, uid),
        folder + "cgroup": cgroup,
        folder + "maps": maps,
    }


def loaded(*assignments):
    """Settings, as --set gives them."""
    return config.resolve([config.from_assignment(text) for text in assignments])


def library(folder, name, text):
    """A Python module that child processes find before the real one."""
    folder.mkdir(exist_ok=True)
    (folder / (name + ".py")).write_text(text)
    return str(folder)
