#!/usr/bin/env python3
"""Puts a release into a copy of NVIDIA's SD-card image for the Jetson Nano, without a Nano.

    python3 -m deploy.image BASE --release edge-app-....tar --key ~/.ssh/id_ed25519.pub --out edge.img
    (make image BASE=... [RELEASE=...] [KEY=...] [USER_NAME=...] [IMG=...])

BASE is what NVIDIA gives for download (jetson-nano-...-sd-card-image.zip, or the .img in it) and stays as it is.
The copy gets: the release; a unit that at the first boot makes host keys, a user who logs in with the given key
and nothing else, a host name from the serial number, the root file system as large as the card, swap, packages
and pycuda from the internet (make provision's script), and the running service; and no questions of NVIDIA's first-boot wizard.

Needs root (it mounts the root file system of the copy, in a mount namespace of its own: whatever happens, nothing
stays mounted). Exit status: 0 done; 64 refused or failed, with the reason; nothing is left of the copy then.

Tried on images in NVIDIA's layout with a Debian root file system, booted on an emulated Cortex-A57; not on a Nano.
"""

import argparse
import contextlib
import ctypes
import os
import pwd
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from typing import NamedTuple, Optional

from deploy.archive import ArchiveError, Release, read_release
from deploy.image_file import PIECE_BYTES, ImageError, ImageFile
from deploy.image_layout import LayoutError, Partition, holds_ext4, read_partitions
from deploy.image_progress import Progress, in_words

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELEASES = os.path.join(ROOT, "build", "release")
TARGET = "cp36-aarch64"  # of a Nano
REFUSED = 64
CLONE_NEWNS = 0x00020000
ROOM_BYTES = 16 << 20  # left free in the root file system, besides the release
FIRST_BOOT = "/opt/edge-app/first-boot"
UNIT = "edge-app-first-boot.service"
# What each board calls itself, and the revisions of release 32 that our program has a TensorRT for.
BOARD, L4T, REVISIONS = "t210ref", "32", ("6", "7")
AARCH64 = 183  # e_machine of its programs
# What first-boot.sh and activate.sh call, besides what every system has.
TOOLS = "sfdisk partx resize2fs useradd usermod ssh-keygen mkswap fallocate flock runuser".split()
SSHD_LINES = """\
# edge-app: keys only. The first line of a setting counts, so these stand before all others.
PasswordAuthentication no
ChallengeResponseAuthentication no

"""


class ImageRefused(Exception):
    """No image was made; the message says why and what to do."""


class Wanted(NamedTuple):
    """What the image is to be."""

    base: str
    release: str
    key: str
    user: str
    out: str
    desktop: bool
    license_accepted: bool
    offline: bool


