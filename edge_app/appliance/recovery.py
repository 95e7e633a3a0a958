"""Frames keep coming: a dead camera is reopened, its daemon restarted, and in the end the process leaves.

Each stage has a budget, and the next begins where it is spent; the last one is systemd, which starts the
program anew. docs/decisions/recovery.md has the times and the reasons.
"""

import logging
import select
import threading
import time
from typing import Callable, List, NamedTuple, Optional, Tuple

from edge_app.appliance.status import Status
from edge_app.config import RecoverySettings
from edge_app.display import Display
from edge_app.errors import CameraError, DetectorError, StageError
from edge_app.frames import Frame, Picture
from edge_app.meter import Meter
from edge_app.source import Camera

log = logging.getLogger(__name__)

Clock = Callable[[], float]

RESTART_FILE = "/run/edge-app/restart-camera"
_FIRST_PAUSE_S = 0.5  # before the first reopening; doubled from one to the next
_LONGEST_PAUSE_S = 4.0  # a camera that is put back is found within this time
_LONGEST_START_PAUSE_S = 10.0  # the same while there was never a frame
_FAILURES = 3  # in a row, the loss itself being the first, before the daemon is restarted
_STEADY_S = 10.0  # frames for so long, and what happened before is forgotten
_PATIENCE_S = 4.0  # a reopened CSI camera that gives no frame by then has a sick daemon
_ASK_AGAIN_S = 600.0  # between two restarts of the daemon while there is no camera at all
_STUCK_PAUSE_S = 300.0  # before leaving, when the driver was stuck at the start and nothing helps
_STUCK_S = 20.0  # a driver that has not come back after this never will
_LET_GO_S = 3.0  # a driver in trouble may take so long to close
_STOP_S = 1.0  # how long closing may take when the program ends
_HOUR_S = 3600.0


class DaemonRestart:
    """Asks for a restart of the camera daemon by writing a file, which a systemd path unit watches.

    The program has no right to restart it itself. The file holds when it was asked, in seconds since the
    machine started, so that the budget is kept by a program that is itself started anew.

    Args:
        per_hour: at most so many requests in any hour.
        path: of the file; its folder belongs to the service.
        clock: monotonic seconds, the same for all processes.
    """

    def __init__(
        self, per_hour: int, path: str = RESTART_FILE, clock: Clock = time.monotonic
    ) -> None:
        self._per_hour = per_hour
        self._path = path
        self._clock = clock

    def __call__(self) -> bool:
        """Whether it was asked for; not when the budget is spent or nobody listens."""
        now = self._clock()
        recent = [at for at in self._asked() if 0.0 <= now - at < _HOUR_S]
        if len(recent) >= self._per_hour:
            log.warning("the camera daemon was restarted %d times within an hour", len(recent))
            return False
        try:
            with open(self._path, "w") as file:
                file.writelines("{:.1f}\n".format(at) for at in recent + [now])
        except OSError as error:
            log.info("the camera daemon cannot be restarted from here: %s", error)
            return False
        return True

    def _asked(self) -> List[float]:
        try:
            with open(self._path) as file:
                return [float(line) for line in file]
        except (OSError, ValueError):  # never asked, or touched by somebody else
            return []


class _Mark(NamedTuple):
    """What is remembered of the last frame."""

    number: int
    captured_at: float
    pts_s: float
    size_wh: Tuple[int, int]


class _Work(threading.Thread):
    """One call into a driver that may take its time; never waited for longer than one likes."""

    def __init__(self, name: str, call: Callable[[], Optional[Camera]], now: float) -> None:
        super().__init__(name=name, daemon=True)
        self._call = call
        self.since = now
        self.camera: Optional[Camera] = None
        self.error: Optional[Exception] = None
        self.start()

    def run(self) -> None:
        try:
            self.camera = self._call()
        except Exception as error:  # raised again by the reader
            self.error = error


