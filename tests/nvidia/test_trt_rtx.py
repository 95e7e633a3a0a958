"""The converter on NVIDIA's own parser and builder: TensorRT-RTX, which builds without a GPU.

It has the interface of TensorRT 11, so this is that branch of the converter, for real: the cast of the
ONNX, parsing, building for GPUs that are not here, and the parser's own words about bad models.
"""

import os
import sys

import onnx
import pytest
import small_ssd
from test_trt_convert import bad_model, one_node

from edge_app.errors import DetectorError
from edge_app.nvidia import cache, convert
from edge_app.nvidia.convert import ConvertOptions

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 8), reason="TensorRT-RTX has no wheel for Python 3.6"
)
TARGETS = (75, 80, 86, 89, 120)


@pytest.fixture
def rtx(nvidia, monkeypatch, tmp_path):
    """A machine with TensorRT-RTX and no GPU; kernels are compiled by the real NVRTC."""
    folder = os.path.join(nvidia, "rtx")
    toolkit = os.path.join(os.path.dirname(nvidia), "toolkit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, toolkit]))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(convert.compiler, "cuda_folders", lambda: [str(tmp_path)])
    monkeypatch.syspath_prepend(toolkit)
    monkeypatch.setattr(convert, "_gpu_for", lambda sm: None)


def convert_it(model, **options):
    said = []
    files = convert.build(model, ConvertOptions(**options), said.append)
    return files, "\n".join(said)


def read(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("sm", TARGETS)
def test_half_precision_engines_for_gpus_that_are_not_here(rtx, tmp_path, sm):
    model = small_ssd.write(tmp_path)
    files, said = convert_it(model, sm=sm)
    record = cache.load_record(files.record)
    assert record.fingerprint.tensorrt == "tensorrt_rtx 1.7.1.116"
    assert (record.fingerprint.sm, record.fingerprint.gpu) == (sm, cache.ANY_GPU)
    assert not record.verified and "UNVERIFIED" in said
    assert record.proof == "network" and record.half_layers / record.layers > 0.9
    assert read(files.engine)[:4] == b"vtrt"
    if sm > 90:  # beyond NVRTC 11.8
        assert "the kernels are compiled at the first start on the GPU: NVRTC 11.8 failed" in said
    else:
        assert record.kernels["sm"] == sm and read(files.cubins[0])[:4] == b"\x7fELF"


def test_two_builds_are_the_same(rtx, tmp_path):
    model = small_ssd.write(tmp_path, side_px=320)
    first = read(convert_it(model, sm=86)[0].engine)
    second = read(convert_it(model, sm=86)[0].engine)
    assert first == second


def test_single_precision(rtx, tmp_path):
    model = small_ssd.write(tmp_path)
    files, _ = convert_it(model, sm=86, precision="fp32")
    record = cache.load_record(files.record)
    assert record.half_layers == 0 and record.layers > 20
    half, _ = convert_it(model, sm=86)
    assert cache.load_record(half.record).half_layers > 20


def test_without_a_target_kernels_wait_for_the_gpu(rtx, tmp_path):
    files, said = convert_it(small_ssd.write(tmp_path))
    assert "the first start on the GPU: no GPU was named" in said
    assert cache.load_record(files.record).fingerprint.sm == 0
    assert not os.path.exists(files.cubins[0])


def test_an_unknown_target_lists_those_there_are(rtx, tmp_path):
    with pytest.raises(DetectorError, match="no target sm_53; this builder has .*SM86"):
        convert_it(small_ssd.write(tmp_path), sm=53)


def test_our_own_model_of_the_repository(rtx, tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    model = os.path.join(root, "engines", "ssd_mobilenet_v2.onnx")
    files, _ = convert_it(model, sm=86, output=str(tmp_path))
    record = cache.load_record(files.record)
    assert record.half_layers / record.layers > 0.9 and record.engine_bytes > 1e6


BAD = [
    ("unknown operator", "node 'the_node', operator Frobnicate: .*INVALID_NODE"),
    ("dynamic shape", r"dynamic shape: image \[-1, 3, 96, 96\]"),
    ("wrong outputs", "wrong inputs or outputs"),
    ("garbage", "bad.onnx cannot be"),
    ("truncated", "bad.onnx cannot be"),
    ("empty", "bad.onnx cannot be"),
]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("kind,words", BAD, ids=[kind for kind, _ in BAD])
def test_bad_models_get_nvidia_s_own_words(rtx, tmp_path, kind, words, precision):
    with pytest.raises(DetectorError, match=words):
        convert_it(bad_model(tmp_path, kind), sm=86, precision=precision)


def test_an_opset_that_is_too_old_or_an_operator_it_lacks(rtx, tmp_path):
    with pytest.raises(DetectorError, match="bad.onnx cannot be converted: .*[Oo]pset"):
        model = onnx.load(small_ssd.write(tmp_path))
        model.opset_import[0].version = 6
        onnx.save(model, str(tmp_path / "bad.onnx"))
        convert_it(small_ssd.write_card(str(tmp_path / "bad.onnx")), sm=86, precision="fp32")
    with pytest.raises(DetectorError, match="operator Unique: .*UNSUPPORTED_NODE"):
        convert_it(one_node(str(tmp_path / "bad.onnx"), "Unique"), sm=86, precision="fp32")


def test_no_file_gets_the_parser_s_words_too(rtx, tmp_path, monkeypatch):
    """Past our own check, as when the file goes between it and the build."""
    model = small_ssd.write(tmp_path)
    monkeypatch.setattr(convert, "verify_model", lambda card, path: os.remove(path))
    with pytest.raises(DetectorError, match="Input file cannot be found"):
        convert_it(model, sm=86, precision="fp32")
