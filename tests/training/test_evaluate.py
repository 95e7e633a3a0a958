"""Figures of a model by hand, on made judgements and a made ground truth."""

import json

import numpy as np
import pytest
from made_faces import write_wider
from scipy.io import savemat

from edge_app.errors import ConfigError
from training import data, evaluate, export, model, protocol
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
    assert figures["precision"] == 0 and figures["recall"] == 0 and figures["mean_iou"] is None


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


def test_the_smallest_face_found_reliably_has_no_gap_above_it():
    names = [str(low) for low in evaluate.SIZE_STEPS_PX]
    recalls = [0.0, 0.9, 0.1, 0.7, 0.8, 0.9, 0.85, 1.0, 0.95]
    assert evaluate.smallest_reliable(dict(zip(names, recalls))) == 32
    assert evaluate.smallest_reliable(dict(zip(names, recalls[:-1] + [0.79]))) is None


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
    with pytest.raises(ConfigError, match="0--Made/other.jpg is in the list"):
        evaluate.wider_truths(str(tmp_path), [samples[0]._replace(name="0--Made/other.jpg")])


def test_a_missing_or_damaged_ground_truth_says_what_belongs_there(tmp_path):
    with pytest.raises(ConfigError, match="wider_face_val.mat.*eval_tools"):
        evaluate.wider_truths(str(tmp_path), [])
    (tmp_path / "ground_truth").mkdir()
    (tmp_path / "ground_truth" / "wider_face_val.mat").write_text("nothing of the kind" * 20)
    with pytest.raises(ConfigError, match="wider_face_val.mat.*eval_tools"):
        evaluate.wider_truths(str(tmp_path), [])


def test_what_is_left_out_is_named_and_counted_and_nothing_left_is_an_error(tmp_path, capsys):
    write_wider(tmp_path, 1, split="val")
    samples, _ = data.wider_split(str(tmp_path), "val")
    lost = data.Skipped("0--Made/lost.jpg", "the picture is missing")
    assert evaluate.usable("wider", samples, [lost]) == samples
    out = capsys.readouterr().out
    assert "skipped 0--Made/lost.jpg: the picture is missing" in out
    assert "wider: 1 pictures, 1 entries skipped" in out
    with pytest.raises(ConfigError, match="wider: none"):
        evaluate.usable("wider", [], [lost])


def test_the_plot_says_how_many_pictures_there_were(tmp_path):
    curve = protocol.Curve(np.linspace(0, 1, 1000), np.ones(1000), 1.0)
    curves = {name: curve for name in evaluate.DIFFICULTIES}
    for images in (7, 12):
        shown = {"curves": curves, "reliability": [(0.5, 0.5, 9)], "images": images}
        evaluate.plot(shown, str(tmp_path), "n{}".format(images))
    texts = [(tmp_path / "training-n{}.svg".format(n)).read_text() for n in (7, 12)]
    assert "<!-- 7 test images -->" in texts[0] and "<!-- 12 test images -->" in texts[1]


def test_from_a_folder_to_figures_in_the_card(tmp_path, capsys):
    """The whole command; the network knows nothing, so that nothing is shown at 0.95."""
    listed = write_wider(tmp_path / "wider", 1, split="val", faces=1)
    folder = tmp_path / "wider" / "WIDER_val" / "images" / "0--Made"
    (folder / "made_0.png").rename(folder / "made_0.jpg")
    with open(listed, encoding="utf-8") as file:
        text = file.read().replace(".png", ".jpg")
    with open(listed, "w", encoding="utf-8") as file:
        file.write(text + "0--Made/lost.jpg\n1\n1 1 9 9 0 0 0 0 0 0\n")
    box = [float(number) for number in text.splitlines()[2].split()[:4]]
    counted = {name: [1] for name in evaluate.DIFFICULTIES}
    write_ground_truth(tmp_path / "wider" / "ground_truth", [box], counted)
    network = model.blazeface()
    model.set_prior(network, 0.01)
    path = export.export(network, (128, 128), str(tmp_path), "blazeface", {})
    options = ["--data", str(tmp_path), "--plots", str(tmp_path), "--threads", "1", "--save"]
    evaluate.main([path, *options])
    out = capsys.readouterr().out
    assert "skipped 0--Made/lost.jpg" in out and "wider: 1 pictures, 1 entries skipped" in out

    def refuse(text):
        raise ValueError(text)

    with open(str(tmp_path / "blazeface.json"), encoding="utf-8") as file:
        measured = json.load(file, parse_constant=refuse)["measured"]  # NaN is no JSON
    assert measured["images"] == 1 and 0 <= measured["medium"] <= 1 and "near" not in measured
    assert measured["medium_at_0.95"] == {"precision": 0.0, "recall": 0.0, "mean_iou": None}
    assert (tmp_path / "training-blazeface.svg").stat().st_size > 1000