class RecoveringCamera(Camera):
    """A camera around fresh cameras: a live one that fails is closed, and after a pause the next is opened.

    ``read`` gives ``None`` meanwhile, in its usual time, so that the pipeline can always stop. Before the
    first frame since the start it waits for ever; later it raises when ``settings.give_up_s`` have passed
    since the last frame, or at once when a driver does not let go, since only the end of the process
    helps then. Frame numbers, presentation times and ``dropped`` go on from one camera to the next.

    Args:
        make: gives a fresh camera, not yet opened; ``CameraError`` means that it is not there (yet).
        settings: the budget.
        status: is told what is waited for, and of every restart.
        restart_daemon: asks for a restart of the camera daemon; whether it could.
        name: for messages until ``make`` has given a camera.
        patience_s: how long a reopened CSI camera may take for its first frame.
        clock: monotonic seconds.

    Raises:
        ConfigError: the source is not one.
        ImageError: the file is missing or empty.
    """

    def __init__(
        self,
        make: Callable[[], Camera],
        settings: RecoverySettings,
        status: Status,
        restart_daemon: Callable[[], bool],
        name: str = "camera",
        patience_s: float = _PATIENCE_S,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(name, live=True)
        self._make = make
        self._settings = settings
        self._status = status
        self._restart_daemon = restart_daemon
        self._patience_s = patience_s
        self._clock = clock
        self._kind = ""  # "v4l2" of v4l2:///dev/video0, once a camera was made
        self._fresh: Optional[Camera] = None  # made and never opened
        try:
            self._take(make())
        except CameraError as error:
            log.debug("%s", error)
        self._camera: Optional[Camera] = None  # open
        self._work: Optional[_Work] = None  # closing or opening
        self._closing = threading.Event()
        self._failures = 0  # in a row
        self._reason = ""  # of the latest
        self._attempts = 0  # to open it, since the last frame
        self._retry_at = float("-inf")
        self._asked_at = float("-inf")  # for the daemon
        self._leave_at: Optional[Tuple[float, CameraError]] = None
        self._opened_at = 0.0
        self._alive_since: Optional[float] = None  # first frame of the open camera
        self._dead_since: Optional[float] = None  # the last frame before the camera was lost
        self._last: Optional[_Mark] = None
        self._first_number = 0  # of the open camera's frames
        self._pts_offset_s = 0.0
        self._dropped_before = 0

    def open(self) -> None:
        """Begin to open the camera; that it cannot be opened shows in ``read``."""
        self._closing.clear()
        self._retry_at = float("-inf")

    def read(self, timeout_s: float) -> Optional[Frame]:
        """See ``Camera.read``; ``None`` also while the camera is away.

        Raises:
            CameraError: the budget is spent, or a driver does not let go.
        """
        if self._camera is None:
            self._advance(timeout_s)
            return None
        try:
            frame = self._camera.read(timeout_s)
        except CameraError as error:
            self._lose(error)
            return None
        if frame is None:
            self._check_silence()
            return None
        return self._passed_on(frame)

    def close(self) -> None:
        """Let go of the camera, and of one that is just being opened. Idempotent."""
        self._closing.set()
        work, self._work = self._work, None
        if work is not None:
            work.join(_STOP_S)
            if work.is_alive():
                self.stuck = True
                return
            self._camera = self._camera or work.camera
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.stop_s = _STOP_S
            camera.close()
            self._keep_count(camera)
            self.stuck = self.stuck or camera.stuck

    def _take(self, camera: Camera) -> Camera:
        """Refuse a stand-in: ``auto`` means a generated scene where no camera is left."""
        kind = camera.name.partition(":")[0]
        if self._kind not in ("", kind):
            raise CameraError(
                "{}: is gone (there is only {}). Plug it in again.".format(self.name, camera.name)
            )
        self._kind, self.name = kind, camera.name
        self.live, self.related = camera.live, camera.related
        self._fresh = camera
        return camera

    def _open_fresh(self) -> Camera:
        """On a thread of its own."""
        camera = self._fresh or self._take(self._make())
        self._fresh = None
        camera.stop_s = _LET_GO_S
        try:
            camera.__enter__()
        except CameraError:
            self.stuck = camera.stuck
            raise
        if self._closing.is_set():  # nobody waits for it any more
            camera.close()
        return camera

    def _let_go(self, camera: Camera) -> None:
        """On a thread of its own."""
        camera.close()
        if camera.stuck:
            self.stuck = True
            raise CameraError("{}: the driver does not let go of the camera".format(self.name))

    def _advance(self, timeout_s: float) -> None:
        """There is no open camera: one step towards one, within ``timeout_s``."""
        now = self._clock()
        if self._leave_at is not None and now >= self._leave_at[0]:
            raise self._leave_at[1]
        self._check_budget(now)
        if self._work is None:
            wait_s = (self._leave_at[0] if self._leave_at else self._retry_at) - now
            if wait_s > 0.0:
                _pause(min(timeout_s, wait_s))
                return
            self._attempts += 1
            self._work = _Work("camera opening", self._open_fresh, now)
        self._work.join(timeout_s)
        if not self._work.is_alive():
            self._take_up()
        elif now - self._work.since >= _STUCK_S:
            self._work, self.stuck = None, True
            self._fail(CameraError("{}: the camera's driver does not come back".format(self.name)))

    def _take_up(self) -> None:
        """The driver has come back: go on with what it brought."""
        work, self._work = self._work, None
        assert work is not None
        if isinstance(work.error, CameraError):
            self._fail(work.error)
        elif work.error is not None:
            raise work.error
        elif work.camera is not None:
            self._camera = work.camera
            self._opened_at = self._clock()
            self._alive_since = None

    def _lose(self, error: CameraError) -> None:
        """The open camera has failed."""
        camera, self._camera = self._camera, None
        assert camera is not None
        self._keep_count(camera)
        if self._alive_since is not None:
            log.warning("%s", error)
        self._work = _Work("camera closing", lambda: self._let_go(camera), self._clock())
        self._fail(error)

    def _fail(self, error: CameraError) -> None:
        """Decide what comes after a failure; of a file there is nothing to wait for."""
        if not self.live:
            raise error
        now = self._clock()
        self._failures += 1
        self._reason = str(error)
        self._status.waiting("camera", self._reason)
        if self._last is not None and self._dead_since is None:
            self._dead_since = self._last.captured_at
        if self.stuck:
            if not self._ask_for_daemon(now) and self._last is None:
                self._leave_at = (now + _STUCK_PAUSE_S, error)  # or it would start again all day
                return
            raise error
        longest_s = _LONGEST_START_PAUSE_S if self._last is None else _LONGEST_PAUSE_S
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10), longest_s)
        self._retry_at = now + pause_s
        log.debug("%s: attempt %d failed; again in %.1f s", self.name, self._attempts, pause_s)
        if self._failures >= _FAILURES:
            self._ask_for_daemon(now)

    def _ask_for_daemon(self, now: float) -> bool:
        """Whether the camera has a daemon that now will be restarted; once in each time of trouble."""
        if "csi://" not in self.name or now - self._asked_at < _ASK_AGAIN_S:
            return False
        self._asked_at = now
        if not self._restart_daemon():
            return False
        self._status.restarted("camera-daemon")
        self._status.note("camera", "asked for a restart of the camera daemon")
        return True

    def _check_silence(self) -> None:
        """The open camera has nothing to give at the moment."""
        now = self._clock()
        self._check_budget(now)
        silent = self._alive_since is None and now - self._opened_at >= self._patience_s
        if silent and self._dead_since is not None and "csi://" in self.name:
            self._lose(
                CameraError(
                    "{}: was opened again and gives nothing; `journalctl -u nvargus-daemon` "
                    "may say why".format(self.name)
                )
            )

    def _check_budget(self, now: float) -> None:
        if self._dead_since is None or not self._attempts:
            return
        dead_s = now - self._dead_since
        if dead_s >= self._settings.give_up_s:
            raise CameraError(
                "{}: no frame for {:.0f} s, {} attempts to reopen it. The program ends, so that the "
                "service manager starts it anew. {}".format(
                    self.name, dead_s, self._attempts, self._reason
                )
            )

    def _passed_on(self, frame: Frame) -> Frame:
        now = self._clock()
        last = self._last
        if self._alive_since is None:
            self._alive_since = now
            self._welcome(frame, now)
        elif now - self._alive_since >= _STEADY_S:
            self._failures, self._asked_at = 0, float("-inf")
        if last is None or last.size_wh != frame.size_wh:
            self._status.note("camera", "frames are {}x{}".format(*frame.size_wh))
        frame = frame._replace(
            number=self._first_number + frame.number, pts_s=self._pts_offset_s + frame.pts_s
        )
        assert self._camera is not None
        self.dropped = self._dropped_before + self._camera.dropped
        self._last = _Mark(frame.number, frame.captured_at, frame.pts_s, frame.size_wh)
        return frame

    def _welcome(self, frame: Frame, now: float) -> None:
        """The first frame of a camera: go on counting where the last one ended."""
        last = self._last
        if last is not None:
            self._first_number = last.number + 1
            passed_s = max(0.0, frame.captured_at - last.captured_at)
            self._pts_offset_s = last.pts_s + passed_s - frame.pts_s
        if self._failures:
            self._status.waiting("camera", "")
        if self._dead_since is not None:
            self._status.restarted("camera")
            self._status.note(
                "camera",
                "frames again after {:.1f} s, attempts: {}".format(
                    now - self._dead_since, self._attempts
                ),
            )
        self._dead_since, self._attempts = None, 0

    def _keep_count(self, camera: Camera) -> None:
        self._dropped_before += camera.dropped
        self.dropped = self._dropped_before


