"""What makes 0.95 mean 0.95: ``python3 -m training.calibration raw/ssd_mobilenet_v2.onnx --data DIR``.

Works on the validation part that ``training.train`` split off, and prints what ``training.export``
folds into the heads: one factor of the logit (Platt 1999), and a shift for each feature map.

A shift for each map, because small faces are harder to tell from noise than large ones.
"""

import argparse
import os
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from edge_app import boxes, card
from edge_app.config import DetectorSettings
from edge_app.detector import Stretch
from edge_app.errors import ConfigError
from edge_app.images import read_image
from training import command, data, export, protocol
from training.evaluate import SCORE_FLOOR, SHOWN, Judgement, at_score, plain_truths, rounded
from training.protocol import Found, Truth

# Of a face's height, over the picture's long side: what WIDER FACE calls medium, 30 px of 1,024. Fainter
# faces are neither right nor wrong, so that 0.95 is the share among those that a viewer would judge.
SMALLEST_SHARE = 30 / 1024
PARTS = 6  # of the pictures; each is judged by what was fitted on the others
ENOUGH = 200  # right detections for a shift of their own
FEWEST = 50  # right detections for a calibration at all


class Answers(NamedTuple):
    """Detections that are right or wrong, with the feature map each came from."""

    logits: np.ndarray  # (D,) of the score
    right: np.ndarray  # (D,) bool
    maps: np.ndarray  # (D,) int64, 0 is the finest
    pictures: np.ndarray  # (D,) int64, number of the picture
    faces: int  # that count

    def of(self, chosen: np.ndarray) -> "Answers":
        """Those of a (D,) mask."""
        return Answers(*(part[chosen] for part in self[:-1]), self.faces)


def logit(score: np.ndarray) -> np.ndarray:
    """Of a score, which is kept a millionth away from 0 and 1."""
    score = np.clip(score, 1e-6, 1 - 1e-6)
    return np.log(score / (1 - score))