class System:
    """The root file system of a device, mounted somewhere here. Paths are those of the device.

    Its links are followed as the device would, so that nothing is read or written outside.
    """

    def __init__(self, folder: str):
        self.folder = os.path.realpath(folder)

    def place(self, path: str) -> str:
        """Where a path of the device lies here, links followed."""
        todo, done, links = [part for part in path.split("/") if part], [], 0
        while todo:
            part = todo.pop(0)
            if part in (".", ".."):
                done = done[:-1] if part == ".." else done
                continue
            here = os.path.join(self.folder, *(done + [part]))
            if not os.path.islink(here):
                done.append(part)
                continue
            links += 1
            if links > 40:
                raise ImageRefused("{}: too many links in the root file system".format(path))
            target = os.readlink(here)
            done = [] if target.startswith("/") else done
            todo = [one for one in target.split("/") if one] + todo
        return os.path.join(self.folder, *done)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder on the device."""
        return os.path.exists(self.place(path))

    def read(self, path: str) -> Optional[str]:
        """Text of a file, or None where there is none."""
        try:
            with open(self.place(path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, owned by root, and the folders on the way to it."""
        place = self._make_way(path)
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(place, mode)

    def copy(self, source: str, path: str, mode: int = 0o644) -> None:
        """Copy a file of this machine, owned by root there."""
        place = self._make_way(path)
        shutil.copyfile(source, place)
        os.chmod(place, mode)

    def link(self, path: str, target: str) -> None:
        """Make ``path`` a link to ``target``, whatever it was; its folder's links are followed, not its own."""
        folder, name = os.path.split(path)
        place = os.path.join(self.place(folder), name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.lexists(place):
            os.unlink(place)
        os.symlink(target, place)

    def link_target(self, path: str) -> str:
        """What a link points to; empty where it is none."""
        folder, name = os.path.split(path)
        place = os.path.join(self.place(folder), name)
        return os.readlink(place) if os.path.islink(place) else ""

    def _make_way(self, path: str) -> str:
        place = self.place(path)
        missing, folder = [], os.path.dirname(place)
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            os.mkdir(folder)
            os.chmod(folder, 0o755)
        return place


def make(wanted: Wanted) -> None:
    """Make the image: copy, look, put in, close, and only then give it its name."""
    if not wanted.base:
        raise ImageRefused("BASE=... is missing: NVIDIA's SD-card image, the .zip or the .img in it.")
    _check_machine()
    key = read_key(wanted.key)
    check_user(wanted.user)
    release = read_release(wanted.release)
    half_made = wanted.out + ".part"
    if os.path.realpath(wanted.out) == os.path.realpath(wanted.base):
        raise ImageRefused("OUT is BASE: name another file, the base stays as it is.")
    try:
        copy_base(wanted.base, half_made)
        app = find_app(half_made)
        own_mounts()
        with mounted(half_made, app) as folder:
            system = System(folder)
            check_system(system)
            check_names(system, wanted.user)
            check_release(system, release)
            check_room(folder, os.path.getsize(release.path))
            check_license(system, wanted.license_accepted)
            put_in(system, wanted, key)
        _run("e2fsck", "-f", "-n", "{}?offset={}".format(half_made, app.offset_bytes))
        _sync(half_made)
        os.replace(half_made, wanted.out)
        _sync(os.path.dirname(os.path.abspath(wanted.out)))
    finally:
        if os.path.exists(half_made):
            os.unlink(half_made)
    _hand_over(wanted.out)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise ImageRefused("Mounting the image needs root: run it with sudo.")
    missing = [
        name for name in ("mount", "umount", "e2fsck", "ssh-keygen") if not shutil.which(name)
    ]
    if missing:
        raise ImageRefused(
            "Missing here: {}. apt install mount e2fsprogs openssh-client".format(
                ", ".join(missing)
            )
        )


def newest_release(folder: str) -> str:
    """The release for the Nano that was built last.

    Raises:
        ImageRefused: none was built yet.
    """
    ending = "-{}.tar".format(TARGET)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if name.endswith(ending)]
    if not paths:
        raise ImageRefused(
            "{} has no release for a Nano (edge-app-NAME{}): make release TARGETS={} builds it; "
            "RELEASE names another one.".format(os.path.relpath(folder), ending, TARGET)
        )
    return max(paths, key=os.path.getmtime)


def read_key(path: str) -> str:
    """The public key in a file, one line.

    Raises:
        ImageRefused: it is missing, or private, or no key.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise ImageRefused(
            "{}: {}. Without a key nobody can log in to the device: ssh-keygen -t ed25519 makes one.".format(
                path, error.strerror
            )
        ) from error
    if "PRIVATE KEY" in text:
        raise ImageRefused("{} is a private key. Give the public one, {}.pub.".format(path, path))
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")
    ]
    known = subprocess.run(
        ["ssh-keygen", "-l", "-f", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if len(lines) != 1 or known.returncode:
        raise ImageRefused("{} is not one public ssh key.".format(path))
    return lines[0]


def check_user(name: str) -> None:
    """Refuse a name that is no user's or belongs to the system."""
    if not re.match(r"[a-z][a-z0-9-]{0,30}$", name) or name in ("root", "edge-app"):
        raise ImageRefused(
            "{!r} cannot be the user: small letters, digits and -, not root and not edge-app.".format(
                name
            )
        )


def check_names(system: System, user: str) -> None:
    """Refuse a user whose name the image has for itself: useradd would fail there, or nobody could log in."""
    for path in ("/etc/passwd", "/etc/group"):
        names = [line.split(":")[0] for line in (system.read(path) or "").splitlines()]
        if user in names:
            raise ImageRefused(
                "{!r} stands in {} of the image and cannot be the user: USER_NAME=... names another.".format(
                    user, path
                )
            )


def copy_base(base: str, path: str) -> None:
    """Unpack or copy the base to ``path``; stretches of zeros take no room there."""
    with ImageFile(base) as image:
        size = image.measure(
            Progress("Checking {}:".format(base), None, sys.stdout) if image.packed else None
        )
        room = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        if room < size:
            raise ImageRefused(
                "{} needs {} and there are {} left: free some room or give OUT elsewhere.".format(
                    path, in_words(size), in_words(room)
                )
            )
        progress, done = Progress("Copying", size, sys.stdout), 0
        with open(path, "wb") as copy:
            for piece in image.pieces():
                if piece.count(0) == len(piece):
                    copy.seek(len(piece), os.SEEK_CUR)
                else:
                    copy.write(piece)
                done += len(piece)
                progress(done)
            copy.truncate(done)


