"""What happens to an engine that cannot be used, and what ``auto`` makes of it."""

import os
import shutil
import sys

import pytest

from edge_app import cli, config
from edge_app.config import DetectorSettings
from edge_app.errors import DetectorError, OutOfMemoryError
from edge_app.nvidia import cache, compiler, convert
from edge_app.nvidia.convert import ConvertOptions
from edge_app.nvidia.detector import CudaDetector

OUT_OF_MEMORY = "[executionContext.cpp::276] Error Code 2: OutOfMemory (no further information)"


class Desk:
    """A model and its engine."""

    def __init__(self, model):
        self.model = model
        self.files = cache.files_of(model)

    def start(self):
        """What the strict detector says when it opens."""
        said = []
        with CudaDetector(DetectorSettings(model=self.model, threads=1), said.append):
            pass
        return "\n".join(said)

    def auto(self):
        """(description, what was said) of the detector that ``auto`` opens."""
        said = []
        given = [config.Given("detector.model", self.model, "--set")]
        with cli.open_detector(config.resolve(given).settings, said.append) as detector:
            assert detector.card.name and detector.overflow == 0
            return detector.description, "\n".join(said)

    def spoil(self, **changes):
        """Bytes that TensorRT refuses, under a fingerprint that fits."""
        with open(self.files.engine, "r+b") as file:
            file.write(b"XXXX")
        digest = cache.sha256_of(self.files.engine)
        record = cache.load_record(self.files.record)
        cache.save_record(record._replace(engine_sha256=digest, **changes), self.files.record)

    @property
    def written_ns(self):
        return os.stat(self.files.engine).st_mtime_ns


@pytest.fixture
def desk(standin, converted):
    yield Desk(converted())
    assert standin.alive() == {}


def test_a_refused_engine_is_built_anew_in_its_own_precision(desk):
    convert.build(desk.model, ConvertOptions(precision="fp32"), lambda text: None)
    desk.spoil()
    assert "building the engine: TensorRT cannot deserialise" in desk.start()
    assert cache.load_record(desk.files.record).fingerprint.precision == "fp32"
    assert desk.start() == ""


def test_a_refused_engine_that_was_never_tried_is_built_anew(desk):
    desk.spoil(verified=False, parity={})
    said = desk.start()
    assert "never run on a GPU" in said and "building the engine: TensorRT cannot deserialise" in said
    assert cache.load_record(desk.files.record).verified
    assert desk.start() == ""


@pytest.mark.parametrize("verified", [True, False])
def test_a_moment_without_memory_costs_no_engine(desk, monkeypatch, verified):
    record = cache.load_record(desk.files.record)
    cache.save_record(record._replace(verified=verified), desk.files.record)
    before = desk.written_ns
    monkeypatch.setenv("TRT_STANDIN_NO_CONTEXT", OUT_OF_MEMORY)
    for start in (desk.start, desk.auto):  # a restart may find memory; the CPU is for good
        with pytest.raises(OutOfMemoryError, match="OutOfMemory.*Close other programs"):
            start()
    assert desk.written_ns == before
    monkeypatch.delenv("TRT_STANDIN_NO_CONTEXT")
    assert "building" not in desk.start() and desk.written_ns == before


def test_words_about_memory_are_not_yet_a_want_of_it(desk, monkeypatch):
    monkeypatch.setenv("TRT_STANDIN_NO_CONTEXT", "Lazy loading can reduce device memory usage")
    before = desk.written_ns
    with pytest.raises(convert.BuildRefused, match="the new engine is refused: .* cannot run"):
        desk.start()
    assert desk.written_ns == before  # the new one was no better, and is not in its place
    with pytest.raises(convert.BuildRefused, match="is not built again"):
        desk.start()


def test_auto_takes_the_gpu_where_all_is_well(desk):
    description, said = desk.auto()
    assert description.startswith("tensorrt 8.2.1") and said == ""


def on_the_cpu(desk, caplog, words):
    caplog.clear()
    description, said = desk.auto()
    assert description.startswith("ONNX Runtime")
    lines = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(lines) == 1 and lines[0].startswith("on the CPU, since: "), lines
    assert words in lines[0], lines[0]
    return said


REFUSED = [
    ("TRT_STANDIN_NOISE", "0.1", "the fp16 engine is refused: a score differs by 0.1000"),
    ("TRT_STANDIN_NO_FP16", "1", "this GPU has no fast half precision"),
    ("TRT_STANDIN_CRASH", "1", "the builder ended with status -11"),
]


