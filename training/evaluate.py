"""How good a model is: ``python3 -m training.evaluate engines/ssd_mobilenet_v2.onnx --data DIR``.

The model is run as a device runs it, by ``edge_app.detector`` on the ONNX file. Average precision
is that of WIDER FACE (easy, medium, hard; ``training.protocol``); beside it stands what a product
needs to know: precision and recall at the score where faces are shown, how true the scores are, how
tight the boxes, how small a face may be.
"""

import argparse
import json
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from edge_app import card
from edge_app.config import DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.errors import ConfigError
from edge_app.images import read_image
from training import command, data, protocol
from training.protocol import Found, Truth

DIFFICULTIES = ("easy", "medium", "hard")
SHOWN = 0.95  # the score at which the product shows a face
SCORE_FLOOR = 0.001  # detections under it are not counted; calibrated scores fall off steeply
HEIGHT_PX = 40.0  # faces at least this tall, for the recall at 0.1 false boxes an image
RELIABLE = 0.8  # recall of a class of height and of all taller ones
SIZE_STEPS_PX = (8, 12, 16, 24, 32, 48, 64, 96, 128)  # classes of face height in the picture


class Judgement(NamedTuple):
    """Every detection over a set of pictures that is either right or wrong."""

    scores: np.ndarray  # (D,)
    right: np.ndarray  # (D,) bool
    overlap: np.ndarray  # (D,) with its face, 0 where there is none
    faces: int  # that count
    pictures: int


def wider_truths(root: str, samples: Sequence[data.Sample]) -> Dict[str, List[Truth]]:
    """For each difficulty the truths of ``samples``, from the official ``ground_truth/*.mat``.

    All faces of a picture are in each; which of them count differs.

    Raises:
        ConfigError: a list is missing or damaged, or a picture is not in it.
    """
    places: Dict[str, Tuple[int, int]] = {}
    names = _ground_truth(root, "wider_face_val.mat")
    for event, files in enumerate(names["file_list"][:, 0]):
        for place, file in enumerate(files[:, 0]):
            name = "{}/{}.jpg".format(names["event_list"][event, 0][0], file[0])
            places[name] = (event, place)
    truths: Dict[str, List[Truth]] = {}
    for difficulty in DIFFICULTIES:
        counted = _ground_truth(root, "wider_{}_val.mat".format(difficulty))["gt_list"]
        truths[difficulty] = []
        for sample in samples:
            if sample.name not in places:
                raise ConfigError(
                    "{} is in the list of test pictures but not in the official ground truth, that "
                    "of WIDER FACE's validation split.".format(sample.name)
                )
            event, place = places[sample.name]
            rows = names["face_bbx_list"][event, 0][place, 0].astype(np.float64)
            boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
            counts = np.zeros(len(boxes), bool)
            numbers = counted[event, 0][place, 0].ravel().astype(int)
            counts[numbers - 1] = True  # MATLAB counts from 1
            truths[difficulty].append(Truth(boxes, counts))
    return truths


def _ground_truth(root: str, name: str) -> Dict[str, Any]:
    """A file of the official ground truth, by MATLAB's names."""
    from scipy.io import loadmat

    path = os.path.join(root, "ground_truth", name)
    try:
        return loadmat(path)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            "{}: {}. The four .mat files of WIDER FACE's eval_tools/ground_truth belong "
            "there.".format(path, getattr(error, "strerror", None) or error)
        ) from error


def plain_truths(samples: Sequence[data.Sample]) -> List[Truth]:
    """All faces count but those marked invalid."""
    return [
        Truth(
            np.concatenate([s.faces, s.ignored]).astype(np.float64),
            np.arange(len(s.faces) + len(s.ignored)) < len(s.faces),
        )
        for s in samples
    ]


def detect(detector: OnnxDetector, samples: Sequence[data.Sample], label: str) -> List[Found]:
    """What the detector finds in each picture, down to ``SCORE_FLOOR``."""
    found = []
    for sample in tqdm(samples, desc=label, unit="image"):
        faces = detector.detect(read_image(sample.path), SCORE_FLOOR)
        found.append(Found(faces.boxes.astype(np.float64), faces.scores.astype(np.float64)))
    return found


