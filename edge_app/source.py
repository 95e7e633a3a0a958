"""What every source of frames has in common; ``camera.open_camera`` makes one from a URI."""

from types import TracebackType
from typing import Optional, Type

from edge_app.frames import Frame
from edge_app.passwords import hide


def is_utf_8(path: str) -> bool:
    """Whether OpenCV and GStreamer can take the name; on Linux a name may be any bytes."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Camera:
    """A source of frames: opened, read and closed by one thread, by ``with``; may be opened again.

    Args:
        name: its URI, for messages; passwords are hidden here.
        live: frames that nobody takes are dropped and counted; files wait instead.
        related: a frame shows what the one before it showed, a moment later; those of a folder do not.

    Attributes:
        dropped: frames lost inside the source since the first opening, before ``read`` saw them.
        stop_s: how long the driver may take to let go; may be raised by who is not in a hurry.
        stuck: the driver did not let go in time. The process must leave by ``os._exit``.
    """

    def __init__(self, name: str, live: bool, related: bool = True) -> None:
        self.name = hide(name)
        self.live = live
        self.related = related
        self.dropped = 0
        self.stop_s = 1.0
        self.stuck = False

    def __enter__(self) -> "Camera":
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the source; used by ``with``.

        Raises:
            CameraError: it cannot be opened.
            ImageError: the file is not what it should be.
        """
        raise NotImplementedError

    def read(self, timeout_s: float) -> Optional[Frame]:
        """The next frame (of a live source: the newest); ``None`` when none came in time.

        Raises:
            EndOfStream: a file, folder or scene has given its last frame.
            CameraError: the camera failed, ended, or gave nothing for too long.
            ImageError: the file is damaged.
        """
        raise NotImplementedError

    def moment(self, frame: Frame) -> float:
        """When a frame of it was taken, in seconds of its own clock.

        Of a live source that is ``captured_at``; of a file ``pts_s``, so that a slow machine finds in
        it what a fast one does.
        """
        return frame.captured_at if self.live else frame.pts_s

    def close(self) -> None:
        """Let go of the device within ``stop_s``. Idempotent."""
        raise NotImplementedError
