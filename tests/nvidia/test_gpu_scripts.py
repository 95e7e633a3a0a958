"""The scripts of tests/gpu, run on the stand-ins, so that they work the day a GPU is at hand."""

import os
import subprocess
import sys

import pytest
from standins import HERE, STANDIN

ROOT = os.path.dirname(os.path.dirname(HERE))


@pytest.fixture
def environment(nvidia, standin, nvcc, tmp_path):
    """Of a process that finds pycuda, the stand-in libcuda, nvcc, TensorRT and a GPU by the usual ways."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho a stand-in\n")
    program.chmod(0o755)
    return dict(
        os.environ,
        PATH=os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]),
        PYTHON=sys.executable,
        PYTHONPATH=os.pathsep.join([os.path.join(nvidia, "site"), STANDIN]),
        LD_LIBRARY_PATH=standin.folder,
        CUDA_ROOT=str(nvcc),
        TRT_STANDIN="10.3.0",
        OUT=str(tmp_path / "out"),
        EDGE_APP_GPU_SITE=str(tmp_path / "site"),
        EDGE_APP_GPU_CASES="28",
        PYTEST_ADDOPTS="--deselect tests/gpu/test_gpu.py::test_every_default_box_over_the_threshold",
    )


def run(environment, *steps):
    """What run.sh printed."""
    done = subprocess.run(
        ["sh", "tests/gpu/run.sh"] + list(steps),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_gpu_tests_pass_on_the_stand_in(environment):
    text = run(environment, "install", "tests")
    assert " passed" in text and "skipped" not in text


def test_the_engine_passes_its_gate_on_the_stand_in(environment):
    text = run(environment, "engine")
    assert "parity over 6 pictures" in text and "2 passed" in text


def test_a_step_that_fails_shows_in_the_status_and_the_next_one_runs(environment):
    environment["EDGE_APP_GPU_CASES"] = "nonsense"
    with pytest.raises(AssertionError) as failure:
        run(environment, "tests", "engine")
    assert "== tests FAILED" in str(failure.value) and "== engine FAILED" in str(failure.value)


def test_the_measurement_prints_its_tables(environment):
    options = ["--rounds", "1", "--warm", "0", "--ahead-mib", "1"]
    text = subprocess.check_output(
        [sys.executable, os.path.join("tests", "gpu", "measure.py")] + options,
        cwd=ROOT,
        env=environment,
        universal_newlines=True,
    )
    assert "CPU emulated Tegra X1 (sm_53)" in text
    for row in (
        "| preprocess 1280x720 to 320x320 | - | ",
        "| preprocess 1280x720 to 300x300 | - | ",
        "| decode + NMS at 0.95 | 40 | ",
        "| decode + NMS every default box | 750 | ",
        "| overlap_mask | 10659 | ",
        "TensorRT, FP16: GPU ",
        "Whole detector, a frame of 1280x720",
    ):
        assert row in text
    assert "of 60 microseconds allowed" in text and "COMPUTED" in text


def test_without_a_gpu_the_script_says_so_and_succeeds(tmp_path):
    environment = dict(os.environ, OUT=str(tmp_path))
    if subprocess.call("nvidia-smi -L >/dev/null 2>&1", shell=True) == 0:
        pytest.skip("there is a GPU here")
    text = subprocess.check_output(
        ["sh", "tests/gpu/run.sh"], cwd=ROOT, env=environment, universal_newlines=True
    )
    assert "NOT tested on a GPU" in text
