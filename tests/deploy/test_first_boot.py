"""Steps of deploy/first-boot.sh that need no device: on this machine's system, laid over so that nothing stays.

The whole of it, with systemd and power cuts, runs in tests/device.
"""

import os
import shutil
import subprocess

import pytest
from needs import require
from sdcard import LINUX, MEGABYTE, loop_device, make_blob, make_tree, need_loop_devices, run

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "deploy", "first-boot.sh")
# Everything the script writes to goes into layers that end with it; systemctl only notes that it was called.
LAID_OVER = """
set -e
for one in etc home; do
  mkdir -p {work}/$one/upper {work}/$one/work
  mount -t overlay overlay -o lowerdir=/$one,upperdir={work}/$one/upper,workdir={work}/$one/work /$one
done
mount -t tmpfs tmpfs /usr/local/sbin
printf '#!/bin/sh\\necho systemctl "$@"\\n' >/usr/local/sbin/systemctl
chmod 755 /usr/local/sbin/systemctl
{commands}
"""


@pytest.fixture
def folder(tmp_path):
    """The folder that an image has in /opt/edge-app/first-boot."""
    require(os.geteuid() == 0, "root (a device is changed by root)")
    require(shutil.which("useradd") and shutil.which("ssh-keygen"), "useradd and ssh-keygen")
    place = tmp_path / "first-boot"
    place.mkdir()
    shutil.copy(SCRIPT, str(place))
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id")
    shutil.copy(str(tmp_path / "id.pub"), str(place / "authorized_keys"))
    (place / "user").write_text("edge-tester\n")
    return place


@pytest.fixture
def system(folder, tmp_path):
    """Function: run lines of shell, with ``step NAME`` for a step of the script, in a system of its own."""

    def call(commands):
        script = LAID_OVER.format(work=tmp_path / "layers", commands=commands)
        script = "step() {{ sh {}/first-boot.sh $1; }}\n".format(folder) + script
        command = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = done.stdout.decode("utf-8", "replace")
        assert done.returncode == 0, said
        return said

    return call


def test_the_user_has_the_key_and_no_password(system, folder):
    said = system(
        "step login; getent shadow edge-tester; id -nG edge-tester; cd ~edge-tester/.ssh; stat -c '%a %U' . authorized_keys\n"
        "cat authorized_keys; cat /etc/sudoers.d/edge-app-login; stat -c %a /etc/sudoers.d/edge-app-login"
    )
    assert "edge-tester:*:" in said
    assert "700 edge-tester\n600 edge-tester\n" in said
    assert (folder / "authorized_keys").read_text() in said
    assert "edge-tester ALL=(ALL) NOPASSWD: ALL\n440\n" in said
    assert "sudo" in said.split("edge-tester:*:")[1].split("\n")[1].split()


def test_a_step_that_was_cut_is_done_again(system):
    said = system(
        "useradd --no-create-home edge-tester; mkdir -p /etc/sudoers.d; : >/etc/sudoers.d/edge-app-login.new; step login; step login\n"
        "cat ~edge-tester/.ssh/authorized_keys; cat /etc/sudoers.d/edge-app-login"
    )
    assert "ssh-ed25519" in said and "NOPASSWD" in said


def test_host_keys_are_made_once_and_empty_ones_again(system):
    said = system(
        "rm -f /etc/ssh/ssh_host_*; mkdir -p /etc/ssh; : >/etc/ssh/ssh_host_ed25519_key\n"
        "step host_keys; sha256sum /etc/ssh/ssh_host_ed25519_key; test -s /etc/ssh/ssh_host_ed25519_key\n"
        "step host_keys; sha256sum /etc/ssh/ssh_host_ed25519_key"
    )
    sums = [line for line in said.splitlines() if line.endswith("ssh_host_ed25519_key")]
    assert len(sums) == 2 and sums[0] == sums[1]
    assert said.count("made host keys") == 1
    assert "systemctl --no-block restart ssh.service" in said


def test_one_failing_step_does_not_keep_the_others_from_their_turn(system, folder):
    script = folder / "first-boot.sh"
    text = script.read_text()
    assert 'steps="host_keys login name grow swap provision release"' in text
    script.write_text(
        text.replace(
            'steps="host_keys login name grow swap provision release"', 'steps="release login"'
        )
    )
    said = system("step all && exit 1; id edge-tester; test -e {}/user".format(folder))
    assert "edge-tester" in said
    assert "first boot: failed: release. The next boot tries again" in said


def test_all_done_the_folder_and_the_unit_are_gone(system, folder):
    script = folder / "first-boot.sh"
    text = script.read_text()
    script.write_text(
        text.replace('steps="host_keys login name grow swap provision release"', 'steps="login"')
    )
    said = system(
        "units=/etc/systemd/system; mkdir -p $units/multi-user.target.wants; touch $units/edge-app-first-boot.service\n"
        "ln -s ../edge-app-first-boot.service $units/multi-user.target.wants/\n"
        "step all; ls $units $units/multi-user.target.wants"
    )
    assert "first boot: done" in said
    assert "edge-app-first-boot.service" not in said.split("first boot: done")[1]
    assert not folder.exists()


