"""deploy/flash.py on loop devices: what it refuses, what it writes, and that it sees a card that lies."""

import gzip
import lzma
import os
import signal
import subprocess
import sys
import zipfile

import pytest
from sdcard import MEGABYTE, loop_device, need_loop_devices, run

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CARD_BYTES = 24 * MEGABYTE


@pytest.fixture
def image(tmp_path):
    """A disk image of 10.5 MiB: a partition table, numbered noise, and zeros in the middle."""
    path = str(tmp_path / "sd.img")
    noise = os.urandom(16384)
    blocks = [number.to_bytes(4, "big") + noise[4:] for number in range(21 * 32)]
    disk = bytearray(b"".join(blocks))
    disk[510:512] = b"\x55\xaa"
    disk[5 * MEGABYTE : 7 * MEGABYTE] = bytes(2 * MEGABYTE)
    with open(path, "wb") as file:
        file.write(disk)
    return path


@pytest.fixture
def backing(tmp_path):
    """The file behind the card, full of an older card's data."""
    need_loop_devices()
    path = str(tmp_path / "card")
    with open(path, "wb") as file:
        file.write(b"\xee" * CARD_BYTES)
    return path


@pytest.fixture
def card(backing):
    """A loop device of 24 MiB."""
    with loop_device(backing) as name:
        yield name


@pytest.fixture
def flash(monkeypatch):
    """The module, in this process."""
    monkeypatch.syspath_prepend(ROOT)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    from deploy import flash as module

    yield module
    for one, handler in handlers.items():
        signal.signal(one, handler)


