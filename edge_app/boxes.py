"""SSD geometry in NumPy: default boxes, encoding, overlap, non-maximum suppression.

This is the specification the CUDA kernels are held to and the code the training imports. Equation
and section numbers are those of Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016.

Coordinates: boxes are float32 in *fractions of the picture* (0..1), so that they fit any frame;
``to_pixels`` is the only way out. Default boxes are ``cx, cy, w, h``; all others ``x1, y1, x2, y2``.
"""

import math
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

SizeWH = Tuple[float, float]


class BoxLayer(NamedTuple):
    """The default boxes of one feature map.

    Cell (x, y) has its boxes centred on ``((x + 0.5) * step_px[0], (y + 0.5) * step_px[1])``, in
    pixels of the network's input.
    """

    grid_wh: Tuple[int, int]  # cells of the feature map
    step_px: SizeWH  # distance between cell centres, across and down
    sizes_px: Tuple[SizeWH, ...]  # (width, height) of each default box of a cell, in order


def default_boxes(layers: Sequence[BoxLayer], input_wh: Tuple[int, int]) -> np.ndarray:
    """Lay out the default boxes of all layers.

    Returns:
        (N, 4) float32 ``cx, cy, w, h`` as fractions of the input; layer by layer, row by row, cell by
        cell, box by box: the order in which an NHWC-flattened head gives its answers.
    """
    parts = []
    for layer in layers:
        columns, rows = layer.grid_wh
        centre_x = (np.arange(columns, dtype=np.float64) + 0.5) * layer.step_px[0]
        centre_y = (np.arange(rows, dtype=np.float64) + 0.5) * layer.step_px[1]
        grid = np.empty((rows, columns, len(layer.sizes_px), 4), np.float64)
        grid[..., 0] = centre_x[None, :, None]
        grid[..., 1] = centre_y[:, None, None]
        grid[..., 2:] = np.asarray(layer.sizes_px, np.float64)
        parts.append(grid.reshape(-1, 4))
    boxes = np.concatenate(parts) / np.tile(np.asarray(input_wh, np.float64), 2)
    return boxes.astype(np.float32)


def paper_layers(input_wh: Tuple[int, int] = (300, 300)) -> List[BoxLayer]:
    """SSD300's own table (section 2.2 and 3.1): 8,732 boxes at 300x300.

    The sizes are those of the authors' code, 0.2 to 0.88 of the side in steps of 0.17, with 0.1 on
    conv4_3; a map has one box of ratio 1 at the geometric mean of its size and the next besides those
    of its ratios.

    Args:
        input_wh: in pixels, both over 256. The side of an input that is no square is that of the
            square as large, so that boxes of ratio 1 stay square.
    """
    side = math.sqrt(input_wh[0] * input_wh[1])
    sizes = [side * size / 300 for size in (30, 60, 111, 162, 213, 264, 315)]
    ratios = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    maps = [
        (tuple(math.ceil(pixels / step) for pixels in input_wh), (float(step), float(step)))
        for step in (8, 16, 32, 64)
    ]
    for _ in range(2):  # convolutions without padding; the cells are spread over the whole input
        columns, rows = (cells - 2 for cells in maps[-1][0])
        maps.append(((columns, rows), (input_wh[0] / columns, input_wh[1] / rows)))
    layers = []
    for (grid_wh, step_px), size, following, layer_ratios in zip(maps, sizes, sizes[1:], ratios):
        between = math.sqrt(size * following)
        boxes = [(size, size), (between, between)]
        for ratio in layer_ratios:
            root = math.sqrt(ratio)
            boxes += [(size * root, size / root), (size / root, size * root)]
        layers.append(BoxLayer(grid_wh, step_px, tuple(boxes)))
    return layers


def face_layers(
    input_wh: Tuple[int, int],
    sizes_px: Sequence[Sequence[float]],
    steps_px: Sequence[int] = (8, 16, 32, 64, 128),
    aspect: float = 0.8,
) -> List[BoxLayer]:
    """Near-square boxes only, since faces are shaped alike, on maps that halve from stride to stride.

    Args:
        input_wh: any shape; a map has ``ceil(side / step)`` cells a side.
        sizes_px: for each step the sizes (square root of the area) of a cell's boxes.
        steps_px: distance between cell centres of each map.
        aspect: width over height.
    """
    width, height = input_wh
    root = math.sqrt(aspect)
    return [
        BoxLayer(
            (math.ceil(width / step), math.ceil(height / step)),
            (float(step), float(step)),
            tuple((size * root, size / root) for size in sizes),
        )
        for step, sizes in zip(steps_px, sizes_px)
    ]


def corners(boxes_cxcywh: np.ndarray) -> np.ndarray:
    """(N, 4) ``cx, cy, w, h`` to ``x1, y1, x2, y2``."""
    half = boxes_cxcywh[:, 2:] * np.float32(0.5)
    return np.concatenate([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], axis=1)