def judge_all(found: Sequence[Found], truths: Sequence[Truth]) -> Judgement:
    """Right and wrong detections; those on faces that do not count are left out."""
    scores, right, overlap = [], [], []
    for one, truth in zip(found, truths):
        judged = protocol.judge(one, truth)
        new = np.diff(np.concatenate([[0], judged.recalled])) > 0
        kept = judged.proposed
        best = np.zeros(len(one.scores))
        if len(truth.boxes) and len(one.boxes):
            best = protocol.overlaps(one.boxes, truth.boxes).max(1)
        scores.append(one.scores[kept])
        right.append(new[kept])
        overlap.append(best[kept])
    return Judgement(
        np.concatenate(scores), np.concatenate(right), np.concatenate(overlap),
        int(sum(truth.counts.sum() for truth in truths)), len(truths),
    )  # fmt: skip


def at_score(judgement: Judgement, score: float) -> Dict[str, Optional[float]]:
    """Precision, recall and mean overlap of the right boxes at a score and above; none has none."""
    shown = judgement.scores >= score
    right = judgement.right & shown
    return {
        "precision": float(right.sum() / max(shown.sum(), 1)),
        "recall": float(right.sum() / max(judgement.faces, 1)),
        "mean_iou": float(judgement.overlap[right].mean()) if right.any() else None,
    }


def recall_at_false_boxes(judgement: Judgement, per_picture: float) -> float:
    """Recall at the lowest score that gives at most so many wrong boxes a picture."""
    order = np.argsort(-judgement.scores, kind="mergesort")
    right = judgement.right[order]
    allowed = np.cumsum(~right) <= per_picture * judgement.pictures
    return float(right[allowed].sum() / max(judgement.faces, 1))


def taller_than(truths: Sequence[Truth], low_px: float, high_px: float = np.inf) -> List[Truth]:
    """The same truths, counting only faces of a height in [low, high)."""
    return [
        Truth(t.boxes, t.counts & (t.boxes[:, 3] - t.boxes[:, 1] >= low_px)
              & (t.boxes[:, 3] - t.boxes[:, 1] < high_px))
        for t in truths
    ]  # fmt: skip


def recall_by_height(
    found: Sequence[Found], truths: Sequence[Truth], score: float
) -> Dict[str, float]:
    """Recall at a score for classes of face height, in pixels of the picture."""
    table = {}
    shown = [Found(f.boxes[f.scores >= score], f.scores[f.scores >= score]) for f in found]
    for low, high in zip(SIZE_STEPS_PX, SIZE_STEPS_PX[1:] + (np.inf,)):
        judgement = judge_all(shown, taller_than(truths, low, high))
        name = "{}+".format(low) if np.isinf(high) else "{}-{}".format(low, high)
        table[name] = float(judgement.right.sum() / max(judgement.faces, 1))
    return table


def smallest_reliable(table: Dict[str, float]) -> Optional[int]:
    """Pixels from which on ``recall_by_height`` is at least ``RELIABLE``; none if even the tallest
    faces are missed more often."""
    smallest = None
    for low, recall in zip(reversed(SIZE_STEPS_PX), reversed(list(table.values()))):
        if recall < RELIABLE:
            break
        smallest = low
    return smallest


def reliability(judgement: Judgement, bins: int = 10) -> List[Tuple[float, float, int]]:
    """For each tenth of the score: mean score, share that is right, number of detections."""
    rows = []
    edges = np.linspace(0, 1, bins + 1)
    for low, high in zip(edges, edges[1:]):
        inside = (judgement.scores >= low) & (
            (judgement.scores < high) if high < 1 else (judgement.scores <= 1)
        )
        if inside.any():
            rows.append(
                (float(judgement.scores[inside].mean()), float(judgement.right[inside].mean()),
                 int(inside.sum()))
            )  # fmt: skip
    return rows


def usable(
    folder: str, samples: List[data.Sample], skipped: Sequence[data.Skipped]
) -> List[data.Sample]:
    """The samples; what had to be left out is printed by name and counted.

    Raises:
        ConfigError: nothing is left.
    """
    for name, reason in skipped:
        print("skipped {}: {}".format(name, reason))
    name = os.path.basename(folder)
    print("{}: {} pictures, {} entries skipped".format(name, len(samples), len(skipped)))
    if not samples:
        raise ConfigError("{}: none of the listed pictures is there.".format(folder))
    return samples