def find_app(path: str) -> Partition:
    """The partition with the root file system.

    Raises:
        ImageRefused: the image is not laid out as NVIDIA's.
    """
    try:
        partitions = read_partitions(path)
    except LayoutError as error:
        raise ImageRefused("{}: this is not NVIDIA's SD-card image.".format(error)) from error
    found = [one for one in partitions if one.name == "APP"]
    if len(found) != 1:
        names = ", ".join(one.name or "(no name)" for one in partitions) or "none"
        raise ImageRefused(
            "BASE has {} partitions called APP; its partitions: {}. "
            "This is not NVIDIA's SD-card image.".format(len(found) or "no", names)
        )
    if not holds_ext4(path, found[0]):
        raise ImageRefused("APP holds no ext4 file system. This is not NVIDIA's SD-card image.")
    return found[0]


def own_mounts() -> None:
    """Leave the mounts of this machine: what is mounted from here on ends with this process at the latest."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise ImageRefused(
            "No mount namespace of its own: {}.".format(os.strerror(ctypes.get_errno()))
        )
    _run("mount", "--make-rprivate", "/")


@contextlib.contextmanager
def mounted(path: str, partition: Partition):
    """A folder with the file system of a partition of an image; written out and unmounted at the end."""
    options = "loop,offset={},sizelimit={},nodev,nosuid,noexec".format(
        partition.offset_bytes, partition.size_bytes
    )
    with tempfile.TemporaryDirectory(prefix="edge-app-image-") as folder:
        _run("mount", "-t", "ext4", "-o", options, path, folder)
        try:
            yield folder
        finally:
            _run("umount", folder)


def check_system(system: System) -> None:
    """Refuse a root file system that is not L4T for the Nano, of a release we know.

    The file reads: # R32 (release), REVISION: 7.1, GCID: ..., BOARD: t210ref, EABI: aarch64, DATE: ...
    """
    text = system.read("/etc/nv_tegra_release")
    if text is None:
        about = system.read("/etc/os-release") or ""
        name = re.search(r'^PRETTY_NAME="?([^"\n]*)', about, re.MULTILINE)
        raise ImageRefused(
            "APP has no /etc/nv_tegra_release: it holds {}, not NVIDIA's L4T.".format(
                name.group(1) if name else "an unknown system"
            )
        )
    seen = text.split("\n")[0].strip()
    found = re.match(r"# R(\d+) \(release\), REVISION: (\d+)(?:\.\d+)*, .*BOARD: (\w+)", seen)
    if not found or found.groups() not in [(L4T, one, BOARD) for one in REVISIONS]:
        raise ImageRefused(
            "APP holds L4T that this was not made for: {!r}. It takes L4T 32.6 and 32.7 (JetPack 4.6) for the "
            "Nano, board {}; other Jetsons are set up by make provision and make deploy.".format(
                seen, BOARD
            )
        )
    if not system.exists("/etc/ssh/sshd_config"):
        raise ImageRefused("APP has no sshd: nobody could log in to the device.")
    folders = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
    missing = [
        name
        for name in TOOLS
        if not any(system.exists("{}/{}".format(folder, name)) for folder in folders)
    ]
    if missing:
        raise ImageRefused(
            "APP lacks what the first boot needs: {}. Is it NVIDIA's image, whole?".format(
                ", ".join(missing)
            )
        )
    if system.exists(FIRST_BOOT):
        raise ImageRefused("BASE has been through this before: start from NVIDIA's image.")


def check_release(system: System, release: Release) -> None:
    """Refuse a release for another Python or machine than the root file system has."""
    python = os.path.basename(system.place("/usr/bin/python3"))
    machine = _machine_of(system.place("/usr/bin/python3"))
    version, _, wanted = release.target[len("cp") :].partition("-")
    wanted_python = "python{}.{}".format(version[0], version[1:])
    if python != wanted_python or machine != wanted:
        raise ImageRefused(
            "{} is for {} on {}, the device has {} on {}. make release builds others.".format(
                release.path, wanted_python, wanted, python, machine
            )
        )


def _machine_of(program: str) -> str:
    """The machine of an ELF program, as ``uname -m`` names it."""
    try:
        with open(program, "rb") as file:
            start = file.read(20)
    except OSError:
        return "no machine known"
    if start[:4] != b"\x7fELF":
        return "no machine known"
    number = struct.unpack_from("<H", start, 18)[0]
    return {AARCH64: "aarch64", 62: "x86_64"}.get(number, "machine {}".format(number))


def check_room(folder: str, size: int) -> None:
    """Refuse a root file system that has no room for ``size`` bytes and some."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < size + ROOM_BYTES:
        raise ImageRefused(
            "APP has {} free and needs {}: its file system must be made larger first.".format(
                in_words(free), in_words(size + ROOM_BYTES)
            )
        )


