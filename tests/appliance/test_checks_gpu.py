"""What the doctor says of the GPU where there is none, and where parts of it are missing."""

import pytest
from trees import NANO, loaded, machine

from edge_app.appliance import checks_gpu
from edge_app.appliance.finding import FAILURE, NOT_NEEDED, OK, WARNING
from edge_app.appliance.probe import Probed

TENSORRT = loaded("detector.backend=tensorrt")
FITS = {"path": "e.engine", "engine": "", "kernels": "", "verified": True, "refusal": ""}


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


@pytest.mark.parametrize("check", [checks_gpu.gpu, checks_gpu.tensorrt, checks_gpu.engine])
def test_nobody_asks_for_a_gpu_that_nobody_needs(check, tmp_path):
    assert "no NVIDIA GPU here" in only(check(loaded(), machine(tmp_path))).seen
    on_cpu = loaded("detector.backend=onnxruntime")
    assert only(check(on_cpu, machine(tmp_path, NANO))).state == NOT_NEEDED


def test_tensorrt_asked_for_by_name_without_a_gpu(tmp_path):
    found = only(checks_gpu.gpu(TENSORRT, machine(tmp_path)))
    assert found.state == FAILURE and found.fix.endswith("--set detector.backend=auto")
    assert only(checks_gpu.tensorrt(TENSORRT, machine(tmp_path))).state == NOT_NEEDED


@pytest.mark.parametrize(
    "problem, cure",
    [
        ("CUDA cannot be used: No module named 'pycuda'.", "cuda-nvcc-10-2"),
        ("CUDA failed: no CUDA-capable device is detected", "usermod -aG video"),
        ("libcuda.so.1: cannot open shared object file", "nvidia-l4t-cuda"),
        ("something else", "dmesg"),
    ],
)
def test_a_jetson_whose_gpu_does_not_answer(tmp_path, monkeypatch, problem, cure):
    monkeypatch.setattr(checks_gpu, "ask", lambda *_, **__: Probed({}, problem, False))
    found = only(checks_gpu.gpu(loaded(), machine(tmp_path, NANO)))
    assert found.state == WARNING and problem in found.seen and cure in found.fix
    assert only(checks_gpu.gpu(TENSORRT, machine(tmp_path, NANO))).state == FAILURE
    found = only(checks_gpu.tensorrt(TENSORRT, machine(tmp_path, NANO)))
    assert found.fix == "sudo apt install nvidia-jetpack"


@pytest.mark.parametrize(
    "change, state, words",
    [
        ({}, OK, "fits model"),
        (
            {"engine": "it was built for sm 53, not 87"},
            WARNING,
            "builds it for several minutes, since it was",
        ),
        ({"kernels": "their source has changed"}, WARNING, "compiles its kernels"),
        ({"verified": False}, WARNING, "is compared with the model"),
        ({"refusal": "a score differs by 0.1"}, WARNING, "0.1. Until then the network runs on the CPU"),
    ],
)
def test_an_engine_and_what_the_next_start_does_with_it(
    tmp_path, monkeypatch, change, state, words
):
    def ask(probe, *_, **__):
        return (
            Probed(dict(FITS, **change), "", False)
            if probe == "engine"
            else Probed({}, "no nvcc", False)
        )

    monkeypatch.setattr(checks_gpu, "ask", ask)
    found = checks_gpu.engine(loaded(), machine(tmp_path, NANO))
    assert found[0].state == state and words in found[0].seen
    if "engine" in change or "kernels" in change:
        assert found[1].state == FAILURE and found[1].seen == "no nvcc"
