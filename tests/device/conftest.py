"""A card with our image, and a device that boots from it: made once for all tests here, with their times noted."""

import os
import shutil
import subprocess
import sys
import time

import pytest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLACES = [os.path.join(TESTS, name) for name in ("box", "deploy")]
sys.path[:0] = [os.path.dirname(TESTS)] + PLACES

import sdcard  # noqa: E402
import trees  # noqa: E402
from factory import APP_MB, CARD_MB, ROOT, USER, make_system, program  # noqa: E402
from machine import Machine  # noqa: E402

from deploy import release, targets  # noqa: E402


class Figures:
    """How long things took; all are printed and kept in build/device/figures.txt."""

    def __init__(self):
        self.lines = []

    def __call__(self, what, seconds):
        self.lines.append("{:8.1f} s  {}".format(seconds, what))
        print("\n" + self.lines[-1])

    def timed(self, what, do, *arguments):
        """What ``do(*arguments)`` returns, and how long that took."""
        started = time.monotonic()
        found = do(*arguments)
        self(what, time.monotonic() - started)
        return found


@pytest.fixture(scope="session")
def figures():
    """Function: note how long something took."""
    figures = Figures()
    yield figures
    if figures.lines:
        trees.WORK.mkdir(parents=True, exist_ok=True)
        (trees.WORK / "figures.txt").write_text("\n".join(figures.lines) + "\n")


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
    make_system(tree, mine)
    path, _ = sdcard.make_blob(str(workshop / "sd-blob.img"), str(mine), app_mb=APP_MB)
    shutil.rmtree(str(mine))
    return path


@pytest.fixture(scope="session")
def card(blob, first_release, key, workshop, figures):
    """A card with the image, written by our own commands."""
    out = str(workshop / "edge.img")
    started = time.monotonic()
    program(
        "deploy.image",
        blob,
        "--release",
        first_release,
        "--key",
        str(key) + ".pub",
        "--user",
        USER,
        "--offline",
        "--out",
        out,
    )
    figures("image", time.monotonic() - started)
    path = str(workshop / "card.img")
    with open(path, "wb") as file:
        file.truncate(CARD_MB << 20)
    started = time.monotonic()
    with sdcard.loop_device(path) as device:
        program("deploy.flash", out, device, "--yes", "--allow-fixed-disk", device)
    figures("card written and compared", time.monotonic() - started)
    os.unlink(out)
    return path


@pytest.fixture(scope="session")
def device(card, key, workshop):
    """A machine with the card in it, switched off."""
    with Machine(card, trees.kernel(), key, USER, workshop) as machine:
        yield machine
