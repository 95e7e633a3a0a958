"""Which faces are on the screen: two thresholds, so that a face at 94 to 96% does not flicker."""

from typing import List, Optional, Set

import numpy as np

from edge_app.boxes import iou
from edge_app.config import FacesSettings
from edge_app.frames import Detections


class _Track:
    """One face on the screen."""

    __slots__ = ("box", "score", "seen_at")

    def __init__(self, box: np.ndarray, score: float, seen_at: float) -> None:
        self.box = box
        self.score = score
        self.seen_at = seen_at


class Tracker:
    """Follows faces from frame to frame by overlap (IoU), greedily, best score first.

    A face appears when it scores at least ``show``. It stays while a detection of at least ``keep``
    overlaps its last box by ``match_iou``, and is remembered for ``memory_s`` without one. A box below
    ``show`` that belongs to no shown face is never drawn.
    """

    def __init__(self, settings: FacesSettings) -> None:
        self._settings = settings
        self._tracks: List[_Track] = []

    @property
    def threshold(self) -> float:
        """The lowest score it has a use for."""
        return min(self._settings.keep, self._settings.show)

    def update(self, faces: Detections, captured_at: float) -> Detections:
        """Take in the faces of the next frame.

        Args:
            faces: those above ``threshold``, in pixels.
            captured_at: when the frame was captured, monotonic seconds.

        Returns:
            The faces to show, best first. A face missed in this frame keeps its last box and score.
        """
        free = set(range(len(self._tracks)))
        overlaps = iou(faces.boxes, self._boxes()) if free and len(faces) else None
        for index, (box, score) in enumerate(faces):
            match = self._match(overlaps[index], free) if overlaps is not None else None
            if match is not None:
                free.discard(match)
                if score >= self._settings.keep:
                    self._tracks[match] = _Track(box, score, captured_at)
            elif score >= self._settings.show:
                self._tracks.append(_Track(box, score, captured_at))
        self._tracks = [
            track
            for track in self._tracks
            if captured_at - track.seen_at <= self._settings.memory_s
        ]
        self._tracks.sort(key=lambda track: -track.score)
        return self._shown()

    def _match(self, overlaps: np.ndarray, free: Set[int]) -> Optional[int]:
        best = max(free, key=lambda position: overlaps[position], default=None)
        if best is None or overlaps[best] < self._settings.match_iou:
            return None
        return best

    def _boxes(self) -> np.ndarray:
        return np.asarray([track.box for track in self._tracks], np.float32).reshape(-1, 4)

    def _shown(self) -> Detections:
        scores = np.asarray([track.score for track in self._tracks], np.float32)
        return Detections(self._boxes(), scores)
