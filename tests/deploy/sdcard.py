"""Small SD-card images in the layout of NVIDIA's for the Jetson Nano, and loop devices to write them to.

The layout is that of L4T 32.7's SD-card image, which its own tools make with sgdisk: fourteen partitions of type
"Linux filesystem", numbers 2 to 14 with boot loader, device tree and kernel, and number 1, APP, the root file
system, behind all of them up to the end.
"""

import contextlib
import os
import shutil
import subprocess

from needs import require

SECTOR = 512
ALIGN = 2048  # sectors
SMALL = (
    "TBC",
    "RP1",
    "EBT",
    "WB0",
    "BPF",
    "BPF-DTB",
    "FX",
    "TOS",
    "DTB",
    "LNX",
    "EKS",
    "BMP",
    "RP4",
)
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
TOOLS = "sfdisk partx resize2fs useradd usermod ssh-keygen mkswap fallocate flock runuser".split()
RELEASE = (
    "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, "
    "DATE: Sat Feb 19 17:05:08 UTC 2022\n"
)
MEGABYTE = 1 << 20


def need_loop_devices():
    """Skip (or fail, in CI) where cards cannot be played by files."""
    require(os.geteuid() == 0 and os.path.exists("/dev/loop-control"), "root and loop devices")
    tools = ("losetup", "sfdisk", "mke2fs", "debugfs", "e2fsck", "partx")
    missing = [name for name in tools if shutil.which(name) is None]
    require(not missing, "apt install fdisk e2fsprogs util-linux ({})".format(", ".join(missing)))


@contextlib.contextmanager
def loop_device(path):
    """The name of a loop device on the file ``path``."""
    name = run("losetup", "-f", "--show", path).strip()
    try:
        yield name
    finally:
        run("losetup", "-d", name)


def run(*command, **options):
    """Output of a command that must succeed."""
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8", "replace")


def make_tree(folder, release=RELEASE):
    """A root file system just large enough to look like L4T's before its first boot; returns its path."""
    for name in (
        "etc/ssh",
        "etc/systemd/system",
        "lib/systemd/system",
        "opt",
        "var/lib",
        "usr/lib/nvidia/license",
    ):
        os.makedirs(os.path.join(folder, name))
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
        "etc/group": "root:x:0:\nvideo:x:44:\n",
        "etc/fstab": "/dev/root / ext4 defaults 0 1\n",
        "etc/hostname": "localhost.localdomain\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/ssh/sshd_config": "UsePAM yes\n#PasswordAuthentication yes\nSubsystem sftp internal-sftp\n",
        "etc/ssh/ssh_host_ed25519_key": "the same key on every card\n",
        "lib/systemd/system/nv-oem-config.target": "[Unit]\nConflicts=multi-user.target\n",
        "lib/systemd/system/multi-user.target": "[Unit]\n",
        "usr/lib/nvidia/license/nvlicense": "NVIDIA's licence\n",
    }
    if release is not None:
        files["etc/nv_tegra_release"] = release
    for name, text in files.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    os.makedirs(os.path.join(folder, "usr/bin"))
    with open(os.path.join(folder, "usr/bin/python3.6"), "wb") as file:
        file.write(
            b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(44)
        )  # for aarch64
    os.makedirs(os.path.join(folder, "sbin"))
    for name in TOOLS:
        with open(os.path.join(folder, "sbin", name), "w") as file:
            file.write("a program of the Nano\n")
    os.symlink("python3.6", os.path.join(folder, "usr/bin/python3"))
    os.symlink(
        "/lib/systemd/system/nv-oem-config.target",
        os.path.join(folder, "etc/systemd/system/default.target"),
    )
    return folder


def make_blob(path, tree, app_mb=48, app_first=False, app_name="APP"):
    """An SD-card image at ``path`` with ``tree`` in its root partition; returns (path, offset of APP in bytes)."""
    starts = {}
    at = ALIGN
    if app_first:
        starts[1] = (at, app_mb * ALIGN)
        at += app_mb * ALIGN
    for number in range(2, 2 + len(SMALL)):
        starts[number] = (at, 512)
        at += ALIGN
    if not app_first:
        starts[1] = (at, app_mb * ALIGN)
        at += app_mb * ALIGN
    with open(path, "wb") as file:
        file.truncate((at + ALIGN) * SECTOR)
    names = dict(enumerate((app_name,) + SMALL, start=1))
    lines = ["label: gpt", "first-lba: 34"]
    for number in sorted(starts):
        lines.append(
            "{}{} : start={}, size={}, type={}, name={}".format(
                path, number, starts[number][0], starts[number][1], LINUX, names[number]
            )
        )
    run("sfdisk", "-q", path, input="\n".join(lines).encode())
    offset = starts[1][0] * SECTOR
    run(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-d",
        tree,
        "-E",
        "offset={}".format(offset),
        path,
        "{}M".format(app_mb),
    )
    return path, offset
