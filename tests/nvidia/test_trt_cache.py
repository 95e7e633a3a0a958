"""What makes a cached engine be built again, what does not, and that one line says why."""

import json
import os

import pytest

from edge_app.card import card_path, load_card
from edge_app.config import DetectorSettings
from edge_app.nvidia import cache, compiler, convert
from edge_app.nvidia.context import Gpu
from edge_app.nvidia.detector import CudaDetector

HERE = Gpu("CPU emulated Tegra X1", 53, True)


class Desk:
    """A model, its engine, and what is said at each start."""

    def __init__(self, model):
        self.model = model
        self.files = cache.files_of(model)

    def start(self, gpu=HERE):
        """What is said when the engine is asked for; "" when it is simply taken."""
        said = []
        card = load_card(card_path(self.model))
        assert convert.ensure(self.model, card, gpu, said.append) == self.files
        return "\n".join(said)

    def record(self, **changes):
        record = cache.load_record(self.files.record)
        cache.save_record(record._replace(**changes), self.files.record)


@pytest.fixture
def desk(standin, converted):
    yield Desk(converted())
    assert standin.alive() == {}


def test_a_right_engine_is_taken_without_a_word(desk):
    before = os.stat(desk.files.engine).st_mtime_ns
    assert desk.start() == ""
    assert os.stat(desk.files.engine).st_mtime_ns == before


def test_a_missing_engine_is_built(desk):
    os.remove(desk.files.engine)
    assert "building the engine: there is no engine" in desk.start()
    assert desk.start() == ""


def test_a_truncated_engine_is_built_again(desk):
    with open(desk.files.engine, "r+b") as file:
        file.truncate(100)
    assert "the engine has 100 of " in desk.start()
    assert desk.start() == ""


def test_a_damaged_engine_is_built_again(desk):
    with open(desk.files.engine, "r+b") as file:
        file.seek(500)
        file.write(b"\xff\x00\xff")
    assert "the engine's bytes are not those that were written" in desk.start()
    assert desk.start() == ""


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"fingerprint": {}}', "\x00"])
def test_without_a_usable_fingerprint_it_is_built_again(desk, text):
    if text is None:
        os.remove(desk.files.record)
    else:
        with open(desk.files.record, "w") as file:
            file.write(text)
    assert "fingerprint" in desk.start()
    assert desk.start() == ""


FOREIGN = [
    ("gpu", "Orin", "gpu 'Orin', not 'CPU emulated Tegra X1'"),
    ("sm", 87, "sm 87, not 53"),
    ("l4t", "32.6.1", "l4t '32.6.1', not ''"),
    ("tensorrt", "tensorrt 8.0.1.6", "tensorrt 'tensorrt 8.0.1.6', not 'tensorrt 8.2.1.8'"),
    ("onnx_sha256", "0" * 64, "onnx_sha256"),
    ("converter", 0, "converter 0, not 1"),
]


@pytest.mark.parametrize("field,value,words", FOREIGN, ids=[f for f, _, _ in FOREIGN])
def test_a_foreign_or_stale_engine_is_built_again(desk, field, value, words):
    fingerprint = cache.load_record(desk.files.record).fingerprint
    desk.record(fingerprint=fingerprint._replace(**{field: value}))
    assert "it was built for " + words in desk.start()
    assert desk.start() == ""


def test_another_tensorrt_builds_again(desk, tensorrt):
    tensorrt("10.3.0")
    assert "tensorrt 'tensorrt 8.2.1.8', not 'tensorrt 10.3.0'" in desk.start()


def test_an_engine_that_tensorrt_refuses_is_built_again(desk):
    """The fingerprint fits, but the bytes do not: found at deserialisation."""
    with open(desk.files.engine, "r+b") as file:
        file.write(b"XXXX")
    digest = cache.sha256_of(desk.files.engine)
    desk.record(engine_sha256=digest)
    said = []
    with CudaDetector(DetectorSettings(model=desk.model), said.append):
        pass
    assert "Magic tag does not match" in said[0] and "building the engine" in said[0]
    assert desk.start() == ""


def test_the_precision_that_was_chosen_is_kept(desk):
    convert.build(desk.model, convert.ConvertOptions(precision="fp32"), lambda text: None)
    os.remove(desk.files.engine)
    desk.start()
    assert cache.load_record(desk.files.record).fingerprint.precision == "fp32"


def test_an_unverified_engine_passes_the_gate_once_at_its_first_start(desk):
    fingerprint = cache.load_record(desk.files.record).fingerprint
    elsewhere = fingerprint._replace(gpu=cache.ANY_GPU)
    desk.record(verified=False, parity={}, kernels={}, fingerprint=elsewhere)
    said = desk.start()
    assert (
        "never run on a GPU" in said and "parity over" in said and "compiling the kernels" in said
    )
    assert cache.load_record(desk.files.record).verified
    assert desk.start() == ""


def test_an_unverified_engine_that_differs_is_refused_at_its_first_start(desk, monkeypatch):
    desk.record(verified=False, parity={})
    monkeypatch.setenv("TRT_STANDIN_NOISE", "0.1")
    with pytest.raises(convert.DetectorError, match="is refused"):
        desk.start()


@pytest.mark.parametrize("what", ["missing", "damaged", "other source", "other gpu"])
def test_kernels_are_compiled_again_without_touching_the_engine(desk, what, monkeypatch):
    before = os.stat(desk.files.engine).st_mtime_ns
    if what == "missing":
        os.remove(desk.files.cubins[0])
    elif what == "damaged":
        with open(desk.files.cubins[1], "ab") as file:
            file.write(b"x")
    elif what == "other source":
        monkeypatch.setattr(cache, "source_digest", lambda: "another")
    else:
        kernels = dict(cache.load_record(desk.files.record).kernels, sm=87)
        desk.record(kernels=kernels)
    assert "compiling the kernels" in desk.start()
    assert desk.start() == ""
    assert os.stat(desk.files.engine).st_mtime_ns == before


def test_the_fingerprint_is_readable_json(desk):
    with open(desk.files.record) as file:
        tree = json.load(file)
    assert tree["fingerprint"]["sm"] == 53 and tree["verified"] is True
    assert tree["kernels"]["sources"] == compiler.source_digest()


@pytest.mark.parametrize(
    "line,release",
    [
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64", "32.7.1"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3"),
        ("nonsense", "unknown"),
    ],
)
def test_l4t_release(tmp_path, line, release):
    path = tmp_path / "nv_tegra_release"
    path.write_text(line + "\n")
    assert cache.l4t_release(str(path)) == release
    assert cache.l4t_release(str(tmp_path / "none")) == ""