def _pause(seconds: float) -> None:
    """Sleep by the monotonic clock.

    A lock's time-out is measured by the wall clock before Python 3.11, and a board without a battery sets
    that clock while it runs.
    """
    select.select([], [], [], seconds)


class DetectorWatch(Display):
    """Ends the program when the camera gives frames and the detector no result.

    A thread that hangs in a GPU driver cannot be ended, only left behind with its process. Nothing is
    asked of the detector before its first result, since an engine may take minutes to load.

    Args:
        meter: counts the camera's frames.
        settings: how long one frame may take.
        clock: monotonic seconds.
    """

    def __init__(
        self, meter: Meter, settings: RecoverySettings, clock: Clock = time.monotonic
    ) -> None:
        super().__init__()
        self._meter = meter
        self._limit_s = settings.detector_s
        self._clock = clock
        self._frames: Optional[int] = None  # that the camera had given at the last result
        self._due_since: Optional[float] = None  # when there was first a frame after that

    def show(self, picture: Picture) -> None:
        """A result has come."""
        self._frames = self._given()
        self._due_since = None

    def idle(self) -> None:
        """No result at the moment.

        Raises:
            StageError: frames have come for too long without one.
        """
        if self._frames is None or self._given() <= self._frames:
            return
        now = self._clock()
        if self._due_since is None:
            self._due_since = now
        if now - self._due_since >= self._limit_s:
            error = DetectorError(
                "has answered nothing for {:.0f} s while the camera gave {} frames. The program ends, "
                "so that the service manager starts it anew; if it happens again, look at `dmesg` for "
                "the GPU's complaints and raise recovery.detector_s only for a network that really is "
                "that slow.".format(now - self._due_since, self._given() - self._frames)
            )
            raise StageError("detector", error) from error

    def _given(self) -> int:
        return int(self._meter.counts().get("camera", 0))
