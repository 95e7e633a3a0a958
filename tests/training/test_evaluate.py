"""Figures of a model by hand, on made judgements and a made ground truth."""

import numpy as np
import pytest
from made_faces import write_wider
from scipy.io import savemat

from training import data, evaluate
from training.evaluate import Judgement
from training.protocol import Found, Truth


def judgement(rows, faces=10, pictures=10):
    """Rows of score, right, overlap."""
    table = np.asarray(rows, np.float64)
    return Judgement(table[:, 0], table[:, 1] > 0, table[:, 2], faces, pictures)


ROWS = [(0.99, 1, 0.9), (0.97, 1, 0.8), (0.96, 0, 0.1), (0.5, 1, 0.6), (0.4, 0, 0.0)]


def test_figures_at_a_score():
    figures = evaluate.at_score(judgement(ROWS), 0.95)
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == pytest.approx(2 / 10)
    assert figures["mean_iou"] == pytest.approx(0.85)


def test_nothing_shown_is_no_division_by_zero():
    figures = evaluate.at_score(judgement(ROWS, faces=0), 0.999)
    assert figures["precision"] == 0 and figures["recall"] == 0 and np.isnan(figures["mean_iou"])


def test_recall_at_false_boxes():
    assert evaluate.recall_at_false_boxes(judgement(ROWS), 0.1) == pytest.approx(0.3)
    assert evaluate.recall_at_false_boxes(judgement(ROWS), 0.0) == pytest.approx(0.2)


def test_heights_are_counted_in_classes():
    truths = [Truth(np.array([[0.0, 0, 20, 39.9], [0, 0, 20, 40]]), np.array([True, True]))]
    assert evaluate.taller_than(truths, 40)[0].counts.tolist() == [False, True]
    assert evaluate.taller_than(truths, 10, 40)[0].counts.tolist() == [True, False]
    found = [Found(np.array([[0.0, 0, 20, 40]]), np.array([0.99]))]
    table = evaluate.recall_by_height(
        found, [Truth(truths[0].boxes[1:], truths[0].counts[1:])], 0.95
    )
    assert table["32-48"] == 1 and table["8-12"] == 0


def test_reliability_of_true_scores_is_a_diagonal():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.01, 0.99, 20000)
    made = Judgement(true, rng.random(len(true)) < true, true, 1, 1)
    for score, share, count in evaluate.reliability(made):
        assert abs(score - share) < 0.05 and count > 1000


def cells(*items):
    """A column of MATLAB cells."""
    column = np.empty((len(items), 1), object)
    column[:, 0] = items
    return column


def write_ground_truth(folder, boxes, counted):
    """One event with one picture."""
    folder.mkdir(parents=True)
    base = {
        "event_list": cells("0--Made"),
        "file_list": cells(cells("made_0")),
        "face_bbx_list": cells(cells(np.asarray(boxes, np.float64))),
    }
    savemat(str(folder / "wider_face_val.mat"), base)
    for name, numbers in counted.items():
        column = np.asarray(numbers, np.float64).reshape(-1, 1)
        savemat(str(folder / "wider_{}_val.mat".format(name)), {"gt_list": cells(cells(column))})


def test_the_official_lists_say_which_faces_count(tmp_path):
    write_wider(tmp_path, 1, split="val")
    write_ground_truth(
        tmp_path / "ground_truth",
        [[10, 20, 30, 40], [50, 60, 7, 8]],
        {"easy": [1], "medium": [1, 2], "hard": [2]},
    )
    samples, _ = data.wider_split(str(tmp_path), "val")
    samples = [samples[0]._replace(name="0--Made/made_0.jpg")]
    truths = evaluate.wider_truths(str(tmp_path), samples)
    assert truths["easy"][0].boxes.tolist() == [[10, 20, 40, 60], [50, 60, 57, 68]]
    assert truths["easy"][0].counts.tolist() == [True, False]
    assert truths["medium"][0].counts.tolist() == [True, True]
    assert truths["hard"][0].counts.tolist() == [False, True]