def encode(
    boxes_xyxy: np.ndarray, defaults: np.ndarray, variances: Tuple[float, float]
) -> np.ndarray:
    """Offsets of ``boxes_xyxy`` (N, 4) from their default boxes (N, 4), section 2.2, equation 2."""
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) * np.float32(0.5)
    size = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    shift = (centre - defaults[:, :2]) / defaults[:, 2:] / np.float32(variances[0])
    scale = np.log(size / defaults[:, 2:]) / np.float32(variances[1])
    return np.concatenate([shift, scale], axis=1).astype(np.float32)


def decode(offsets: np.ndarray, defaults: np.ndarray, variances: Tuple[float, float]) -> np.ndarray:
    """The inverse of ``encode``, clipped to the picture.

    Args:
        offsets: (N, 4) float32 ``tx, ty, tw, th`` from the network.
        defaults: (N, 4) float32 ``cx, cy, w, h``.

    Returns:
        (N, 4) float32 ``x1, y1, x2, y2`` in 0..1; NaN where an offset was NaN.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        centre = defaults[:, :2] + offsets[:, :2] * np.float32(variances[0]) * defaults[:, 2:]
        half = (
            defaults[:, 2:] * np.exp(offsets[:, 2:] * np.float32(variances[1])) * np.float32(0.5)
        )
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        return np.clip(boxes, np.float32(0), np.float32(1)).astype(np.float32, copy=False)


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N,) areas; negative or NaN sides count as they come."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of (N, 4) and (M, 4); 0 where the union is empty."""
    corner_1 = np.maximum(first[:, None, :2], second[None, :, :2])
    corner_2 = np.minimum(first[:, None, 2:], second[None, :, 2:])
    side = np.maximum(corner_2 - corner_1, np.float32(0))
    intersection = side[..., 0] * side[..., 1]
    union = areas(first)[:, None] + areas(second)[None, :] - intersection
    overlap = np.zeros_like(intersection)
    np.divide(intersection, union, out=overlap, where=union > 0)
    return overlap


def nms(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4), *already sorted* best first, without degenerate boxes.
        iou_threshold: a box goes when it overlaps a kept, better one by more than this.

    Returns:
        (K,) int64 positions of the kept boxes, ascending.
    """
    alive = np.ones(len(boxes), bool)
    kept = []
    for position in range(len(boxes)):
        if not alive[position]:
            continue
        kept.append(position)
        rest = np.flatnonzero(alive[position + 1 :]) + position + 1
        overlap = iou(boxes[position : position + 1], boxes[rest])[0]
        alive[rest[overlap > np.float32(iou_threshold)]] = False
    return np.asarray(kept, np.int64)


class Selection(NamedTuple):
    """What is left of a network's raw answer."""

    indices: np.ndarray  # (K,) int64, which default boxes were kept, best first
    boxes: np.ndarray  # (K, 4) float32 x1, y1, x2, y2 as fractions of the picture
    scores: np.ndarray  # (K,) float32, descending
    overflow: int  # candidates over the threshold that did not fit


def select(
    offsets: np.ndarray,
    scores: np.ndarray,
    defaults: np.ndarray,
    variances: Tuple[float, float],
    threshold: float,
    iou_threshold: float,
    max_candidates: int,
    max_faces: int,
) -> Selection:
    """From raw offsets and scores to the faces of a picture: filter, sort, decode, suppress.

    The order matters and is the specification: (1) keep scores of at least ``threshold`` (NaN is
    none); (2) sort by descending score, equal scores by ascending index; (3) keep the best
    ``max_candidates`` and count the rest; (4) decode those; (5) drop boxes without a positive,
    finite width and height; (6) suppress; (7) keep the best ``max_faces``.

    Args:
        offsets: (N, 4) float32.
        scores: (N,) float32, the probability of *face*.
        defaults: (N, 4) float32 ``cx, cy, w, h``.
    """
    with np.errstate(invalid="ignore"):
        candidates = np.flatnonzero(scores >= np.float32(threshold))
    order = candidates[np.argsort(-scores[candidates], kind="mergesort")]
    overflow = max(0, len(order) - max_candidates)
    order = order[:max_candidates]
    boxes = decode(offsets[order], defaults[order], variances)
    with np.errstate(invalid="ignore"):
        proper = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    order, boxes = order[proper], boxes[proper]
    kept = nms(boxes, iou_threshold)[:max_faces]
    return Selection(order[kept], boxes[kept], scores[order[kept]], overflow)


def to_pixels(boxes: np.ndarray, size_wh: Tuple[int, int]) -> np.ndarray:
    """Fractions to pixels of a picture of ``size_wh``; (N, 4) float32."""
    return boxes * np.tile(np.asarray(size_wh, np.float32), 2)
