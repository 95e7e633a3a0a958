"""Which faces are on the screen: two thresholds, so that a face at 94 to 96% does not flicker."""

from typing import List, Optional, Tuple

import numpy as np

from edge_app.boxes import iou
from edge_app.config import FacesSettings
from edge_app.frames import Detections


class _Track:
    """One face on the screen."""

    __slots__ = ("number", "box", "score", "seen_at")

    def __init__(self, number: int, box: np.ndarray, score: float, seen_at: float) -> None:
        self.number = number
        self.box = box
        self.score = score
        self.seen_at = seen_at


class Tracker:
    """Follows faces from frame to frame by overlap (IoU), greedily, best score first.

    A face appears when it scores at least ``show``. It stays while a detection of at least ``keep``
    overlaps its last box by ``match_iou``, and is remembered for ``memory_s`` without one. What found
    no partner is tried again with boxes of twice the size, so that a fast face takes its box along
    instead of leaving it behind (Yang et al., "Hard to track objects with irregular motions and
    similar appearances? Make it easier by buffering the matching space", WACV 2023). A box below
    ``show`` that belongs to no shown face is never drawn.

    Args:
        settings: thresholds, memory and overlap.
        related: without, every frame is looked at by itself, as it must be with pictures that have
            nothing to do with each other.
    """

    def __init__(self, settings: FacesSettings, related: bool = True) -> None:
        self._settings = settings
        self._related = related
        self._tracks: List[_Track] = []
        self._begun = 0  # tracks since the start
        self._size_wh: Optional[Tuple[int, int]] = None  # of the frame before

    @property
    def tracks(self) -> Tuple[int, ...]:
        """For each face that ``update`` last gave a number, which no other face ever gets."""
        return tuple(track.number for track in self._tracks)

    @property
    def threshold(self) -> float:
        """The lowest score it has a use for."""
        return min(self._settings.keep, self._settings.show)

    def update(
        self, faces: Detections, at_s: float, size_wh: Optional[Tuple[int, int]] = None
    ) -> Detections:
        """Take in the faces of the next frame.

        Args:
            faces: those above ``threshold``, in pixels.
            at_s: when the frame was taken (``Camera.moment``).
            size_wh: of the frame. With another one than before all faces are new ones: the boxes
                of before are pixels of another picture.

        Returns:
            The faces to show, best first. A face missed in this frame keeps its last box and score.
        """
        if size_wh != self._size_wh or not self._related:
            self._tracks, self._size_wh = [], size_wh
        tracks = self._partners(faces)
        for (box, score), track in zip(faces, tracks):
            if track is None and score >= self._settings.show:
                self._begun += 1
                self._tracks.append(_Track(self._begun, box, score, at_s))
            elif track is not None and score >= self._settings.keep:
                number = self._tracks[track].number
                self._tracks[track] = _Track(number, box, score, at_s)
        self._tracks = [
            track
            for track in self._tracks
            if abs(at_s - track.seen_at) <= self._settings.memory_s  # a file's times may jump back
        ]
        self._tracks.sort(key=lambda track: -track.score)
        scores = np.asarray([track.score for track in self._tracks], np.float32)
        return Detections(self._boxes(), scores)

    def _partners(self, faces: Detections) -> List[Optional[int]]:
        """For each face the position of the track it continues; no track twice."""
        partners: List[Optional[int]] = [None] * len(faces)
        free = set(range(len(self._tracks)))
        for factor in (1.0, 2.0):
            overlaps = iou(_enlarged(faces.boxes, factor), _enlarged(self._boxes(), factor))
            for face in range(len(faces)):
                if partners[face] is None and free:
                    best = max(free, key=lambda track: overlaps[face, track])
                    if overlaps[face, best] >= self._settings.match_iou:
                        partners[face] = best
                        free.discard(best)
        return partners

    def _boxes(self) -> np.ndarray:
        return np.asarray([track.box for track in self._tracks], np.float32).reshape(-1, 4)


def _enlarged(boxes: np.ndarray, factor: float) -> np.ndarray:
    """(N, 4) boxes scaled about their centres."""
    grown = (boxes[:, 2:] - boxes[:, :2]) * np.float32((factor - 1) / 2)
    return np.concatenate([boxes[:, :2] - grown, boxes[:, 2:] + grown], axis=1)
