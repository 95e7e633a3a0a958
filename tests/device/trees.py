"""What an emulated device is made of: a Debian root tree for aarch64, and a kernel with a small initrd.

Both are made once and kept below build/device. The tree is unpacked under qemu-user; the kernel comes as a package
and is only unpacked, and the initrd is put together here: building one in the tree under emulation takes for ever.
"""

import gzip
import hashlib
import os
import pathlib
import shutil
import subprocess

from box.boxes import apt_sources, locked, suite_here
from needs import require

WORK = pathlib.Path(__file__).resolve().parent.parent.parent / "build" / "device"
# What L4T has of what the first boot and the program use, in Debian's names.
PACKAGES = (
    "systemd systemd-sysv dbus udev openssh-server python3 python3-venv sudo procps iproute2 netbase kmod "
    "util-linux fdisk e2fsprogs libgomp1 passwd"
).split()
KERNEL = "linux-image-cloud-arm64"
MODULES = ("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "ext4")
PROGRAMS = "mmdebstrap qemu-system-aarch64 qemu-aarch64-static update-binfmts sfdisk mke2fs debugfs cpio".split()
PROGRAMS += "depmod dpkg-deb fdtput unshare".split()
APT = (
    "apt install qemu-system-arm ipxe-qemu qemu-user-static binfmt-support mmdebstrap fdisk e2fsprogs cpio kmod "
    "device-tree-compiler openssh-client"
)
_LEFT_OUT = ("man", "doc", "locale")  # of /usr/share
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for one in $(/bin/busybox cat /modules/list); do /bin/busybox insmod /modules/$one; done
for one in $(/bin/busybox cat /proc/cmdline); do
  case $one in root=*) root=${one#root=} ;; esac
done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b $root ] && break; /bin/busybox sleep 0.2; done
/bin/busybox mount -t ext4 $root /new && exec /bin/busybox switch_root /new /sbin/init
exec /bin/busybox sh
"""


def require_machines():
    """Skip (or fail, under EDGE_APP_CI=1) where no device can be emulated."""
    require(os.geteuid() == 0, "root (images are mounted by root)")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    require(not missing, "{} ({})".format(" ".join(missing), APT))
    require(apt_sources(), "Debian's package sources in apt (devices are made of Debian packages)")


def root_tree():
    """A root tree for aarch64, made at the first call (three minutes on an idle machine); read only, please."""
    suite, sources = suite_here(), apt_sources()
    recipe = "\n".join([suite, "1"] + sorted(PACKAGES))
    tree = WORK / "trees" / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    with locked(tree.with_suffix(".lock")):
        if not tree.exists():
            _run("update-binfmts", "--enable", "qemu-aarch64", check=False)
            half_made = tree.with_suffix(".partial")
            shutil.rmtree(str(half_made), ignore_errors=True)
            command = (
                "nice -n 10 unshare --mount --propagation private mmdebstrap --arch=arm64".split()
            )
            command += ["--variant=minbase", "--mode=root", "--include=" + ",".join(PACKAGES)]
            command += ['--aptopt=Acquire::Languages "none"']
            command += ["--dpkgopt=path-exclude=/usr/share/{}/*".format(one) for one in _LEFT_OUT]
            _run(*(command + [suite, str(half_made)] + sources))
            half_made.rename(tree)
    return tree


def made_once(folder, *steps):
    """``folder``, which the first call lets ``steps`` fill one after the other; whole or not at all."""
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            half_made = folder.with_suffix(".partial")
            shutil.rmtree(str(half_made), ignore_errors=True)
            half_made.mkdir(parents=True)
            for step in steps:
                step(half_made)
            half_made.rename(folder)
    return folder


def kernel():
    """Paths of a kernel, its initrd and its modules' folder."""
    folder = made_once(WORK / "kernel-{}".format(suite_here()), _fetch_kernel, _make_initrd)
    modules = next((folder / "kernel" / "lib" / "modules").iterdir())
    return folder / "vmlinuz", folder / "initrd.gz", modules


def _fetch_kernel(folder):
    """The packages of the kernel and of a shell for the initrd, by apt with lists of its own."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text("\n".join(apt_sources()) + "\n")
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::State::status": "/dev/null",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    options = ["-q"]
    for name, value in settings.items():
        options += ["-o", "{}={}".format(name, value)]
    _run("apt-get", *(options + ["update"]))
    depends = _run("apt-cache", *(options + ["depends", KERNEL]))
    name = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    _run("apt-get", *(options + ["download", name, "busybox-static"]), cwd=str(folder))
    for package, place in (("linux-image-*.deb", "kernel"), ("busybox-static_*.deb", "busybox")):
        _run("dpkg-deb", "-x", str(next(folder.glob(package))), str(folder / place))


def copy_modules(root, version, modules, folder, check=True):
    """A kernel's modules and what they need, with a list of their files in the order to load them.

    Args:
        root: below which lib/modules/version lies. modules: names. folder: to copy into.
        check: a module that the kernel lacks is an error.
    """
    files = []
    for module in modules:
        said = _run("modprobe", "-D", "-d", str(root), "-S", version, module, check=check)
        found = [line.split()[1] for line in said.splitlines() if line.startswith("insmod")]
        files += [one for one in found if one not in files]
    for one in files:
        shutil.copy(one, str(folder))
    names = [os.path.basename(one) for one in files]
    (folder / "list").write_text("\n".join(names) + "\n")


def _make_initrd(folder):
    root, version = folder / "kernel", next((folder / "kernel" / "lib" / "modules").iterdir()).name
    _run("depmod", "-b", str(root), version)
    tree = folder / "initrd"
    for name in ("bin", "modules", "proc", "sys", "dev", "new"):
        (tree / name).mkdir(parents=True)
    shutil.copy(str(folder / "busybox" / "bin" / "busybox"), str(tree / "bin"))
    copy_modules(root, version, MODULES, tree / "modules", check=False)
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    listing = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=str(tree),
        input=listing.encode(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    (folder / "initrd.gz").write_bytes(gzip.compress(packed, 1))
    shutil.copy(str(next((root / "boot").glob("vmlinuz-*"))), str(folder / "vmlinuz"))


def _run(*command, check=True, cwd=None):
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    if check and done.returncode:
        raise RuntimeError("{} failed: {}".format(command[0], done.stdout[-2000:]))
    return done.stdout
