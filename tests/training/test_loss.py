"""The losses, by hand, and their geometry against the specification in edge_app."""

import math

import numpy as np
import torch

from edge_app import boxes
from training import loss
from training.match import BACKGROUND, IGNORED

VARIANCES = (0.1, 0.2)


def test_encode_and_decode_are_those_of_the_device():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.6, (50, 2))
    faces = np.concatenate([low, low + rng.uniform(0.05, 0.4, (50, 2))], 1).astype(np.float32)
    defaults = rng.uniform(0.2, 0.8, (50, 4)).astype(np.float32)
    theirs = boxes.encode(faces, defaults, VARIANCES)
    mine = loss.encode(torch.from_numpy(faces), torch.from_numpy(defaults), VARIANCES)
    np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-4, atol=1e-4)
    back = loss.decode(mine, torch.from_numpy(defaults), VARIANCES)
    np.testing.assert_allclose(back.numpy(), faces, atol=1e-5)


def case():
    """One picture of five default boxes: a matched one, three of background, one ignored."""
    owners = torch.tensor([[0, BACKGROUND, BACKGROUND, BACKGROUND, IGNORED]])
    defaults = torch.tensor([[5.0, 5, 10, 10]]).repeat(5, 1)
    faces = torch.tensor([[0.0, 0, 10, 10]])
    offsets = torch.zeros(1, 5, 4)
    logits = torch.zeros(1, 5, 2)
    return offsets, logits, owners, faces, defaults


def test_multibox_of_a_perfect_box_is_cross_entropy_alone():
    offsets, logits, owners, faces, defaults = case()
    score_loss, box_loss = loss.multibox_loss(offsets, logits, owners, faces, defaults, VARIANCES)
    assert box_loss == 0
    # One positive, three negatives, each ln 2, over one match; the ignored one is not there.
    assert math.isclose(score_loss.item(), 4 * math.log(2), rel_tol=1e-6)


def test_smooth_l1_by_hand():
    offsets, logits, owners, faces, defaults = case()
    offsets[0, 0] = torch.tensor([0.5, 0.0, 3.0, 0.0])  # 0.5 * 0.5^2 and 3 - 0.5
    offsets[0, 1] = 100.0  # background has no box
    box_loss = loss.multibox_loss(offsets, logits, owners, faces, defaults, VARIANCES)[1]
    assert math.isclose(box_loss.item(), 0.125 + 2.5, rel_tol=1e-6)


def test_only_the_hardest_negatives_count():
    offsets, logits, owners, faces, defaults = case()
    logits[0, 1] = torch.tensor([0.0, 4.0])  # hard
    logits[0, 4] = torch.tensor([0.0, 9.0])  # harder, but ignored
    kept = loss.multibox_loss(offsets, logits, owners, faces, defaults, VARIANCES, 1)[0]
    assert math.isclose(kept.item(), math.log(2) + math.log(1 + math.exp(4)), rel_tol=1e-6)


def test_a_batch_without_faces_gives_numbers():
    offsets, logits, owners, _, defaults = case()
    owners[:] = BACKGROUND
    for judge in (loss.multibox_loss, loss.quality_loss):
        score_loss, box_loss = judge(
            offsets, logits, owners, torch.zeros(0, 4), defaults, VARIANCES
        )
        assert torch.isfinite(score_loss) and box_loss == 0


def test_quality_loss_by_hand():
    offsets, logits, owners, faces, defaults = case()
    score_loss, box_loss = loss.quality_loss(offsets, logits, owners, faces, defaults, VARIANCES)
    assert abs(box_loss.item()) < 1e-6
    # p = 1/2 everywhere: the face wants 1, three backgrounds 0; each |1/2|^2 * ln 2.
    assert math.isclose(score_loss.item(), 4 * 0.25 * math.log(2), rel_tol=1e-5)


def test_the_score_is_taught_the_overlap_its_box_reaches():
    offsets, logits, owners, faces, defaults = case()
    offsets[0, 0, 0] = 5.0  # half a width aside: overlap 1/3
    logits[0, 0, 1] = math.log(0.5)  # p = 1/3
    logits[0, 1:, 1] = -30
    logits.requires_grad_(True)
    score_loss, box_loss = loss.quality_loss(offsets, logits, owners, faces, defaults, VARIANCES)
    assert score_loss.item() < 1e-6
    # 1 - 1/3 + 5^2 / (15^2 + 10^2), doubled.
    assert math.isclose(box_loss.item(), 2 * (2 / 3 + 25 / 325), rel_tol=1e-5)


def test_gradients_point_to_the_face():
    offsets, logits, owners, _, defaults = case()
    offsets.requires_grad_(True)
    faces = torch.tensor([[2.0, 0, 12, 10]])
    loss.quality_loss(offsets, logits, owners, faces, defaults, VARIANCES)[1].backward()
    assert offsets.grad[0, 0, 0] < 0  # to the right lowers the loss
    assert (offsets.grad[0, 1:] == 0).all()
