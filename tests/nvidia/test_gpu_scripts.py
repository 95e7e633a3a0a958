"""The scripts of tests/gpu, run on the stand-ins, so that they work the day a GPU is at hand."""

import os
import subprocess
import sys

import pytest
from standins import HERE, STANDIN

ROOT = os.path.dirname(os.path.dirname(HERE))


@pytest.fixture
def environment(nvidia, standin, nvcc):
    """Of a process that finds pycuda, the stand-in libcuda, nvcc and TensorRT by the usual ways."""
    return dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([os.path.join(nvidia, "site"), STANDIN]),
        LD_LIBRARY_PATH=standin.folder,
        CUDA_ROOT=str(nvcc),
        TRT_STANDIN="10.3.0",
        EDGE_APP_GPU_TEST="1",
        EDGE_APP_GPU_CASES="28",
    )


def test_the_gpu_tests_pass_on_the_stand_in(environment):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "tests/gpu",
    ]
    done = subprocess.run(
        command + ["-k", "not every_default_box"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout and "passed" in done.stdout


def test_the_measurement_prints_its_table(environment):
    command = [
        sys.executable,
        os.path.join("tests", "gpu", "measure.py"),
        "--rounds",
        "1",
        "--warm",
        "0",
    ]
    text = subprocess.check_output(command, cwd=ROOT, env=environment, universal_newlines=True)
    assert "CPU emulated Tegra X1 (sm_53)" in text
    for row in ("preprocess 1280x720 to 320x320", "decode + NMS at 0.95 | ", "inference | - | "):
        assert row in text
    assert "of 60 microseconds allowed" in text


def test_without_a_gpu_the_script_says_so_and_succeeds(tmp_path):
    environment = dict(os.environ, OUT=str(tmp_path))
    if subprocess.call("nvidia-smi -L >/dev/null 2>&1", shell=True) == 0:
        pytest.skip("there is a GPU here")
    text = subprocess.check_output(
        ["sh", "tests/gpu/run.sh"], cwd=ROOT, env=environment, universal_newlines=True
    )
    assert "NOT tested on a GPU" in text
