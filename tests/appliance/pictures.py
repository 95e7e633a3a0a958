"""Pictures as the main thread makes them, and a thread that shows them."""

import threading
import time

import numpy as np

from edge_app.frames import Detections, Figures, Frame, Picture, Result, StepTimes
from edge_app.overlay import Overlay

FACE = [200, 100, 300, 220]


def picture(number=0, captured_at=None, shade=90, size_wh=(640, 360)):
    """One face on grey."""
    pixels = np.full((size_wh[1], size_wh[0], 3), shade, np.uint8)
    faces = Detections(np.asarray([FACE], np.float32), np.asarray([0.97], np.float32))
    now = time.monotonic() if captured_at is None else captured_at
    figures = Figures(30.0, 25.0, 24.0, 12.0, {"network": 5.5}, {"camera": 3, "detector": 4})
    result = Result(Frame(number, now, 0.0, pixels), faces, StepTimes(0, 0, 0), time.monotonic())
    return Picture(Overlay(False).draw(pixels, faces), faces, result, figures, (7,))


def greenness(pixels):
    """How much greener than red and blue, the colour of boxes; JPEG blurs a thin line's own colour."""
    pixels = pixels.astype(int)
    return pixels[..., 1] - np.maximum(pixels[..., 0], pixels[..., 2])


class Shower:
    """Shows a picture every few milliseconds, as the main thread does."""

    def __init__(self, display, pace_s=0.01, make=picture):
        self.display, self.pace_s = display, pace_s
        self.shown, self.times_s = 0, []
        self._make = make
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._ending.wait(self.pace_s):
            one = self._make(self.shown)
            started = time.monotonic()
            self.display.show(one)
            self.times_s.append(time.monotonic() - started)
            self.shown += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ending.set()
        self._thread.join()
