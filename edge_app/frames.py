"""What travels through the pipeline: a frame, the faces found in it, the picture that is shown."""

from typing import Dict, Iterator, NamedTuple, Tuple

import numpy as np


class Frame(NamedTuple):
    """One picture from a source. Whoever receives it may read it but not write into it."""

    number: int  # from 0 in order of capture; a gap is a dropped frame
    captured_at: float  # time.monotonic() seconds at which the source captured it
    pts_s: float  # the source's own presentation time, seconds from its start
    pixels: np.ndarray  # (H, W, 3) uint8 BGR

    @property
    def size_wh(self) -> Tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.pixels.shape[:2]
        return width, height


class Detections:
    """Faces of one picture, best first.

    Args:
        boxes: (N, 4) float32, ``x1, y1, x2, y2`` in pixels of the picture, x2 and y2 exclusive.
        scores: (N,) float32 in 0..1, descending.

    Raises:
        ValueError: the shapes do not belong together.
    """

    __slots__ = ("boxes", "scores")

    def __init__(self, boxes: np.ndarray, scores: np.ndarray) -> None:
        if boxes.shape != (len(scores), 4) or scores.ndim != 1:
            raise ValueError(
                "expected boxes (N, 4) and scores (N,), got {} and {}".format(
                    boxes.shape, scores.shape
                )
            )
        self.boxes = boxes
        self.scores = scores

    @classmethod
    def empty(cls) -> "Detections":
        """No faces."""
        return cls(np.zeros((0, 4), np.float32), np.zeros((0,), np.float32))

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Tuple[np.ndarray, float]]:
        return ((box, float(score)) for box, score in zip(self.boxes, self.scores))

    def above(self, threshold: float) -> "Detections":
        """Those with a score of at least ``threshold``."""
        kept = self.scores >= threshold
        return Detections(self.boxes[kept], self.scores[kept])

    def __repr__(self) -> str:
        return "Detections({})".format(
            ", ".join("{:.3f} at {}".format(s, b.round().astype(int).tolist()) for b, s in self)
        )


class StepTimes(NamedTuple):
    """Seconds one detection spent in each step."""

    preprocess_s: float
    network_s: float
    postprocess_s: float


class Result(NamedTuple):
    """A frame and the faces the detector found in it (above the *lower* of the two thresholds)."""

    frame: Frame
    faces: Detections
    times: StepTimes
    detected_at: float  # time.monotonic() seconds at which the detector was done


class Figures(NamedTuple):
    """How the program is doing, over the last few seconds. Rates in frames a second."""

    camera_fps: float
    detect_fps: float
    display_fps: float
    age_ms: float  # age of the picture on the screen: now minus ``captured_at`` of its frame
    steps_ms: Dict[str, float]  # median of each step: "preprocess", "network", "postprocess", ...
    dropped: Dict[str, int]  # since the start, by cause: "camera", "detector", "display"


class Picture(NamedTuple):
    """A frame with its faces drawn, ready to be shown. Displays read it and keep no reference."""

    pixels: np.ndarray  # (H, W, 3) uint8 BGR; overwritten by the next picture
    faces: Detections  # those on the screen, in pixels of the frame
    result: Result
    figures: Figures
    tracks: Tuple[int, ...] = ()  # for each face a number that stays with it, from frame to frame
