"""Faces made unrecognisable in the frame itself, before anything shows, streams or writes it."""

from typing import Optional

import numpy as np

from edge_app.config import FacesSettings, PrivacySettings
from edge_app.frames import Detections, Result
from edge_app.tracker import Tracker

_CELLS = 6  # across the longer side of a face: too few to tell who it is
_SMALLEST_CELL_PX = 4
_MARGIN = 0.15  # of a box's side, added on each side: hair and chin


class Privacy:
    """Pixelates every face that the network has a suspicion of, long before it is sure of it.

    Everything downstream gets the covered frame in place of the camera's, so that no display can
    show the other one. A face that is missed for a moment stays covered where it was last.

    Args:
        settings: with ``mode`` "none" frames pass untouched.
    """

    def __init__(self, settings: PrivacySettings) -> None:
        self._tracker: Optional[Tracker] = None
        self._score = settings.score
        if settings.mode == "blur":
            faces = FacesSettings(settings.score, settings.score, settings.memory_s)
            self._tracker = Tracker(faces)
        self._canvas = np.empty((0, 0, 3), np.uint8)

    def threshold(self, wanted: float) -> float:
        """The score from which the detector must report, when others want it from ``wanted`` on."""
        return wanted if self._tracker is None else min(wanted, self._score)

    def cover(self, result: Result, at_s: float) -> Result:
        """The result with a covered copy of its frame, overwritten by the next call.

        Args:
            at_s: when the frame was taken, as for ``Tracker.update``.
        """
        if self._tracker is None:
            return result
        frame = result.frame
        faces = self._tracker.update(result.faces, at_s, frame.size_wh)
        if self._canvas.shape != frame.pixels.shape:
            self._canvas = np.empty_like(frame.pixels, order="C")
        np.copyto(self._canvas, frame.pixels)
        pixelate(self._canvas, faces)
        return result._replace(frame=frame._replace(pixels=self._canvas))


def pixelate(canvas: np.ndarray, faces: Detections) -> None:
    """Replace each face and a margin around it by large cells of its mean colours, in place.

    Args:
        canvas: (H, W, 3) uint8 BGR.
        faces: in pixels of the canvas; they may reach beyond it.
    """
    import cv2

    height, width = canvas.shape[:2]
    for box, _ in faces:
        if not np.isfinite(box).all():
            continue
        margin = (box[2:] - box[:2]) * _MARGIN
        x1, y1 = np.floor(np.clip(box[:2] - margin, 0, [width, height])).astype(int).tolist()
        x2, y2 = np.ceil(np.clip(box[2:] + margin, 0, [width, height])).astype(int).tolist()
        if x2 <= x1 or y2 <= y1:
            continue
        part = canvas[y1:y2, x1:x2]
        cell_px = max(_SMALLEST_CELL_PX, max(x2 - x1, y2 - y1) / _CELLS)
        cells_wh = (max(1, round((x2 - x1) / cell_px)), max(1, round((y2 - y1) / cell_px)))
        small = cv2.resize(part, cells_wh, interpolation=cv2.INTER_AREA)
        part[:] = cv2.resize(small, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)
