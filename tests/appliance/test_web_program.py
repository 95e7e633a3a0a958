"""The whole program without a camera: the page is there and says what is missing, and probes agree."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from programs import samples
from webclient import get


@pytest.fixture
def waiting_program(tmp_path):
    """Address of a program that waits for a camera, told by its log."""
    command = [sys.executable, "-u", "-m", "edge_app", "run", "--display", "web"]
    command += ["--source", "v4l2:///dev/video99", "--set", "recovery.mode=always"]
    command += ["--set", "web.port=0"]
    log = tmp_path / "log"
    with open(str(log), "wb") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file)
    try:
        deadline = time.monotonic() + 90
        address = None
        while address is None:
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            address = re.search("live view: (http://.*)", log.read_text())
            time.sleep(0.05)
        yield address.group(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_without_a_camera_the_page_is_there_and_says_so(waiting_program):
    url = waiting_program
    deadline = time.monotonic() + 60
    while True:
        status = json.loads(get(url + "/api/status")[1].decode())
        if "camera" in status["waiting"]:
            break
        assert status["health"]["state"] == "starting" and time.monotonic() < deadline
        time.sleep(0.05)
    assert "/dev/video99" in status["waiting"]["camera"]
    first = status["notes"][0]
    assert first["kind"] == "service" and first["text"].startswith("started, edge-app ")
    assert status["health"]["state"] == "waiting" and status["frame"] is None
    assert get(url + "/")[0] == 200
    code, text = get(url + "/healthz")
    assert code == 200 and text.startswith(b"ok\n") and b"/dev/video99" in text
    assert get(url + "/readyz")[0] == 503
    assert get(url + "/snapshot.jpg")[0] == 503
    told = samples(get(url + "/metrics")[1])
    assert told["edge_app_waiting", "camera"] == 1 and told["edge_app_frames_total", "camera"] == 0