@pytest.mark.parametrize("fault, value, words", REFUSED, ids=[one[0] for one in REFUSED])
def test_a_build_that_is_refused_is_not_tried_at_every_start(
    desk, monkeypatch, caplog, tensorrt, fault, value, words
):
    os.remove(desk.files.engine)
    monkeypatch.setenv(fault, value)
    with pytest.raises(DetectorError, match="fp16|half precision|status -11"):
        desk.start()
    assert not os.path.exists(desk.files.engine)
    monkeypatch.delenv(fault)  # from here on it would succeed
    assert "building the engine" not in on_the_cpu(desk, caplog, words)
    assert "edge-app convert {}".format(desk.model) in caplog.text
    with pytest.raises(DetectorError, match="not built again"):
        desk.start()
    convert.build(desk.model, ConvertOptions(), lambda text: None)  # as 'edge-app convert' does
    assert desk.auto()[0].startswith("tensorrt") and not os.path.exists(desk.files.refusal)


def test_another_tensorrt_may_take_what_the_last_one_refused(desk, monkeypatch, caplog, tensorrt):
    os.remove(desk.files.engine)
    monkeypatch.setenv("TRT_STANDIN_NOISE", "0.1")
    assert "building the engine" in on_the_cpu(desk, caplog, "is refused")
    assert "building the engine" not in on_the_cpu(desk, caplog, "is refused")
    monkeypatch.delenv("TRT_STANDIN_NOISE")
    tensorrt("8.6.1")
    assert desk.auto()[0].startswith("tensorrt 8.6.1")


def test_what_may_pass_is_tried_again_at_the_next_start(desk, monkeypatch, caplog):
    os.remove(desk.files.engine)
    monkeypatch.setenv("TRT_STANDIN_MEMORY_MIB", "1")
    on_the_cpu(desk, caplog, "out of memory")
    monkeypatch.delenv("TRT_STANDIN_MEMORY_MIB")
    assert desk.auto()[0].startswith("tensorrt")


def test_a_new_engine_without_memory_to_try_it_is_no_reason_to_build_at_every_restart(
    desk, monkeypatch, caplog
):
    os.remove(desk.files.engine)
    monkeypatch.setenv("TRT_STANDIN_NO_CONTEXT", OUT_OF_MEMORY)
    on_the_cpu(desk, caplog, "OutOfMemory")


def test_a_builder_that_is_ended_from_outside_is_no_refusal(desk, monkeypatch, caplog):
    """As by systemd, which ends a service's processes all at once."""
    os.remove(desk.files.engine)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    on_the_cpu(desk, caplog, "the builder ended with status 1")
    assert not os.path.exists(desk.files.refusal)


def no_compiler():
    raise DetectorError("no CUDA compiler")


def test_without_a_compiler_auto_is_the_cpu_and_keeps_the_engine(desk, monkeypatch, caplog):
    os.remove(desk.files.cubins[0])
    monkeypatch.setattr(compiler, "find_compiler", no_compiler)
    before = desk.written_ns
    on_the_cpu(desk, caplog, "no CUDA compiler")
    assert desk.written_ns == before


def test_without_onnx_runtime_nothing_is_built_that_could_not_be_compared(desk, monkeypatch):
    os.remove(desk.files.engine)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = []
    with pytest.raises(DetectorError, match="ONNX Runtime is not installed"):
        convert.build(desk.model, progress=said.append)
    assert said == []


def test_an_old_refusal_is_forgotten_once_there_is_an_engine(desk, monkeypatch):
    monkeypatch.setenv("TRT_STANDIN_NOISE", "0.1")
    with pytest.raises(convert.BuildRefused):
        convert.build(desk.model, progress=lambda text: None)
    assert os.path.exists(desk.files.refusal) and os.path.exists(desk.files.engine)
    monkeypatch.delenv("TRT_STANDIN_NOISE")
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "find_compiler", no_compiler)
        with pytest.raises(DetectorError, match="no CUDA compiler"):
            convert.build(desk.model, progress=lambda text: None)
    assert not os.path.exists(desk.files.refusal)


def test_a_closed_folder_makes_auto_the_cpu(desk, monkeypatch, caplog):
    given = {"engines": os.path.join(desk.model, "engines")}
    with pytest.raises(DetectorError, match="cannot be kept"):
        with CudaDetector(DetectorSettings(model=desk.model, **given)):
            pass
    settings = config.resolve(
        [
            config.Given("detector.model", desk.model, "--set"),
            config.Given("detector.engines", given["engines"], "--set"),
        ]
    ).settings
    with cli.open_detector(settings) as detector:
        assert detector.description.startswith("ONNX Runtime")
    assert "on the CPU, since: the engine cannot be kept as" in caplog.text
    with pytest.raises(DetectorError, match="cannot be kept"):  # as a rehearsal wants it
        with cli.open_detector(settings, falls_back=False):
            pass
