"""A window on the screen, in a process of its own.

Why a process: the libraries under ``cv2.imshow`` end the *whole process* when the screen fails
them. Qt calls ``abort()`` when it cannot connect to the X server, and ``exit(1)`` when the connection
breaks later; GTK and Xlib do the latter too. None of them can be asked not to. In a process of its own
the window may die, and the camera, the web page and the clip go on.

The picture goes through shared memory: the parent lays it there when the window has said that it is
done with the last one, so nothing tears and nothing queues up.
"""

import errno
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, List, Optional, Tuple

import numpy as np

from edge_app.display import Display
from edge_app.errors import DisplayError
from edge_app.frames import Picture

_HEADER = struct.Struct("<II")  # parent to window: width and height of the picture in the memory
_READY, _CLOSED, _NO_GUI, _BLACK = b"r", b"c", b"n", b"b"  # window to parent
_ATTEMPTS = 6  # to get a window that draws itself; the last one is taken as it is
_OPENING_S = 20.0  # a Nano needs 3 s to import OpenCV from a cold card
_ANSWER_S = 5.0  # a window that has not answered for so long hangs
_WAIT_S = 0.05  # how long one picture waits for the window to be done with the last one
_LARGEST_WH = (1280, 720)  # of the window at first; it can be resized
_KEY_ESCAPE = 27
_ADVICE = "show the picture in a browser with --display web, or use --display none"


class WindowDisplay(Display):
    """Shows pictures in a window; q, Escape or closing it sets ``closed``, f toggles full screen.

    Args:
        title: of the window.
        fullscreen: start on the whole screen.
    """

    def __init__(self, title: str = "edge-app", fullscreen: bool = False) -> None:
        super().__init__()
        self.skipped = 0  # pictures that came while the window was busy
        self._title = title
        self._fullscreen = fullscreen
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._replies = -1
        self._memory: Optional[_PictureMemory] = None
        self._words = b""  # the end of what the window's process wrote to its stderr
        self._is_ready = False
        self._is_black = False  # the window's process has given up: its window does not draw itself
        self._asked_at = 0.0

    def __enter__(self) -> "WindowDisplay":
        """Open the window.

        Raises:
            DisplayError: there is no screen, it does not answer, or OpenCV has no windows.
        """
        if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
            raise DisplayError(
                "no screen to open a window on: neither DISPLAY nor WAYLAND_DISPLAY is set; "
                + _ADVICE
            )
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                if self._open(must_draw=attempt < _ATTEMPTS):
                    return self
                self.close()
        except BaseException:
            self.close()
            raise
        raise DisplayError("the screen has not opened a window; " + _ADVICE)

    def show(self, picture: Picture) -> None:
        """Show a picture, or skip it when the window is still busy with the last one.

        Raises:
            DisplayError: the screen is gone, or the window hangs.
        """
        self._listen(_WAIT_S)
        if self.closed:
            return
        if not self._is_ready:
            self.skipped += 1
            return
        height, width = picture.pixels.shape[:2]
        self._memory.lay(picture.pixels)
        self._send(_HEADER.pack(width, height))
        self._is_ready = False
        self._asked_at = time.monotonic()

    def idle(self) -> None:
        """See whether the window was closed or is gone.

        Raises:
            DisplayError: the screen is gone, or the window hangs.
        """
        self._listen(0.0)

    def close(self) -> None:
        """Close the window; takes at most two seconds. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stderr is not None
            process.stdin.close()  # the window ends when it sees this
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(1.0)
            process.stderr.close()
        if self._replies >= 0:
            os.close(self._replies)
            self._replies = -1
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def _open(self, must_draw: bool) -> bool:
        """Start the window's process; false when it opened a window that stays black."""
        self._memory = _PictureMemory()
        self._is_black = False
        self._start(must_draw)
        self._asked_at = time.monotonic()
        self._listen(_OPENING_S)
        return not self._is_black

    def _start(self, must_draw: bool) -> None:
        self._replies, answering = os.pipe()
        assert self._memory is not None
        inherited = (self._memory.fileno(), answering)
        package_home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        paths = [package_home, os.environ.get("PYTHONPATH", "")]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in paths if p))
        flags = [str(int(flag)) for flag in (self._fullscreen, must_draw)]
        arguments = [str(number) for number in inherited] + [self._title] + flags
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_app.window"] + arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=inherited,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, which closes the window
            )
        finally:
            os.close(answering)

    def _send(self, message: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(message)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            self._raise_gone()

    def _listen(self, timeout_s: float) -> None:
        """Take in what the window says, until it is ready or the time is over."""
        if self.closed or self._process is None or self._process.stderr is None:
            return
        deadline = time.monotonic() + timeout_s
        words = self._process.stderr.fileno()
        sources = [self._replies, words]
        while not (self.closed or self._is_black):
            remaining = 0.0 if self._is_ready else max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select(sources, [], [], remaining)
            if not readable:
                break
            if words in readable:
                said = os.read(words, 4096)
                self._words = (self._words + said)[-4000:]
                if not said:
                    sources.remove(words)
            if self._replies in readable:
                self._take_reply(os.read(self._replies, 1))
        is_waiting = not (self._is_ready or self._is_black or self.closed)
        if is_waiting and time.monotonic() - self._asked_at > _ANSWER_S:
            raise DisplayError(
                "the window has not answered for {:.0f} s: the screen hangs; {}".format(
                    time.monotonic() - self._asked_at, _ADVICE
                )
            )

    def _take_reply(self, reply: bytes) -> None:
        if reply == _READY:
            self._is_ready = True
        elif reply == _CLOSED:
            self.closed = True
        elif reply == _BLACK:
            self._is_black = True
        elif reply == _NO_GUI:
            raise DisplayError(
                "this OpenCV was built without windows; install opencv-python instead of "
                "opencv-python-headless, or " + _ADVICE
            )
        else:
            self._raise_gone()

    def _raise_gone(self) -> None:
        screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        raise DisplayError(
            "the screen {} does not show a window ({}); {}".format(
                screen, self._last_words(), _ADVICE
            )
        )

    def _last_words(self) -> str:
        """What the window's process complained about, in one line."""
        if self._process is not None and self._process.stderr is not None:
            while select.select([self._process.stderr], [], [], 0.2)[0]:
                said = os.read(self._process.stderr.fileno(), 4096)
                if not said:
                    break
                self._words = (self._words + said)[-4000:]
        lines = [line.strip() for line in self._words.decode("utf-8", "replace").splitlines()]
        telling = [line for line in lines if "display" in line or "connection" in line]
        return (telling or [line for line in lines if line] or ["it ended without a word"])[-1]


class _PictureMemory:
    """A piece of memory that the window's process sees as well; it grows with the picture."""

    def __init__(self) -> None:
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)
        self._map: Optional[mmap.mmap] = None

    def fileno(self) -> int:
        """To be inherited."""
        return self._file.fileno()

    def lay(self, pixels: np.ndarray) -> None:
        """Copy a picture (H, W, 3) uint8 into the memory.

        Raises:
            DisplayError: there is no memory left.
        """
        if self._map is None or len(self._map) < pixels.nbytes:
            if self._map is not None:
                self._map.close()
            try:
                os.posix_fallocate(self.fileno(), 0, pixels.nbytes)
                self._map = mmap.mmap(self.fileno(), pixels.nbytes)
            except OSError as error:
                raise DisplayError(
                    "no shared memory for a picture of {} bytes ({}); make room in /dev/shm".format(
                        pixels.nbytes, error
                    )
                ) from error
        view = np.frombuffer(self._map, np.uint8, pixels.size).reshape(pixels.shape)
        np.copyto(view, pixels)

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        if self._map is not None:
            self._map.close()
            self._map = None
        self._file.close()


