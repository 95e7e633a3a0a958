"""What happens to an engine that cannot be used, and what ``auto`` makes of it."""

import os
import shutil

import pytest

from edge_app import cli, config
from edge_app.config import DetectorSettings
from edge_app.errors import DetectorError, OutOfMemoryError
from edge_app.nvidia import cache, compiler, convert
from edge_app.nvidia.convert import ConvertOptions
from edge_app.nvidia.detector import CudaDetector

OUT_OF_MEMORY = "[executionContext.cpp::initializeExecutionContext::276] Error Code 2: OutOfMemory (no further information)"


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
    monkeypatch.setenv("TRT_STANDIN_NOISE", "0.1")
    before = desk.written_ns
    with pytest.raises(convert.EngineRefused, match="cannot run"):
        desk.start()
    assert desk.written_ns == before  # the new one was no better, and is not in its place
