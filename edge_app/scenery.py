"""What the generated scene is made of: the cut-out portrait, the hall, a balloon.

Drawn once when a scene is made; lengths are in heights of the frame.
"""

import os
from typing import List, NamedTuple, Tuple

import numpy as np

from edge_app.errors import ImageError

PORTRAIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "astronaut.jpg")
PORTRAIT_PX = 512
FACE = (178.0, 70.0, 274.0, 188.0)  # hairline to chin in the portrait, x1 y1 x2 y2
# fmt: off
OUTLINE = (
    (201, 23), (185, 38), (163, 51), (156, 58), (153, 69), (155, 97), (165, 111), (182, 126), (183, 152),
    (149, 160), (136, 172), (127, 173), (121, 183), (119, 201), (113, 202), (112, 215), (67, 244), (46, 278),
    (40, 294), (33, 331), (44, 333), (50, 338), (48, 371), (44, 384), (27, 383), (23, 418), (26, 484), (30, 495),
    (37, 502), (39, 511), (506, 511), (506, 487), (500, 478), (491, 477), (491, 471), (501, 463), (502, 455),
    (495, 452), (493, 421), (478, 384), (454, 360), (423, 346), (393, 344), (364, 349), (360, 344), (360, 328),
    (357, 324), (352, 287), (347, 282), (340, 262), (303, 233), (299, 219), (289, 203), (258, 175), (258, 160),
    (264, 149), (266, 137), (275, 134), (290, 117), (299, 98), (299, 72), (288, 43), (276, 31), (248, 18),
    (227, 16),
)
# fmt: on


class Row(NamedTuple):
    """People at one distance, standing behind a wall."""

    wall_top: float  # upper edge of the wall in front of them; 1 and more: no wall
    size: float  # height of the portrait
    parallax: float  # how far the row moves when the camera pans by one height
    speed: float  # heights a second
    wall_bgr: Tuple[int, int, int]


ROWS = (
    Row(0.42, 0.33, 0.45, 0.05, (96, 74, 52)),
    Row(0.70, 0.56, 0.75, 0.08, (74, 56, 40)),
    Row(1.08, 1.00, 1.15, 0.11, (0, 0, 0)),
)


def cut_out() -> np.ndarray:
    """(512, 512, 4) uint8 BGRA, not premultiplied: the portrait without its background."""
    import cv2

    try:
        with open(PORTRAIT, "rb") as file:
            portrait = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise ImageError(
            "{}: {}; install edge-app again".format(PORTRAIT, error.strerror)
        ) from error
    mask = np.zeros(portrait.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.asarray(OUTLINE, np.int32)], 255)
    mask = cv2.GaussianBlur(cv2.erode(mask, np.ones((3, 3), np.uint8)), (5, 5), 0)
    return np.dstack([portrait, mask])


def recoloured(portrait: np.ndarray, hue: int) -> np.ndarray:
    """Premultiplied copy whose suit, what is strongly orange below the chin, has another hue."""
    import cv2

    picture, alpha = portrait[:, :, :3], portrait[:, :, 3:]
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    orange = ((hsv[:, :, 0] < 20) | (hsv[:, :, 0] > 174)) & (hsv[:, :, 1] > 110)
    orange[: int(FACE[3]) + 4] = False
    hsv[:, :, 0][orange] = (hsv[:, :, 0][orange].astype(int) + hue) % 180
    hsv[:, :, 1][orange] = (
        hsv[:, :, 1][orange] * 0.85
    )  # orange is the only hue of cloth this strong
    picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) if hue else picture
    blended = (picture.astype(np.uint16) * alpha + 127) // 255
    return np.dstack([blended.astype(np.uint8), alpha])


def mips(sprite: np.ndarray) -> List[np.ndarray]:
    """The sprite and its halves, so that drawing it small does not shimmer."""
    import cv2

    levels = [np.ascontiguousarray(sprite)]
    while levels[-1].shape[0] > 32:
        half = levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA))
    return levels