def write(image, device, *more, answer=None):
    """Run the program; returns (exit status, what it said)."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.flash", str(image), str(device)] + list(more),
        cwd=ROOT,
        input=answer or b"",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def write_fixed(image, device, *more, answer=None):
    """As ``write``, with leave to write to a disk that is not removable, as a loop device is."""
    return write(image, device, "--allow-fixed-disk", str(device), *more, answer=answer)


def bytes_of(path):
    with open(path, "rb") as file:
        return file.read()


def test_the_card_holds_the_image_and_nothing_older_behind_it(image, card, backing):
    status, said = write_fixed(image, card, "--yes")
    assert status == 0, said
    assert "written and compared" in said
    held, wanted = bytes_of(backing), bytes_of(image)
    assert held[: len(wanted)] == wanted
    assert held[-MEGABYTE:] == bytes(MEGABYTE)


@pytest.mark.parametrize("ending", ["xz", "gz", "zip"])
def test_packed_images(image, card, backing, tmp_path, ending):
    packed = str(tmp_path / ("packed." + ending))
    wanted = bytes_of(image)
    if ending == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(image, "sd-blob-b01.img")
            archive.writestr("readme.txt", "read me")
    else:
        opener = lzma.open if ending == "xz" else gzip.open
        options = {"preset": 0} if ending == "xz" else {"compresslevel": 1}
        with opener(packed, "wb", **options) as file:
            file.write(wanted)
    status, said = write_fixed(packed, card, "--yes")
    assert status == 0, said
    assert bytes_of(backing)[: len(wanted)] == wanted


def test_a_damaged_archive_is_refused_before_the_card_is_touched(image, card, backing, tmp_path):
    packed = str(tmp_path / "sd.img.xz")
    whole = lzma.compress(bytes_of(image), preset=0)
    with open(packed, "wb") as file:
        file.write(whole[: len(whole) // 2])
    status, said = write_fixed(packed, card, "--yes")
    assert status == 64
    assert "damaged or cut short" in said
    assert bytes_of(backing) == b"\xee" * CARD_BYTES


def test_a_zip_must_hold_one_image(card, tmp_path):
    packed = str(tmp_path / "two.zip")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.img", "a")
        archive.writestr("b.img", "b")
    status, said = write_fixed(packed, card, "--yes")
    assert status == 64
    assert "should hold one .img and holds 2: a.img, b.img" in said


def test_a_file_without_a_partition_table_is_no_image(card, tmp_path):
    wrong = tmp_path / "edge-app.tar"
    wrong.write_bytes(b"\x01" * 4096)
    status, said = write_fixed(wrong, card, "--yes")
    assert status == 64
    assert "no partition table" in said


def test_a_missing_image(card):
    status, said = write_fixed("/nowhere/sd.img", card, "--yes")
    assert status == 64
    assert "/nowhere/sd.img: there is no such image" in said


def test_what_is_no_disk_is_refused(image, tmp_path):
    need_loop_devices()
    (tmp_path / "file").write_bytes(b"precious")
    for device, words in (
        (tmp_path / "file", "is not a block device"),
        (tmp_path, "is not a block device"),
        ("/dev/null", "is not a block device"),
        ("/dev/no-such-card", "No such file"),
    ):
        status, said = write_fixed(image, device, "--yes")
        assert status == 64
        assert words in said
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_a_fixed_disk_needs_its_name_twice(image, card, backing):
    status, said = write(image, card, "--yes")
    assert status == 64
    assert "not removable" in said and "--allow-fixed-disk " + card in said
    status, said = write(image, card, "--yes", "--allow-fixed-disk", "/dev/loop63")
    assert status == 64
    assert "--allow-fixed-disk names /dev/loop63" in said
    assert bytes_of(backing) == b"\xee" * CARD_BYTES


def test_a_partition_is_refused_with_the_name_of_its_disk(image, card):
    run("sfdisk", "-q", card, input=b"label: gpt\nstart=2048,size=8192,name=APP\n")
    run("partx", "--add", card)
    try:
        status, said = write_fixed(image, card + "p1", "--yes")
    finally:
        run("partx", "--delete", card)
    assert status == 64
    assert "is a partition: name the whole card, {}.".format(card) in said


def test_a_mounted_card_is_refused(image, card, backing, tmp_path):
    run("mke2fs", "-q", "-F", card)
    folder = tmp_path / "mounted"
    folder.mkdir()
    run("mount", card, folder)
    try:
        before = bytes_of(backing)
        status, said = write_fixed(image, card, "--yes")
        assert bytes_of(backing) == before
    finally:
        run("umount", folder)
    assert status == 64
    assert "is mounted on {}".format(folder) in said


def test_a_mounted_partition_is_refused(image, card, tmp_path):
    run("sfdisk", "-q", card, input=b"label: gpt\nstart=2048,size=8192,name=APP\n")
    run("partx", "--add", card)
    folder = tmp_path / "mounted"
    folder.mkdir()
    try:
        run("mke2fs", "-q", "-F", card + "p1")
        run("mount", card + "p1", folder)
        try:
            status, said = write_fixed(image, card, "--yes")
        finally:
            run("umount", folder)
    finally:
        run("partx", "--delete", card)
    assert status == 64
    assert "{}p1 is mounted on".format(os.path.basename(card)) in said


def test_a_device_built_upon_the_card_is_seen(image, card):
    with loop_device(card) as upper:
        status, said = write_fixed(image, card, "--yes")
    assert status == 64
    assert "is open as {}".format(os.path.basename(upper)) in said


def test_a_card_that_is_swapped_to_is_seen(card, flash, tmp_path):
    """By a made-up /proc: swap is the whole machine's."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text("")
    line = "{} partition 1048572 0 -2\n"
    for device, uses in ((card, 1), ("/dev/zram77", 0)):
        (tmp_path / "swaps").write_text("Filename Type Size Used Priority\n" + line.format(device))
        found = flash.users_of(flash.Disk(card), proc=str(tmp_path))
        assert found == [os.path.basename(card) + " is used as swap"] * uses


def test_a_card_another_program_holds_is_refused(image, card):
    held = os.open(card, os.O_RDWR | os.O_EXCL)
    try:
        status, said = write_fixed(image, card, "--yes")
    finally:
        os.close(held)
    assert status == 64
    assert "in use by another program" in said


def test_a_card_that_is_too_small(image, tmp_path):
    need_loop_devices()
    small = tmp_path / "small"
    small.write_bytes(bytes(10 * MEGABYTE))
    with loop_device(small) as device:
        status, said = write_fixed(image, device, "--yes")
    assert status == 64
    assert "has 10.5 MB, the image needs 11.0 MB" in said


