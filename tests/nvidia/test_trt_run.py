"""``run`` on a fresh Jetson: the engine is built first. The program itself, on the stand-ins."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import small_ssd
from waiting import until

from edge_app.nvidia import cache


@pytest.fixture
def program(standin, nvidia, nvcc, tensorrt, monkeypatch, tmp_path):
    """Function: start ``run`` on a model without an engine; the builder takes some seconds."""
    tensorrt("8.2.1")
    monkeypatch.setenv("TRT_STANDIN_SLOW_S", "2")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folders = [os.environ["PYTHONPATH"], os.path.join(nvidia, "site"), root]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.setenv("LD_LIBRARY_PATH", standin.folder)
    (tmp_path / "model").mkdir()
    small_ssd.write(tmp_path / "model")
    started = []

    def start(*arguments):
        words = [sys.executable, "-m", "edge_app", "run", "--source", "test://", "--display", "none"]
        words += ["--set", "detector.model={}".format(model_in(tmp_path))] + list(arguments)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def model_in(tmp_path):
    return str(tmp_path / "model" / "small_ssd.onnx")


def test_the_time_of_a_run_begins_when_its_engine_is_there(program, monkeypatch, tmp_path):
    monkeypatch.setenv("TRT_STANDIN_SLOW_S", "5")  # longer than the run
    stats = tmp_path / "stats.json"
    process = program("--seconds", "4", "--stats", str(stats))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    summary = json.loads(stats.read_text())
    assert summary["frames"]["shown"] > 0 and "sm_53" in summary["detector"]
    assert b"building the engine: there is no engine" in err
    assert os.path.exists(cache.files_of(model_in(tmp_path)).engine)


def test_ctrl_c_ends_it_while_the_engine_is_built(program, monkeypatch, tmp_path):
    monkeypatch.setenv("TRT_STANDIN_SLOW_S", "300")
    process = program("--seconds", "1")
    until(lambda: [one for one in os.listdir(str(tmp_path / "model")) if one.startswith(".build-")])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and b"Traceback" not in err, err.decode()
    assert not os.path.exists(cache.files_of(model_in(tmp_path)).engine)


def test_systemd_gives_it_the_time_that_the_engine_takes(program, monkeypatch, tmp_path):
    address, told = str(tmp_path / "notify"), []
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(60)
        process = program("--frames", "3", "--set", "recovery.mode=never")
        while "READY=1\nWATCHDOG=1" not in told:
            told.append(systemd.recv(1000).decode())
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    assert any(one.startswith("STATUS=waiting for detector: building the engine") for one in told)
    assert any(one.startswith("EXTEND_TIMEOUT_USEC=") for one in told)
