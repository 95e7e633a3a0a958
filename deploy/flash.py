#!/usr/bin/env python3
"""Writes an image to an SD card and proves that it is there.

    python3 -m deploy.flash IMAGE DEVICE [--yes]          (make flash IMG=... DEVICE=/dev/sdX)

It refuses everything but a whole, removable, unused block device that is large enough, asks before it writes,
and compares the card with the image afterwards, past all caches. The first megabytes, with the partition
table, are written last: a card whose writing was interrupted does not start half a system.

Python 3.6 or later on Linux, nothing to install. Exit status: 0 written and the same; 64 refused, nothing was
written; 74 writing or comparing failed, the card is not usable; 130 stopped before the
first byte.
"""

import argparse
import errno
import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys

from deploy.image_file import PIECE_BYTES, ImageError, ImageFile
from deploy.image_progress import Progress, in_words

REFUSED, FAILED, INTERRUPTED = 64, 74, 130
BLKRRPART, BLKGETSIZE64, BLKFLSBUF = 0x125F, 0x80081272, 0x1261
SYNC_EVERY = 8  # pieces, so that the progress shown is the card's and not the memory's
TAIL_BYTES = 1 << 20  # of a larger card: where an older partition table kept its copy


class Refused(Exception):
    """Nothing was written; the message says why and what to do."""


class CardFailed(Exception):
    """The card could not be written or does not hold what was written."""


class Disk:
    """What the kernel says of a block device.

    Args:
        path: for instance /dev/sdb.
        sys: where sysfs is mounted.

    Raises:
        Refused: it is no whole block device.
    """

    def __init__(self, path, sys="/sys"):
        self.path = os.path.realpath(path)
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise Refused(
                "{}: {}. 'lsblk' lists the disks.".format(path, error.strerror)
            ) from error
        if not stat.S_ISBLK(status.st_mode):
            raise Refused("{} is not a block device. 'lsblk' lists the disks.".format(path))
        number = "{}:{}".format(os.major(status.st_rdev), os.minor(status.st_rdev))
        self.number = number
        self._sys = sys
        self._folder = os.path.realpath(os.path.join(sys, "dev", "block", number))
        self.name = os.path.basename(self._folder)
        if self._says("partition") is not None:
            whole = os.path.basename(os.path.dirname(self._folder))
            raise Refused(
                "{} is a partition: name the whole card, /dev/{}.".format(self.path, whole)
            )

    @property
    def size_bytes(self):
        """Its size; 0 where the reader is empty."""
        return 512 * int(self._says("size") or 0)

    @property
    def read_only(self):
        """Whether the write-protect switch is set."""
        return self._says("ro") == "1"

    @property
    def removable(self):
        """Whether it is a card or stick: a built-in SD reader says "SD", a USB reader that it is removable."""
        return self._says("removable") == "1" or self._says("device", "type") == "SD"

    @property
    def model(self):
        """Maker and model, as far as it says."""
        words = [self._says("device", name) for name in ("vendor", "model", "name")]
        return " ".join(word for word in words if word) or "no model named"

    def numbers(self):
        """Device numbers ("8:16") of itself, its partitions, and everything built upon them."""
        found = {}
        self._collect(self._folder, found)
        return found

    def _collect(self, folder, found):
        with open(os.path.join(folder, "dev")) as file:
            found[file.read().strip()] = os.path.basename(folder)
        for name in sorted(os.listdir(folder)):
            inner = os.path.join(folder, name)
            if os.path.exists(os.path.join(inner, "partition")):
                self._collect(inner, found)
        holders = os.path.join(folder, "holders")
        for name in sorted(os.listdir(holders)) if os.path.isdir(holders) else ():
            self._collect(os.path.realpath(os.path.join(holders, name)), found)

    def _says(self, *names):
        try:
            with open(os.path.join(self._folder, *names)) as file:
                return file.read().strip()
        except OSError:
            return None


def users_of(disk, proc="/proc", sys="/sys"):
    """What uses a disk, its partitions or what is built upon them, in words; empty when nothing does."""
    found = disk.numbers()
    uses = []
    with open(os.path.join(proc, "self", "mountinfo")) as file:
        for line in file:
            fields = line.split()
            if fields[2] in found:
                uses.append("{} is mounted on {}".format(found[fields[2]], fields[4]))
    with open(os.path.join(proc, "swaps")) as file:
        for line in file.readlines()[1:]:
            name = os.path.basename(os.path.realpath(line.split()[0]))
            if name in found.values():
                uses.append("{} is used as swap".format(name))
    block = os.path.join(sys, "block")
    for name in sorted(os.listdir(block)):
        try:
            with open(os.path.join(block, name, "loop", "backing_file")) as file:
                backing = os.path.basename(file.read().strip())
        except OSError:
            continue
        if backing in found.values():
            uses.append("{} is open as {}".format(backing, name))
    uses += ["{} is part of {}".format(disk.name, name) for name in _built_upon(disk, found)]
    return uses