TIME = """
printf '#!/bin/sh\\necho default via 10.0.0.1\\n' >/usr/local/sbin/ip
printf '#!/bin/sh\\n' >/usr/local/sbin/sleep
printf '#!/bin/sh\\necho asked\\ntest -e {0}/asked && echo System clock synchronized: yes; touch {0}/asked\\n' >/usr/local/sbin/timedatectl
chmod 755 /usr/local/sbin/*
printf 'echo provisioning $1 $SWAP_MB\\n' >{1}/provision.sh
"""


def test_packages_are_asked_for_when_the_clock_is_right(system, folder, tmp_path):
    said = system(TIME.format(tmp_path, folder) + "step provision; ls {}/asked".format(tmp_path))
    assert said.split() == ["provisioning", "{}/asked".format(tmp_path)]


def test_without_a_time_server_it_goes_on(system, folder, tmp_path):
    said = system(TIME.format(tmp_path / "nothing", folder) + "step provision")
    assert "first boot: no time server has answered; going on" in said
    assert said.splitlines()[-1] == "provisioning"


def test_a_card_for_use_without_the_internet_asks_nobody(system, folder, tmp_path):
    assert system(TIME.format(tmp_path, folder) + "touch {}/offline; step provision".format(folder)) == ""


def test_swap_is_made_as_make_provision_does(system, folder, tmp_path):
    said = system(TIME.format(tmp_path, folder) + "step swap; EDGE_APP_SWAP_MB=128 step swap")
    assert said.splitlines() == ["provisioning swap 4096", "provisioning swap 128"]


@pytest.fixture
def card(tmp_path):
    """A card of 110 MiB with an image of 66 MiB on it, its partitions known to the kernel; (device, file)."""
    need_loop_devices()
    path, _ = make_blob(str(tmp_path / "card"), make_tree(str(tmp_path / "tree")))
    with open(path, "r+b") as file:
        file.truncate(110 * MEGABYTE)
    with loop_device(path) as device:
        run("partx", "--add", device)
        try:
            yield device, path
        finally:
            run("partx", "--delete", device)


def grow(device):
    """Run the step with the first partition of ``device`` as /; what it said.

    Growing a mounted file system takes a right (CAP_SYS_RESOURCE) that a container lacks, so the step only notes
    that it would, and it is grown afterwards, unmounted. In tests/device it happens as on a device.
    """
    commands = """
    set -e
    root=$(mktemp -d)
    trap 'umount -R "$root"; rmdir "$root"' EXIT
    mount {device}p1 $root
    mkdir -p $root/dev $root/proc $root/sys $root/usr $root/opt/first-boot
    for one in dev proc sys usr; do mount --bind /$one $root/$one; done
    for one in bin sbin lib lib64; do [ ! -L /$one ] || {{ rm -rf $root/$one; ln -s usr/$one $root/$one; }}; done
    cp {script} $root/opt/first-boot/first-boot.sh
    mount -t tmpfs tmpfs $root/usr/local/sbin
    printf '#!/bin/sh\\necho resize2fs "$@"\\n' >$root/usr/local/sbin/resize2fs
    chmod 755 $root/usr/local/sbin/resize2fs
    chroot $root sh /opt/first-boot/first-boot.sh grow
    """.format(device=device, script=SCRIPT)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", commands]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said
    return said


def partitions(device):
    """Number to (start, size, type, uuid, name) as sfdisk tells it."""
    found = {}
    for line in run("sfdisk", "--dump", device).splitlines():
        if line.startswith(device + "p"):
            number = int(line.split()[0][len(device) + 1 :])
            found[number] = [word.strip() for word in line.split(" : ")[1].split(",")]
    return found


def test_the_root_file_system_grows_to_the_end_of_the_card(card):
    require(
        os.path.islink("/bin"), "a system with /usr merged (its programs are lent to the card's)"
    )
    device, _ = card
    before = partitions(device)
    assert "resize2fs {}p1".format(device) in grow(device)
    after = partitions(device)
    assert before.pop(1)[2:] == after[1][2:]  # type, uuid and name
    assert int(after.pop(1)[1].split("=")[1]) > 90 * MEGABYTE // 512
    assert before == after
    run("sfdisk", "--verify", device)
    run("e2fsck", "-f", "-p", device + "p1")
    run("resize2fs", device + "p1")
    assert "{}p1 has ".format(device[5:]) in grow(device)
    run("e2fsck", "-f", "-n", device + "p1")


def test_a_power_cut_between_the_partition_and_its_file_system(card):
    require(
        os.path.islink("/bin"), "a system with /usr merged (its programs are lent to the card's)"
    )
    device, _ = card
    grow(device)  # the partition has its size now, its file system not yet
    table = run("sfdisk", "--dump", device)
    assert "resize2fs {}p1".format(device) in grow(device)
    assert run("sfdisk", "--dump", device) == table


def test_a_partition_with_another_behind_it_stays(tmp_path):
    need_loop_devices()
    require(
        os.path.islink("/bin"), "a system with /usr merged (its programs are lent to the card's)"
    )
    path, _ = make_blob(str(tmp_path / "card"), make_tree(str(tmp_path / "tree")), app_first=True)
    with open(path, "r+b") as file:
        file.truncate(110 * MEGABYTE)
    with loop_device(path) as device:
        run("partx", "--add", device)
        try:
            assert "is not the last" in grow(device)
        finally:
            run("partx", "--delete", device)
