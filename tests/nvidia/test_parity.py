"""The parity gate lets good engines through and stops bad ones."""

import numpy as np
import pytest
import small_ssd

from edge_app.card import card_path, load_card
from edge_app.nvidia import parity


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """(card, the reference, pictures)."""
    model = small_ssd.write(tmp_path_factory.mktemp("model"))
    card = load_card(card_path(model))
    return card, parity.onnx_answers(model, card), parity.golden_pictures(3)


def spoilt(reference, spoil):
    def infer(tensor):
        offsets, scores = reference(tensor)
        return spoil(offsets.copy(), scores.copy())

    return infer


def test_the_same_network_passes(bench):
    card, reference, pictures = bench
    result = parity.compare(reference, reference, card, pictures)
    assert result.problem == ""
    assert result[:3] == (3, 0.0, pytest.approx(1.0)) and result.faces > 20


def test_differences_of_half_precision_pass(bench):
    card, reference, pictures = bench
    random = np.random.RandomState(0)

    def spoil(offsets, scores):
        scores += random.uniform(-0.004, 0.004, scores.shape).astype(np.float32)
        offsets += random.uniform(-0.004, 0.004, offsets.shape).astype(np.float32)
        return offsets, scores

    result = parity.compare(reference, spoilt(reference, spoil), card, pictures)
    assert result.score_difference > 0.003 and result.mean_iou < 0.9999
    assert result.problem == "" or result.problem.endswith("differ")  # NMS may choose a twin


@pytest.mark.parametrize(
    "spoil,words",
    [
        (lambda o, s: (o, s + np.float32(0.02)), "a score differs by 0.0200"),
        (lambda o, s: (o, np.roll(s, 1)), "a score differs"),
        (lambda o, s: (o + np.float32(0.3), s), "mean overlap is 0.879"),
        (lambda o, s: (o, np.where(np.arange(len(s)) == 5, np.nan, s)), "a score differs by inf"),
        (lambda o, s: (o, np.where(s > 0.97, np.float32(0.5), s)), "faces at 0.95 differ"),
        (lambda o, s: (np.full_like(o, np.nan), s), "mean overlap is"),
    ],
)
def test_broken_engines_do_not(bench, spoil, words):
    card, reference, pictures = bench
    result = parity.compare(reference, spoilt(reference, spoil), card, pictures)
    assert words in result.problem


def test_the_pictures_are_always_the_same():
    first, second = parity.golden_pictures(), parity.golden_pictures()
    assert len(first) == 6
    for one, other in zip(first, second):
        assert one.tobytes() == other.tobytes() and one.dtype == np.uint8
