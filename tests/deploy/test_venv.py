"""deploy/venv.sh and deploy/pycuda.sh, with a Python that only notes what pip is asked for: what is done again, and what is not."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

PYTHON = """#!/bin/sh
case "$*" in
"-m venv "*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
*" install "*) for last; do :; done
  echo "$last" >>asked
  case $last in PyGObject*) [ ! -e no-headers ] || exit 1 ;; esac ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A folder with the script and two lists, the second for GStreamer."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(str(ROOT / "deploy/venv.sh"), str(tmp_path / "deploy"))
    (tmp_path / "setup.cfg").write_text("")
    (tmp_path / "app.txt").write_text("numpy\n")
    (tmp_path / "gstreamer.txt").write_text("pycairo==1\nPyGObject==3  # binding\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def prepare(project):
    """Run the script; what it said, and what pip was asked for."""
    (project / "asked").write_text("")
    command = ["sh", "deploy/venv.sh", "./python", "venv", "app.txt", "gstreamer.txt"]
    said = subprocess.check_output(command, cwd=str(project), universal_newlines=True)
    return said, (project / "asked").read_text().split("\n")[:-1]


def test_what_is_there_is_not_done_again(project):
    said, asked = prepare(project)
    assert "app.txt" in asked and "PyGObject==3" in asked and "did not build" not in said
    assert prepare(project) == ("", [])


def test_a_binding_that_did_not_build_is_tried_again_by_the_next_make(project):
    (project / "no-headers").touch()
    said, asked = prepare(project)
    assert "PyGObject did not build (see venv/gstreamer.log)" in said
    (project / "no-headers").unlink()
    said, asked = prepare(project)
    assert "PyGObject==3" in asked and "app.txt" not in asked and "did not build" not in said
    assert prepare(project) == ("", [])


# As of a Jetson's environment: no pycuda until it is built and seen, and the numpy of JetPack.
JETSON = """#!/bin/sh
case "$*" in
*"import pycuda.driver"*) [ -e "$FOLDER/site/pycuda.pth" ] || [ -n "$PYTHONPATH" ] ;;
*"import numpy"*) echo /usr/lib/python3/dist-packages ;;
*"import sysconfig"*) mkdir -p "${0%/bin/python}/site" && echo "${0%/bin/python}/site" ;;
*"import sys"*) exit $OLD ;;
"-m venv "*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
*" install "*) echo "$*" >>"$FOLDER/asked" ;;
--version) echo Python 3 ;;
esac
"""


@pytest.mark.parametrize("old, pin", [("0", "pycuda==2022.1"), ("1", "pycuda<2025")])
def test_pycuda_is_built_as_for_a_device_and_seen_in_the_environment(tmp_path, old, pin):
    folder = tmp_path / "venv"
    for name, text in ((folder / "bin/python", JETSON), (tmp_path / "cuda/bin/nvcc", "#!/bin/sh\n")):
        name.parent.mkdir(parents=True)
        name.write_text(text)
        name.chmod(0o755)
    environment = dict(os.environ, OLD=old, FOLDER=str(folder), CUDA_ROOT=str(tmp_path / "cuda"))
    command = ["sh", str(ROOT / "deploy/pycuda.sh"), str(folder)]
    said = subprocess.check_output(command, env=environment, universal_newlines=True)
    assert "changed: built {} against {}".format(pin, tmp_path / "cuda") in said
    assert (folder / "site/pycuda.pth").read_text() == "{}\n".format(folder / "pycuda")
    asked = (folder / "asked").read_text().splitlines()
    assert asked[-1].endswith("--no-deps --target {} {}".format(folder / "pycuda", pin))
    assert subprocess.check_output(command, env=environment) == b"", "it is there"