def _built_upon(disk, found):
    return [name for name in found.values() if not name.startswith(disk.name)]


def is_system_disk(disk):
    """Whether / lies on the disk, directly or through what is built upon it."""
    status = os.stat("/")
    number = "{}:{}".format(os.major(status.st_dev), os.minor(status.st_dev))
    return number in disk.numbers()


def check(disk, fixed_disk, image_bytes):
    """Refuse a disk that must not or cannot take the image.

    Args:
        disk: the ``Disk``.
        fixed_disk: the device named a second time by the option, or None.
        image_bytes: size of the image.
    """
    if is_system_disk(disk):
        raise Refused("{} is the disk this system runs from.".format(disk.path))
    if fixed_disk is not None and os.path.realpath(fixed_disk) != disk.path:
        raise Refused(
            "--allow-fixed-disk names {}, the device is {}.".format(fixed_disk, disk.path)
        )
    if not disk.removable and fixed_disk is None:
        raise Refused(
            "{} ({}, {}) is not removable. If it is the card all the same, name it twice: "
            "--allow-fixed-disk {}".format(
                disk.path, disk.model, in_words(disk.size_bytes), disk.path
            )
        )
    if disk.size_bytes == 0:
        raise Refused("{}: there is no card in the reader.".format(disk.path))
    uses = users_of(disk)
    if uses:
        raise Refused(
            "{} is in use: {}. Unmount it first (umount, swapoff, losetup -d).".format(
                disk.path, "; ".join(uses)
            )
        )
    if disk.read_only:
        raise Refused("{} is write-protected: look at the card's switch.".format(disk.path))
    if disk.size_bytes < image_bytes:
        raise Refused(
            "{} has {}, the image needs {}: take a larger card.".format(
                disk.path, in_words(disk.size_bytes), in_words(image_bytes)
            )
        )


