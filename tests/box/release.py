"""The program as a release on a device, as layers for a box: what it needs (cached), and itself (fresh)."""

import hashlib
import pathlib
import shutil
import subprocess
import sys

from box.boxes import WORK, locked

from edge_app import __version__

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
RELEASE = "opt/edge-app/releases/" + __version__
# opencv-python-headless: a box has no screen, and the other one wants libGL.
NEEDS = (
    "numpy opencv-python-headless pyyaml onnxruntime aiohttp prometheus_client paho-mqtt".split()
)
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


def needs_layer(tree):
    """Folder with a virtual environment for the Python of ``tree``, and in it what the program needs."""
    version = _python_of(tree)
    recipe = "\n".join(["1", RELEASE, version] + NEEDS)
    layer = WORK / "layers" / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    with locked(layer.with_suffix(".lock")):
        if not layer.exists():
            half_done = layer.with_suffix(".partial")
            shutil.rmtree(str(half_done), ignore_errors=True)
            venv = half_done / RELEASE / "venv"
            _make_venv(venv)
            _install(_packages(venv, version), version)
            half_done.rename(layer)
    return layer


def program_layer(folder, tree):
    """Fill ``folder`` with this checkout's program, model, units and default settings; returns it."""
    release = folder / RELEASE
    packages = _packages(release / "venv", _python_of(tree))
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(str(PROJECT / "edge_app"), str(packages / "edge_app"), ignore=leave_out)
    shutil.copytree(str(PROJECT / "engines"), str(release / "engines"))
    units = folder / "etc/systemd/system"
    shutil.copytree(str(PROJECT / "systemd"), str(units))
    settings = folder / "etc/edge-app/edge-app.yaml"
    settings.parent.mkdir()
    shutil.copy(str(PROJECT / "deploy/edge-app.yaml"), str(settings))
    (folder / "opt/edge-app/current").symlink_to("releases/" + __version__)
    return folder


def _python_of(tree):
    return (tree / "usr/bin/python3").resolve().name[len("python") :]


def _packages(venv, version):
    return venv / "lib" / ("python" + version) / "site-packages"


def _make_venv(venv):
    """What ``python3 -m venv --system-site-packages`` makes, by hand: this machine may have another Python."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to("/usr/bin/python3")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")


def _install(packages, version):
    command = [
        "nice",
        "-n",
        "5",
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--target",
        str(packages),
    ]
    command += ["--python-version", version, "--implementation", "cp", "--only-binary=:all:"]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    subprocess.run(command + NEEDS, check=True)
