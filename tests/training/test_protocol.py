"""Average precision by hand, and against a slow second implementation of the published steps."""

import numpy as np
import pytest

from training.protocol import Found, Truth, judge, overlaps, score


def found(*rows):
    """Rows of x1, y1, x2, y2, score."""
    table = np.asarray(rows, np.float64).reshape(-1, 5)
    return Found(table[:, :4], table[:, 4])


def truth(*rows, counts=None):
    boxes = np.asarray(rows, np.float64).reshape(-1, 4)
    return Truth(boxes, np.ones(len(boxes), bool) if counts is None else np.asarray(counts))


FACE = [0, 0, 9, 9]  # 10 by 10 with the protocol's extra pixel
OTHER = [50, 50, 59, 59]


def test_overlap_has_the_extra_pixel():
    table = overlaps(np.array([[0.0, 0, 9, 9]]), np.array([[5.0, 0, 14, 9]]))
    assert table[0, 0] == pytest.approx(50 / 150)


def test_everything_found_is_one():
    curve = score([found(FACE + [0.9], OTHER + [0.1])], [truth(FACE, OTHER)])
    assert curve.average == pytest.approx(1)


def test_a_wrong_box_in_front_by_hand():
    """Best first: right, wrong, right, of two faces: 1/2 at precision 1, 1/2 at 2/3."""
    boxes = found(FACE + [0.9], [80, 80, 89, 89, 0.5], OTHER + [0.1])
    assert score([boxes], [truth(FACE, OTHER)]).average == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_missed_face_costs_its_share():
    boxes = found(FACE + [0.9], [80, 80, 89, 89, 0.1])
    assert score([boxes], [truth(FACE, OTHER)]).average == pytest.approx(0.5)


def test_the_second_box_on_a_face_is_wrong():
    verdict = judge(found(FACE + [0.9], [0, 0, 9, 8, 0.8], OTHER + [0.2]), truth(FACE, OTHER))
    assert verdict.recalled.tolist() == [1, 1, 2] and verdict.proposed.all()


def test_a_face_that_does_not_count_is_neither():
    boxes = found(FACE + [0.9], OTHER + [0.8])
    verdict = judge(boxes, truth(FACE, OTHER, counts=[False, True]))
    assert verdict.proposed.tolist() == [False, True] and verdict.recalled.tolist() == [0, 1]
    assert score([boxes], [truth(FACE, OTHER, counts=[False, True])]).average == pytest.approx(1)


def test_nothing_found_and_nothing_there():
    assert score([found()], [truth(FACE)]).average == 0
    assert score([found(FACE + [0.5])], [truth()]).average == 0
    assert score([], []).average == 0


def published(all_found, truths, threshold=0.5):
    """The published evaluation, step by step and slowly: one loop for each of its sentences."""
    scores = np.concatenate([f.scores for f in all_found])
    low, high = scores.min(), scores.max()
    table, faces = np.zeros((1000, 2)), 0
    for one, there in zip(all_found, truths):
        faces += there.counts.sum()
        if not len(one.scores) or not len(there.boxes):
            continue
        state, listed, recall = np.zeros(len(there.boxes)), np.ones(len(one.scores)), []
        for row, box in enumerate(one.boxes):
            shares = []
            for other in there.boxes:
                w = min(box[2], other[2]) - max(box[0], other[0]) + 1
                h = min(box[3], other[3]) - max(box[1], other[1]) + 1
                both = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                both += (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
                shares.append(w * h / (both - w * h) if w > 0 and h > 0 else 0.0)
            best = int(np.argmax(shares))
            if shares[best] >= threshold:
                if not there.counts[best]:
                    state[best], listed[row] = -1, -1
                elif state[best] == 0:
                    state[best] = 1
            recall.append((state == 1).sum())
        scaled = (one.scores - low) / (high - low)
        for step in range(1000):
            reached = np.flatnonzero(scaled >= 1 - (step + 1) / 1000)
            if len(reached):
                table[step] += [(listed[: reached[-1] + 1] == 1).sum(), recall[reached[-1]]]
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(table[:, 1] / table[:, 0])
    recall = np.concatenate([[0], table[:, 1] / faces, [1]])
    precision = np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    at = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[at + 1] - recall[at]) * precision[at + 1]).sum())


@pytest.mark.parametrize("seed", range(4))
def test_random_sets_agree_with_the_published_steps(seed):
    rng = np.random.default_rng(seed)
    all_found, truths = [], []
    for _ in range(12):
        corner = rng.uniform(0, 80, (rng.integers(0, 9), 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 30, corner.shape)], 1)
        truths.append(Truth(boxes, rng.random(len(boxes)) < 0.7))
        near = boxes[rng.random(len(boxes)) < 0.8] + rng.normal(0, 2, 4)
        noise = rng.uniform(0, 80, (rng.integers(0, 6), 2))
        boxes = np.concatenate([near, near + 1, np.concatenate([noise, noise + 12], 1)])
        scores = np.sort(rng.random(len(boxes)))[::-1]
        all_found.append(Found(rng.permutation(boxes), scores))
    assert score(all_found, truths).average == pytest.approx(published(all_found, truths), abs=1e-3)
