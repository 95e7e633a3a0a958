"""A clip on the disk that plays at the speed at which things happened."""

import math
import os
import shutil
from contextlib import suppress
from typing import Any, List, Optional, Tuple

import numpy as np

from edge_app.display import Display
from edge_app.errors import DisplayError
from edge_app.frames import Frame, Picture
from edge_app.source import is_utf_8

_RATES_HZ = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 24.0, 25.0, 30.0, 50.0, 60.0)
_DEFAULT_RATE_HZ = 30.0  # of a clip that ends before a rate can be measured
_MEASURED_PICTURES = 8  # held back until the rate is known: 22 MB at 1280x720
_MEASURED_S = 1.0  # or until so much time has passed
_LONGEST_GAP_S = 5.0  # a longer pause of the camera is shortened to this
_RESERVE_BYTES = 8 << 20  # left free on the disk, so that the clip's index can still be written
_SMALLEST_SIDE_PX = 16  # MPEG-4 works in blocks of 16


def unfinished(path: str) -> str:
    """Where the clip ``path`` grows: beside it, where somebody finds what a crash has left of it."""
    root, ending = os.path.splitext(_real(path))
    return root + ".unfinished" + ending


def _real(path: str) -> str:
    """What a link stands for, so that the link stays one."""
    return os.path.realpath(path) if os.path.islink(path) else path


def _folder(path: str) -> str:
    """In which the clip grows and ends, behind a link that of the file it stands for."""
    return os.path.dirname(os.path.abspath(_real(path)))


