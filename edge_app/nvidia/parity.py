"""The gate every engine passes before it is used: it must say what the float32 ONNX says."""

from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import numpy as np

from edge_app import boxes
from edge_app.card import ModelCard
from edge_app.detector import Stretch
from edge_app.errors import DetectorError

SCORE_LIMIT = 0.01  # largest difference of any default box's score
IOU_LIMIT = 0.99  # mean overlap of the boxes that matter
SHOWN = 0.95  # faces of at least this score must be the same
SAME_FACE_IOU = 0.9
CANDIDATE = 0.05  # boxes that matter score at least this ...
LEAST_BOXES = 20  # ... or are among this many best of a picture

Answer = Tuple[np.ndarray, np.ndarray]  # (N, 4) offsets, (N,) scores of face
Infer = Callable[[np.ndarray], Answer]  # of a tensor (1, 3, h, w) float32


class Parity(NamedTuple):
    """How an engine compares, over all pictures."""

    pictures: int
    score_difference: float  # the largest
    mean_iou: float
    faces: int  # of the reference at SHOWN
    missing: int  # faces of one side that the other lacks

    @property
    def problem(self) -> str:
        """Which limit is broken, in words; "" when none is."""
        problems = []
        if not self.score_difference <= SCORE_LIMIT:
            problems.append("a score differs by {:.4f}".format(self.score_difference))
        if not self.mean_iou >= IOU_LIMIT:
            problems.append("mean overlap is {:.4f}".format(self.mean_iou))
        if self.missing:
            problems.append("{} faces at {} differ".format(self.missing, SHOWN))
        return ", ".join(problems)


def golden_pictures(count: int = 6) -> List[np.ndarray]:
    """Frames of the generated scene, people near and far, and one of noise; (H, W, 3) uint8 BGR."""
    from edge_app.scene import Scene

    scene = Scene((640, 360), faces=6)
    pictures = [scene.render(37 * number) for number in range(count - 1)]
    noise = np.random.RandomState(0).randint(0, 256, (240, 320, 3))
    return pictures + [noise.astype(np.uint8)]


def import_onnxruntime() -> Any:
    """What gives the reference.

    Raises:
        DetectorError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DetectorError("ONNX Runtime is not installed: pip install onnxruntime.") from error
    return onnxruntime


def onnx_answers(onnx_path: str, card: ModelCard) -> Infer:
    """The reference: the model in float32 by ONNX Runtime, on the CPU.

    Raises:
        DetectorError: ONNX Runtime is not installed, or does not take the model.
    """
    onnxruntime = import_onnxruntime()
    try:
        session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise DetectorError("ONNX Runtime cannot load {}: {}".format(onnx_path, error)) from error

    def infer(tensor: np.ndarray) -> Answer:
        offsets, scores = session.run(list(card.outputs), {card.input.name: tensor})
        return offsets[0], scores[0, :, 1]

    return infer


def compare(
    reference: Infer, engine: Infer, card: ModelCard, pictures: Sequence[np.ndarray]
) -> Parity:
    """Both on the same tensors, made by the CPU's preprocessing."""
    stretch, defaults = Stretch(card.input), card.default_boxes()
    differences, overlaps, faces, missing = [0.0], [], 0, 0
    for picture in pictures:
        tensor = stretch(picture)
        wanted, found = reference(tensor), engine(tensor)
        difference = np.abs(wanted[1] - found[1])
        differences.append(float(difference.max()) if np.isfinite(difference).all() else np.inf)
        overlaps.append(_overlaps(wanted, found, defaults, card.variances))
        here, lacking = _faces(wanted, found, defaults, card.variances)
        faces, missing = faces + here, missing + lacking
    every = np.concatenate(overlaps)
    mean_iou = float(every.mean()) if len(every) else 1.0
    return Parity(len(pictures), max(differences), mean_iou, faces, missing)


def _overlaps(wanted: Answer, found: Answer, defaults: np.ndarray, variances: Any) -> np.ndarray:
    """Overlap of each box that matters with its own counterpart."""
    scores = wanted[1]
    least = np.sort(scores)[-min(LEAST_BOXES, len(scores))]
    chosen = np.flatnonzero(scores >= min(CANDIDATE, least))
    first, second = [
        boxes.decode(a[0][chosen], defaults[chosen], variances) for a in (wanted, found)
    ]
    whole = np.all(first[:, 2:] > first[:, :2], axis=1)
    corner_1 = np.maximum(first[whole, :2], second[whole, :2])
    corner_2 = np.minimum(first[whole, 2:], second[whole, 2:])
    inside = np.prod(np.maximum(corner_2 - corner_1, 0), axis=1)
    union = boxes.areas(first[whole]) + boxes.areas(second[whole]) - inside
    return np.where(union > 0, inside / np.maximum(union, np.float32(1e-12)), np.float32(0))


def _faces(wanted: Answer, found: Answer, defaults: np.ndarray, variances: Any) -> Tuple[int, int]:
    """(faces of the reference, faces that one side has and the other lacks).

    A face within SCORE_LIMIT of SHOWN may fall on either side of it, so the other side is searched
    down to SHOWN - 2 * SCORE_LIMIT and only faces above SHOWN + SCORE_LIMIT must be there.
    """
    firm, loose = [], []
    for offsets, scores in (wanted, found):
        for kept, threshold in ((firm, SHOWN + SCORE_LIMIT), (loose, SHOWN - 2 * SCORE_LIMIT)):
            kept.append(
                boxes.select(
                    offsets, scores, defaults, variances, threshold, 0.45, len(scores), len(scores)
                ).boxes
            )
    missing = 0
    for sure, others in ((firm[0], loose[1]), (firm[1], loose[0])):
        for box in sure:
            overlap = boxes.iou(box[None], others)
            missing += not (overlap > SAME_FACE_IOU).any()
    return len(firm[0]), missing