class _Window:
    """The window's side; lives in the process that ``main`` runs in."""

    def __init__(self, cv2: Any, title: str, fullscreen: bool) -> None:
        self._cv2 = cv2
        self._title = title
        self._is_fullscreen = fullscreen
        self._was_visible = False
        self._is_quit = False
        self._is_sized = False
        self._shared_before = 0
        self._bars: Optional[np.ndarray] = None

    def open(self) -> None:
        """Open the window, empty and dark."""
        cv2 = self._cv2
        # FREERATIO: the back ends differ in how they keep a ratio (Qt keeps that of the first picture
        # for ever), so ``_with_bars`` does it.
        self._shared_before = _shared_mappings()
        flags = cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL
        cv2.namedWindow(self._title, flags)
        cv2.resizeWindow(self._title, 640, 360)
        cv2.imshow(self._title, np.zeros((360, 640, 3), np.uint8))
        self._apply_fullscreen()
        self.is_open()  # so that a window which is closed at once has been seen open

    def is_drawn(self) -> bool:
        """Whether the window draws itself; takes up to half a second when it does not.

        With Qt 5.15.13 and later (OpenCV from PyPI since 4.10) about one window in eight stays black
        for ever on an X server without a window manager: Qt loses the event that says that it was
        mapped. One that draws has a piece of memory in common with the server.
        """
        is_local_qt = os.environ.get("DISPLAY", "").startswith(":") and (
            "QT" in getattr(self._cv2, "currentUIFramework", str)()
        )
        deadline = time.monotonic() + 0.5
        while is_local_qt and time.monotonic() < deadline:
            self.is_open()
            if _shared_mappings() > self._shared_before:
                return True
        return not is_local_qt

    def show(self, pixels: np.ndarray) -> bool:
        """Show (H, W, 3) uint8 BGR; the first gives the window its size. See ``is_open``."""
        if not self._is_sized:
            height, width = pixels.shape[:2]
            shrink = min(1.0, _LARGEST_WH[0] / width, _LARGEST_WH[1] / height)
            size = (max(160, int(width * shrink)), max(90, int(height * shrink)))
            self._cv2.resizeWindow(self._title, *size)
            self._cv2.imshow(self._title, pixels)
            self._is_sized = True
            if not self.is_open():  # only now does the new size come into force
                return False
        self._cv2.imshow(self._title, self._with_bars(pixels))
        return self.is_open()

    def is_open(self) -> bool:
        """Handle keys and clicks; false once the person wants the window closed."""
        cv2 = self._cv2
        self._handle_key()
        # A closed window is told by each back end in its own way. Qt: it is not visible any more, or
        # (OpenCV 5) asking is an error. GTK, which JetPack's OpenCV has, does not know VISIBLE and
        # always answers -1, and answers -1 to FULLSCREEN once the window is closed.
        try:
            visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
            exists = cv2.getWindowProperty(self._title, cv2.WND_PROP_FULLSCREEN) >= 0
        except cv2.error:
            return False
        was_visible, self._was_visible = self._was_visible, self._was_visible or visible
        return not self._is_quit and exists and (visible or not was_visible)

    def _handle_key(self) -> None:
        key = self._cv2.waitKey(1) & 0xFF  # also lets the window draw itself
        self._is_quit = self._is_quit or key in (_KEY_ESCAPE, ord("q"), ord("Q"))
        if key == ord("f"):
            self._is_fullscreen = not self._is_fullscreen
            self._apply_fullscreen()

    def _with_bars(self, pixels: np.ndarray) -> np.ndarray:
        """Black bars beside or above a picture (H, W, 3) whose shape is not that of the window."""
        height, width = pixels.shape[:2]
        window_w, window_h = self._cv2.getWindowImageRect(self._title)[2:]
        if window_w <= 0 or window_h <= 0:
            return pixels
        full_w = max(width, int(round(height * window_w / window_h)))
        full_h = max(height, int(round(width * window_h / window_w)))
        if full_w - width <= 1 and full_h - height <= 1:
            return pixels
        if self._bars is None or self._bars.shape[:2] != (full_h, full_w):
            self._bars = np.zeros((full_h, full_w, 3), np.uint8)
        left, top = (full_w - width) // 2, (full_h - height) // 2
        self._bars[...] = 0
        self._bars[top : top + height, left : left + width] = pixels
        return self._bars

    def _apply_fullscreen(self) -> None:
        cv2 = self._cv2
        mode = cv2.WINDOW_FULLSCREEN if self._is_fullscreen else cv2.WINDOW_NORMAL
        cv2.setWindowProperty(self._title, cv2.WND_PROP_FULLSCREEN, mode)


