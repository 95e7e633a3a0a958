"""The generated test scene: a moving camera over copies of one portrait, with the true face boxes.

Everything is a function of the frame's number, so any frame can be drawn, and its truth asked for,
without those before it. Lengths inside are in *heights of the frame*: it looks alike at any size.

    python3 -m edge_app.scene OUT.mp4 [--seconds 10] [--size 1280x720] [--rate 30] [--faces 6]
"""

import argparse
import math
import sys
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from edge_app import scenery
from edge_app.errors import DisplayError

_FACE_SHARE = 0.97  # of the face box is inside the outline; the rest is beside the chin
_SUIT_HUES = (0, 95, 52, 18, 140, 78)  # added to the orange of the suit, in OpenCV's half degrees
_TRUTH_STEP = 4  # visibility is counted on every fourth pixel of every fourth row


_ROW_ORDER = (2, 1, 0, 1, 0, 2)  # rows of the first, second, ... person
_BALLOON_RADIUS = 0.13


class SceneFace(NamedTuple):
    """A face that is at least partly in the picture."""

    box: np.ndarray  # (4,) float32 x1, y1, x2, y2 in pixels, clipped to the picture
    visible: float  # share of the whole face that is in the picture and not covered, 0..1


class _Person(NamedTuple):
    row: int
    start: float
    direction: int  # 1: to the right
    phase: float
    sprite: List[Any]  # premultiplied BGRA, each half the size of the one before


class _Placed(NamedTuple):
    """A sprite's place in one frame."""

    matrix: np.ndarray  # (2, 3) float64 from sprite to frame pixels
    bottom_px: int  # rows from here on are behind a wall
    sprite: List[Any]
    outline: np.ndarray  # (N, 2) float64 in sprite pixels
    person: int  # -1: not a person