def backdrop(size_wh: Tuple[int, int], random: np.random.RandomState) -> np.ndarray:
    """An evening sky with stars and a planet behind the window of a hall, wide enough to pan."""
    import cv2

    height = size_wh[1]
    width = size_wh[0] + int(0.7 * height)
    blend = np.linspace(0, 1, height)[:, None, None]
    sky = (1 - blend) * np.array((70, 30, 14)) + blend * np.array((150, 110, 84))
    picture = np.repeat(sky, width, axis=1).astype(np.uint8)
    for _ in range(170):
        place = (int(random.randint(width)), int(random.randint(max(1, int(0.4 * height)))))
        light = int(random.randint(120, 255))
        cv2.circle(picture, place, max(1, height // 500), (light, light, light), -1, cv2.LINE_AA)
    centre = (int(0.72 * width), int(0.30 * height))
    for step in range(24):  # a planet lit from the upper left
        share = step / 23.0
        colour = tuple(int(v) for v in (90 + 110 * share, 60 + 110 * share, 40 + 60 * share))
        shift = int(0.045 * height * share)
        radius = int(0.20 * height * (1 - 0.8 * share))
        cv2.circle(picture, (centre[0] - shift, centre[1] - shift), radius, colour, -1, cv2.LINE_AA)
    frame_bgr, edge_bgr = (66, 54, 46), (104, 90, 78)
    thick = max(2, int(0.022 * height))
    for x in range(0, width, max(1, int(0.62 * height))):
        cv2.rectangle(picture, (x, 0), (x + thick, height), frame_bgr, -1)
        cv2.line(picture, (x, 0), (x, height), edge_bgr, max(1, thick // 6))
    cv2.rectangle(picture, (0, 0), (width, thick), frame_bgr, -1)
    return picture


def wall(size_wh: Tuple[int, int], row: Row) -> np.ndarray:
    """The wall in front of a row, from its upper edge to the bottom of the frame."""
    import cv2

    height = size_wh[1]
    width = size_wh[0] + int(0.7 * height)
    tall = height - int(round(row.wall_top * height))
    base = np.array(row.wall_bgr, np.float64)
    blend = np.linspace(1.25, 0.75, tall)[:, None, None]
    picture = np.repeat(base * blend, width, axis=1).astype(np.uint8)
    light = tuple(int(v) for v in np.minimum(base * 2.3, 255))
    dark = tuple(int(v) for v in base * 0.6)
    rail = max(2, int(0.018 * height))
    for x in range(0, width, max(1, int(row.size * 0.8 * height))):
        cv2.line(picture, (x, rail), (x, tall), dark, max(1, height // 360))
        cv2.circle(picture, (x + 2 * rail, 3 * rail), max(1, rail // 4), light, -1, cv2.LINE_AA)
    cv2.rectangle(picture, (0, 0), (width, rail), light, -1)
    cv2.line(picture, (0, rail), (width, rail), dark, max(1, height // 360))
    return picture


def column(height: int) -> np.ndarray:
    """(H, w, 3): a round column from floor to ceiling."""
    wide = max(2, int(0.085 * height))
    across = np.cos(np.linspace(-1.25, 1.15, wide))[None, :, None]
    shade = 40 + across * np.array((116, 108, 98))
    return np.repeat(shade, height, axis=0).astype(np.uint8)


def balloon() -> np.ndarray:
    """(256, 256, 4) uint8 premultiplied BGRA: a balloon with its string."""
    import cv2

    picture = np.zeros((256, 256, 3), np.uint8)
    alpha = np.zeros((256, 256), np.uint8)
    for canvas, colour in ((picture, (44, 40, 196)), (alpha, 255)):
        cv2.ellipse(canvas, (128, 100), (88, 96), 0, 0, 360, colour, -1, cv2.LINE_AA)
        cv2.line(canvas, (128, 194), (132, 255), colour, 3, cv2.LINE_AA)
    for step in range(12):
        colour = (44 + 9 * step, 40 + 9 * step, 196 + 4 * step)
        cv2.ellipse(picture, (100, 66), (44 - 3 * step, 50 - 4 * step), 20, 0, 360, colour, -1, 16)
    return np.dstack([picture, alpha])
