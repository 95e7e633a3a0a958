"""Which default box answers for which face.

Two ways: the paper's (section 2.2, "Matching strategy") and adaptive selection (Zhang et al.,
"Bridging the gap between anchor-based and anchor-free detection", CVPR 2020, algorithm 1), which
sets the overlap a face demands by what the default boxes around it can give. The small faces that
WIDER FACE is full of overlap no default box by half, so the paper's rule leaves them one box each.

Boxes here are in pixels of the network's input: faces and ignored ``x1, y1, x2, y2``, default boxes
``cx, cy, w, h``. Both ways answer with (N,) int64: the number of the face, BACKGROUND or IGNORED.
"""

from typing import Sequence

import torch
from torch import Tensor

BACKGROUND = -1
IGNORED = -2


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) ``cx, cy, w, h`` to ``x1, y1, x2, y2``."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Shared area of boxes ``x1, y1, x2, y2`` of shapes (..., 4) that broadcast."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def area(boxes: Tensor) -> Tensor:
    """(...,) areas of (..., 4) ``x1, y1, x2, y2``."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes of shapes (..., 4) that broadcast."""
    shared = intersection(first, second)
    return shared / (area(first) + area(second) - shared).clamp(min=1e-9)


def match_by_overlap(
    faces: Tensor, ignored: Tensor, defaults: Tensor, threshold: float = 0.5
) -> Tensor:
    """The paper's rule: the best default box of each face, then all that overlap one over
    ``threshold``.

    Args:
        faces: (G, 4); ignored: (I, 4); defaults: (N, 4).
    """
    owner = torch.full((len(defaults),), BACKGROUND, dtype=torch.int64, device=defaults.device)
    if len(faces):
        overlap = iou(faces[:, None], corners(defaults)[None])  # (G, N)
        best, face = overlap.max(0)
        owner = torch.where(best > threshold, face, owner)
        # Later faces win where two have the same best box; the loop keeps that order on any device.
        for number, box in enumerate(overlap.argmax(1).tolist()):
            owner[box] = number
    return _set_ignored(owner, ignored, defaults)


def match_adaptively(
    faces: Tensor,
    ignored: Tensor,
    defaults: Tensor,
    level_sizes: Sequence[int],
    boxes_per_cell: Sequence[int],
    cells: int = 9,
) -> Tensor:
    """Adaptive selection: among the boxes of the nearest cells those that overlap well *for this
    face*.

    The candidates of a face are the boxes of the ``cells`` nearest cells of each map. Its threshold
    is the mean plus the standard deviation of their overlaps; a chosen box has its centre in the
    face. The best candidate of a face is chosen in any case, so that no face, however small, goes
    untaught.

    Args:
        faces: (G, 4); ignored: (I, 4); defaults: (N, 4).
        level_sizes: default boxes of each map, N together.
        boxes_per_cell: default boxes of one cell of each map.
    """
    owner = torch.full((len(defaults),), BACKGROUND, dtype=torch.int64, device=defaults.device)
    if len(faces):
        centres = (faces[:, :2] + faces[:, 2:]) / 2
        candidates, first = [], 0
        for size, boxes in zip(level_sizes, boxes_per_cell):
            level = defaults[first : first + size : boxes, :2]  # one centre a cell
            distance = torch.cdist(centres, level)
            near = distance.topk(min(cells, len(level)), largest=False).indices  # (G, cells)
            near = near[..., None] * boxes + torch.arange(boxes, device=near.device)
            candidates.append(near.flatten(1) + first)
            first += size
        chosen = torch.cat(candidates, 1)  # (G, K) numbers of default boxes
        nearby = defaults[chosen]
        overlap = iou(faces[:, None], corners(nearby))  # (G, K)
        enough = overlap.mean(1) + overlap.std(1)
        inside = (nearby[..., :2] > faces[:, None, :2]) & (nearby[..., :2] < faces[:, None, 2:])
        positive = (overlap >= enough[:, None]) & inside.all(-1)
        positive.scatter_(1, overlap.argmax(1, keepdim=True), True)
        claims = torch.zeros(len(faces), len(defaults), device=defaults.device)
        claims.scatter_(1, chosen, torch.where(positive, overlap, torch.zeros_like(overlap)))
        best, face = claims.max(0)
        owner = torch.where(best > 0, face, owner)
    return _set_ignored(owner, ignored, defaults)


def _set_ignored(owner: Tensor, ignored: Tensor, defaults: Tensor) -> Tensor:
    """Take background boxes that see an ignored face out of the loss.

    A default box sees it when the two share half of the smaller one, unless the default box is over
    six times as large: a speck in its field does not excuse a large box from being background.
    """
    if not len(ignored):
        return owner
    boxes = corners(defaults)
    hidden = torch.zeros_like(owner, dtype=torch.bool)
    own = area(boxes)
    for part in ignored.split(64):  # bounds the memory in a crowd
        shared = intersection(part[:, None], boxes[None])
        theirs = area(part)[:, None]
        sees = (shared > 0.5 * torch.minimum(theirs, own)) & (own <= 6 * theirs)
        hidden |= sees.any(0)
    return torch.where((owner == BACKGROUND) & hidden, torch.full_like(owner, IGNORED), owner)
