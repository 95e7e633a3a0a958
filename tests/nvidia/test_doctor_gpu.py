"""The doctor's view of a GPU: real children, the real pycuda, the stand-in driver and TensorRT."""

import os
import sys

import pytest

from edge_app import config
from edge_app.appliance import checks_gpu
from edge_app.appliance.finding import OK, WARNING
from edge_app.appliance.machine import Machine
from edge_app.errors import DetectorError
from edge_app.nvidia import convert


@pytest.fixture
def model(converted, standin, nvidia, monkeypatch):
    """A small model with its engine, and children that find what this process has."""
    path = converted()
    site = os.path.join(nvidia, "site")
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"] + os.pathsep + site)
    monkeypatch.setenv("LD_LIBRARY_PATH", standin.folder)
    return path


@pytest.fixture
def jetson(tmp_path):
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "nv_tegra_release").write_text("# R32 (release), REVISION: 7.1")
    return Machine(str(tmp_path / "root"))


def settings(model):
    return config.resolve([config.Given("detector.model", model, "--set")])


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_gpu_tensorrt_and_an_engine_that_fits(model, jetson):
    loaded = settings(model)
    found = only(checks_gpu.gpu(loaded, jetson))
    assert found.state == OK and "sm_53" in found.seen and "pycuda" in found.seen
    found = only(checks_gpu.tensorrt(loaded, jetson))
    assert found.state == OK and "tensorrt 8.2.1" in found.seen
    found = only(checks_gpu.engine(loaded, jetson))
    assert found.state == OK and "small_ssd.engine fits" in found.seen


def test_an_engine_that_does_not_fit_is_told_before_it_is_built(model, jetson):
    with open(model.replace(".onnx", ".engine"), "r+b") as file:
        file.truncate(100)
    found = checks_gpu.engine(settings(model), jetson)
    assert found[0].state == WARNING and "the engine has 100 of" in found[0].seen
    assert found[0].fix.endswith("convert " + model)
    assert found[1].name == "CUDA compiler" and found[1].state == OK
    with open(model.replace(".onnx", ".engine"), "rb") as file:
        assert len(file.read()) == 100, "the doctor builds nothing"


def test_an_engine_that_was_refused_is_not_said_to_be_built(model, jetson, monkeypatch):
    os.remove(model.replace(".onnx", ".engine"))
    monkeypatch.setenv("TRT_STANDIN_NOISE", "0.1")
    with pytest.raises(DetectorError, match="is refused"):
        convert.build(model)
    found = only(checks_gpu.engine(settings(model), jetson))
    assert found.state == WARNING and "not built again" in found.seen and "differs" in found.seen
    assert found.fix.endswith("convert " + model)


def test_kernels_that_do_not_fit_and_no_compiler_for_them(model, jetson, nvcc, monkeypatch):
    os.remove(model.replace(".onnx", ".nms.cubin"))
    (nvcc / "bin" / "nvcc").unlink()
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    found = checks_gpu.engine(settings(model), jetson)
    assert found[0].state == WARNING and "nms.cubin is missing" in found[0].seen
    assert found[1].name == "CUDA compiler"
