"""Fixtures that several tests share.

A test that needs a tool which is not installed says so loudly and is skipped; with ``EDGE_APP_CI=1``
it fails instead, so that nothing is left out there by accident.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest
from needs import opencv_has_windows, require
from xserver import Screen

from edge_app.gstreamer import PACKAGES, load_gstreamer

NOBODY = 65534
BUILD = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "build")


@pytest.fixture
def screen(tmp_path, monkeypatch):
    """A running X server, and DISPLAY set to it."""
    require(shutil.which("Xvfb"), "Xvfb (apt install xvfb)")
    require(opencv_has_windows(), "an OpenCV with windows (opencv-python, not -headless)")
    folder = tmp_path / "framebuffer"
    folder.mkdir()
    with Screen(folder) as server:
        monkeypatch.setenv("DISPLAY", server.display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        yield server


@pytest.fixture
def as_nobody():
    """A folder of somebody without rights; the test runs as that user even when root runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(name, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield folder
        finally:
            os.setresuid(0, 0, 0)


@pytest.fixture
def no_screen(monkeypatch):
    """An environment without a screen."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture(scope="session")
def gstreamer():
    """The Gst module, with a plugin registry of the tests' own."""
    folder = os.path.join(BUILD, "gstreamer")
    os.makedirs(folder, exist_ok=True)
    os.environ["GST_REGISTRY"] = os.path.join(folder, "registry.bin")
    try:
        return load_gstreamer()
    except ImportError as error:
        require(False, "GStreamer for Python ({}): apt install {}".format(error, PACKAGES))


@pytest.fixture(scope="session")
def nvstub(gstreamer):
    """The stand-in for a Jetson's camera elements, in this process and, by the environment, in others."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nvstub", "nvstub.c")
    folder = os.path.join(BUILD, "nvstub")
    library = os.path.join(folder, "libgstnvstub.so")
    if not os.path.exists(library) or os.path.getmtime(library) < os.path.getmtime(source):
        _compile_plugin(source, library)
    os.environ["GST_PLUGIN_PATH"] = folder
    gstreamer.Registry.get().scan_path(folder)
    return folder


def _compile_plugin(source, library):
    packages = ["gstreamer-1.0", "gstreamer-base-1.0"]
    there = shutil.which("gcc") and shutil.which("pkg-config")
    there = there and subprocess.call(["pkg-config", "--exists"] + packages) == 0
    require(there, "apt install gcc pkg-config libgstreamer1.0-dev")
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs"] + packages).decode()
    os.makedirs(os.path.dirname(library), exist_ok=True)
    fresh = library + ".{}".format(os.getpid())
    warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    command = ["gcc", "-O2", "-shared", "-fPIC"] + warnings + ["-o", fresh, source]
    subprocess.check_call(command + flags.split())
    os.replace(fresh, library)
