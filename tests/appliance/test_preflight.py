"""A NumPy that ends the process is told, also by the command that could not be loaded with it."""

import json
import subprocess
import sys

import pytest
from trees import library

from edge_app.appliance import preflight
from edge_app.appliance.finding import FAILURE, OK

ILLEGAL = """
import os, signal
if os.environ.get("OPENBLAS_CORETYPE") != "ARMV8":
    os.kill(os.getpid(), signal.SIGILL)
__version__, float32 = "1.19.5", float
class ones:
    def __init__(self, shape, kind): pass
    def dot(self, other): return {(0, 0): 64.0}
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "edge_app"] + list(arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_the_numpy_here_is_fine():
    assert preflight.look_at_numpy().state == OK
    assert not preflight.grounded(["check"]) and not preflight.grounded(["run"])


def test_an_illegal_instruction_is_told_with_what_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", library(tmp_path, "numpy", ILLEGAL))
    found = preflight.look_at_numpy()
    assert found.state == FAILURE and "SIGILL" in found.seen
    assert found.fix.startswith("export OPENBLAS_CORETYPE=ARMV8\n")


@pytest.mark.parametrize(
    "text, words, cure",
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", "'numpy<1.19.5'"),
        ("raise ImportError('no numpy here')", "no numpy here", "edge-app"),
    ],
)
def test_check_says_so_although_nothing_else_can_be_loaded(
    tmp_path, monkeypatch, text, words, cure
):
    monkeypatch.setenv("PYTHONPATH", library(tmp_path, "numpy", text))
    status, said = run("check")
    assert status == 1 and words in said and cure in said and "Begin with numpy" in said
    status, said = run("check", "--json")
    assert status == 1 and json.loads(said)["findings"][0]["name"] == "numpy"


def test_another_python_than_the_programs_own(tmp_path, monkeypatch):
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(preflight, "PROJECT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", library(tmp_path, "numpy", "raise ImportError('none')"))
    found = preflight.look_at_numpy()
    assert found.fix == str(tmp_path / ".venv" / "bin" / "edge-app") + " check"
