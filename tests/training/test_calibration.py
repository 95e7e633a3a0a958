"""Scores that were made untrue are made true again."""

import made_faces
import numpy as np
import pytest

from edge_app.errors import ConfigError
from training import calibration, data, export, model
from training.calibration import Answers
from training.evaluate import SHOWN


def distorted(count, factor, shift, seed=0):
    """Logits of which ``factor`` and ``shift`` are the cure, and what was right."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.01, 0.99, count)
    return (calibration.logit(true) - shift) / factor, rng.random(count) < true


def test_platt_finds_the_distortion_of_the_scores():
    logits, right = distorted(20000, 2.5, 0.7)
    factor, shift = calibration.fit_platt(logits, right)
    assert factor == pytest.approx(2.5, abs=0.15) and shift == pytest.approx(0.7, abs=0.1)
    assert calibration.fit_shift(factor * logits, right) == pytest.approx(shift, abs=1e-3)


def test_right_and_wrong_that_hardly_mix_do_not_run_away():
    """Whole moves of Newton's would end at a factor of -14,000 here."""
    logits = np.array([-22.5, -19.0, -15.0, 15.0, 16.5, 22.5] * 20)
    right = np.array([0, 0, 0, 1, 1, 1] * 20, bool)
    right[0], right[5] = True, False
    factor, shift = calibration.fit_platt(logits, right)
    assert 0.1 < factor < 1 and abs(shift) < 1
    scores = 1 / (1 + np.exp(-(factor * logits + shift)))
    assert scores.sum() == pytest.approx(right.sum(), abs=1e-3)  # where the gradient is nothing


def test_too_little_or_nonsense_is_refused():
    few = answers([0] * 9, [1] * 9)
    with pytest.raises(ConfigError, match="finds 9 faces.*at least 50"):
        calibration.check_enough(few)
    logits, right = distorted(4000, -1.0, 0.0)
    with pytest.raises(ConfigError, match="not more often right"):
        calibration.calibrate(answers([0] * len(right), right, logits), 1, 0.99)


def answers(maps, right, logits=None, pictures=None):
    maps, right = np.asarray(maps), np.asarray(right, bool)
    logits = np.zeros(len(maps)) if logits is None else np.asarray(logits, float)
    pictures = np.arange(len(maps)) if pictures is None else pictures
    return Answers(logits, right, maps, pictures, int(right.sum()))


def test_faces_that_a_viewer_would_not_judge_do_not_count():
    """30 pixels of height in a picture of 1,024."""
    boxes = np.array([[0, 0, 99, 29], [0, 0, 9, 31], [5, 100, 6, 140]], float)
    truth = calibration.Truth(boxes, np.array([True, True, False]))
    assert calibration.large_enough(truth, 1024).counts.tolist() == [False, True, False]
    assert calibration.large_enough(truth, 512).counts.tolist() == [True, True, False]


def test_boxes_of_a_mirrored_picture():
    truth = calibration.Truth(np.array([[10.0, 5, 30, 25]]), np.array([True]))
    assert calibration.mirrored(truth, 100).boxes.tolist() == [[70, 5, 90, 25]]
    assert calibration.mirrored(calibration.mirrored(truth, 100), 100).boxes.tolist() == truth.boxes.tolist()


def test_coarse_maps_share_a_shift_until_there_is_enough():
    many = calibration.ENOUGH
    maps = np.repeat([0, 1, 2, 3], [2 * many, many, many - 1, 1])
    made = answers(maps, np.ones(len(maps)))
    assert calibration.groups(made, 5) == [[0], [1], [2, 3, 4]]
    assert calibration.groups(made.of(made.maps > 2), 5) == [[0, 1, 2, 3, 4]]
    maps = np.repeat([0, 1, 2], [many - 1, many, many])
    assert calibration.groups(answers(maps, np.ones(len(maps))), 3) == [[0, 1], [2]]


def test_the_lowest_score_that_keeps_a_precision():
    made = answers([0] * 5, [1, 1, 0, 1, 0], [5, 4, 3, 2, 1])
    assert calibration.lowest_logit(made, 0.75) == 2
    assert calibration.lowest_logit(made, 0.9) == 4
    assert calibration.lowest_logit(answers([0], [0]), 0.9) == np.inf


def test_a_map_that_is_too_sure_is_made_less_sure():
    """Two maps of the same truth, one of which adds 2 to its logits."""
    logits, right = distorted(40000, 1.0, 0.0)
    maps = np.arange(len(logits)) % 2
    made = answers(maps, right, logits + 2 * maps)
    factor, shifts = calibration.calibrate(made, 2, SHOWN)
    assert shifts[1] == pytest.approx(shifts[0] - 2 * factor, abs=0.3)


def test_pictures_are_also_judged_by_what_was_fitted_on_others():
    """In a sixth of the pictures the network is far too sure, which the others do not tell."""
    pictures = np.arange(12000) % 120
    logits, right = distorted(12000, 1.0, 0.0)
    logits = logits + 3 * (pictures % calibration.PARTS == 2)
    made = answers(np.zeros(12000, int), right, logits, pictures)
    fitted = calibration.calibrate(made, 1, 0.98)
    known = calibration.judged(made, fitted.scores(made))
    assert known["precision"] > calibration.held_out(made, 1, 0.98)["precision"] + 0.1


def test_a_network_is_calibrated_anew_from_its_own_calibration():
    first = export.Calibration(2.0, (0.5,))
    second = calibration.Calibrated(1.5, [0.25, -0.25])
    both = calibration.after(first, second)
    logits = np.array([-1.0, 0.5])
    made = answers([0, 1], [1, 1], logits)
    again = answers([0, 1], [1, 1], 2.0 * logits + 0.5)
    np.testing.assert_allclose(both.scores(made), second.scores(again), rtol=1e-12)
    alone = calibration.after(export.Calibration(), second)
    assert alone == second


def test_what_a_network_finds_in_the_pictures(tmp_path):
    made_faces.write_wider(tmp_path / "wider", 3, size_wh=(96, 96), faces=2, sizes_px=(16, 40))
    path = export.export(model.blazeface(), (128, 128), str(tmp_path), "one", {})
    samples, _ = data.wider_split(str(tmp_path / "wider"), "train")
    found = calibration.answer(path, samples, threads=1)
    assert found.faces == 2 * sum(len(one.faces) for one in samples)  # mirrored as well
    assert set(found.maps) <= {0, 1} and len(found.logits) == len(found.right) == len(found.maps)
