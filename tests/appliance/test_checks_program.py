"""Libraries that crash, hide each other or do not load are findings; the doctor survives them."""

import json
import os
import shutil
import sys

import pytest
from trees import NANO, library, loaded, machine
from waiting import is_running, until

from edge_app.appliance import checks_program, cures, probe
from edge_app.appliance.finding import FAILURE, NOT_NEEDED, OK, WARNING
from edge_app.config import Given, Settings, resolve

MODEL = Settings().detector.model


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_what_is_installed_here_is_fine(tmp_path):
    here = machine(tmp_path)
    for check in (
        checks_program.python,
        checks_program.numpy,
        checks_program.opencv,
        checks_program.onnx_runtime,
        checks_program.model,
        checks_program.network,
    ):
        assert only(check(loaded(), here)).state == OK, check(loaded(), here)


@pytest.mark.parametrize(
    "problem, cure",
    [
        (
            "/usr/lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block",
            "export LD_PRELOAD=/usr/lib/aarch64-linux-gnu/libgomp.so.1\n",
        ),
        ("libGL.so.1: cannot open shared object file", "sudo apt install libgl1"),
        ("numpy.core.multiarray failed to import", "'numpy<2'"),
        ("No module named 'cv2'", "opencv-python"),
    ],
)
def test_an_opencv_that_does_not_load(tmp_path, monkeypatch, problem, cure):
    monkeypatch.setattr(cures, "PROJECT", str(tmp_path))  # as installed, without a Makefile
    folder = library(tmp_path, "cv2", "raise ImportError({!r})".format(problem))
    monkeypatch.setenv("PYTHONPATH", folder)
    found = only(checks_program.opencv(loaded(), machine(tmp_path)))
    assert found.state == FAILURE and problem in found.seen and cure in found.fix


def test_a_wheel_that_hides_jetpacks_opencv(tmp_path):
    found = only(checks_program.opencv(loaded(), machine(tmp_path, NANO)))
    assert found.state == WARNING and "hides the one of JetPack" in found.seen
    assert "pip uninstall -y opencv-python" in found.fix


def test_an_environment_that_cannot_see_jetpacks_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    assert only(checks_program.python(loaded(), machine(tmp_path, NANO))).state == FAILURE
    (tmp_path / "pyvenv.cfg").write_text("include-system-site-packages = true\n")
    assert only(checks_program.python(loaded(), machine(tmp_path, NANO))).state == OK


def test_libraries_that_fail_only_in_company(tmp_path, monkeypatch):
    problem = "libgomp.so.1: cannot allocate memory in static TLS block"
    text = "import sys\nif 'numpy' in sys.modules: raise ImportError({!r})".format(problem)
    folder = library(tmp_path, "aiohttp", text)
    monkeypatch.setenv("PYTHONPATH", folder)
    monkeypatch.setattr(checks_program, "_ORDER", ("numpy", "aiohttp"))
    found = only(checks_program.together(loaded(), machine(tmp_path)))
    assert found.state == FAILURE and found.fix.startswith("export LD_PRELOAD=libgomp.so.1")
    library(tmp_path, "aiohttp", "raise ImportError('broken anyway')")
    assert only(checks_program.together(loaded(), machine(tmp_path))).state == NOT_NEEDED
    library(tmp_path, "aiohttp", "import sys, os\nif 'numpy' in sys.modules: os.abort()")
    assert "SIGABRT" in only(checks_program.together(loaded(), machine(tmp_path))).seen
    library(tmp_path, "aiohttp", "")
    assert only(checks_program.together(loaded(), machine(tmp_path))).state == OK


def test_model_and_card(tmp_path):
    copy = tmp_path / "m.onnx"
    shutil.copy(MODEL, str(copy))
    wanted = loaded("detector.model={}".format(copy))
    assert "no model card" in only(checks_program.model(wanted, machine(tmp_path))).seen
    shutil.copy(MODEL.replace(".onnx", ".json"), str(tmp_path / "m.json"))
    assert only(checks_program.model(wanted, machine(tmp_path))).state == OK
    copy.write_bytes(copy.read_bytes()[:-1])
    found = only(checks_program.model(wanted, machine(tmp_path)))
    assert found.state == FAILURE and "does not match its card" in found.seen
    found = only(checks_program.network(wanted, machine(tmp_path)))
    assert found.state == FAILURE and "does not run" in found.seen


def test_the_services_settings_are_recommended(tmp_path):
    here = machine(tmp_path, {"etc/edge-app/edge-app.yaml": "camera:\n  source: csi://0\n"})
    path = str(tmp_path / "etc/edge-app/edge-app.yaml")
    found = only(checks_program.settings(loaded(), here))
    assert found.state == WARNING and found.fix.endswith("check --config " + path)
    given = resolve([Given("camera.source", "csi://0", path + ", line 2")])
    assert only(checks_program.settings(given, here)).state == OK


def test_a_pasted_command_runs_this_program():
    assert os.access(cures.program("check").split()[0], os.X_OK)


def test_a_child_that_hangs_is_ended_with_its_own_children(tmp_path):
    note = tmp_path / "number"
    script = (
        "import subprocess, sys, time\n"
        "open(sys.argv[1], 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "time.sleep(60)"
    )
    answer = probe.command([sys.executable, "-c", script, str(note)], 5.0)
    assert answer == (None, "", "no answer within 5 s")
    until(lambda: not is_running(note.read_text()))
    assert probe.command(["/no/such/program"], 1.0).status == 127


def test_a_probe_tells_what_the_library_said(capsys):
    assert probe.main(["version", "no_such_library"]) == 1
    assert "no_such_library" in capsys.readouterr().err
    assert probe.main(["version", "json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["path"] == os.path.dirname(
        json.__file__
    )
