"""From a picture of the set to one the network trains on (section 2.2, "Data augmentation").

1. choose a window: the whole picture, a window that brings one face to a wanted size, or SSD's own
   choice among constrained crops and expansion;
2. cut it out and stretch it to the input in one step, flipped half of the time;
3. distort the light and colour, blur, add noise.

Every random number comes from the generator handed in, so that a sample depends on nothing but its
seed.
"""

from typing import NamedTuple, Optional, Tuple

import cv2
import numpy as np

from edge_app.card import halvings
from edge_app.detector import halved

# x1, y1, x2, y2 in pixels of the picture; may reach beyond it
Window = Tuple[float, float, float, float]


class Example(NamedTuple):
    """One training picture with its boxes ``x1, y1, x2, y2`` in pixels of the input."""

    pixels: np.ndarray  # (H, W, 3) uint8 BGR
    faces: np.ndarray  # (G, 4) float32
    ignored: np.ndarray  # (I, 4) float32


class Distortion(NamedTuple):
    """What happens to light and colour; ``None`` where nothing does."""

    light: Optional[Tuple[float, float]]  # contrast about 110, and brightness added
    grey: bool
    colour: Optional[Tuple[float, float]]  # hue added, of 180, and factor of the saturation
    blur_px: Optional[float]  # sigma
    noise: Optional[Tuple[float, int]]  # sigma, and the seed of its generator


class View(NamedTuple):
    """A view that was chosen and not yet made."""

    window: "Window"
    flip: bool
    grey: int  # beyond the picture's edge
    distortion: Distortion
    faces: np.ndarray  # (G, 4) float32, as in ``Example``
    ignored: np.ndarray  # (I, 4) float32


class Recipe(NamedTuple):
    """How often which window, and how small a face may be."""

    whole: float  # share of pictures taken whole, give or take an eighth
    wanted: float  # share in which one face is brought to a wanted size; the rest is SSD's choice
    sizes_px: Tuple[float, float] = (7.0, 250.0)  # bounds of the wanted size, log-uniform
    smallest_px: float = 4.5  # square root of the area under which a face is ignored


# SSD's own choice, except that a picture is expanded or cropped, not one after the other, and never
# whole; that it is expanded to at most twice its side, not four times, onto a grey of any depth, not
# the mean; that a crop has 0.3 of the sides at least, as in the authors' code, not 0.1; and that a
# crop's bound is the share of a face in sight, not the face's overlap with the crop, which a small
# face cannot reach. Greyness, blur and noise are not SSD's.
PAPER = Recipe(whole=0.0, wanted=0.0)
FACES = Recipe(whole=0.4, wanted=0.4)
WHOLE = Recipe(whole=1.0, wanted=0.0)  # as the camera's frame is seen; to finish with
CLOSE = Recipe(whole=0.3, wanted=0.5, sizes_px=(14.0, 110.0), smallest_px=8.0)  # at 128x128


