"""WIDER FACE in its official layout -> pictures and boxes.

``ROOT/WIDER_{train,val}/images/<event>/<name>.jpg`` and
``ROOT/wider_face_split/wider_face_{train,val}_bbx_gt.txt``: a name, a count, then ``x y w h blur
expression illumination invalid occlusion pose`` a face; a count of 0 is followed by one row of
zeros. Boxes are ``x1, y1, x2, y2`` in pixels of the picture.
"""

import os
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np
from tqdm import tqdm

from edge_app.errors import ConfigError, ImageError
from edge_app.images import read_image

INVALID_COLUMN = 7


class Sample(NamedTuple):
    """One picture of the set, not yet read."""

    name: str  # as in the list, "<event>/<name>.jpg"
    path: str
    faces: np.ndarray  # (G, 4) float32
    ignored: np.ndarray  # (I, 4) float32, marked invalid: neither face nor background


class Skipped(NamedTuple):
    """Something in the set that cannot be used."""

    name: str
    reason: str


def read_list(path: str) -> Iterator[Tuple[str, np.ndarray]]:
    """Names and (G, 10) float32 rows of a ``..._bbx_gt.txt``.

    Raises:
        ConfigError: the file is missing or not in WIDER FACE's format; names the line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text"
        raise ConfigError(
            "{}: {}. --data must be a folder in WIDER FACE's layout.".format(path, reason)
        ) from error
    lines = [line for line in lines if line]
    position = 0
    while position < len(lines):
        name = lines[position]
        try:
            count = int(lines[position + 1])
            if count < 0:
                raise ValueError("{} faces".format(count))
            rows = [
                [float(number) for number in line.split()]
                for line in lines[position + 2 : position + 2 + max(count, 1)]
            ]
            faces = np.asarray(rows, np.float32).reshape(max(count, 1), 10)
        except (IndexError, ValueError) as error:
            raise ConfigError(
                "{}: the entry of {} (non-empty line {}) is not WIDER FACE's: {}.".format(
                    path, name, position + 1, error
                )
            ) from error
        yield name, faces[:count]
        position += 2 + max(count, 1)


def load(list_path: str, image_folder: str) -> Tuple[List[Sample], List[Skipped]]:
    """The samples of a list, and by name what had to be left out of it.

    A picture that is missing is skipped; a box without area or without a pixel in sight is dropped
    when the picture is read, for only then is its size known (see ``Pictures``).
    """
    samples, skipped = [], []
    for name, rows in read_list(list_path):
        path = os.path.join(image_folder, *name.split("/"))
        if not os.path.isfile(path):
            skipped.append(Skipped(name, "the picture is missing"))
            continue
        proper = np.all(rows[:, 2:4] >= 1, axis=1) & np.all(np.isfinite(rows[:, :4]), axis=1)
        for row in rows[~proper]:
            skipped.append(Skipped(name, "box {} has no area".format(row[:4].tolist())))
        rows = rows[proper]
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        invalid = rows[:, INVALID_COLUMN] > 0
        samples.append(Sample(name, path, boxes[~invalid], boxes[invalid]))
    return samples, skipped


def wider_split(root: str, split: str) -> Tuple[List[Sample], List[Skipped]]:
    """``load`` for "train" or "val" of a folder in the official layout."""
    return load(
        os.path.join(root, "wider_face_split", "wider_face_{}_bbx_gt.txt".format(split)),
        os.path.join(root, "WIDER_{}".format(split), "images"),
    )


def split_validation(
    samples: Sequence[Sample], share: float
) -> Tuple[List[Sample], List[Sample]]:
    """Two parts, the second with ``share`` of the samples.

    The same whatever the seed of a run, so that a run that goes on from another's weights never
    learns what will judge it.
    """
    order = np.random.default_rng(1).permutation(len(samples))
    count = int(round(share * len(samples)))
    return [samples[i] for i in order[count:]], [samples[i] for i in order[:count]]


class Pictures:
    """Decoded pictures of samples, kept in memory up to a bound; broken ones are left out by name.

    Args:
        samples: whose pictures to decode.
        long_side_px: larger pictures are reduced to this, boxes with them; 0 keeps them.
        budget_bytes: decoded pictures kept in memory; the rest is decoded each time.
    """

    def __init__(
        self, samples: Sequence[Sample], long_side_px: int = 640, budget_bytes: int = 6 << 30
    ) -> None:
        self.long_side_px = long_side_px
        self.samples: List[Sample] = []
        self.skipped: List[Skipped] = []
        self._kept: Dict[int, Tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        free_bytes = budget_bytes
        # A bar on a terminal: tens of thousands of pictures take minutes.
        for sample in tqdm(samples, "reading", unit="image", leave=False, disable=None):
            try:
                entry = self._decode(sample)
            except ImageError:
                self.skipped.append(Skipped(sample.name, "the picture is damaged or none at all"))
                continue
            if entry[0].nbytes <= free_bytes:
                self._kept[len(self.samples)] = entry
                free_bytes -= entry[0].nbytes
            self.samples.append(sample)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 BGR, faces (G, 4), ignored (I, 4) float32; do not write to them."""
        if index in self._kept:
            return self._kept[index]
        return self._decode(self.samples[index])

    def _decode(self, sample: Sample) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels = read_image(sample.path)
        height, width = pixels.shape[:2]
        edge = np.asarray([width, height, width, height], np.float32)
        parts = [np.clip(boxes, 0, edge) for boxes in (sample.faces, sample.ignored)]
        parts = [boxes[np.all(boxes[:, 2:] > boxes[:, :2], axis=1)] for boxes in parts]
        ratio = self.long_side_px / max(width, height)
        if 0 < ratio < 1:
            size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            factor = np.asarray(size * 2, np.float32) / edge
            parts = [boxes * factor for boxes in parts]
        return pixels, parts[0], parts[1]
