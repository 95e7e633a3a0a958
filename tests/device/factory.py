"""What goes onto the cards of these tests, and how our own commands are called."""

import os
import shutil
import subprocess
import sys
import tarfile

import sdcard

from deploy import archive

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
USER = "pat"
APP_MB, CARD_MB = 1100, 3000
# An emulated core is some fifty times slower than a Nano: more patience, a small camera, and no other difference.
SLOW_FIRST_BOOT = """[Service]
Environment=RATE_HZ=0.02 START_S=2400 HEALTH_S=15 SILENT_S=120 EDGE_APP_SWAP_MB=128
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


# What Debian does beside, at every boot and every login, and an emulated core would do for minutes.
UNWANTED = (
    "e2scrub_reap.service e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer "
    "fstrim.timer getty@tty1.service"
).split()


def program(module, *arguments):
    """Run one of our programs for the laptop."""
    command = [sys.executable, "-m", module] + [str(one) for one in arguments]
    subprocess.run(command, cwd=ROOT, check=True)


def make_system(tree, mine):
    """Copy the root tree to ``mine`` and make it what NVIDIA's image is before its first boot, as far as it goes."""
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
    for name in UNWANTED:
        (units / name).symlink_to("/dev/null")
    for path in (etc / "update-motd.d").iterdir():
        path.unlink()
    for name, text in (("edge-app-first-boot", SLOW_FIRST_BOOT), ("edge-app", SLOW_SERVICE)):
        (units / (name + ".service.d")).mkdir()
        (units / (name + ".service.d/slow.conf")).write_text(text)
    (etc / "edge-app").mkdir()
    (etc / "edge-app/edge-app.yaml").write_text(slow_settings())


def slow_settings():
    """The default settings of a device, for one that is fifty times slower."""
    with open(os.path.join(ROOT, "deploy", "edge-app.yaml")) as file:
        text = file.read()
    for line, slow in SETTINGS.items():
        assert line in text, line
        text = text.replace(line, slow)
    return text + PATIENCE


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