class Card:
    """A block device opened for this program alone. Use with ``with``."""

    def __init__(self, path):
        self.path = path
        self.handle = None

    def __enter__(self):
        try:
            self.handle = os.open(self.path, os.O_RDWR | os.O_EXCL)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Refused(
                    "{} is in use by another program or mounted elsewhere: close it.".format(
                        self.path
                    )
                ) from error
            raise Refused("{}: {}.".format(self.path, error.strerror)) from error
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close the device; may be called twice."""
        handle, self.handle = self.handle, None
        if handle is not None:
            os.close(handle)

    @property
    def size_bytes(self):
        """Its size as the kernel's block layer has it."""
        answer = fcntl.ioctl(self.handle, BLKGETSIZE64, b"\0" * 8)
        return int.from_bytes(answer, sys.byteorder)

    def put(self, data, offset):
        """Write all of ``data`` at ``offset``."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.handle, view, offset)
            offset += written
            view = view[written:]

    def get(self, size, offset):
        """``size`` bytes from ``offset``."""
        parts = []
        while size:
            part = os.pread(self.handle, size, offset)
            if not part:
                raise OSError(errno.EIO, "the card ends too early")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def settle(self):
        """Return when everything written lies on the card."""
        os.fsync(self.handle)

    def forget(self):
        """Drop what the kernel keeps of the card in memory, so that the next read comes from the card."""
        os.fsync(self.handle)
        fcntl.ioctl(self.handle, BLKFLSBUF, 0)
        os.posix_fadvise(self.handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def show_partitions(self):
        """Let the kernel read the new partition table; it may not want to, which harms nothing."""
        try:
            fcntl.ioctl(self.handle, BLKRRPART, 0)
        except OSError:
            pass


def write(image, card, image_bytes, progress):
    """Write the image to the card, its first piece last.

    Returns:
        sha256 digests of its pieces, in order.
    """
    digests, first, done = [], None, 0
    try:
        card.put(b"\0" * min(PIECE_BYTES, card.size_bytes), 0)
        spare = card.size_bytes - image_bytes
        if spare > 0:
            tail = min(spare, TAIL_BYTES)
            card.put(b"\0" * tail, card.size_bytes - tail)
        for number, piece in enumerate(image.pieces()):
            if done + len(piece) > image_bytes:
                raise CardFailed("{} grew while it was read.".format(image.path))
            digests.append(hashlib.sha256(piece).digest())
            if number == 0:
                first = piece
            else:
                card.put(piece, number * PIECE_BYTES)
            done += len(piece)
            if number % SYNC_EVERY == 0:
                card.settle()
            progress(done)
        if done != image_bytes:
            raise CardFailed("{} became shorter while it was read.".format(image.path))
        card.settle()
        card.put(first, 0)
        card.settle()
    except KeyboardInterrupt:
        raise CardFailed("interrupted {} into the image.".format(in_words(done))) from None
    except ImageError as error:
        raise CardFailed("{} ({} were written)".format(error, in_words(done))) from error
    except OSError as error:
        raise CardFailed(
            "writing failed {} into the image: {}.".format(in_words(done), error.strerror)
        ) from error
    return digests


def compare(card, image_bytes, digests, progress):
    """Read the card past the kernel's memory and compare it with what was written.

    Raises:
        CardFailed: a piece differs or cannot be read; names the place.
    """
    try:
        card.forget()
        for number, digest in enumerate(digests):
            offset = number * PIECE_BYTES
            size = min(PIECE_BYTES, image_bytes - offset)
            if hashlib.sha256(card.get(size, offset)).digest() != digest:
                raise CardFailed(
                    "it does not hold what was written: bytes {} to {} differ.".format(
                        offset, offset + size - 1
                    )
                )
            progress(offset + size)
    except KeyboardInterrupt:
        raise CardFailed("the comparison was interrupted, nothing is proven.") from None
    except OSError as error:
        raise CardFailed("reading back failed: {}.".format(error.strerror)) from error


def ask(disk):
    """Refuse unless somebody at the keyboard types the name of the disk."""
    print("{}: {}, {}".format(disk.path, disk.model, in_words(disk.size_bytes)))
    try:
        command = ["lsblk", "-o", "NAME,SIZE,FSTYPE,LABEL,PARTLABEL", disk.path]
        listing = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20
        )
        sys.stdout.write(listing.stdout.decode("utf-8", "replace"))
    except (OSError, subprocess.TimeoutExpired):
        print("(no lsblk here to show what is on it)")
    print(
        "EVERYTHING on it will be lost. Type {} to write it, anything else to stop.".format(
            disk.name
        )
    )
    sys.stdout.flush()
    try:
        answer = input("> ")
    except EOFError:
        answer = ""
    if answer.strip() not in (disk.name, disk.path):
        raise Refused(
            "Stopped: {} was not confirmed, nothing was written (YES=1 skips the question).".format(
                disk.name
            )
        )


def flash(options):
    """All steps, from the look at the image to the comparison."""
    if os.geteuid() != 0:
        raise Refused("Writing to a device needs root: run it with sudo.")
    with ImageFile(options.image) as image:
        disk = Disk(options.device)
        check(disk, options.allow_fixed_disk, 0)  # before the image is read, which may take minutes
        seen = (
            Progress("Checking {}:".format(image.path), None, sys.stdout) if image.packed else None
        )
        image_bytes = image.measure(seen)
        check(disk, options.allow_fixed_disk, image_bytes)
        if not options.yes:
            ask(disk)
        with Card(disk.path) as card:
            digests = write(image, card, image_bytes, Progress("Writing", image_bytes, sys.stdout))
            compare(card, image_bytes, digests, Progress("Comparing", image_bytes, sys.stdout))
            card.show_partitions()
    print(
        "{} holds {}: {} written and compared. It can be taken out.".format(
            disk.path, options.image, in_words(image_bytes)
        )
    )


def main(arguments=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="deploy.flash", description="Writes an image to an SD card and compares it."
    )
    parser.add_argument("image", help=".img, .img.xz, .img.gz, or the .zip NVIDIA gives")
    parser.add_argument("device", help="the whole card, for instance /dev/sdb or /dev/mmcblk0")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--allow-fixed-disk",
        metavar="DEVICE",
        help="also a device that does not call itself removable; its name once more",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        flash(options)
    except (Refused, ImageError) as error:
        print("flash: {}".format(error), file=sys.stderr)
        return REFUSED
    except CardFailed as error:
        print("flash: {}: {}".format(options.device, error), file=sys.stderr)
        print("The card is NOT usable as it is: write it again, or take another.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nflash: interrupted, nothing was written.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _stop(_number, _frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