def example(
    pixels: np.ndarray,
    faces: np.ndarray,
    ignored: np.ndarray,
    input_wh: Tuple[int, int],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Example:
    """One random view of a picture.

    Args:
        pixels: (H, W, 3) uint8 BGR; not written to.
        faces, ignored: (G, 4) and (I, 4) float32 ``x1, y1, x2, y2`` in pixels of the picture.
        input_wh: of the view, in pixels.
        rng: is advanced; the view depends on nothing else.
    """
    size_wh = (pixels.shape[1], pixels.shape[0])
    view = choose(size_wh, faces, ignored, input_wh, recipe, rng)
    return Example(distort(cut(pixels, view, input_wh), view.distortion), view.faces, view.ignored)


def choose(
    size_wh: Tuple[int, int],
    faces: np.ndarray,
    ignored: np.ndarray,
    input_wh: Tuple[int, int],
    recipe: Recipe,
    rng: np.random.Generator,
) -> View:
    """Draw every random number of a view; making it needs no more of them.

    Args: as for ``example``; size_wh is the picture's, in pixels.
    """
    window = choose_window(size_wh, faces, input_wh, recipe, rng)
    flip = bool(rng.random() < 0.5)
    grey = int(rng.integers(60, 160))
    faces, hidden = place(faces, window, input_wh, flip, recipe.smallest_px)
    ignored, specks = place(ignored, window, input_wh, flip, recipe.smallest_px)
    ignored = np.concatenate([ignored, specks, hidden])
    return View(window, flip, grey, choose_distortion(rng), faces, ignored)


def choose_distortion(rng: np.random.Generator) -> Distortion:
    """Brightness and contrast often, colour half of the time, seldom grey, blurred or noisy."""
    light = colour = blur_px = noise = None
    if rng.random() < 0.6:
        light = (float(rng.uniform(0.6, 1.4)), float(rng.uniform(-40, 40)))
    draw = rng.random()
    if 0.06 <= draw < 0.5:
        colour = (float(rng.uniform(-10, 10)), float(rng.uniform(0.5, 1.5)))
    second = rng.random()
    if second < 0.06:
        blur_px = float(rng.uniform(0.5, 1.5))
    elif second < 0.14:
        noise = (float(rng.uniform(3, 14)), int(rng.integers(1 << 31)))
    return Distortion(light, bool(draw < 0.06), colour, blur_px, noise)


def choose_window(
    size_wh: Tuple[int, int],
    faces: np.ndarray,
    input_wh: Tuple[int, int],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Window:
    """The part of the picture to show, in its pixels. Args: as for ``choose``."""
    draw = rng.random()
    if draw < recipe.whole:
        return _whole(size_wh, rng)
    if draw < recipe.whole + recipe.wanted and len(faces):
        return _around_face(size_wh, faces, input_wh, recipe.sizes_px, rng)
    if rng.random() < 0.5:
        return _expanded(size_wh, rng)
    return _constrained(size_wh, faces, rng)


def _whole(size_wh: Tuple[int, int], rng: np.random.Generator) -> Window:
    width, height = size_wh
    side = np.exp(rng.uniform(-0.12, 0.12, 2)) * size_wh
    x, y = (np.asarray(size_wh) - side) * rng.random(2)
    return float(x), float(y), float(x + side[0]), float(y + side[1])


def _around_face(
    size_wh: Tuple[int, int],
    faces: np.ndarray,
    input_wh: Tuple[int, int],
    sizes_px: Tuple[float, float],
    rng: np.random.Generator,
) -> Window:
    """A window in which one face, drawn at random, has a size drawn at random.

    After PyramidBox's data-anchor sampling (Tang et al., ECCV 2018): the sizes of faces become
    evenly spread. Enlarging stops at 4, reducing at a half, where nothing real would be left to
    see.
    """
    face = faces[rng.integers(len(faces))]
    face_px = np.sqrt(np.prod(face[2:] - face[:2]))
    wanted_px = np.exp(rng.uniform(*np.log(sizes_px)))
    # Between no stretch and the stretch of the whole picture.
    width, height = size_wh
    stretch = (width / height / (input_wh[0] / input_wh[1])) ** rng.uniform(-0.1, 1.1)
    whole_scale = np.sqrt(input_wh[0] * input_wh[1] / (width * height))
    scale = np.clip(wanted_px / face_px, whole_scale / 2, max(4.0, whole_scale))
    side = np.asarray(input_wh) / scale * np.sqrt([stretch, 1 / stretch])
    half = (face[2:] - face[:2]) / 2
    room = np.maximum(side / 2 - half, 0)  # the face stays whole within the window
    centre = (face[:2] + face[2:]) / 2 + rng.uniform(-1, 1, 2) * room
    # Rather the picture than the void beside it.
    for axis in range(2):
        low, high = side[axis] / 2, size_wh[axis] - side[axis] / 2
        centre[axis] = np.clip(centre[axis], min(low, high), max(low, high))
    x, y = centre - side / 2
    return float(x), float(y), float(x + side[0]), float(y + side[1])


def _expanded(size_wh: Tuple[int, int], rng: np.random.Generator) -> Window:
    """The picture somewhere on a canvas up to twice its side ("zoom out", section 3.6)."""
    side = rng.uniform(1, 2) * np.asarray(size_wh)
    x, y = (np.asarray(size_wh) - side) * rng.random(2)
    return float(x), float(y), float(x + side[0]), float(y + side[1])


def _constrained(size_wh: Tuple[int, int], faces: np.ndarray, rng: np.random.Generator) -> Window:
    """A crop of 0.3 to 1 of the sides that overlaps some face by a bound drawn at random."""
    width, height = size_wh
    bound = rng.choice([0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
    for _ in range(20):
        side = rng.uniform(0.3, 1.0, 2)
        if not 0.5 <= side[0] / side[1] <= 2:
            continue
        x, y = (1 - side) * rng.random(2)
        window = (x * width, y * height, (x + side[0]) * width, (y + side[1]) * height)
        if not len(faces) or _best_overlap(window, faces) >= bound:
            return window
    return 0.0, 0.0, float(width), float(height)


def _best_overlap(window: Window, faces: np.ndarray) -> float:
    """The largest share of a face that lies within the window."""
    low = np.maximum(faces[:, :2], window[:2])
    high = np.minimum(faces[:, 2:], window[2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    return float(np.max(shared / np.prod(faces[:, 2:] - faces[:, :2], axis=1)))


def cut(pixels: np.ndarray, view: View, input_wh: Tuple[int, int]) -> np.ndarray:
    """The window, stretched to the input as a device's frame is; grey beyond the picture's edge.

    Args:
        pixels: (H, W, 3) uint8 BGR; not written to.

    Returns:
        (h, w, 3) uint8 BGR of ``input_wh``.
    """
    x1, y1, x2, y2 = view.window
    for _ in range(halvings((x2 - x1, y2 - y1), input_wh)):
        pixels = halved(pixels)
        x1, y1, x2, y2 = x1 / 2, y1 / 2, x2 / 2, y2 / 2
    scale_x, scale_y = input_wh[0] / (x2 - x1), input_wh[1] / (y2 - y1)
    # Half-pixel centres, as cv2.resize: u = (x + 0.5 - x1) * scale - 0.5.
    matrix = np.asarray(
        [
            [scale_x, 0, (0.5 - x1) * scale_x - 0.5],
            [0, scale_y, (0.5 - y1) * scale_y - 0.5],
        ]
    )
    if view.flip:
        matrix[0] = [-scale_x, 0, input_wh[0] - 1 - matrix[0, 2]]
    return cv2.warpAffine(pixels, matrix, input_wh, borderValue=(view.grey,) * 3)


def place(
    boxes: np.ndarray,
    window: Window,
    input_wh: Tuple[int, int],
    flip: bool,
    smallest_px: float,
) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes in pixels of the input: those that count, and those to ignore.

    A face counts when its centre and half of it are in sight and it is large enough; its box is
    clipped to the input. One of which less is in sight is ignored; one out of sight is gone.

    Args:
        boxes: (N, 4) float32 ``x1, y1, x2, y2`` in pixels of the picture.
        smallest_px: square root of the area in sight, in pixels of the input.

    Returns:
        (G, 4) and (I, 4) float32, in pixels of the input, within it.
    """
    x1, y1, x2, y2 = window
    factor = np.asarray([input_wh[0] / (x2 - x1), input_wh[1] / (y2 - y1)] * 2, np.float32)
    moved = (boxes - np.asarray([x1, y1, x1, y1], np.float32)) * factor
    if flip:
        moved = np.stack(
            [input_wh[0] - moved[:, 2], moved[:, 1], input_wh[0] - moved[:, 0], moved[:, 3]], axis=1
        )
    edge = np.asarray(input_wh * 2, np.float32)
    seen = np.clip(moved, 0, edge)
    side = np.maximum(seen[:, 2:] - seen[:, :2], 0)
    visible = side[:, 0] * side[:, 1]
    whole = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    inside = np.all((centre >= 0) & (centre <= edge[:2]), axis=1)
    counts = inside & (visible >= 0.5 * whole) & (visible >= smallest_px**2)
    counts &= np.min(side, axis=1, initial=1e9) >= 2
    in_sight = visible > 0
    return seen[counts].astype(np.float32), seen[in_sight & ~counts].astype(np.float32)


def distort(pixels: np.ndarray, distortion: Distortion) -> np.ndarray:
    """Light and colour of (H, W, 3) uint8 BGR changed, in a new array of that shape if at all."""
    levels = np.arange(256, dtype=np.float32)
    if distortion.light is not None:
        contrast, brightness = distortion.light
        table = (levels - 110) * contrast + 110 + brightness
        pixels = cv2.LUT(pixels, np.clip(table, 0, 255).astype(np.uint8))
    if distortion.grey:
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        pixels = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    if distortion.colour is not None:
        turn, factor = distortion.colour
        hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)
        hue, saturation = (levels + turn) % 180, np.clip(levels * factor, 0, 255)
        tables = np.stack([hue, saturation, levels], axis=-1).astype(np.uint8)[None]
        pixels = cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2BGR)
    if distortion.blur_px is not None:
        pixels = cv2.GaussianBlur(pixels, (0, 0), distortion.blur_px)
    if distortion.noise is not None:
        sigma, seed = distortion.noise
        noise = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32) * sigma
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels
