"""What goes onto the cards of these tests, and how our own commands are called."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import onnx
import sdcard

from deploy import archive
from edge_app.scene import write_clip

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
USER = "pat"
APP_MB, CARD_MB = 1100, 3000
# An emulated core needs 20 to 50 s for a frame, as the machine below it is idle or busy. Hence our network for a smaller
# picture, a small clip instead of a camera, one thread (two would wait for each other), and more patience; the
# shipped units, limits and networks stay as they are.
SLOW = "RATE_HZ=0 START_S=2400 HEALTH_S=40 SILENT_S=60"  # of activate.sh
SLOW_FIRST_BOOT = "[Service]\nEnvironment={} EDGE_APP_SWAP_MB=128\n".format(SLOW)
SLOW_SERVICE = "[Service]\nWatchdogSec=10min\nTimeoutStartSec=40min\n"
NETWORK, NETWORK_PX = "/opt/small/small.onnx", 128
CLIP = "/opt/small/clip.mp4"
CLIP_S, CLIP_HZ, CLIP_WH, CLIP_FACES = 600.0, 5.0, (320, 180), 3  # 3000 frames, each looked at: an hour at the least
SETTINGS = {
    "  source: auto": "  source: " + CLIP,
    "  model: /opt/edge-app/current/engines/ssd_mobilenet_v2.onnx": "  model: "
    + NETWORK
    + "\n  threads: 1",
    "  kind: auto": "  kind: web",
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
    subprocess.run(command, cwd=str(ROOT), check=True)


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
    (mine / "opt/small").mkdir()
    make_network(str(mine) + NETWORK, NETWORK_PX)
    write_clip(str(mine) + CLIP, CLIP_S, CLIP_WH, CLIP_HZ, CLIP_FACES)
    (etc / "edge-app").mkdir()
    (etc / "edge-app/edge-app.yaml").write_text(slow_settings())


def make_network(path, side_px):
    """Write our network for pictures of another size, and its card: only sizes change, none of them a weight's."""
    shipped = ROOT / "engines" / "ssd_mobilenet_v2.onnx"
    network, card = onnx.load(str(shipped)), json.loads(shipped.with_suffix(".json").read_text())
    boxes = 0
    for layer in card["layers"]:
        cells = math.ceil(side_px / layer["step_px"][0])
        layer["grid_wh"] = [cells, cells]
        boxes += cells * cells * len(layer["sizes_px"])
    for side in network.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = side_px
    for output in network.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = boxes
    data = network.SerializeToString()
    pathlib.Path(path).write_bytes(data)
    card["input"].update(width_px=side_px, height_px=side_px)
    card.update(onnx=os.path.basename(path), sha256=hashlib.sha256(data).hexdigest())
    pathlib.Path(path).with_suffix(".json").write_text(json.dumps(card))


def slow_settings():
    """The default settings of a device, for one that is a hundred times slower."""
    text = (ROOT / "deploy" / "edge-app.yaml").read_text()
    for line, slow in SETTINGS.items():
        assert text.count(line + "\n") == 1, line
        text = text.replace(line + "\n", slow + "\n")
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
