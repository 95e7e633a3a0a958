"""A PC that is not there, with a camera that can be pulled: Debian's kernel under qemu, with its driver vivid.

It has no disk. Its root is this machine's, read only (9p), under a layer of memory that takes what it writes; so
the program runs in it from this working tree, with this machine's Python and GStreamer. Between the two lies a
layer with the kernel's modules and udev, which names cameras. It has no network but its own loopback.
"""

import gzip
import os
import shutil
import subprocess

import trees
from box.boxes import apt_sources, suite_here
from needs import require

KERNEL = "linux-image-amd64"
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
PROGRAMS = "qemu-system-x86_64 cpio depmod modprobe dpkg-deb apt-get".split()
APT = "apt install qemu-system-x86 cpio kmod"
TOP = trees.WORK.parent.parent
# KVM is not asked for: nested, as in a CI runner, /dev/kvm may be there and hang.
_QEMU = "qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -m 3G -smp 2 -nic none -display none"
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for one in $(cat /modules/list); do insmod /modules/$one; done
ip link set lo up
options=trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro
mount -t 9p -o $options machine /machine
mount -t 9p -o $options layer /layer
mount -t tmpfs tmpfs /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/layer:/machine,upperdir=/memory/upper,workdir=/memory/work root /new
for one in proc sys dev; do mount --rbind /$one /new/$one; done
for one in tmp run; do mount -t tmpfs tmpfs /new/$one; done
chroot /new /usr/bin/env -i HOME=/root LANG=C.UTF-8 TMPDIR=/tmp PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
  sh -c "$(cat /command)" >/dev/ttyS1 2>&1
poweroff -f
"""


def require_vm():
    """Skip (or fail, under EDGE_APP_CI=1) where no such machine can be emulated."""
    require(
        os.uname().machine == "x86_64", "an x86-64 machine (the emulated one uses its programs)"
    )
    require(os.geteuid() == 0, "root (the machine's root file system is this one's)")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    require(not missing, "{} ({})".format(" ".join(missing), APT))
    require(apt_sources(), "Debian's package sources in apt (kernel and udev are Debian's)")


def run(command, folder, timeout_s):
    """Boot, run a line of shell as root, power off; returns what it wrote.

    Raises:
        subprocess.TimeoutExpired: it was not done by then; folder/console.log and output.log say how far it came.
    """
    files = _boot_files()
    initrd = os.path.join(str(folder), "initrd.gz")
    with open(initrd, "wb") as file:
        file.write((files / "initrd.gz").read_bytes() + _packed_command(command, folder))
    words = ["nice", "-n", "10", "setpriv", "--pdeathsig", "KILL"] + _QEMU.split()
    words += ["-kernel", str(files / "vmlinuz"), "-initrd", initrd]
    words += ["-append", "console=ttyS0 quiet panic=-1", "-no-reboot", "-monitor", "none"]
    words += ["-device", "virtio-rng-pci"]
    for name in ("console", "output"):
        words += ["-serial", "file:{}/{}.log".format(folder, name)]
    for tag, path in (("machine", "/"), ("layer", files / "layer")):
        share = "local,path={},mount_tag={},security_model=none,readonly=on,multidevs=remap"
        words += ["-virtfs", share.format(path, tag)]
    subprocess.run(words, stdin=subprocess.DEVNULL, timeout=timeout_s, check=True)
    with open("{}/output.log".format(folder), errors="replace") as file:
        return file.read()


def _packed_command(command, folder):
    """A second archive behind the initrd's, which the kernel unpacks over the first."""
    path = os.path.join(str(folder), "command")
    with open(path, "w") as file:
        file.write(command)
    return _packed(str(folder), "command")


def _boot_files():
    """Folder with vmlinuz, initrd.gz and the layer; made at the first call."""
    folder = trees.WORK / "kernel-amd64-{}".format(suite_here())
    return trees.made_once(folder, _fetch, _make_layer, _make_initrd)


def _fetch(folder):
    """Kernel, udev and a shell for the initrd, as packages that are only unpacked."""
    depends = _run("apt-cache", "depends", KERNEL)
    name = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    unsandboxed = ["-q", "-o", "APT::Sandbox::User=root"]
    _run("apt-get", *unsandboxed, "download", name, "udev", "busybox-static", cwd=str(folder))
    for place in ("linux-image", "udev", "busybox-static"):
        package = next(folder.glob(place + "*.deb"))
        _run("dpkg-deb", "-x", str(package), str(folder / place))
        package.unlink()


def _make_layer(folder):
    """Modules and udev below usr, since in this machine's root /lib and /bin may be links to there."""
    layer = folder / "layer" / "usr"
    layer.mkdir(parents=True)
    for place in ("udev/lib", "udev/bin", "linux-image/lib"):
        _run("cp", "-a", str(folder / place), str(layer))
    _run("depmod", "-b", str(layer), next((layer / "lib" / "modules").iterdir()).name)


def _make_initrd(folder):
    layer, tree = folder / "layer" / "usr", folder / "initrd"
    version = next((layer / "lib" / "modules").iterdir()).name
    for name in "bin modules proc sys dev machine layer memory new".split():
        (tree / name).mkdir(parents=True)
    shutil.copy(str(folder / "busybox-static" / "bin" / "busybox"), str(tree / "bin"))
    trees.copy_modules(layer, version, MODULES, tree / "modules")
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    names = [str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))]
    (folder / "initrd.gz").write_bytes(_packed(str(tree), *names))
    shutil.copy(
        str(next((folder / "linux-image" / "boot").glob("vmlinuz-*"))), str(folder / "vmlinuz")
    )
    shutil.rmtree(str(folder / "linux-image"))


def _packed(folder, *names):
    """Files as a compressed archive of the kind that the kernel unpacks."""
    done = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=folder,
        input="\n".join(names).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return gzip.compress(done.stdout, 1)


def _run(*command, cwd=None):
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    if done.returncode:
        raise RuntimeError("{} failed: {}".format(command[0], done.stdout[-2000:]))
    return done.stdout
