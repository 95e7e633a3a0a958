"""What the network is taught: the paper's MultiBox loss, and one that also teaches how sure to be.

Both take offsets (B, N, 4), logits (B, N, 2), owners (B, N) as ``match`` gives them, and the
encoded or plain boxes of the owners; both are divided by the number of matched default boxes and
give ``(score loss, box loss)``, float32 scalars.
"""

from typing import Tuple

import torch
from torch import Tensor
from torch.nn import functional

from training.match import BACKGROUND, IGNORED, corners, iou


def encode(faces: Tensor, defaults: Tensor, variances: Tuple[float, float]) -> Tensor:
    """Faces as offsets from their default boxes, equation 2.

    Args:
        faces: (..., 4) ``x1, y1, x2, y2``; defaults: (..., 4) ``cx, cy, w, h``; both in pixels.
        variances: of centre and size.

    Returns:
        (..., 4) ``tx, ty, tw, th`` without a unit.
    """
    centre = (faces[..., :2] + faces[..., 2:]) / 2
    size = faces[..., 2:] - faces[..., :2]
    shift = (centre - defaults[..., :2]) / defaults[..., 2:] / variances[0]
    scale = torch.log(size / defaults[..., 2:]) / variances[1]
    return torch.cat([shift, scale], -1)


def decode(offsets: Tensor, defaults: Tensor, variances: Tuple[float, float]) -> Tensor:
    """The inverse of ``encode``: (..., 4) ``x1, y1, x2, y2`` in pixels.

    The exponent is bounded (a factor of 55) so that a wild answer stays finite.
    """
    centre = defaults[..., :2] + offsets[..., :2] * variances[0] * defaults[..., 2:]
    size = defaults[..., 2:] * torch.exp((offsets[..., 2:] * variances[1]).clamp(max=4))
    return corners(torch.cat([centre, size], -1))


def multibox_loss(
    offsets: Tensor,
    logits: Tensor,
    owners: Tensor,
    faces: Tensor,
    defaults: Tensor,
    variances: Tuple[float, float],
    negatives_per_positive: int = 3,
) -> Tuple[Tensor, Tensor]:
    """Equations 1 to 3: cross-entropy with hard negative mining, smooth L1 on the offsets.

    Args:
        faces: (P, 4) ``x1, y1, x2, y2`` of the P matched default boxes in the order of ``owners >=
        0``. defaults: (N, 4).
    """
    positive = owners >= 0
    image, box = positive.nonzero(as_tuple=True)
    count = max(len(image), 1)
    target = encode(faces, defaults[box], variances)
    box_loss = functional.smooth_l1_loss(offsets[image, box], target, reduction="sum")
    losses = functional.cross_entropy(
        logits.flatten(0, 1), positive.long().flatten(), reduction="none"
    )
    losses = losses.view_as(owners)
    with torch.no_grad():  # the hardest negatives of each picture, three for each of its positives
        candidates = losses.masked_fill(owners != BACKGROUND, -1)
        rank = candidates.argsort(1, descending=True).argsort(1)
        quota = negatives_per_positive * positive.sum(1, keepdim=True)
        negative = (rank < quota) & (owners == BACKGROUND)
    return losses[positive | negative].sum() / count, box_loss / count


def quality_loss(
    offsets: Tensor,
    logits: Tensor,
    owners: Tensor,
    faces: Tensor,
    defaults: Tensor,
    variances: Tuple[float, float],
) -> Tuple[Tensor, Tensor]:
    """Quality focal loss on the score and distance-IoU loss on the box.

    The score of a matched default box is taught to be the overlap its box reaches, all others 0,
    with easy answers weighted down (QFL of Li et al., "Generalized focal loss", NeurIPS 2020, with
    beta 2). So the best of the boxes on a face gets the best score, which is what suppression
    relies on. The box loss is that of Zheng et al., "Distance-IoU loss", AAAI 2020, equation 7,
    doubled.

    Args: as for ``multibox_loss``.
    """
    image, box = (owners >= 0).nonzero(as_tuple=True)
    count = max(len(image), 1)
    found = decode(offsets[image, box], defaults[box], variances)
    overlap = iou(found, faces)
    low = torch.minimum(found[:, :2], faces[:, :2])
    high = torch.maximum(found[:, 2:], faces[:, 2:])
    apart = ((found[:, :2] + found[:, 2:] - faces[:, :2] - faces[:, 2:]) / 2).square().sum(1)
    diagonal = (high - low).square().sum(1).clamp(min=1e-9)
    box_loss = (1 - overlap + apart / diagonal).sum()

    logit = logits[..., 1] - logits[..., 0]  # the softmax of two is the sigmoid of their difference
    quality = torch.zeros_like(logit)
    quality[image, box] = overlap.detach()
    losses = functional.binary_cross_entropy_with_logits(logit, quality, reduction="none")
    losses = losses * (logit.sigmoid() - quality).square()
    score_loss = losses[owners != IGNORED].sum()
    return score_loss / count, 2 * box_loss / count
