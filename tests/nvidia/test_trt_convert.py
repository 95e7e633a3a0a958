"""The converter's control flow, release by release, on TensorRT's stand-in."""

import errno
import json
import os
import signal
import subprocess
import sys

import onnx
import pytest
import small_ssd
from onnx import TensorProto, helper
from waiting import is_running, until

from edge_app.errors import CardError, DetectorError, OutOfMemoryError
from edge_app.nvidia import builder, cache, convert
from edge_app.nvidia.convert import ConvertOptions

EVERY_RELEASE = ("8.2.1", "8.5.2", "8.6.1", "10.3.0", "11")


@pytest.fixture
def model(tmp_path):
    return small_ssd.write(tmp_path)


@pytest.fixture
def machine(standin, nvcc, tensorrt):
    yield standin
    assert standin.alive() == {}


def convert_it(model, **options):
    """(files, everything that was said)."""
    said = []
    files = convert.build(model, ConvertOptions(**options), said.append)
    return files, "\n".join(said)


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_every_release_builds_a_half_precision_engine_and_proves_it(
    machine, tensorrt, model, release
):
    tensorrt(release)
    files, said = convert_it(model)
    record = cache.load_record(files.record)
    assert record.fingerprint.tensorrt.startswith("tensorrt " + release)
    assert record.fingerprint.gpu == "CPU emulated Tegra X1" and record.fingerprint.sm == 53
    assert record.verified and record.parity["missing"] == 0
    assert record.parity["score_difference"] <= 0.01
    assert 0.5 < record.half_layers / record.layers <= 1
    assert record.proof == ("network" if release == "11" else "inspector")
    assert os.path.getsize(files.engine) == record.engine_bytes
    assert "parity over 6 pictures" in said and "kernels compiled for sm_53" in said
    left = set(os.listdir(os.path.dirname(model)))
    names = ["onnx", "json", "engine", "fingerprint.json", "timing.cache"]
    names += ["preprocess.cubin", "nms.cubin"]
    assert left == {"small_ssd." + name for name in names} | {"cuda"}


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_single_precision_has_no_half_layers(machine, tensorrt, model, release):
    tensorrt(release)
    files, _ = convert_it(model, precision="fp32")
    assert cache.load_record(files.record).half_layers == 0


@pytest.mark.parametrize("release", ["8.2.1", "10.3.0"])
def test_a_float32_engine_where_half_was_asked_for_is_an_error(
    machine, tensorrt, model, monkeypatch, release
):
    tensorrt(release)
    monkeypatch.setenv("TRT_STANDIN_IGNORES_FP16", "1")
    with pytest.raises(DetectorError, match="none of the engine's 10 layers is in half precision"):
        convert_it(model)
    assert not os.path.exists(cache.files_of(model).engine)


def test_an_engine_that_differs_is_refused_and_the_old_one_stays(
    machine, tensorrt, model, monkeypatch
):
    tensorrt("8.2.1")
    files, _ = convert_it(model)
    with open(files.engine, "rb") as file:
        before = file.read()
    monkeypatch.setenv("TRT_STANDIN_NOISE", "0.05")
    with pytest.raises(DetectorError, match=r"is refused: a score differs by 0.0500.*--force"):
        convert_it(model, precision="fp32")
    with open(files.engine, "rb") as file:
        assert file.read() == before
    assert cache.load_record(files.record).fingerprint.precision == "fp16"
    _, said = convert_it(model, precision="fp32", force=True)
    assert "FORCED: the engine is used although a score differs" in said
    assert cache.load_record(files.record).parity["score_difference"] == pytest.approx(
        0.05, abs=1e-4
    )


def test_with_too_little_memory_smaller_workspaces_are_tried(machine, tensorrt, model, monkeypatch):
    tensorrt("8.2.1")
    monkeypatch.setenv("TRT_STANDIN_MEMORY_MIB", "100")
    files, said = convert_it(model, workspace_mib=512)
    assert cache.load_record(files.record).workspace_mib == 64
    assert said.count("not enough memory") == 3 and "Cuda Runtime (out of memory)" in said


def test_a_builder_that_the_kernel_kills_is_tried_again(machine, tensorrt, model, monkeypatch):
    tensorrt("10.3.0")
    monkeypatch.setenv("TRT_STANDIN_KILL_MIB", "130")
    files, said = convert_it(model, workspace_mib=256)
    assert cache.load_record(files.record).workspace_mib == 128
    assert "was killed, as the kernel does for want of memory" in said


def test_when_no_workspace_is_small_enough_the_reason_is_told(
    machine, tensorrt, model, monkeypatch
):
    tensorrt("8.2.1")
    monkeypatch.setenv("TRT_STANDIN_MEMORY_MIB", "1")
    with pytest.raises(DetectorError, match="cannot be converted.*out of memory"):
        convert_it(model)


