"""Boxes, scores and figures, drawn onto a copy of the frame."""

import math
from typing import Optional, Tuple

import numpy as np

from edge_app.frames import Detections, Figures

Colour = Tuple[int, int, int]  # BGR

BOX_BGR: Colour = (110, 255, 70)  # the line of a box, and the ground of its score
RIM_BGR: Colour = (20, 20, 20)  # around it, so that it can be told from a bright picture
BAR_BGR: Colour = (235, 235, 235)  # text of the figures

_SMALLEST_TEXT_PX = 60  # a picture with a shorter side gets no text: it would hide the faces


class Overlay:
    """Draws onto a canvas of its own, which the next call overwrites; the frame stays untouched.

    Line width and text grow with the picture. An edge of a box that lies outside the picture is not
    drawn, so that one sees that the face goes on. A box or a score that is not finite is not drawn.

    Args:
        with_figures: draw the bar of figures at the bottom as well.
    """

    def __init__(self, with_figures: bool = True) -> None:
        self._with_figures = with_figures
        self._canvas = np.empty((0, 0, 3), np.uint8)

    def draw(
        self, pixels: np.ndarray, faces: Detections, figures: Optional[Figures] = None
    ) -> np.ndarray:
        """Copy a frame and draw on the copy.

        Args:
            pixels: (H, W, 3) uint8 BGR; only read.
            faces: in pixels of the frame; they may lie partly or wholly outside.
            figures: for the bar; without them there is none.

        Returns:
            (H, W, 3) uint8 BGR, owned by this object and overwritten by the next call.
        """
        if self._canvas.shape != pixels.shape:
            self._canvas = np.empty_like(pixels, order="C")
        canvas = self._canvas
        np.copyto(canvas, pixels)
        line_px = max(1, int(round(min(canvas.shape[:2]) / 360.0)))
        if self._with_figures and figures is not None:
            _draw_bar(canvas, figures)
        for box, score in faces:
            if np.isfinite(box).all() and math.isfinite(score):
                _draw_face(canvas, box, score, line_px)
        return canvas


def _draw_face(canvas: np.ndarray, box: np.ndarray, score: float, line_px: int) -> None:
    height, width = canvas.shape[:2]
    limits = np.asarray([width, height, width, height], np.float64)
    margin_px = 4 * line_px  # beyond it an edge is out of sight, wherever it is
    x1, y1, x2, y2 = np.clip(np.round(box), -margin_px, limits + margin_px).astype(int).tolist()
    if x2 <= max(x1, 0) or y2 <= max(y1, 0) or x1 >= width or y1 >= height:
        return
    outer = (x1 - line_px, y1 - line_px, x2 + line_px, y2 + line_px)
    _draw_ring(canvas, outer, line_px, RIM_BGR)
    _draw_ring(canvas, (x1, y1, x2, y2), line_px, BOX_BGR)
    if min(height, width) >= _SMALLEST_TEXT_PX:
        _draw_score(canvas, (x1, y1), "{:.0f}%".format(score * 100.0), line_px)


def _draw_ring(
    canvas: np.ndarray, ring: Tuple[int, int, int, int], line_px: int, colour: Colour
) -> None:
    """The outermost ``line_px`` pixels of a box; what lies outside the canvas is left out."""
    x1, y1, x2, y2 = ring
    bars = (
        (x1, y1, x2, min(y1 + line_px, y2)),
        (x1, max(y2 - line_px, y1), x2, y2),
        (x1, y1, min(x1 + line_px, x2), y2),
        (max(x2 - line_px, x1), y1, x2, y2),
    )
    for left, top, right, bottom in bars:
        canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = colour


def _draw_score(canvas: np.ndarray, corner_xy: Tuple[int, int], text: str, line_px: int) -> None:
    """Dark on a ground of the box's colour: above the box, or inside where there is no room."""
    import cv2

    height, width = canvas.shape[:2]
    scale = _text_scale(canvas)
    (text_w, text_h), below_px = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line_px)
    pad_px = 2 * line_px
    label_w, label_h = text_w + 2 * pad_px, text_h + below_px + pad_px
    left = min(max(corner_xy[0], 0), max(width - label_w, 0))
    top = corner_xy[1] - label_h
    if top < 0:
        top = max(corner_xy[1], 0)
    top = min(top, max(height - label_h, 0))
    canvas[top : top + label_h, left : left + label_w] = BOX_BGR
    place = (left + pad_px, top + pad_px // 2 + text_h)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, RIM_BGR, line_px, cv2.LINE_AA)


def _draw_bar(canvas: np.ndarray, figures: Figures) -> None:
    """One line at the bottom on a darkened ground, in the longest wording that fits."""
    import cv2

    height, width = canvas.shape[:2]
    if min(height, width) < _SMALLEST_TEXT_PX:
        return
    scale = 0.8 * _text_scale(canvas)
    line_px = max(1, int(round(min(height, width) / 720.0)))
    for text in _wordings(figures):
        (text_w, text_h), below_px = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line_px)
        if text_w + text_h <= width:
            break
    else:
        return
    ground = canvas[height - (2 * text_h + below_px) :]
    np.right_shift(ground, 2, out=ground)
    place = (text_h // 2, height - text_h // 2 - below_px)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, BAR_BGR, line_px, cv2.LINE_AA)


def _wordings(figures: Figures) -> Tuple[str, ...]:
    camera, detect, display, age = (
        "{:.{}f}".format(value, digits) if math.isfinite(value) else "-"
        for value, digits in (
            (figures.camera_fps, 1),
            (figures.detect_fps, 1),
            (figures.display_fps, 1),
            (figures.age_ms, 0),
        )
    )
    dropped = sum(figures.dropped.values())
    return (
        "camera {}   detect {}   display {} fps   age {} ms   dropped {}".format(
            camera, detect, display, age, dropped
        ),
        "{} / {} / {} fps  {} ms  -{}".format(camera, detect, display, age, dropped),
        "{} fps  {} ms".format(display, age),
    )


def _text_scale(canvas: np.ndarray) -> float:
    """Hershey scale of a score: 0.6 on 720 lines, never too small to be read."""
    return max(0.4, min(canvas.shape[:2]) / 1200.0)
