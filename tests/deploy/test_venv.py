"""deploy/venv.sh, with a Python that only notes what pip is asked for: what is done again, and what is not."""

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