def wider_report(detector: OnnxDetector, root: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Figures on the test set, and the curves they come from."""
    samples = usable(root, *data.wider_split(root, "val"))
    truths = wider_truths(root, samples)
    found = detect(detector, samples, "WIDER test")
    curves = {name: protocol.score(found, truths[name]) for name in DIFFICULTIES}
    medium = judge_all(found, truths["medium"])
    everything = plain_truths(samples)
    tall = judge_all(found, taller_than(everything, HEIGHT_PX))
    figures: Dict[str, Any] = {name: round(curves[name].average, 4) for name in DIFFICULTIES}
    figures["images"] = len(samples)
    figures["medium_at_0.95"] = rounded(at_score(medium, SHOWN))
    figures["recall_40px_at_0.1_false_an_image"] = round(recall_at_false_boxes(tall, 0.1), 4)
    for score in (SHOWN, 0.5):
        by_height = recall_by_height(found, everything, score)
        figures["recall_at_{}_by_height_px".format(score)] = rounded(by_height)
        figures["smallest_reliable_px_at_{}".format(score)] = smallest_reliable(by_height)
    figures["mean_iou_at_0.5"] = rounded(at_score(medium, 0.5))["mean_iou"]
    shown = {"curves": curves, "reliability": reliability(medium), "images": len(samples)}
    return figures, shown


def near_report(detector: OnnxDetector, folder: str, list_name: str) -> Dict[str, Any]:
    """Figures on a set of faces near the camera."""
    listed = os.path.join(folder, list_name)
    samples = usable(folder, *data.load(listed, os.path.join(folder, "images")))
    found, truths = detect(detector, samples, "near set"), plain_truths(samples)
    figures: Dict[str, Any] = {"ap": round(protocol.score(found, truths).average, 4)}
    figures["at_0.95"] = rounded(at_score(judge_all(found, truths), SHOWN))
    figures["images"] = len(samples)
    return figures


def plot(curves: Dict[str, Any], folder: str, name: str) -> None:
    """Precision over recall, and the reliability of the scores, as one SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = name  # the same figures give the same bytes
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
    for difficulty, curve in curves["curves"].items():
        left.plot(
            curve.recall, curve.precision, label="{} {:.3f}".format(difficulty, curve.average)
        )
    left.set(
        xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02),
        title="{} test images".format(curves["images"]),
    )  # fmt: skip
    left.legend(loc="lower left")
    rows = np.asarray(curves["reliability"]).reshape(-1, 3)
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    right.plot(rows[:, 0], rows[:, 1], marker="o")
    right.axvline(SHOWN, color="grey", linestyle=":")
    right.set(xlabel="score", ylabel="share that is a face", xlim=(0, 1), ylim=(0, 1.02),
              title="reliability, medium faces")  # fmt: skip
    figure.tight_layout()
    os.makedirs(folder, exist_ok=True)
    figure.savefig(os.path.join(folder, "training-{}.svg".format(name)), metadata={"Date": None})
    pyplot.close(figure)


def rounded(figures: Dict[str, Optional[float]]) -> Dict[str, Optional[float]]:
    """Four digits after the point."""
    return {name: value if value is None else round(value, 4) for name, value in figures.items()}


def lines(tree: Dict[str, Any], path: str = "") -> Iterator[str]:
    """Every figure on a line of its own."""
    for name, value in tree.items():
        here = "{}.{}".format(path, name) if path else name
        if isinstance(value, dict):
            yield from lines(value, here)
        else:
            yield "{:<52}{}".format(here, value)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Evaluate one model."""
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__)
    parser.add_argument("onnx", help="the model; its card lies beside it")
    parser.add_argument("--data", required=True, help="folder with wider/ and near/")
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0: all cores")
    parser.add_argument("--save", action="store_true", help="write the figures into the card")
    parser.add_argument("--plots", help="folder for the plot")
    options = parser.parse_args(arguments)
    wider, near = (os.path.join(options.data, name) for name in ("wider", "near"))
    with OnnxDetector(DetectorSettings(options.onnx, threads=options.threads)) as detector:
        figures, curves = wider_report(detector, wider)
        if os.path.isdir(near):
            figures["near"] = near_report(detector, near, "near_bbx_gt.txt")
        described = detector.description
        written = detector.card
    print("{} ({})".format(options.onnx, described))
    print("\n".join(lines(figures)))
    if options.plots:
        plot(curves, options.plots, written.name)
    if options.save:
        card.save_card(
            written._replace(measured=json.loads(json.dumps(figures))), card.card_path(options.onnx)
        )


if __name__ == "__main__":
    command.run("training.evaluate", main)