def check_license(system: System, accepted: bool) -> None:
    """The wizard that is skipped shows NVIDIA's licence; whoever makes the image accepts it in its place."""
    if not system.exists("/usr/lib/nvidia/license") or accepted:
        return
    raise ImageRefused(
        "The wizard that this image skips asks to accept NVIDIA's licence of L4T (Tegra Software License "
        "Agreement, on NVIDIA's download page). If you accept it for these devices: ACCEPT_LICENSE=1 "
        "(--accept-license)."
    )


def put_in(system: System, wanted: Wanted, key: str) -> None:
    """Everything that makes the copy ours."""
    deploy = os.path.join(ROOT, "deploy")
    system.copy(os.path.join(deploy, "first-boot.sh"), FIRST_BOOT + "/first-boot.sh", 0o755)
    system.copy(wanted.release, FIRST_BOOT + "/release.tar")
    system.copy(os.path.join(deploy, "provision.sh"), FIRST_BOOT + "/provision.sh", 0o755)
    if wanted.offline:
        system.write(FIRST_BOOT + "/offline", "")
    system.write(FIRST_BOOT + "/authorized_keys", key + "\n")
    system.write(FIRST_BOOT + "/user", wanted.user + "\n")
    units = "/etc/systemd/system"
    system.copy(os.path.join(deploy, "first-boot.service"), "{}/{}".format(units, UNIT))
    system.link("{}/multi-user.target.wants/{}".format(units, UNIT), "{}/{}".format(units, UNIT))
    # L4T starts into nv-oem-config.target, which conflicts with multi-user.target and with it with sshd.
    target = "graphical.target" if wanted.desktop else "multi-user.target"
    system.link(units + "/default.target", "/lib/systemd/system/" + target)
    system.write("/etc/ssh/sshd_config", SSHD_LINES + (system.read("/etc/ssh/sshd_config") or ""))
    # Nothing that is secret or unique may be the same on every card.
    folder = system.place("/etc/ssh")
    for name in os.listdir(folder):
        if name.startswith("ssh_host_"):
            os.unlink(os.path.join(folder, name))
    if system.exists("/etc/machine-id"):
        system.write(
            "/etc/machine-id", "", 0o444
        )  # empty, not missing: missing would reset every unit


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: str) -> None:
    """Make the folder of the image, and those on the way to it, for whoever asked for it."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(missing):
        os.mkdir(one)
        _hand_over(one)


def _hand_over(path: str) -> None:
    """Under sudo, what is made belongs to whoever asked for it."""
    if os.environ.get("SUDO_UID", "").isdigit() and os.environ.get("SUDO_GID", "").isdigit():
        os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()[-1000:]
        raise ImageRefused("{} failed: {}".format(command[0], said))


def usual_key() -> str:
    """The public key of whoever asks, also through sudo."""
    user = os.environ.get("SUDO_USER")
    home = pwd.getpwnam(user).pw_dir if user else os.path.expanduser("~")
    names = [
        os.path.join(home, ".ssh", name)
        for name in ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")
    ]
    return next((name for name in names if os.path.exists(name)), names[0])


def main(arguments=None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="deploy.image", description="Puts a release into a copy of NVIDIA's SD-card image."
    )
    parser.add_argument("base", help="NVIDIA's image: the .zip, or the .img in it")
    parser.add_argument(
        "--release", default="", help="archive made by make release; default: the newest for a Nano"
    )
    parser.add_argument("--key", default=usual_key(), help="public ssh key of who may log in")
    parser.add_argument("--user", default="nano", help="who logs in; default: nano")
    parser.add_argument("--out", default="out/edge-app-sd.img", help="default: out/edge-app-sd.img")
    parser.add_argument(
        "--desktop", action="store_true", help="start the desktop, which takes 0.8 GB"
    )
    parser.add_argument(
        "--accept-license", action="store_true", help="accept NVIDIA's licence of L4T"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="no packages and no pycuda from the internet at the first boot: BASE has them",
    )
    options = parser.parse_args(arguments)
    wanted = Wanted(
        options.base,
        options.release,
        options.key,
        options.user,
        options.out,
        options.desktop,
        options.accept_license,
        options.offline,
    )
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _stop)
    try:
        if wanted.base and not wanted.release:
            wanted = wanted._replace(release=newest_release(RELEASES))
            print("Release: {}".format(os.path.relpath(wanted.release)))
        make_folder(os.path.dirname(os.path.abspath(wanted.out)))
        make(wanted)
    except (ImageRefused, ImageError, ArchiveError) as error:
        print("image: {}".format(error), file=sys.stderr)
        return REFUSED
    except OSError as error:
        print("image: {}: {}".format(error.filename or "writing", error.strerror), file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("\nimage: stopped, nothing is left of the copy.", file=sys.stderr)
        return 130
    print(
        "{}: ready. sudo make flash IMG={} DEVICE=/dev/sdX writes it to a card.".format(
            wanted.out, wanted.out
        )
    )
    return 0


def _stop(_number, _frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