class Scene:
    """Draws frames of the scene and tells where the faces in them are.

    Args:
        size_wh: of the frames, in pixels; each side at least 32.
        faces: number of people, 0 to 24.
        rate_hz: frames a second; frame n is the scene at ``n / rate_hz`` seconds.
        seed: another seed, other people and another walk.

    Raises:
        ImageError: the portrait is missing from the installation.
    """

    def __init__(
        self,
        size_wh: Tuple[int, int] = (1280, 720),
        faces: int = 6,
        rate_hz: float = 30.0,
        seed: int = 1,
    ) -> None:
        self.size_wh = size_wh
        self.rate_hz = rate_hz
        self._aspect = size_wh[0] / size_wh[1]
        random = np.random.RandomState(seed)
        self._backdrop = scenery.backdrop(size_wh, random)
        self._walls = [scenery.wall(size_wh, row) for row in scenery.ROWS[:-1]]
        self._column = scenery.column(size_wh[1])
        self._balloon = scenery.mips(scenery.balloon())
        self._people = _people(faces, self._aspect, random)

    def render(self, number: int, out: Optional[np.ndarray] = None) -> np.ndarray:
        """Frame ``number`` (0 or more): (H, W, 3) uint8 BGR; ``out``, or a new array without it."""
        width, height = self.size_wh
        seconds = number / self.rate_hz
        pan = _pan(seconds)
        left = int(round((0.3 + 0.2 * pan) * height))
        frame = np.empty((height, width, 3), np.uint8) if out is None else out
        np.copyto(frame, self._backdrop[:, left : left + width])
        placed = self._place(seconds)
        for position, row in enumerate(scenery.ROWS):
            for item in placed:
                if item.person >= 0 and self._people[item.person].row == position:
                    _draw(frame, item)
            if position < len(self._walls):
                self._draw_wall(frame, position, pan)
        _draw(frame, placed[-1])
        return frame

    def faces(self, number: int) -> List[SceneFace]:
        """The faces of frame ``number``, also those that are mostly covered, nearest last."""
        width, height = self.size_wh
        seconds = number / self.rate_hz
        owner = np.full((-(-height // _TRUTH_STEP), -(-width // _TRUTH_STEP)), -1, np.int16)
        placed = self._place(seconds)
        for position in range(len(scenery.ROWS)):
            for item in placed:
                if item.person >= 0 and self._people[item.person].row == position:
                    _claim(owner, item)
            if position < len(self._walls):
                self._claim_walls(owner, position, _pan(seconds))
        _claim(owner, placed[-1])
        found = (_seen(owner, item, self.size_wh) for item in placed if item.person >= 0)
        return [face for face in found if face is not None]

    def boxes(self, number: int, least_visible: float = 0.6) -> np.ndarray:
        """(N, 4) float32: boxes of the faces of frame ``number`` that can be seen well enough."""
        kept = [face.box for face in self.faces(number) if face.visible >= least_visible]
        return np.stack(kept) if kept else np.zeros((0, 4), np.float32)

    def _place(self, seconds: float) -> List[_Placed]:
        """Everyone, farthest row first; the balloon comes last."""
        height = self.size_wh[1]
        placed = []
        for index, person in enumerate(self._people):
            row = scenery.ROWS[person.row]
            size = row.size * (1 + 0.10 * math.sin(0.5 * seconds + person.phase))
            margin = 0.6 * row.size
            span = self._aspect + 2 * margin
            moved = person.start * span + person.direction * row.speed * seconds
            x = (moved - row.parallax * _pan(seconds)) % span - margin
            steps = 0.012 * row.size * math.sin(7.0 * seconds + person.phase)
            duck = max(0.0, math.sin(0.7 * seconds + 2.0 * person.phase) - 0.75) * 2.2
            y = row.wall_top - 0.27 * size + (0.5 * duck * size if index % 3 == 1 else 0) + steps
            lean = 4.0 * math.sin(0.9 * seconds + person.phase)
            bottom = int(round(min(row.wall_top, 1.0) * height))
            matrix = _matrix(scenery.PORTRAIT_PX, size * height, x * height, y * height, lean)
            outline = np.asarray(scenery.OUTLINE, np.float64)
            if person.direction < 0:
                outline = outline * (-1, 1) + (scenery.PORTRAIT_PX - 1, 0)
            placed.append(_Placed(matrix, bottom, person.sprite, outline, index))
        span = self._aspect + 6 * _BALLOON_RADIUS
        x = (0.19 * seconds + 0.4) % span - 3 * _BALLOON_RADIUS
        y = 0.42 + 0.07 * math.sin(0.8 * seconds)
        matrix = _matrix(256, 2.6 * _BALLOON_RADIUS * height, x * height, y * height, 0.0)
        angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        ring = np.stack([128 + 88 * np.cos(angle), 100 + 96 * np.sin(angle)], axis=1)
        placed.append(_Placed(matrix, height, self._balloon, ring, -1))
        return placed

    def _draw_wall(self, frame: np.ndarray, position: int, pan: float) -> None:
        width, height = self.size_wh
        wall = self._walls[position]
        top = height - wall.shape[0]
        left = int(round((0.3 + 0.2 * scenery.ROWS[position].parallax * pan) * height))
        frame[top:] = wall[:, left : left + width]
        for x1 in self._columns(position, pan):
            part = self._column[:, max(0, -x1) : max(0, width - x1)]
            if part.shape[1]:
                frame[:, max(0, x1) : max(0, x1) + part.shape[1]] = part

    def _claim_walls(self, owner: np.ndarray, position: int, pan: float) -> None:
        height = self.size_wh[1]
        owner[int(round(scenery.ROWS[position].wall_top * height)) // _TRUTH_STEP :] = -1
        for x1 in self._columns(position, pan):
            x2 = x1 + self._column.shape[1]
            owner[:, max(0, x1 // _TRUTH_STEP) : max(0, x2 // _TRUTH_STEP)] = -1

    def _columns(self, position: int, pan: float) -> List[int]:
        """Left edges in pixels; columns stand in front of the middle row only."""
        if position != 1:
            return []
        height = self.size_wh[1]
        places = (0.28 * self._aspect, 0.78 * self._aspect)
        return [
            int(round((x - scenery.ROWS[position].parallax * 0.5 * pan) * height)) for x in places
        ]


def write_clip(
    path: str,
    seconds: float = 10.0,
    size_wh: Tuple[int, int] = (1280, 720),
    rate_hz: float = 30.0,
    faces: int = 6,
) -> int:
    """Write the scene as an MPEG-4 clip (``.mp4``).

    Returns:
        The number of frames written.

    Raises:
        DisplayError: the file cannot be written.
    """
    import cv2

    scene = Scene(size_wh, faces, rate_hz)
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), rate_hz, size_wh)
    if not writer.isOpened():
        raise DisplayError(
            "{}: cannot be written: does its folder exist, and can this OpenCV write MPEG-4?".format(
                path
            )
        )
    count = int(round(seconds * rate_hz))
    try:
        for number in range(count):
            writer.write(scene.render(number))
    finally:
        writer.release()
    return count


def _pan(seconds: float) -> float:
    """Where the camera looks, -1..1, to be multiplied by a parallax."""
    return 0.8 * math.sin(0.35 * seconds) + 0.2 * math.sin(1.1 * seconds)


def _matrix(side_px: int, size: float, x: float, y: float, lean_deg: float) -> np.ndarray:
    """From a square sprite to the frame: ``x, y`` is where its centre goes, ``size`` its height."""
    scale = size / side_px
    cosine = scale * math.cos(math.radians(lean_deg))
    sine = scale * math.sin(math.radians(lean_deg))
    half = side_px / 2.0
    return np.array(
        [
            [cosine, sine, x - half * (cosine + sine)],
            [-sine, cosine, y - half * (cosine - sine)],
        ]
    )


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _draw(frame: np.ndarray, item: _Placed) -> None:
    """Blend a sprite over ``frame``, in place."""
    import cv2

    side = item.sprite[0].shape[0]
    ends = _moved(np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float64), item.matrix)
    x1, y1 = np.maximum(np.floor(ends.min(axis=0)).astype(int), 0)
    x2, y2 = np.ceil(ends.max(axis=0)).astype(int)
    x2, y2 = min(x2, frame.shape[1]), min(y2, item.bottom_px)
    if x2 <= x1 or y2 <= y1:
        return
    shrink = math.hypot(item.matrix[0, 0], item.matrix[0, 1])
    level = min(len(item.sprite) - 1, max(0, int(math.floor(-math.log(shrink, 2)))))
    matrix = item.matrix.copy()
    matrix[:, :2] *= 2**level
    matrix[:, 2] -= (x1, y1)
    sprite = cv2.warpAffine(item.sprite[level], matrix, (int(x2 - x1), int(y2 - y1)))
    part = frame[y1:y2, x1:x2]
    behind = cv2.cvtColor(cv2.bitwise_not(sprite[:, :, 3]), cv2.COLOR_GRAY2BGR)
    behind = cv2.multiply(part, behind, scale=1 / 255.0)
    np.copyto(part, cv2.add(behind, cv2.cvtColor(sprite, cv2.COLOR_BGRA2BGR)))


def _claim(owner: np.ndarray, item: _Placed) -> None:
    """Note in ``owner`` which of its cells show this sprite."""
    import cv2

    points = _moved(item.outline, item.matrix) / _TRUTH_STEP
    visible = owner[: item.bottom_px // _TRUTH_STEP]
    if visible.size:
        cv2.fillPoly(visible, [np.round(points).astype(np.int32)], item.person)


def _seen(owner: np.ndarray, item: _Placed, size_wh: Tuple[int, int]) -> Optional[SceneFace]:
    x1, y1, x2, y2 = scenery.FACE
    ends = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    if (
        item.outline[0, 0] > scenery.PORTRAIT_PX / 2
    ):  # mirrored: the outline begins left of the middle
        ends = ends * (-1, 1) + (scenery.PORTRAIT_PX - 1, 0)
    centre = _moved(ends, item.matrix).mean(axis=0)
    scale = math.hypot(item.matrix[0, 0], item.matrix[0, 1])
    half = np.array([x2 - x1, y2 - y1]) * scale / 2
    low, high = centre - half, centre + half  # leaning by a few degrees leaves a face its size
    area = float(np.prod(high - low))
    low, high = np.maximum(low, 0), np.minimum(high, size_wh)
    if np.any(high - low < 1):
        return None
    cell_1 = np.round(low / _TRUTH_STEP).astype(int)
    cell_2 = np.maximum(np.round(high / _TRUTH_STEP).astype(int), cell_1 + 1)
    part = owner[cell_1[1] : cell_2[1], cell_1[0] : cell_2[0]]
    visible = np.count_nonzero(part == item.person) * _TRUTH_STEP**2 / (area * _FACE_SHARE)
    if visible <= 0:
        return None
    return SceneFace(np.concatenate([low, high]).astype(np.float32), min(1.0, float(visible)))


def _people(count: int, aspect: float, random: np.random.RandomState) -> List[_Person]:
    cut_out = scenery.cut_out()
    suits = [scenery.mips(scenery.recoloured(cut_out, hue)) for hue in _SUIT_HUES[: max(1, count)]]
    mirrored = [[np.ascontiguousarray(level[:, ::-1]) for level in suit] for suit in suits]
    people = []
    for index in range(count):
        direction = 1 if index % 2 else -1
        suit = (suits if direction > 0 else mirrored)[index % len(suits)]
        start = (0.38 + 0.618 * index + 0.05 * random.rand()) % 1.0  # golden ratio: spread evenly
        phase = 2 * math.pi * random.rand()
        people.append(_Person(_ROW_ORDER[index % len(_ROW_ORDER)], start, direction, phase, suit))
    return people


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Write a clip from the command line."""
    parser = argparse.ArgumentParser(prog="edge_app.scene", description="write the test scene")
    parser.add_argument("path", help="file to write, .mp4")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--rate", type=float, default=30.0, help="frames a second")
    parser.add_argument("--faces", type=int, default=6)
    given = parser.parse_args(arguments)
    try:
        width, height = (int(side) for side in given.size.split("x"))
    except ValueError:
        parser.error("--size must look like 1280x720")
    count = write_clip(given.path, given.seconds, (width, height), given.rate, given.faces)
    print("{}: {} frames".format(given.path, count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
