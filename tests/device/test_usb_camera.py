"""A USB camera pulled and put back, for real: a kernel's V4L2 device that vanishes while our program reads it.

The story is told inside an emulated PC (pull_camera.py in camera_vm.py); here is what must have come of it.
"""

import json
import shutil
import sys

import camera_vm
import pytest
import trees
from models import make_bright

VM_S = 1800.0
RECOVERY_S = 120.0  # 5 s are promised; an emulated machine beside others is given more
# A small picture and a small network, since emulation is slow; the pauses of recovery are the product's own.
SETTINGS = {
    "camera.width_px": 320,
    "camera.height_px": 180,
    "camera.rate_hz": 10,
    "camera.timeout_s": 30,
    "detector.threads": 1,
    "recovery.detector_s": 600,
    "recovery.give_up_s": 900,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def steps(gstreamer):
    """What happened, in order."""
    camera_vm.require_vm()
    folder = trees.WORK / "usb-camera"
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir(parents=True)
    settings = ["{}={}".format(*one) for one in SETTINGS.items()]
    settings.append("detector.model=" + make_bright(folder))
    program = "tests/device/pull_camera.py"
    command = "cd '{}' && PYTHONDONTWRITEBYTECODE=1 '{}' {} {}"
    said = camera_vm.run(
        command.format(camera_vm.TOP, sys.executable, program, " ".join(settings)), folder, VM_S
    )
    lines = [line for line in said.splitlines() if line.startswith('{"')]
    steps = [json.loads(line) for line in lines]
    assert steps and steps[-1]["step"] == "done", said
    for one in steps:
        print("\n{}".format(one), end="")
    return steps


def of(steps, name, source=None):
    return [one for one in steps if one["step"] == name and source in (None, one.get("source"))]


def test_a_program_without_a_camera_starts_when_there_is_one(steps):
    assert "is the camera plugged in?" in of(steps, "no camera")[0]["said"]
    assert of(steps, "frames")[0]["size"] == [320, 180]


def test_a_camera_that_is_pulled_is_missed(steps):
    pulled = of(steps, "pulled")
    assert len(pulled) == 2
    for one in pulled:
        assert one["gone"] and "v4l2:///dev/v4l/by-path/" in one["said"]


@pytest.mark.parametrize("source, times", [("v4l2:///dev/v4l/by-path/", 2), ("v4l2:///dev/video0", 1)])
def test_a_camera_that_is_put_back_shows_frames_again(steps, source, times):
    """By either name: the number is another one each time, see docs/decisions/recovery.md."""
    back = [one for one in of(steps, "back") if one["source"].startswith(source)]
    assert len(back) == times
    for number, one in enumerate(back, 1):
        assert one["node"] != "/dev/video0" and one["recovered_s"] < RECOVERY_S
        assert one["waiting"] == {} and one["restarts"] == {"camera": number}
        assert one["frames"] == sorted(set(one["frames"]))


def test_the_program_ends_in_order(steps):
    assert [one["code"] for one in of(steps, "ended")] == [0, 0]
