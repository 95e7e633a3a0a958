"""The WIDER FACE evaluation protocol: average precision with faces that do not count.

Follows the published evaluation (Yang et al., "WIDER FACE", CVPR 2016, and its tool) in its
particulars: scores are stretched to 0..1 over the whole set, precision and recall are taken at
1,000 thresholds, a side is ``x2 - x1 + 1`` in overlaps, and a detection on a face that does not
count at this difficulty is neither right nor wrong.
"""

from typing import NamedTuple, Sequence

import numpy as np

THRESHOLDS = 1000


class Truth(NamedTuple):
    """What is in a picture."""

    boxes: np.ndarray  # (G, 4) x1, y1, x2, y2 in pixels
    counts: np.ndarray  # (G,) bool, whether the face counts at this difficulty


class Found(NamedTuple):
    """What was found in it, best first."""

    boxes: np.ndarray  # (K, 4) x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (K,) descending


class Curve(NamedTuple):
    """Precision over recall."""

    recall: np.ndarray  # (1000,) ascending
    precision: np.ndarray  # (1000,)
    average: float  # average precision, area under the envelope


def overlaps(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """(K, G) intersection over union with the protocol's extra pixel a side."""
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    side = np.maximum(high - low + 1, 0)
    shared = side[..., 0] * side[..., 1]
    own = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    theirs = np.prod(truths[:, 2:] - truths[:, :2] + 1, axis=1)
    return shared / (own[:, None] + theirs[None, :] - shared)


class Judged(NamedTuple):
    """The verdict on each detection of a picture, best first."""

    recalled: np.ndarray  # (K,) int, faces that count found among the first k + 1
    proposed: np.ndarray  # (K,) bool, whether the detection enters the precision


def judge(found: Found, truth: Truth, iou_threshold: float = 0.5) -> Judged:
    """Match detections to faces, best first; each face is found once.

    A second detection of a face that counts enters the precision as wrong.
    """
    count = len(found.scores)
    recalled, proposed = np.zeros(count, np.int64), np.ones(count, bool)
    taken = np.zeros(len(truth.boxes), bool)
    hits = 0
    table = overlaps(found.boxes, truth.boxes) if len(truth.boxes) else None
    for position in range(count):
        if table is not None:
            best = int(np.argmax(table[position]))
            if table[position, best] >= iou_threshold:
                if not truth.counts[best]:
                    proposed[position] = False
                elif not taken[best]:
                    taken[best] = True
                    hits += 1
        recalled[position] = hits
    return Judged(recalled, proposed)


def score(found: Sequence[Found], truths: Sequence[Truth], iou_threshold: float = 0.5) -> Curve:
    """Average precision of detections over a set of pictures.

    Args:
        found, truths: one for each picture, in the same order; scores of any range.
    """
    everything = [f.scores for f in found if len(f.scores)]
    low = min((float(s.min()) for s in everything), default=0.0)
    high = max((float(s.max()) for s in everything), default=1.0)
    thresholds = 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    proposals, recalls = np.zeros(THRESHOLDS), np.zeros(THRESHOLDS)
    total = 0
    for one, truth in zip(found, truths):
        total += int(np.sum(truth.counts))
        if not len(one.scores) or not len(truth.boxes):
            continue
        judged = judge(one, truth, iou_threshold)
        scores = (one.scores - low) / max(high - low, 1e-12)
        # How many of the detections, best first, reach each threshold.
        reached = np.searchsorted(-scores, -thresholds, side="right")
        some = reached > 0
        proposals[some] += np.cumsum(judged.proposed)[reached[some] - 1]
        recalls[some] += judged.recalled[reached[some] - 1]
    recall = recalls / max(total, 1)
    precision = np.divide(recalls, proposals, out=np.zeros_like(recalls), where=proposals > 0)
    return Curve(recall, precision, average_precision(recall, precision))


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the envelope of the curve, as PASCAL VOC since 2010.

    Args:
        recall: (T,) ascending, 0..1; precision: (T,), 0..1.
    """
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    step = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[step + 1] - recall[step]) * envelope[step + 1]))