class FileDisplay(Display):
    """Writes an MPEG-4 clip of constant rate and size, and puts it in its place when it is finished.

    The rate is measured over the first pictures. From then on the presentation time of its frame
    decides how often a picture is written: again when the next one is late, not at all when they come
    faster than the clip's rate; so the clip is as long as what it shows. The first picture gives the
    size; one of another size is scaled to fit, with black bars.

    Args:
        path: of the clip, by its ending ``.mp4``, ``.mkv`` or ``.avi``. A clip that is there stays
            until another one is finished; no picture, no clip.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.written = 0  # pictures in the clip so far
        self._path = path
        self._growing = ""  # the file that is written to, while it is open
        self._held: List[Tuple[float, np.ndarray]] = []  # until the rate is known
        self._writer: Optional[Any] = None
        self._rate_hz = 0.0
        self._size_wh = (0, 0)
        self._canvas: Optional[np.ndarray] = None  # the picture that is written next
        self._canvas_time_s = 0.0
        self._last_frame: Optional[Frame] = None
        self._time_s = 0.0  # of the latest picture, from the first one on

    def __enter__(self) -> "FileDisplay":
        """See that the clip can be written.

        Raises:
            DisplayError: the folder is missing or closed to us, or the ending is unknown.
        """
        folder = _folder(self._path)
        if not is_utf_8(unfinished(self._path)):  # OpenCV ends the whole process
            raise DisplayError(
                "cannot write the clip {!r}: give it a name that is UTF-8".format(self._path)
            )
        if os.path.splitext(self._path)[1].lower() not in (".mp4", ".mkv", ".avi"):
            raise DisplayError(
                "cannot write the clip {}: give it a name that ends in .mp4, .mkv or .avi".format(
                    self._path
                )
            )
        if not os.path.isdir(folder):
            raise DisplayError(
                "cannot write the clip {}: there is no folder {}; make it with mkdir -p {}".format(
                    self._path, folder, folder
                )
            )
        self._check_room()
        growing = unfinished(self._path)
        try:
            with suppress(FileNotFoundError), open(self._path, "r+b"):
                pass  # what is there may be written over, and is no folder
            with open(growing, "wb"):
                self._growing = growing
        except OSError as error:
            raise self._refused(error) from error
        return self

    def show(self, picture: Picture) -> None:
        """Write a picture, or hold it back while the rate is being measured.

        Raises:
            DisplayError: the disk is full, or the clip cannot be written.
        """
        self._advance(picture.result.frame)
        if self._writer is None:
            self._held.append((self._time_s, picture.pixels.copy()))
            if len(self._held) >= _MEASURED_PICTURES or self._time_s >= _MEASURED_S:
                self._begin()
            return
        self._write(self._time_s, picture.pixels)

    def close(self) -> None:
        """Finish the clip. Idempotent.

        Raises:
            DisplayError: pictures were written, but the file cannot be played, or not take its place.
        """
        try:
            if self._held:
                self._begin()
            if self._writer is not None and self._canvas is not None:
                self._put()
        finally:
            writer, self._writer = self._writer, None
            growing, self._growing = self._growing, ""
            self._canvas = None
            if writer is not None:
                writer.release()
                self._publish(growing)
            elif growing:
                with suppress(OSError):
                    os.remove(growing)

    def _advance(self, frame: Frame) -> None:
        """Add the time since the last frame; when its own time jumps back (a camera was reopened),
        the time of capture counts."""
        if self._last_frame is not None:
            step_s = frame.pts_s - self._last_frame.pts_s
            if not step_s >= 0.0:
                step_s = max(0.0, frame.captured_at - self._last_frame.captured_at)
            self._time_s += min(step_s, _LONGEST_GAP_S)
        self._last_frame = frame

    def _begin(self) -> None:
        """Open the clip with the rate of the pictures held back, and write them."""
        import cv2

        held, self._held = self._held, []
        self._rate_hz = _nominal_rate_hz([time_s for time_s, _ in held])
        height, width = held[0][1].shape[:2]
        even = [max(_SMALLEST_SIDE_PX, side + side % 2) for side in (width, height)]
        self._size_wh = (even[0], even[1])
        code = cv2.VideoWriter_fourcc(*"mp4v")
        writer = cv2.VideoWriter(self._growing, code, self._rate_hz, self._size_wh)
        if not writer.isOpened():
            raise DisplayError(
                "cannot write the clip {}: OpenCV has no MPEG-4 encoder for {}x{} at {:g} Hz; is "
                "its FFmpeg back end installed?".format(self._path, width, height, self._rate_hz)
            )
        self._writer = writer
        for time_s, pixels in held:
            self._write(time_s, pixels)

    def _write(self, time_s: float, pixels: np.ndarray) -> None:
        """Write the picture before this one as often as its time lasted; keep this one."""
        if self._canvas is None:
            self._canvas = np.zeros((self._size_wh[1], self._size_wh[0], 3), np.uint8)
        else:
            due = int(math.floor(time_s * self._rate_hz + 0.5))
            while self.written < due:
                self._put()
        _letterbox(pixels, self._canvas)

    def _put(self) -> None:
        if self.written % int(math.ceil(self._rate_hz)) == 0:
            self._check_room()
        assert self._writer is not None
        self._writer.write(self._canvas)
        self.written += 1

    def _check_room(self) -> None:
        free = shutil.disk_usage(_folder(self._path)).free
        if free < _RESERVE_BYTES:
            raise DisplayError(
                "the disk of {} is full ({:.1f} MB free); the clip ends here: make room, or write "
                "it elsewhere with --display file:PATH".format(self._path, free / 1e6)
            )

    def _publish(self, growing: str) -> None:
        """Put the finished clip in its place.

        OpenCV does not report a failed write; a clip without its index does not open.
        """
        import cv2

        reader = cv2.VideoCapture(growing)
        try:
            is_playable = reader.isOpened() and reader.grab()
        finally:
            reader.release()
        if not is_playable:
            raise DisplayError(
                "the clip {} was written but cannot be played; is the disk full?".format(growing)
            )
        try:
            os.replace(growing, _real(self._path))
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> DisplayError:
        return DisplayError(
            "cannot write the clip {}: {}; give a file and a folder that can be written to --display "
            "file:PATH".format(self._path, error.strerror)
        )


def _nominal_rate_hz(times_s: List[float]) -> float:
    """The lowest usual rate that shows every picture of median distance."""
    steps = [step for step in np.diff(times_s).tolist() if step > 0.0]
    if not steps:
        return _DEFAULT_RATE_HZ
    measured = 1.0 / float(np.median(steps))
    return next((rate for rate in _RATES_HZ if rate >= measured * 0.97), _RATES_HZ[-1])


def _letterbox(pixels: np.ndarray, canvas: np.ndarray) -> None:
    """Lay a picture (h, w, 3) into the middle of a canvas (H, W, 3), as large as it fits.

    A picture at most one pixel smaller is not scaled, so that odd sizes stay sharp.
    """
    import cv2

    height, width = canvas.shape[:2]
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    if 0 <= width - pixels.shape[1] <= 1 and 0 <= height - pixels.shape[0] <= 1:
        scaled = pixels
    else:
        size = (
            max(1, int(round(pixels.shape[1] * scale))),
            max(1, int(round(pixels.shape[0] * scale))),
        )
        scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    left, top = (width - scaled.shape[1]) // 2, (height - scaled.shape[0]) // 2
    if scaled.shape != canvas.shape:
        canvas[...] = 0
    canvas[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