def test_a_write_protected_card(image, backing):
    name = run("losetup", "-f", "--show", "--read-only", backing).strip()
    try:
        status, said = write_fixed(image, name, "--yes")
    finally:
        run("losetup", "-d", name)
    assert status == 64
    assert "write-protected" in said


def test_the_disk_of_the_system_is_refused(image, flash, card, monkeypatch):
    disk = flash.Disk(card)
    assert not flash.is_system_disk(disk)
    real = os.stat

    def root_on_the_card(path, **options):
        status = real(path, **options)
        if path != "/":
            return status
        fields = list(status)
        fields[2] = real(card).st_rdev  # st_dev
        return os.stat_result(fields)

    monkeypatch.setattr(flash.os, "stat", root_on_the_card)
    with pytest.raises(flash.Refused, match="the disk this system runs from"):
        flash.check(disk, card, 0)


def test_nothing_is_written_without_a_yes(image, card, backing):
    for answer in (b"", b"y\n", b"yes\n", b"sda\n"):
        status, said = write_fixed(image, card, answer=answer)
        assert status == 64
        assert "EVERYTHING on it will be lost" in said and "nothing was written" in said
    assert bytes_of(backing) == b"\xee" * CARD_BYTES


def test_the_name_of_the_disk_is_the_yes(image, card, backing):
    status, said = write_fixed(image, card, answer=os.path.basename(card).encode() + b"\n")
    assert status == 0, said
    assert bytes_of(backing)[: 11 * MEGABYTE // 2] == bytes_of(image)[: 11 * MEGABYTE // 2]


@pytest.mark.parametrize("place", [0, 6 * MEGABYTE, 10 * MEGABYTE + MEGABYTE // 2 - 1])
def test_a_byte_that_changed_behind_the_kernels_back_is_found(
    image, card, backing, flash, monkeypatch, capsys, place
):
    forget = flash.Card.forget

    def corrupt(self):
        self.settle()
        with open(
            backing, "r+b"
        ) as file:  # the kernel's memory of the device still has the right byte
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1]))
        forget(self)

    monkeypatch.setattr(flash.Card, "forget", corrupt)
    assert flash.main([image, card, "--yes", "--allow-fixed-disk", card]) == 74
    said = capsys.readouterr().err
    assert "does not hold what was written" in said and "NOT usable" in said


def test_an_interrupted_card_has_no_partition_table(
    image, card, backing, flash, monkeypatch, capsys
):
    class Killed(flash.Progress):
        def __call__(self, done):
            super().__call__(done)
            if done > 9 * MEGABYTE:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(flash, "Progress", Killed)
    assert flash.main([image, card, "--yes", "--allow-fixed-disk", card]) == 74
    said = capsys.readouterr().err
    assert "interrupted" in said and "NOT usable" in said
    assert bytes_of(backing)[:4096] == bytes(4096)


def test_a_card_that_takes_no_more_is_reported(image, tmp_path):
    need_loop_devices()
    folder = tmp_path / "full"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder)
    try:
        backing = folder / "card"
        with open(str(backing), "wb") as file:
            file.truncate(CARD_BYTES)
        with loop_device(backing) as device:
            status, said = write_fixed(image, device, "--yes")
    finally:
        run("umount", folder)
    assert status == 74
    assert "writing failed" in said and "NOT usable" in said


@pytest.mark.parametrize(
    "kind, removable, allowed", [("SD", "0", True), ("MMC", "0", False), ("", "1", True)]
)
def test_which_disks_count_as_removable(card, flash, tmp_path, kind, removable, allowed):
    """A card in a built-in reader says SD, soldered memory says MMC, a USB reader that it is removable."""
    status = os.stat(card)
    disk = tmp_path / "block" / "mmcblk0"
    (disk / "device").mkdir(parents=True)
    (disk / "removable").write_text(removable + "\n")
    (disk / "device" / "type").write_text(kind + "\n")
    links = tmp_path / "dev" / "block"
    links.mkdir(parents=True)
    number = "{}:{}".format(os.major(status.st_rdev), os.minor(status.st_rdev))
    (links / number).symlink_to(disk)
    assert flash.Disk(card, sys=str(tmp_path)).removable is allowed
