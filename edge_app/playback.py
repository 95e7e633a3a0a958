"""Sources without a device: a folder of images, and the generated scene."""

import logging
import time
from typing import List, Optional, Sequence, Tuple

from edge_app.errors import EndOfStream, ImageError
from edge_app.frames import Frame
from edge_app.images import list_images, read_image
from edge_app.pool import Pool
from edge_app.scene import Scene
from edge_app.source import Camera

log = logging.getLogger(__name__)


class FolderCamera(Camera):
    """Every image a frame, in the order of ``list_images``; unreadable ones are left out and counted.

    They need not have anything to do with each other: what was seen in one says nothing of the next.

    Args:
        name: for messages.
        paths: images and folders.
        rate_hz: what the presentation times pretend.
    """

    def __init__(self, name: str, paths: Sequence[str], rate_hz: float) -> None:
        super().__init__(name, live=False, related=False)
        self._given = paths
        self._rate_hz = rate_hz

    def open(self) -> None:
        """List the images."""
        self._paths: List[str] = list_images(self._given)
        self._number = 0
        self._delivered = 0

    def read(self, timeout_s: float) -> Optional[Frame]:
        """The next image.

        Raises:
            EndOfStream: after the last.
            ImageError: none of them could be read.
        """
        while self._number < len(self._paths):
            number, self._number = self._number, self._number + 1
            try:
                pixels = read_image(self._paths[number])
            except ImageError as error:
                self._skip(error)
                continue
            self._delivered += 1
            return Frame(number, time.monotonic(), number / self._rate_hz, pixels)
        raise EndOfStream(self.name)

    def close(self) -> None:
        """Nothing is held open."""

    def _skip(self, error: ImageError) -> None:
        if self._number == len(self._paths) and not self._delivered:
            raise error
        self.dropped += 1
        log.warning("left out: %s", error)


class SceneCamera(Camera):
    """Plays the generated scene.

    Args:
        name: for messages.
        size_wh: of the frames, in pixels.
        faces: number of people.
        rate_hz: frames a second.
        live: paced like a camera, skipping what nobody took in time; else as fast as it is read.
        seconds: its length; 0 is without end.
    """

    def __init__(
        self,
        name: str,
        size_wh: Tuple[int, int],
        faces: int,
        rate_hz: float,
        live: bool,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(name, live)
        self._size_wh = size_wh
        self._faces = faces
        self._rate_hz = rate_hz
        self._length = int(round(seconds * rate_hz)) if seconds else None

    def open(self) -> None:
        """Draw what does not change."""
        self._scene = Scene(self._size_wh, self._faces, self._rate_hz)
        width, height = self._size_wh
        self._pool = Pool((height, width, 3))
        self._next = 0
        self._started_at = time.monotonic()

    def read(self, timeout_s: float) -> Optional[Frame]:
        """See ``Camera.read``."""
        number = self._next
        if self.live:
            due_at = self._started_at + number / self._rate_hz
            wait_s = due_at - time.monotonic()
            if wait_s > timeout_s:
                time.sleep(max(0.0, timeout_s))
                return None
            time.sleep(max(0.0, wait_s))
            newest = int((time.monotonic() - self._started_at) * self._rate_hz)
            number = max(number, newest)
        if self._length is not None and number >= self._length:
            raise EndOfStream(self.name)
        self.dropped += number - self._next
        self._next = number + 1
        pixels = self._scene.render(number, self._pool.take())
        seconds = number / self._rate_hz
        captured_at = self._started_at + seconds if self.live else time.monotonic()
        return Frame(number, captured_at, seconds, pixels)

    def close(self) -> None:
        """Nothing is held open."""
