"""A card with our image, and a device that boots from it: made once for all tests here, with their times noted."""

import os
import shutil
import subprocess
import sys
import tarfile
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests", "deploy")]

import sdcard  # noqa: E402
import trees  # noqa: E402
from machine import Machine  # noqa: E402

from deploy import archive, release, targets  # noqa: E402

USER = "pat"
APP_MB, CARD_MB = 1100, 3000
# An emulated core is some fifty times slower than a Nano: more patience, a small camera, and no other difference.
SLOW_FIRST_BOOT = """[Service]
Environment=RATE_HZ=0.02 START_S=2400 HEALTH_S=15 EDGE_APP_SWAP_MB=128
"""
SLOW_SERVICE = "[Service]\nWatchdogSec=10min\nTimeoutStartSec=40min\n"
SETTINGS = {
    "  source: auto": "  source: test://?faces=3",
    "  width_px: 1280": "  width_px: 640",
    "  height_px: 720": "  height_px: 360",
    "  rate_hz: 30.0": "  rate_hz: 2.0",
}
PATIENCE = "\nrecovery:\n  give_up_s: 1800\n  detector_s: 600\n"
# NVIDIA's wizard: its target conflicts with the one that sshd belongs to.
WIZARD = "[Unit]\nDescription=Wizard\nConflicts=multi-user.target rescue.target\nRequires=basic.target\nAllowIsolate=yes\n"


@pytest.fixture(scope="session")
def figures():
    """Function: note how long something took; all are printed and kept in build/device/figures.txt."""
    lines = []

    def note(what, seconds):
        lines.append("{:8.1f} s  {}".format(seconds, what))
        print("\n" + lines[-1])

    yield note
    if lines:
        (trees.WORK / "figures.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """An empty folder with room for cards."""
    trees.require_machines()
    sdcard.need_loop_devices()
    trees.WORK.mkdir(parents=True, exist_ok=True)
    folder = trees.WORK / "run"
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir()
    yield folder
    if "EDGE_APP_KEEP_CARDS" not in os.environ:
        shutil.rmtree(str(folder), ignore_errors=True)


@pytest.fixture(scope="session")
def first_release(workshop, figures):
    """The release of the image, for Debian's Python on aarch64."""
    started = time.monotonic()
    path = release.build(targets.TARGETS["cp311-aarch64"], str(workshop), "test-1")
    figures("release with aarch64 wheels built", time.monotonic() - started)
    return path


def next_release(path, name, folder):
    """The release ``path`` under another name and without its wheels, which a device with the first one has."""
    tree = folder / ("tree-" + name)
    with tarfile.open(str(path)) as tar:
        tar.extractall(str(tree))
    card = (tree / "release").read_text()
    (tree / "release").write_text(card.replace("name=test-1\n", "name={}\n".format(name)))
    (tree / "manifest").write_bytes(archive.manifest_of(str(tree)))
    names = [one for one in archive.files_below(str(tree)) if not one.startswith("wheels/")]
    out = folder / (name + ".tar")
    archive.write_files(str(tree), names, str(out), 0)
    shutil.rmtree(str(tree))
    return out


@pytest.fixture(scope="session")
def key(workshop):
    """A private ssh key; its public part lies beside it."""
    path = workshop / "id"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "device", "-f", str(path)], check=True
    )
    return path


@pytest.fixture(scope="session")
def blob(workshop, figures):
    """An SD-card image in NVIDIA's layout, with Debian in the place of Ubuntu and a wizard in the way."""
    started = time.monotonic()
    tree = trees.root_tree()
    figures("root tree for aarch64 (0 when kept from before)", time.monotonic() - started)
    mine = workshop / "tree"
    subprocess.run(["cp", "-a", str(tree), str(mine)], check=True)
    etc = mine / "etc"
    (etc / "nv_tegra_release").write_text(sdcard.RELEASE)
    (etc / "fstab").write_text("/dev/root / ext4 defaults 0 1\n")
    (etc / "systemd/network/20-dhcp.network").write_text(
        "[Match]\nName=eth*\n[Network]\nDHCP=yes\n"
    )
    units = etc / "systemd/system"
    (units / "nv-oem-config.target").write_text(WIZARD)
    (units / "default.target").symlink_to("/etc/systemd/system/nv-oem-config.target")
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/systemd-networkd.service").symlink_to(
        "/lib/systemd/system/systemd-networkd.service"
    )
    for name, text in (("edge-app-first-boot", SLOW_FIRST_BOOT), ("edge-app", SLOW_SERVICE)):
        (units / (name + ".service.d")).mkdir()
        (units / (name + ".service.d/slow.conf")).write_text(text)
    (etc / "edge-app").mkdir()
    (etc / "edge-app/edge-app.yaml").write_text(_slow_settings())
    path, _ = sdcard.make_blob(str(workshop / "sd-blob.img"), str(mine), app_mb=APP_MB)
    shutil.rmtree(str(mine))
    return path


def _slow_settings():
    with open(os.path.join(ROOT, "deploy", "edge-app.yaml")) as file:
        text = file.read()
    for line, slow in SETTINGS.items():
        assert line in text, line
        text = text.replace(line, slow)
    return text + PATIENCE


@pytest.fixture(scope="session")
def card(blob, first_release, key, workshop, figures):
    """A card with the image, written by our own commands."""
    out = str(workshop / "edge.img")
    started = time.monotonic()
    _program(
        "deploy.image",
        blob,
        "--release",
        first_release,
        "--key",
        str(key) + ".pub",
        "--user",
        USER,
        "--out",
        out,
    )
    figures("image", time.monotonic() - started)
    path = str(workshop / "card.img")
    with open(path, "wb") as file:
        file.truncate(CARD_MB << 20)
    started = time.monotonic()
    with sdcard.loop_device(path) as device:
        _program("deploy.flash", out, device, "--yes", "--allow-fixed-disk", device)
    figures("card written and compared", time.monotonic() - started)
    os.unlink(out)
    return path


def _program(module, *arguments):
    subprocess.run(
        [sys.executable, "-m", module] + [str(one) for one in arguments], cwd=ROOT, check=True
    )


@pytest.fixture(scope="session")
def device(card, key, workshop):
    """A machine with the card in it, switched off."""
    with Machine(card, trees.kernel(), key, USER, workshop) as machine:
        yield machine