def test_workspace_rungs(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000000 kB\nMemAvailable:   1048576 kB\n")
    assert convert.workspace_rungs(meminfo=str(meminfo)) == [409, 256, 128, 64, 16]
    meminfo.write_text("MemAvailable:   30 kB\n")
    assert convert.workspace_rungs(meminfo=str(meminfo)) == [16]
    meminfo.write_text("MemAvailable:   99999999 kB\n")
    assert convert.workspace_rungs(meminfo=str(meminfo)) == [512, 256, 128, 64, 16]
    assert convert.workspace_rungs(100) == [100, 64, 16]
    assert convert.workspace_rungs(meminfo=str(tmp_path / "none")) == [102, 64, 16]


def one_node(path, kind, opset=11, shape=(1, 3, 96, 96), **attributes):
    """A model of a single operator under the names of small_ssd's ends."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("offsets", TensorProto.FLOAT, shape)
    node = helper.make_node(kind, ["image"], ["offsets"], name="the_node", **attributes)
    graph = helper.make_graph([node], "one", [image], [answer])
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=6), path)
    return small_ssd.write_card(path)


def bad_model(tmp_path, kind):
    path = str(tmp_path / "bad.onnx")
    if kind == "unknown operator":
        return one_node(path, "Frobnicate")
    if kind == "operator this release lacks":
        return one_node(path, "HardSwish", opset=14)
    if kind == "dynamic shape":
        return one_node(path, "Relu", shape=("n", 3, 96, 96))
    if kind == "wrong outputs":
        return one_node(path, "Relu")
    if kind == "garbage":
        with open(path, "wb") as file:
            file.write(b"this is no network" * 40)
        return small_ssd.write_card(path)
    if kind == "truncated":
        with open(small_ssd.write(tmp_path), "rb") as file:
            whole = file.read()
        with open(path, "wb") as file:
            file.write(whole[: len(whole) // 2])
        return small_ssd.write_card(path)
    open(path, "wb").close()
    return small_ssd.write_card(path)


BAD = [
    ("unknown operator", "node 0: No importer registered for op: Frobnicate.*UNSUPPORTED_NODE"),
    ("operator this release lacks", "No importer registered for op: HardSwish"),
    ("dynamic shape", r"dynamic shape: image \[-1, 3, 96, 96\].*fixed batch"),
    ("wrong outputs", r"wrong inputs or outputs: the model has .*'offsets': \[1, 3, 96, 96\]"),
    ("garbage", "Failed to parse the ONNX model .MODEL_DESERIALIZE_FAILED"),
    ("truncated", "Failed to parse the ONNX model"),
    ("empty", "Failed to parse the ONNX model"),
]


@pytest.mark.parametrize("kind,words", BAD, ids=[kind for kind, _ in BAD])
def test_bad_models_get_one_clear_message(machine, tensorrt, tmp_path, kind, words):
    tensorrt("8.2.1")
    with pytest.raises(DetectorError, match="bad.onnx cannot be converted: .*" + words):
        convert_it(bad_model(tmp_path, kind))


def test_no_model_and_no_card_are_told(machine, tensorrt, tmp_path, model):
    tensorrt("8.2.1")
    with pytest.raises(CardError, match="no model card"):
        convert_it(str(tmp_path / "none.onnx"))
    os.remove(model)
    with pytest.raises(CardError, match="no model at"):
        convert_it(model)


def test_another_gpu_needs_a_builder_that_can(machine, tensorrt, model):
    tensorrt("10.3.0")
    with pytest.raises(DetectorError, match="builds for the GPU it runs on, not for sm_86"):
        convert_it(model, sm=86)


def test_the_output_folder_is_made(machine, tensorrt, model, tmp_path):
    tensorrt("8.2.1")
    files, _ = convert_it(model, output=str(tmp_path / "deep" / "folder"))
    assert os.path.dirname(files.engine) == str(tmp_path / "deep" / "folder")
    assert os.path.exists(files.engine) and os.path.exists(files.cubins[1])


def test_a_folder_that_cannot_be_written_to_is_named(model, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    folder = str(tmp_path / "file" / "engines")
    with pytest.raises(DetectorError, match=r"engines/small_ssd.engine: .*Not a directory.*--output"):
        convert.build(model, ConvertOptions(output=folder))


def test_the_folder_is_blamed_for_nothing_else(machine, tensorrt, model, monkeypatch):
    tensorrt("8.2.1")

    def fork(*arguments, **options):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(convert.subprocess, "Popen", fork)
    with pytest.raises(OutOfMemoryError, match="builder cannot be started.*Cannot allocate memory"):
        convert.build(model, ConvertOptions())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_what_a_folder_is_to_blame_for(machine, tensorrt, model, monkeypatch, number):
    tensorrt("8.2.1")

    def publish(temporary, path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache, "publish", publish)
    with pytest.raises(DetectorError, match="the engine cannot be kept as .*small_ssd.engine: "):
        convert.build(model, ConvertOptions(), lambda text: None)


def test_a_builder_that_hangs_is_ended(machine, tensorrt, model, monkeypatch):
    tensorrt("8.2.1")
    monkeypatch.setenv("TRT_STANDIN_SLOW_S", "300")
    monkeypatch.setattr(convert, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(convert, "LONGEST_BUILD_S", 0.5)
    before = set(os.listdir(os.path.dirname(model)))
    with pytest.raises(convert.BuildRefused, match="has not come to an end within"):
        convert.build(model, ConvertOptions(), lambda text: None)
    assert set(os.listdir(os.path.dirname(model))) - before == {"small_ssd.refused.json"}


def test_the_timing_cache_is_kept_and_grows(machine, tensorrt, model):
    tensorrt("8.2.1")
    files, _ = convert_it(model)
    convert_it(model)
    with open(files.timing_cache, "rb") as file:
        assert file.read() == b"tt"


def test_a_heartbeat_is_heard_while_it_builds(machine, tensorrt, model, monkeypatch):
    tensorrt("8.2.1")
    monkeypatch.setenv("TRT_STANDIN_SLOW_S", "0.5")
    monkeypatch.setattr(convert, "HEARTBEAT_S", 0.1)
    _, said = convert_it(model)
    assert said.count("building the engine, ") >= 3


def test_an_interrupted_build_ends_its_child_and_leaves_nothing(
    machine, tensorrt, model, monkeypatch
):
    tensorrt("8.2.1")
    monkeypatch.setenv("TRT_STANDIN_SLOW_S", "60")
    monkeypatch.setattr(convert, "HEARTBEAT_S", 0.1)
    children = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            children.append(self)

    monkeypatch.setattr(convert.subprocess, "Popen", Popen)
    before = set(os.listdir(os.path.dirname(model)))

    def interrupt(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert.build(model, ConvertOptions(), interrupt)
    assert [child.returncode for child in children] == [-signal.SIGTERM]
    assert set(os.listdir(os.path.dirname(model))) == before


PARENT = """
import sys
from edge_app.nvidia import convert
convert.HEARTBEAT_S = 0.1
convert.build(sys.argv[1], convert.ConvertOptions(), lambda text: print(text, flush=True))
"""


def test_a_build_does_not_outlive_a_program_that_is_killed(tensorrt, model, monkeypatch, tmp_path):
    tensorrt("8.2.1")
    monkeypatch.setenv("TRT_STANDIN_SLOW_S", "60")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"] + os.pathsep + root)
    command = [sys.executable, "-c", PARENT, model]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert b"building" in parent.stdout.readline()
    with open("/proc/{0}/task/{0}/children".format(parent.pid)) as file:
        child = int(file.read().split()[0])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_running(child))
    with cache.build_folder(os.path.dirname(model)) as folder:  # of the next build
        assert [os.path.basename(folder)] == [
            name for name in os.listdir(os.path.dirname(model)) if name.startswith(".build-")
        ]


def test_what_a_killed_build_left_is_cleared_away_but_not_a_build_under_way(
    machine, tensorrt, model
):
    tensorrt("8.2.1")
    folder = os.path.dirname(model)
    os.mkdir(os.path.join(folder, ".build-killed"))
    with open(os.path.join(folder, ".build-killed", "plan"), "wb") as file:
        file.write(b"half of an engine")
    with cache.build_folder(folder) as under_way:
        convert_it(model)
        assert not os.path.exists(os.path.join(folder, ".build-killed"))
        assert os.path.isdir(under_way)
    assert not [name for name in os.listdir(folder) if name.startswith(".build-")]


def test_without_onnx_runtime_the_gate_says_what_is_missing(machine, tensorrt, model, monkeypatch):
    tensorrt("8.2.1")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DetectorError, match="ONNX Runtime is not installed"):
        convert.parity.onnx_answers(model, None)


INSPECTED = {
    "Layers": [
        {
            "Name": "a",
            "Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 2 == 0"}],
        },
        {"Name": "b", "Outputs": [{"Format/Datatype": "Half"}]},
        {"Name": "c", "Outputs": [{"Format/Datatype": "Row major linear FP32 format"}]},
        {"Name": "d", "Outputs": [{"Format/Datatype": "Int32"}]},
        "a bare name, as engines without details have",
    ]
}


def test_the_inspector_s_list_is_counted():
    assert builder.inspector_share(json.dumps(INSPECTED)) == (2, 3)
