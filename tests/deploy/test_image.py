"""deploy/image.py and deploy/first-boot.sh on small images in the layout of NVIDIA's."""

import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
from needs import require
from sdcard import MEGABYTE, RELEASE, make_blob, make_tree, need_loop_devices, run
from waiting import until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests", "systemd")]

from unit_rules import complaints  # noqa: E402

from deploy import archive, image, image_layout  # noqa: E402


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with a blob, a release for a Nano and a key, which all tests read and none changes."""
    need_loop_devices()
    require(shutil.which("ssh-keygen"), "apt install openssh-client")
    folder = tmp_path_factory.mktemp("image")
    tree = make_tree(str(folder / "tree"))
    make_blob(str(folder / "sd-blob.img"), tree)
    make_release(folder, "cp36-aarch64")
    make_release(folder, "cp311-x86_64")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@laptop", "-f", folder / "id")
    return folder


def make_release(folder, target):
    """A release with next to nothing in it."""
    tree = folder / ("release-" + target)
    (tree / "wheels").mkdir(parents=True)
    (tree / "release").write_text("name=1.0\ntarget={}\n".format(target))
    (tree / "activate.sh").write_text("#!/bin/sh\necho activated\n")
    archive.write_archive(str(tree), str(folder / (target + ".tar")), 0)


@pytest.fixture
def make(workshop, tmp_path):
    """Function: run the program with these options instead of the usual ones; (exit status, words, OUT)."""

    def call(*more, base=None, release=None, key=None, user="pat", license_accepted=True):
        out = str(tmp_path / "out.img")
        command = [sys.executable, "-m", "deploy.image", str(base or workshop / "sd-blob.img")]
        command += ["--release", str(release or workshop / "cp36-aarch64.tar"), "--user", user]
        command += ["--key", str(key or workshop / "id.pub"), "--out", out] + list(more)
        command += ["--accept-license"] if license_accepted else []
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
        )
        return done.returncode, done.stdout.decode("utf-8", "replace"), out

    return call


def refused(result, words):
    """Check that nothing was made, and why."""
    status, said, out = result
    assert status == 64, said
    assert words in said
    assert not os.path.exists(out) and not os.path.exists(out + ".part")


def read_from(path, offset, name):
    """Text of a file in the file system at an offset of an image."""
    return run("debugfs", "-R", "cat " + name, "{}?offset={}".format(path, offset))


def stat_of(path, offset, name):
    """What debugfs says of a file: type, mode, owner, target of a link."""
    return run("debugfs", "-R", "stat " + name, "{}?offset={}".format(path, offset))


def changed_blob(workshop, tmp_path, change, **options):
    """A blob whose tree was changed by ``change(folder)``."""
    tree = str(tmp_path / "tree")
    shutil.copytree(str(workshop / "tree"), tree, symlinks=True)
    change(tree)
    return make_blob(str(tmp_path / "changed.img"), tree, **options)[0]


def test_the_image_holds_all_that_the_first_boot_needs(make, workshop):
    before = archive.sha256_of(str(workshop / "sd-blob.img"))
    status, said, out = make()
    assert status == 0, said
    assert archive.sha256_of(str(workshop / "sd-blob.img")) == before
    offset = image.find_app(out).offset_bytes
    place = "/opt/edge-app/first-boot/"
    with open(os.path.join(ROOT, "deploy", "first-boot.sh")) as file:
        assert read_from(out, offset, place + "first-boot.sh") == file.read()
    assert read_from(out, offset, place + "authorized_keys") == (workshop / "id.pub").read_text()
    assert read_from(out, offset, place + "user") == "pat\n"
    listed = run(
        "debugfs",
        "-R",
        "dump {}release.tar {}.tar".format(place, out),
        "{}?offset={}".format(out, offset),
    )
    assert archive.read_release(out + ".tar").target == "cp36-aarch64", listed
    units = "/etc/systemd/system/"
    assert "ConditionPathExists=" + place in read_from(out, offset, units + image.UNIT)
    wanted = stat_of(out, offset, units + "multi-user.target.wants/" + image.UNIT)
    assert '"{}{}"'.format(units, image.UNIT) in wanted
    assert "/lib/systemd/system/multi-user.target" in stat_of(out, offset, units + "default.target")


def test_a_device_without_the_internet_is_not_provisioned(make):
    for options, offline in (((), False), (("--offline",), True)):
        _, _, out = make(*options)
        offset = image.find_app(out).offset_bytes
        listed = run(
            "debugfs", "-R", "ls /opt/edge-app/first-boot", "{}?offset={}".format(out, offset)
        )
        assert ("offline" in listed) is offline and "provision.sh" in listed
        os.unlink(out)


def test_nobody_logs_in_with_a_password_and_no_secret_is_the_same_on_two_cards(make):
    _, _, out = make()
    offset = image.find_app(out).offset_bytes
    lines = read_from(out, offset, "/etc/ssh/sshd_config").splitlines()
    assert lines.index("PasswordAuthentication no") < lines.index("#PasswordAuthentication yes")
    assert "ChallengeResponseAuthentication no" in lines and "UsePAM yes" in lines
    assert "ssh_host_" not in run(
        "debugfs", "-R", "ls /etc/ssh", "{}?offset={}".format(out, offset)
    )
    assert read_from(out, offset, "/etc/machine-id") == ""
    script = stat_of(out, offset, "/opt/edge-app/first-boot/first-boot.sh")
    assert re.search(r"Mode: +0755", script) and re.search(r"User: +0 +Group: +0", script)


def test_nothing_else_of_the_base_changes(make, workshop):
    _, _, out = make()
    mine = image_layout.read_partitions(out)
    assert mine == image_layout.read_partitions(str(workshop / "sd-blob.img"))
    assert [one.number for one in mine] == list(range(1, 15)) and mine[0].name == "APP"
    with open(out, "rb") as made, open(str(workshop / "sd-blob.img"), "rb") as base:
        before = mine[0].offset_bytes
        assert made.read(before) == base.read(before)
    assert read_from(out, before, "/etc/nv_tegra_release") == RELEASE


def test_the_zip_as_nvidia_gives_it_and_app_before_the_others(make, workshop, tmp_path):
    blob, _ = make_blob(str(tmp_path / "first.img"), str(workshop / "tree"), app_first=True)
    packed = str(tmp_path / "jetson-nano-jp461-sd-card-image.zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(blob, "sd-blob-b01.img")
    status, said, out = make("--desktop", base=packed)
    assert status == 0, said
    target = stat_of(out, image.find_app(out).offset_bytes, "/etc/systemd/system/default.target")
    assert "/lib/systemd/system/graphical.target" in target


def test_a_base_that_is_no_disk(make, tmp_path):
    wrong = tmp_path / "readme.txt"
    wrong.write_text("not an image" * 100)
    refused(make(base=wrong), "no partition table")
    refused(make(base=tmp_path / "missing.img"), "there is no such image")


def test_a_base_with_another_partition_table(make, tmp_path):
    disk = tmp_path / "dos.img"
    disk.write_bytes(bytes(4 * MEGABYTE))
    run("sfdisk", "-q", disk, input=b"label: dos\nstart=2048,size=2048,type=83\n")
    refused(make(base=disk), "has no GPT but a DOS partition table")


def test_a_base_whose_partition_table_is_damaged(make, workshop, tmp_path):
    disk = str(tmp_path / "damaged.img")
    shutil.copyfile(str(workshop / "sd-blob.img"), disk)
    with open(disk, "r+b") as file:
        file.seek(1024 + 40)
        file.write(b"\x55")
    refused(make(base=disk), "its GPT is damaged")


def test_a_base_without_app_is_named_with_what_it_has(make, workshop, tmp_path):
    disk, _ = make_blob(str(tmp_path / "other.img"), str(workshop / "tree"), app_name="rootfs")
    refused(make(base=disk), "no partitions called APP; its partitions: rootfs, TBC, RP1")


def test_app_without_a_file_system(make, workshop, tmp_path):
    disk = str(tmp_path / "empty.img")
    shutil.copyfile(str(workshop / "sd-blob.img"), disk)
    with open(disk, "r+b") as file:
        file.seek(image.find_app(disk).offset_bytes)
        file.write(bytes(8192))
    refused(make(base=disk), "holds no ext4")


@pytest.mark.parametrize(
    "text",
    [
        RELEASE.replace("REVISION: 7.1", "REVISION: 4.4"),
        RELEASE.replace("# R32", "# R35").replace("t210ref", "t186ref"),
        RELEASE.replace("t210ref", "t186ref"),
        "something else\n",
    ],
)
def test_another_l4t_is_refused_with_what_was_seen(make, workshop, tmp_path, text):
    def change(tree):
        with open(os.path.join(tree, "etc/nv_tegra_release"), "w") as file:
            file.write(text)

    refused(make(base=changed_blob(workshop, tmp_path, change)), repr(text.strip()))


def test_a_system_that_is_not_l4t_is_named(make, workshop, tmp_path):
    def change(tree):
        os.unlink(os.path.join(tree, "etc/nv_tegra_release"))
        with open(os.path.join(tree, "etc/os-release"), "w") as file:
            file.write('PRETTY_NAME="Raspberry something 12"\n')

    base = changed_blob(workshop, tmp_path, change)
    refused(make(base=base), "it holds Raspberry something 12, not NVIDIA's L4T")


def test_a_system_that_lacks_a_tool_of_the_first_boot(make, workshop, tmp_path):
    base = changed_blob(
        workshop, tmp_path, lambda tree: os.unlink(os.path.join(tree, "sbin", "partx"))
    )
    refused(make(base=base), "APP lacks what the first boot needs: partx.")


def test_an_image_is_not_made_twice(make, tmp_path):
    status, said, out = make()
    assert status == 0, said
    again = str(tmp_path / "again.img")
    os.rename(out, again)
    refused(make(base=again), "has been through this before")


def test_a_release_for_another_device(make, workshop):
    refused(
        make(release=workshop / "cp311-x86_64.tar"),
        "is for python3.11 on x86_64, the device has python3.6 on aarch64",
    )


def test_without_a_release_the_newest_for_a_nano_is_taken(tmp_path):
    with pytest.raises(image.ImageRefused, match="make release TARGETS=cp36-aarch64 builds it"):
        image.newest_release(str(tmp_path / "nothing was built"))
    names = ("b-cp36-aarch64.tar", "a-cp36-aarch64.tar", "c-cp311-x86_64.tar", "d-cp36-aarch64.tar.77")
    for age, name in enumerate(names):
        (tmp_path / name).write_bytes(b"")
        os.utime(str(tmp_path / name), (1000 + age, 1000 + age))
    assert image.newest_release(str(tmp_path)) == str(tmp_path / "a-cp36-aarch64.tar")


def test_a_base_that_is_not_there(make, tmp_path):
    refused(make(base=tmp_path / "missing.zip"), "missing.zip: there is no such image")


def test_no_base_at_all():
    done = subprocess.run(
        [sys.executable, "-m", "deploy.image", ""], cwd=ROOT, stderr=subprocess.PIPE
    )
    assert done.returncode == 64 and b"BASE=... is missing" in done.stderr


def test_a_release_that_is_damaged(make, workshop, tmp_path):
    data = bytearray((workshop / "cp36-aarch64.tar").read_bytes())
    at = data.index(b"echo activated")
    data[at : at + 4] = b"evil"
    (tmp_path / "bad.tar").write_bytes(bytes(data))
    refused(make(release=tmp_path / "bad.tar"), "activate.sh is not what the manifest says")


def test_keys_and_users_that_cannot_be(make, workshop, tmp_path):
    refused(make(key=workshop / "id"), "is a private key. Give the public one")
    (tmp_path / "no.pub").write_text("ssh-ed25519 nonsense\n")
    refused(make(key=tmp_path / "no.pub"), "is not one public ssh key")
    refused(make(key=tmp_path / "missing.pub"), "ssh-keygen -t ed25519 makes one")
    for user in ("root", "edge-app", "Pat", "a b", "-x"):
        refused(make("--user=" + user), "cannot be the user")


@pytest.mark.parametrize("name, file", [("video", "/etc/group"), ("sshd", "/etc/passwd")])
def test_a_user_that_the_image_has_for_itself(make, workshop, tmp_path, name, file):
    """useradd would fail on the card, where a group of that name exists; or nobody could log in as such a user."""

    def change(tree):
        with open(os.path.join(tree, "etc/passwd"), "a") as passwd:
            passwd.write("sshd:x:110:65534::/run/sshd:/usr/sbin/nologin\n")

    base = changed_blob(workshop, tmp_path, change)
    refused(make(base=base, user=name), "'{}' stands in {} of the image".format(name, file))


def test_a_folder_made_for_the_image_belongs_to_who_asked_for_it(make, tmp_path, monkeypatch):
    monkeypatch.setenv("SUDO_UID", "12345")
    monkeypatch.setenv("SUDO_GID", "12346")
    place = tmp_path / "out" / "of" / "mine"
    status, said, _ = make("--out=" + str(place / "edge.img"))
    assert status == 0, said
    for path in (place / "edge.img", place, place.parent, place.parent.parent):
        assert (os.stat(str(path)).st_uid, os.stat(str(path)).st_gid) == (12345, 12346), path
    assert os.stat(str(tmp_path)).st_uid == os.geteuid(), "it was there before"


def test_nvidias_licence_is_accepted_by_somebody(make):
    refused(make(license_accepted=False), "ACCEPT_LICENSE=1")


def test_a_file_system_without_room(make, workshop, tmp_path):
    def change(tree):
        with open(os.path.join(tree, "ballast"), "wb") as file:
            file.write(b"\1" * 30 * MEGABYTE)

    base = changed_blob(workshop, tmp_path, change)
    refused(make(base=base), "its file system must be made larger first")


def test_out_is_never_base(make, workshop, tmp_path):
    blob = str(tmp_path / "out.img")
    shutil.copyfile(str(workshop / "sd-blob.img"), blob)
    status, said, out = make(base=blob)
    assert status == 64 and "OUT is BASE" in said
    assert archive.sha256_of(out) == archive.sha256_of(str(workshop / "sd-blob.img"))


def test_links_of_the_image_lead_nowhere_outside(make, workshop, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()

    def change(tree):
        os.rmdir(os.path.join(tree, "opt"))
        os.symlink(str(outside), os.path.join(tree, "opt"))
        os.symlink("../../../../../../" + str(outside), os.path.join(tree, "etc/machine-id.link"))

    status, said, out = make(base=changed_blob(workshop, tmp_path, change))
    assert status == 0, said
    assert list(outside.iterdir()) == []
    offset = image.find_app(out).offset_bytes
    assert read_from(out, offset, "{}/edge-app/first-boot/user".format(outside)) == "pat\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_no_mount_and_no_image(workshop, tmp_path, number):
    """It is stopped in the middle: with the file system mounted and files being put in."""
    out = str(tmp_path / "out.img")
    code = (
        "import sys, time; from deploy import image; put = image.put_in\n"
        "def slow(*a):\n    put(*a); print('inside', flush=True); time.sleep(60)\n"
        "image.put_in = slow; sys.exit(image.main(sys.argv[1:]))"
    )
    options = [str(workshop / "sd-blob.img"), "--release", str(workshop / "cp36-aarch64.tar")]
    options += ["--key", str(workshop / "id.pub"), "--out", out, "--accept-license"]
    program = subprocess.Popen(
        [sys.executable, "-c", code] + options,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with program:
        for line in program.stdout:
            if line == b"inside\n":
                break
        program.send_signal(number)
        program.wait(30)
    assert program.returncode == (130 if number == signal.SIGTERM else -number)
    assert not os.path.exists(out)
    assert number == signal.SIGKILL or not os.path.exists(out + ".part")
    until(lambda: str(tmp_path) not in run("losetup", "-a"))


def test_the_unit_says_nothing_newer_than_the_nanos_systemd():
    with open(os.path.join(ROOT, "deploy", "first-boot.service")) as file:
        assert complaints(file.read()) == []
