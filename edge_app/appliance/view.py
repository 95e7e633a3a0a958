"""What the page and the API tell: written by the main thread, read by the thread that serves."""

import math
import time
from typing import Any, Dict, List, NamedTuple, Optional

from edge_app import __version__
from edge_app.appliance.health import Health, judge
from edge_app.appliance.status import Snapshot, Status
from edge_app.detector import Detector
from edge_app.frames import Figures, Picture
from edge_app.source import Camera

_NOTES = 30  # of the newest events
_WINDOW_S = 2.0  # that rates look back


class _Shown(NamedTuple):
    """What is kept of the newest picture."""

    number: int
    captured_at: float
    inferred_at: float
    size_wh: Any
    faces: Any
    tracks: Any
    figures: Any


class View:
    """The newest picture, without its pixels, and what is known besides.

    Args:
        detector: named to whoever looks.
        camera: named to whoever looks.
        status: what the appliance knows of itself.
    """

    def __init__(self, detector: Detector, camera: Camera, status: Status) -> None:
        self._detector = detector
        self._camera = camera
        self._status = status
        self._started_at = self._turned_at = time.monotonic()
        self._shown: Optional[_Shown] = None

    def turn(self) -> None:
        """The main loop turns."""
        self._turned_at = time.monotonic()

    def show(self, picture: Picture) -> None:
        """Keep what is told of the newest picture."""
        self.turn()
        frame = picture.result.frame
        self._shown = _Shown(
            frame.number,
            frame.captured_at,
            picture.result.detected_at,
            frame.size_wh,
            picture.faces,
            picture.tracks,
            picture.figures,
        )

    def health(self) -> Health:
        """How the program is, now."""
        return self._health(time.monotonic(), self._shown, self._status.snapshot())

    def report(self, viewers: int) -> Dict[str, Any]:
        """The object behind ``/api/status``; docs/api.md describes each field.

        Every field is there from the start; what is not known yet is ``None``.
        """
        now, shown, known = time.monotonic(), self._shown, self._status.snapshot()
        figures = _still_true(shown, now)
        size_wh = shown.size_wh if shown else (None, None)
        health = self._health(now, shown, known)._asdict()
        return {
            "version": __version__,
            "uptime_s": round(now - self._started_at, 1),
            "source": self._camera.name,
            "detector": self._detector.description,
            "viewers": viewers,
            "health": dict(health, reasons=list(health["reasons"])),
            "frame": shown.number if shown else None,
            "age_ms": round((now - shown.captured_at) * 1000.0, 1) if shown else None,
            "width": size_wh[0],
            "height": size_wh[1],
            "faces": _faces(shown),
            "camera_fps": _rounded(figures and figures.camera_fps, 1),
            "detect_fps": _rounded(figures and figures.detect_fps, 1),
            "display_fps": _rounded(figures and figures.display_fps, 1),
            "steps_ms": {
                step: _rounded(value, 2)
                for step, value in (figures.steps_ms.items() if figures else ())
            },
            "dropped": dict(figures.dropped if figures else {}, **known.dropped),
            "waiting": known.waiting,
            "restarts": known.restarts,
            "notes": [
                {"at": round(note.at, 3), "kind": note.kind, "text": note.text}
                for note in known.notes[-_NOTES:]
            ],
            "power": _power(known.power),
        }

    def _health(self, now: float, shown: Optional[_Shown], known: Snapshot) -> Health:
        inferred_at = shown.inferred_at if shown else None
        return judge(now, self._started_at, self._turned_at, inferred_at, known.waiting)


def _still_true(shown: Optional[_Shown], now: float) -> Optional[Figures]:
    """The figures of the newest picture; once it is old, nothing has passed within their window."""
    if shown is None or now - shown.inferred_at <= _WINDOW_S:
        return shown.figures if shown else None
    nan = float("nan")  # the camera may well go on while the detector does not
    return shown.figures._replace(camera_fps=nan, detect_fps=0.0, display_fps=0.0)


def _faces(shown: Optional[_Shown]) -> List[Dict[str, Any]]:
    if shown is None:
        return []
    tracks = list(shown.tracks) + [None] * (len(shown.faces) - len(shown.tracks))
    return [
        {
            "box": [round(float(side), 1) for side in box],
            "score": round(score, 4),
            "track": track,
        }
        for (box, score), track in zip(shown.faces, tracks)
    ]


def _power(reading: Any) -> Optional[Dict[str, Any]]:
    """A ``power.Reading`` for JSON; ``None`` where nothing was read."""
    if reading is None:
        return None
    return {
        "temperatures_c": {
            zone: _rounded(value, 1) for zone, value in reading.temperatures_c.items()
        },
        "hottest_c": _rounded(reading.hottest_c, 1),
        "gpu_load": _rounded(reading.gpu_load, 3),
        "cpu_load": _rounded(reading.cpu_load, 3),
        "throttled": list(reading.throttled),
        "over_current": reading.over_current,
        "mode": reading.mode,
        "supply_v": _rounded(reading.supply_v, 2),
        "supply_w": _rounded(reading.supply_w, 2),
        "slowed": reading.slowed,
    }


def _rounded(value: Optional[float], digits: int) -> Optional[float]:
    """``None``, JSON's null, for what is not a finite number: JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