def _shared_mappings() -> int:
    """How many pieces of memory this process shares, and may write, with others."""
    with open("/proc/self/maps") as file:
        return sum(line.split()[1] == "rw-s" for line in file)


def _serve(window: _Window, memory_fd: int, reply_fd: int) -> None:
    """Show what comes until the parent hangs up or the person closes the window."""
    commands = sys.stdin.fileno()
    memory: Tuple[int, Optional[mmap.mmap]] = (0, None)
    os.write(reply_fd, _READY)
    while True:
        is_told = bool(select.select([commands], [], [], 0.01)[0])
        if not is_told:
            is_open = window.is_open()
        else:
            message = os.read(commands, _HEADER.size)
            if len(message) < _HEADER.size:
                return
            width, height = _HEADER.unpack(message)
            if memory[0] < width * height * 3:
                memory = (width * height * 3, mmap.mmap(memory_fd, width * height * 3))
            pixels = np.frombuffer(memory[1], np.uint8, width * height * 3)
            is_open = window.show(pixels.reshape(height, width, 3))
        if not is_open:
            os.write(reply_fd, _CLOSED)
            return
        if is_told:
            os.write(reply_fd, _READY)


def main(arguments: List[str]) -> int:
    """The window's process: ``MEMORY_FD REPLY_FD TITLE FULLSCREEN MUST_DRAW``."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Qt aborts without a screen: no core dumps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    memory_fd, reply_fd = int(arguments[0]), int(arguments[1])
    window = _Window(cv2, arguments[2], arguments[3] == "1")
    try:
        window.open()
    except cv2.error as error:
        if "not implemented" not in str(error):
            raise
        os.write(reply_fd, _NO_GUI)
        return 1
    if arguments[4] == "1" and not window.is_drawn():
        os.write(reply_fd, _BLACK)
        return 1
    try:
        _serve(window, memory_fd, reply_fd)
    except BrokenPipeError:
        return 0  # the parent is gone
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