def answer(path: str, samples: Sequence[data.Sample], threads: int) -> Answers:
    """What an ONNX file finds in the pictures, as they are and mirrored: twice as much to learn from."""
    import onnxruntime

    model = card.load_card(card.card_path(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    limits = DetectorSettings()
    stretch, defaults = Stretch(model.input), model.default_boxes()
    sizes = [layer.grid_wh[0] * layer.grid_wh[1] * len(layer.sizes_px) for layer in model.layers]
    map_of = np.arange(len(sizes)).repeat(sizes)
    logits, right, maps, pictures, faces = [], [], [], [], 0
    truths = plain_truths(samples)
    for number, (sample, truth) in enumerate(zip(tqdm(samples, unit="image"), truths)):
        pixels = read_image(sample.path)
        size_wh = (pixels.shape[1], pixels.shape[0])
        truth = large_enough(truth, max(size_wh))
        for seen, there in ((pixels, truth), (pixels[:, ::-1], mirrored(truth, size_wh[0]))):
            tensor = stretch(np.ascontiguousarray(seen))
            offsets, scores = session.run(list(model.outputs), {model.input.name: tensor})
            chosen = boxes.select(
                offsets[0], scores[0, :, 1], defaults, model.variances, SCORE_FLOOR,
                limits.nms_iou, limits.max_candidates, limits.max_faces,
            )  # fmt: skip
            found = Found(
                boxes.to_pixels(chosen.boxes, size_wh).astype(np.float64),
                chosen.scores.astype(np.float64),
            )
            judged = protocol.judge(found, there)
            kept = judged.proposed
            logits.append(logit(found.scores[kept]))
            right.append((np.diff(np.concatenate([[0], judged.recalled])) > 0)[kept])
            maps.append(map_of[chosen.indices][kept])
            pictures.append(np.full(kept.sum(), number))
            faces += int(there.counts.sum())
    return Answers(*(np.concatenate(part) for part in (logits, right, maps, pictures)), faces)


def large_enough(truth: Truth, long_side_px: float) -> Truth:
    """The same boxes; those of less than ``SMALLEST_SHARE`` of the picture do not count."""
    height = truth.boxes[:, 3] - truth.boxes[:, 1]
    return truth._replace(counts=truth.counts & (height >= SMALLEST_SHARE * long_side_px))


def mirrored(truth: Truth, width_px: int) -> Truth:
    """The same in a picture whose left is its right."""
    x1, y1, x2, y2 = truth.boxes.T
    return truth._replace(boxes=np.stack([width_px - x2, y1, width_px - x1, y2], axis=1))


def best(answers: Answers) -> Answers:
    """Twice as many as are right, those of the highest scores: whose scores matter."""
    order = np.argsort(-answers.logits, kind="mergesort")
    return answers.of(order[: 2 * int(answers.right.sum())])


def fit_platt(logits: np.ndarray, right: np.ndarray, steps: int = 50) -> Tuple[float, float]:
    """Factor and shift of the logit that make scores probabilities (Platt 1999), by Newton.

    Moves that would make it worse are halved: where wrong and right hardly mix, whole ones run away
    (Lin, Lin and Weng, "A note on Platt's probabilistic outputs", 2007).

    Args:
        logits: (D,); right: (D,) bool.
    """
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    weights = np.array([1.0, 0.0])

    def entropy(tried: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(0, design @ tried) - right * (design @ tried)))

    for _ in range(steps):
        probability = 0.5 + 0.5 * np.tanh(0.5 * design @ weights)  # never overflows
        gradient = design.T @ (probability - right)
        curvature = probability * (1 - probability)
        hessian = (design * curvature[:, None]).T @ design + 1e-6 * np.eye(2)
        move = np.linalg.solve(hessian, gradient)
        while entropy(weights - move) > entropy(weights) and np.abs(move).max() >= 1e-9:
            move = move / 2
        weights = weights - move
        if np.abs(move).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def fit_shift(logits: np.ndarray, right: np.ndarray, steps: int = 50) -> float:
    """The shift alone, by Newton; ``logits`` have been multiplied by the factor."""
    shift = 0.0
    for _ in range(steps):
        probability = 1 / (1 + np.exp(-(logits + shift)))
        curvature = (probability * (1 - probability)).sum() + 1e-6
        move = float(np.clip((probability - right).sum() / curvature, -1, 1))
        shift -= move
        if abs(move) < 1e-9:
            break
    return shift


def lowest_logit(answers: Answers, precision: float) -> float:
    """The lowest logit at and above which precision is at least so high; infinity if none is."""
    order = np.argsort(-answers.logits, kind="mergesort")
    reached = np.cumsum(answers.right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(reached >= precision)
    return float(answers.logits[order[good[-1]]]) if len(good) else np.inf


def groups(answers: Answers, count: int) -> List[List[int]]:
    """Maps that share a shift, finest first: from the coarsest on, until there is enough.

    Fine maps with too little of their own join those above them.
    """
    parts: List[List[int]] = [[]]
    for number in reversed(range(count)):
        if answers.right[np.isin(answers.maps, parts[0])].sum() >= ENOUGH:
            parts.insert(0, [])
        parts[0].insert(0, number)
    if len(parts) > 1 and answers.right[np.isin(answers.maps, parts[0])].sum() < ENOUGH:
        parts[:2] = [parts[0] + parts[1]]
    return parts


class Calibrated(NamedTuple):
    """What ``training.export`` folds into the heads: ``factor * logit + shift of its map``."""

    factor: float
    shifts: List[float]

    def scores(self, answers: Answers) -> np.ndarray:
        """(D,) in 0..1."""
        return 1 / (1 + np.exp(-(self.factor * answers.logits + np.take(self.shifts, answers.maps))))


def check_enough(answers: Answers) -> None:
    """Raises ``ConfigError`` where too few faces were found to tell anything."""
    if answers.right.sum() < FEWEST:
        raise ConfigError(
            "the network finds {} faces in the validation part, too few to calibrate by (at least "
            "{}); take more pictures (--validation, --events) or train it longer.".format(
                int(answers.right.sum()), FEWEST
            )
        )


def calibrate(answers: Answers, count: int, precision: float) -> Calibrated:
    """The factor, and the shift of each of ``count`` maps.

    The factor is Platt's over all. A shift is the mean of two: Platt's, and the one that puts 0.95,
    where the product shows a face, at the lowest score that keeps the wanted precision. The latter
    hangs on a handful of wrong boxes; the mean has less chance in it.

    Raises:
        ConfigError: higher scores are not more often right.
    """
    some = best(answers)
    factor = fit_platt(some.logits, some.right)[0]
    if not factor > 0:
        raise ConfigError("higher scores are not more often right; train the network longer.")
    shifts = [0.0] * count
    for part in groups(answers, count):
        own = answers.of(np.isin(answers.maps, part))
        some = best(own)
        platt = fit_shift(factor * some.logits, some.right)
        wanted = float(logit(np.asarray(SHOWN))) - factor * lowest_logit(own, precision)
        shift = (platt + wanted) / 2 if np.isfinite(wanted) else platt
        for number in part:
            shifts[number] = shift
    return Calibrated(factor, shifts)


def after(first: export.Calibration, second: Calibrated) -> Calibrated:
    """One calibration in the place of two, the second of which was fitted to what the first gives."""
    shifts = np.resize(first.shift, len(second.shifts)) * second.factor + second.shifts
    return Calibrated(first.factor * second.factor, shifts.tolist())


def judged(answers: Answers, scores: np.ndarray) -> Dict[str, Optional[float]]:
    """Precision and recall at 0.95 of answers with these (D,) scores."""
    overlap = np.zeros(len(scores))
    return at_score(Judgement(scores, answers.right, overlap, answers.faces, 0), SHOWN)


def held_out(answers: Answers, count: int, precision: float) -> Dict[str, Optional[float]]:
    """Precision and recall at 0.95, each sixth of the pictures calibrated by the other five."""
    scores = np.zeros(len(answers.logits))
    for part in range(PARTS):
        is_own = answers.pictures % PARTS == part
        fitted = calibrate(answers.of(~is_own), count, precision)
        scores[is_own] = fitted.scores(answers.of(is_own))
    return judged(answers, scores)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Print the options for ``training.export``."""
    parser = argparse.ArgumentParser(prog="training.calibration", description=__doc__)
    parser.add_argument("onnx", help="the model; if it is calibrated, what is printed replaces that")
    parser.add_argument("--data", required=True, help="folder with wider/")
    parser.add_argument("--precision", type=float, default=0.98, help="wanted at 0.95")
    parser.add_argument(
        "--events", default=r"(\d{1,2}|101)--",
        help="pattern of the events to calibrate on; default WIDER's own, 0 to 61, and portraits, 101",
    )  # fmt: skip
    parser.add_argument("--validation", type=float, default=0.05, help="as given to training.train")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    samples, _ = data.wider_split(os.path.join(options.data, "wider"), "train")
    _, samples = data.split_validation(samples, options.validation)
    samples = [one for one in samples if re.match(options.events, one.name)]
    if not samples:
        raise ConfigError(
            "--validation {} --events {}: no picture of --data {} is left to calibrate on.".format(
                options.validation, options.events, options.data
            )
        )
    answers = answer(options.onnx, samples, options.threads)
    model = card.load_card(card.card_path(options.onnx))
    count = len(model.layers)
    check_enough(answers)
    fitted = calibrate(answers, count, options.precision)
    at_shown = "{} pictures and their mirror images; at 0.95{}: precision {precision}, recall {recall}"
    known = judged(answers, fitted.scores(answers))
    print(at_shown.format(len(samples), "", **rounded(known)))
    unknown = held_out(answers, count, options.precision)
    print(at_shown.format(len(samples), ", each calibrated by others", **rounded(unknown)))
    whole = after(export.Calibration(**model.training.get("calibration", {})), fitted)
    shifts = " ".join("{:.4f}".format(one) for one in whole.shifts)
    print("--factor {:.4f} --shift {}".format(whole.factor, shifts))


if __name__ == "__main__":
    command.run("training.calibration", main)
