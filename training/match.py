"""Which default box answers for which face.

Two ways: the paper's (section 2.2, "Matching strategy") and adaptive selection (Zhang et al.,
"Bridging the gap between anchor-based and anchor-free detection", CVPR 2020, algorithm 1), which
sets the overlap a face demands by what the default boxes around it can give. The small faces that
WIDER FACE is full of overlap no default box by half, so the paper's rule leaves them one box each.

Boxes here are in pixels of the network's input: faces and ignored ``x1, y1, x2, y2``, default boxes
``cx, cy, w, h``. A batch is matched at once, its faces in one list: on a GPU a loop over pictures
would cost more than the network. Both ways answer with (B, N) int64: the number of the face in that
list, BACKGROUND or IGNORED.
"""

from typing import NamedTuple, Sequence

import torch
from torch import Tensor

BACKGROUND = -1
IGNORED = -2


class Boxes(NamedTuple):
    """The boxes of a batch of pictures, one picture after the other."""

    xyxy: Tensor  # (K, 4) float32
    picture: Tensor  # (K,) int64, whose it is: 0 to B - 1

    def to(self, device: torch.device) -> "Boxes":
        """The same on a device."""
        return Boxes(*(part.to(device, non_blocking=True) for part in self))

    @classmethod
    def of(cls, each: Sequence[Tensor]) -> "Boxes":
        """From the (G, 4) boxes of each picture."""
        counts = torch.tensor([len(boxes) for boxes in each], dtype=torch.int64)
        return cls(torch.cat(list(each)), torch.arange(len(each)).repeat_interleave(counts))


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) ``cx, cy, w, h`` to ``x1, y1, x2, y2``."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """(...,) shared areas, in px², of ``x1, y1, x2, y2`` of shapes (..., 4) that broadcast."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def area(boxes: Tensor) -> Tensor:
    """(...,) areas of (..., 4) ``x1, y1, x2, y2``."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """(...,) intersection over union of ``x1, y1, x2, y2`` of shapes (..., 4) that broadcast."""
    shared = intersection(first, second)
    return shared / (area(first) + area(second) - shared).clamp(min=1e-9)


def match_by_overlap(
    faces: Boxes, ignored: Boxes, defaults: Tensor, pictures: int, threshold: float = 0.5
) -> Tensor:
    """The paper's rule: the best default box of each face, then all that overlap one over
    ``threshold``.

    Args:
        faces: F of them; ignored: I; defaults: (N, 4); pictures: B.
    """
    overlap = iou(faces.xyxy[:, None], corners(defaults)[None])  # (F, N)
    claims = torch.where(overlap > threshold, overlap, torch.zeros_like(overlap))
    # A face's best box is its own whatever others claim; of two with the same box the later.
    number = torch.arange(len(claims), device=claims.device)
    claims.scatter_(1, overlap.argmax(1, keepdim=True), 2.0 + number[:, None])
    chosen = torch.arange(len(defaults), device=defaults.device).expand_as(claims)
    owners = _settle(faces.picture, chosen, claims, pictures, len(defaults))
    return _set_ignored(owners, ignored, defaults)


def match_adaptively(
    faces: Boxes,
    ignored: Boxes,
    defaults: Tensor,
    pictures: int,
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
        faces: F of them; ignored: I; defaults: (N, 4); pictures: B.
        level_sizes: default boxes of each map, N together.
        boxes_per_cell: default boxes of one cell of each map.
    """
    centres = (faces.xyxy[:, :2] + faces.xyxy[:, 2:]) / 2
    candidates, first = [], 0
    for size, boxes in zip(level_sizes, boxes_per_cell):
        level = defaults[first : first + size : boxes, :2]  # one centre a cell
        distance = torch.cdist(centres, level)
        near = distance.topk(min(cells, len(level)), largest=False).indices  # (F, cells)
        near = near[..., None] * boxes + torch.arange(boxes, device=near.device)
        candidates.append(near.flatten(1) + first)
        first += size
    chosen = torch.cat(candidates, 1)  # (F, K) numbers of default boxes
    nearby = defaults[chosen]
    overlap = iou(faces.xyxy[:, None], corners(nearby))  # (F, K)
    spread = overlap.std(1) if len(overlap) else overlap.sum(1)  # std warns of an empty batch
    enough = overlap.mean(1) + spread
    inside = (nearby[..., :2] > faces.xyxy[:, None, :2]) & (
        nearby[..., :2] < faces.xyxy[:, None, 2:]
    )
    positive = (overlap >= enough[:, None]) & inside.all(-1)
    positive.scatter_(1, overlap.argmax(1, keepdim=True), True)
    claims = torch.where(positive, overlap, torch.zeros_like(overlap))
    owners = _settle(faces.picture, chosen, claims, pictures, len(defaults))
    return _set_ignored(owners, ignored, defaults)


def _settle(
    picture: Tensor, chosen: Tensor, claims: Tensor, pictures: int, count: int
) -> Tensor:
    """Give each default box to the face with the highest claim, the first of equals.

    Args:
        picture: (F,) of each face. chosen: (F, K) numbers of default boxes. claims: (F, K), 0 for
            none. pictures: B. count: N.
    """
    place = (picture[:, None] * count + chosen).flatten()
    claims = claims.flatten()
    best = torch.zeros(pictures * count, device=claims.device)
    best = best.scatter_reduce(0, place, claims, "amax")
    nobody = len(picture)
    number = torch.arange(nobody, device=claims.device)[:, None].expand_as(chosen).flatten()
    number = torch.where((claims > 0) & (claims == best[place]), number, nobody)
    owners = torch.full((pictures * count,), nobody, device=claims.device)
    owners = owners.scatter_reduce(0, place, number, "amin")
    return torch.where(owners == nobody, BACKGROUND, owners).view(pictures, count)


def _set_ignored(owners: Tensor, ignored: Boxes, defaults: Tensor) -> Tensor:
    """Take background boxes that see an ignored face out of the loss.

    A default box sees it when the two share half of the smaller one, unless the default box is over
    six times as large: a speck in its field does not excuse a large box from being background.
    """
    boxes = corners(defaults)
    own = area(boxes)
    seen = torch.zeros(owners.shape, device=owners.device)
    for part, picture in zip(ignored.xyxy.split(512), ignored.picture.split(512)):
        shared = intersection(part[:, None], boxes[None])  # in parts: bounds the memory in a crowd
        theirs = area(part)[:, None]
        sees = (shared > 0.5 * torch.minimum(theirs, own)) & (own <= 6 * theirs)
        seen.index_add_(0, picture, sees.float())
    return torch.where((owners == BACKGROUND) & (seen > 0), IGNORED, owners)
