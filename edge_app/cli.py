"""The command line, and the composition root: the one place that knows every part."""

import argparse
import errno
import json
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence
from urllib.parse import unquote

from edge_app import __version__, config
from edge_app.appliance import logs
from edge_app.arguments import parse
from edge_app.errors import (
    DetectorError,
    DisplayError,
    EdgeAppError,
    EndOfStream,
    OutOfMemoryError,
)
from edge_app.passwords import hide

if TYPE_CHECKING:  # NumPy comes with them: half a second, or what `check` is there to tell of
    from edge_app.camera import Camera
    from edge_app.detector import Detector

log = logging.getLogger(__name__)

_IDLE_S = 0.1  # the window is served, and a stop noticed, at least this often


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run a command; returns its exit status.

    0: done. 2: the command line is wrong. 78: a setting is wrong. 130: stopped by Ctrl-C, where that is
    not the way to end. Others: see ``edge_app.errors``.
    """
    try:
        options = _options(arguments)
        logs.install(options.verbose, sys.stderr, os.environ.get("JOURNAL_STREAM", ""))
        status = _COMMANDS[options.name](options)
        _flush()
        return status
    except EdgeAppError as error:
        return _report(error, options.verbose)
    except KeyboardInterrupt:
        _settle()
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO, errno.ENOSPC) or error.filename:
            raise
        _print_nowhere()
        if error.errno != errno.ENOSPC:  # who read our output has gone: head, less, a terminal
            return 0
        return _report(DisplayError("what it says cannot be written: the disk is full"), False)


def _options(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    """What was typed; where that is all (``--help``), what is printed of it is on its way."""
    try:
        return parse(arguments)
    except SystemExit:
        _flush()
        raise


def _flush() -> None:
    """What was printed is on its way; without a standard output (``>&-``) there is nothing to do."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _settle() -> None:
    """The same at an end that has another reason; where it does not go, so be it."""
    try:
        _flush()
    except OSError:
        _print_nowhere()


def _print_nowhere() -> None:
    """From now on; what is still held back goes there too, so that the end of the process is quiet."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: EdgeAppError, verbose: bool) -> int:
    """Say what went wrong in one clear message; returns its exit status."""
    if verbose:
        log.error("where it happened:", exc_info=error)
    _settle()
    print("edge-app: {}".format(error), file=sys.stderr)
    return error.exit_status


def run(options: argparse.Namespace) -> int:
    """Show faces from a source until it ends, the time is over, or somebody stops it."""
    from edge_app.appliance.status import Status
    from edge_app.meter import Meter
    from edge_app.overlay import Overlay
    from edge_app.pipeline import Pipeline
    from edge_app.privacy import Privacy
    from edge_app.summary import Summary, see_place
    from edge_app.tracker import Tracker

    settings = _settings(options).settings
    _keep_source(settings)
    if options.stats:
        see_place(options.stats)
    stopping = _stop_on_signals()
    meter, overlay = Meter(), Overlay(settings.display.figures)
    appliance = _Appliance(settings, Status(), meter, os.environ.get("NOTIFY_SOCKET", ""))
    detector = open_detector(settings, appliance.progress)
    camera = appliance.camera(source_of(settings))
    tracker, privacy = Tracker(settings.faces, camera.related), Privacy(settings.privacy)
    limits = _Limits(options.frames, options.seconds)
    pipeline = Pipeline(camera, detector, privacy.threshold(tracker.threshold), meter)
    status = 0
    try:
        with appliance.watchers(camera) as watchers:
            with appliance.displays(detector, camera) as display, pipeline:
                while not (stopping.is_set() or display.closed):
                    if limits.reached(meter.shown, pipeline.is_ready):
                        break
                    result = pipeline.next(_IDLE_S)
                    if result is None:
                        display.idle()
                        watchers.idle()
                        continue
                    found = result.faces.above(tracker.threshold)
                    at_s = camera.moment(result.frame)
                    faces = tracker.update(found, at_s, result.frame.size_wh)
                    covered = privacy.cover(result, at_s)
                    picture = _draw(covered, faces, tracker.tracks, pipeline, meter, overlay)
                    _show(picture, meter, display, watchers)
    except EndOfStream:
        pass
    except EdgeAppError as error:
        status = _report(error, options.verbose)
    summary = Summary.of(
        meter, pipeline.dropped, pipeline.left, camera.name, detector.description
    )
    try:
        if options.stats:
            summary.save(options.stats)
    finally:
        if status == 0 or meter.shown:
            print(summary.table())
    return _leave(status, pipeline.stop())


def _draw(
    result: Any, faces: Any, tracks: Any, pipeline: Any, meter: Any, overlay: Any
) -> Any:
    """Draw one result, and note how long that took."""
    from edge_app.frames import Picture

    started = time.monotonic()
    figures = meter.figures(started, started - result.frame.captured_at, pipeline.dropped)
    pixels = overlay.draw(result.frame.pixels, faces, figures)
    meter.add("overlay", time.monotonic() - started)
    return Picture(pixels, faces, result, figures, tracks)


def _show(picture: Any, meter: Any, display: Any, watchers: Any) -> None:
    """Show a picture, and note how long that took and how old it was on the screen."""
    drawn = time.monotonic()
    display.show(picture)
    shown = time.monotonic()
    meter.add("display", shown - drawn)
    meter.add("latency", shown - picture.result.frame.captured_at)
    meter.count("faces", len(picture.faces))
    meter.count("frames_with_faces", int(len(picture.faces) > 0))
    meter.tick("display", shown)
    watchers.show(picture)


def detect(options: argparse.Namespace) -> int:
    """Faces of images and folders of images, one line an image."""
    from edge_app.stills import detect_stills

    settings = _settings(options).settings
    threshold = settings.faces.show
    with open_detector(settings) as detector:
        failed = detect_stills(
            detector, options.paths, threshold, options.json, options.draw, settings.privacy
        )
    return failed


def bench(options: argparse.Namespace) -> int:
    """Measure each stage and the whole pipeline."""
    from edge_app.bench import measure

    settings = _settings(options).settings
    report = measure(settings, options.frames, open_detector)
    print(json.dumps(report.as_dict()) if options.json else report.table())
    return 0


def show_config(options: argparse.Namespace) -> int:
    """Print the settings in force, as YAML, and where each came from."""
    loaded = _settings(options)
    section = ""
    for path, value in config.flatten(loaded.settings):
        if path.split(".")[0] != section:
            section = path.split(".")[0]
            print("{}:".format(section))
        value = hide(value) if isinstance(value, str) else value
        shown = "(set, not shown)" if path in config.SECRETS and value else json.dumps(value)
        line = "  {}: {}".format(path.split(".")[1], shown)
        print("{:<48}# {}".format(line, loaded.origins.get(path, "default")))
    return 0


def convert(options: argparse.Namespace) -> int:
    """Build the TensorRT engine of a model, prove its precision, and compare it with ONNX Runtime."""
    from edge_app.nvidia.convert import ConvertOptions, build

    wanted = ConvertOptions(options.precision, options.output, options.sm, options.force)
    files = build(options.onnx, wanted, print)
    print(files.engine)
    return 0


def check(options: argparse.Namespace) -> int:
    """Look at this machine as a doctor would, or write an archive for whoever helps."""
    from edge_app.appliance import bundle, doctor

    loaded = _settings(options)
    if options.bundle:
        bundle.write(options.bundle, loaded)
        return 0
    return doctor.check(loaded, options.json)


def open_detector(
    settings: config.Settings,
    progress: Callable[[str], None] = log.info,
    falls_back: bool = True,
) -> "Detector":
    """The detector that the settings ask for, not yet opened; ``auto`` is TensorRT where it works.

    It is the CPU, and a line says why, where something is missing that TensorRT needs, or where opening
    it fails: the build or the comparison is refused, there is no compiler, the folder is closed. Only want of
    memory at the moment ends the program also then: its next start may find some, while a Nano that has
    once fallen back would be slow until somebody looks. ``tensorrt`` by name is that or an error.

    Args:
        progress: is told what happens while an engine is built.
        falls_back: whether ``auto`` is the CPU also where all is there and opening it fails.

    Raises:
        OutOfMemoryError: the GPU has no memory at the moment.
        DetectorError: TensorRT was asked for by name, and something it needs is missing.
    """
    from edge_app.camera import is_jetson
    from edge_app.detector import FallbackDetector, OnnxDetector

    if settings.detector.backend == "onnxruntime":
        return OnnxDetector(settings.detector)
    from edge_app.nvidia.detector import open_cuda_detector

    is_strict = settings.detector.backend == "tensorrt"
    try:
        cuda = open_cuda_detector(settings.detector, progress)
        if is_strict or not falls_back:
            return cuda
        return FallbackDetector(cuda, OnnxDetector(settings.detector))
    except OutOfMemoryError:
        raise
    except DetectorError as error:
        if is_strict:
            raise
        log.log(logging.WARNING if is_jetson() else logging.DEBUG, "on the CPU, since: %s", error)
        return OnnxDetector(settings.detector)


def source_of(settings: config.Settings) -> "Callable[[], Camera]":
    """Makes the camera that the settings ask for, not yet opened, as often as it is called.

    ``jetson:URI`` keeps frames on the GPU.
    """
    source = settings.camera.source
    if source.startswith("jetson:"):
        from edge_app.nvidia.jetson import JetsonCamera

        return lambda: JetsonCamera(source[len("jetson:") :], settings.camera)
    from edge_app.camera import CameraOpener

    return CameraOpener(settings.camera)


class _Appliance:
    """What stands around the path in a run: recovery, sensors, metrics, events, the service manager.

    Args:
        settings: the whole tree.
        status: what all of them know of each other.
        meter: of the run.
        notify: systemd's socket; empty where it has not started the program.
    """

    def __init__(
        self, settings: config.Settings, status: Any, meter: Any, notify: str
    ) -> None:
        from edge_app.appliance.metrics import Metrics
        from edge_app.appliance.power import PowerWatch

        status.note("service", "started, edge-app {}".format(__version__))
        self._settings = settings
        self._status = status
        self._notify = notify
        self._meter = meter
        self._power = PowerWatch(settings.power, status)
        self._metrics = Metrics(status, meter)

    def progress(self, text: str) -> None:
        """An engine is being built: that is what a start waits for; the status logs it."""
        self._status.waiting("detector", text)

    @property
    def recovers(self) -> bool:
        """Whether a dead camera is opened anew instead of ending the run."""
        mode = self._settings.recovery.mode
        return mode == "always" or (mode == "auto" and bool(self._notify))

    def camera(self, make: "Callable[[], Camera]") -> "Camera":
        """The camera with what looks after it."""
        from edge_app.appliance.power import PacedCamera
        from edge_app.appliance.recovery import DaemonRestart, RecoveringCamera
        from edge_app.camera import is_jetson

        settings = self._settings
        if self.recovers:
            restart = DaemonRestart(settings.recovery.daemon_restarts)
            camera: Camera = RecoveringCamera(
                make, settings.recovery, self._status, restart, settings.camera.source
            )
        else:
            camera = make()
        mode = settings.power.mode
        if mode == "always" or (mode == "auto" and is_jetson()):
            camera = PacedCamera(camera, self._power)
        return camera

    def watchers(self, camera: "Camera") -> Any:
        """What is told of every picture and shows none; ``with`` opens them."""
        from edge_app.appliance.events import Events
        from edge_app.appliance.leftovers import Leftovers
        from edge_app.appliance.recovery import DetectorWatch
        from edge_app.appliance.service import Notifier
        from edge_app.appliance.status import FirstPicture
        from edge_app.display import Displays

        settings, status = self._settings, self._status
        members: List[Any] = [
            ("start", lambda: FirstPicture(status)),
            ("sensors", lambda: self._power),
            ("metrics", lambda: self._metrics),
            ("leftovers", Leftovers),
        ]
        if self._notify:
            members.append(("service manager", lambda: Notifier(status, self._notify)))
        if settings.events.file or settings.events.mqtt:
            insists = not self.recovers  # a service goes on without a file, as without a screen
            members.append(
                ("events", lambda: Events(settings.events, status, camera, insists))
            )
        if self.recovers:
            members.append(("detector watch", lambda: DetectorWatch(self._meter, settings.recovery)))
        return Displays(members)

    def displays(self, detector: "Detector", camera: "Camera") -> Any:
        """The displays that the settings ask for; a service goes on without one that fails."""
        from edge_app.appliance.late import lasting_displays

        def make(kind: str) -> Any:
            one = settings._replace(display=settings.display._replace(kind=kind))
            return open_displays(one, detector, camera, self._status, self._metrics)

        settings, kind = self._settings, self._settings.display.kind
        return lasting_displays(kind, make, self._status) if self.recovers else make(kind)


def open_displays(
    settings: config.Settings, detector: "Detector", camera: "Camera", status: Any, metrics: Any
) -> Any:
    """The displays that the settings ask for, not yet opened."""
    from edge_app import display

    def make_web() -> Any:
        from edge_app.appliance.web import WebDisplay

        return WebDisplay(settings.web, detector, camera, status, metrics)

    def make_jetson(uri: str) -> Any:
        from edge_app.nvidia.jetson import JetsonDisplay

        return JetsonDisplay(uri or "display://0")

    def make_rtsp(target: str) -> Any:
        from edge_app.appliance.stream import RtspDisplay

        return RtspDisplay(settings.rtsp, target)

    return display.open_displays(
        settings.display, make_web, {"jetson": make_jetson, "rtsp": make_rtsp}
    )


def _keep_source(settings: config.Settings) -> None:
    """See that no clip is written over the one that it shows.

    Raises:
        DisplayError: it would be.
    """
    from edge_app.clip import unfinished

    source = settings.camera.source
    source = unquote(source[len("file://") :]) if source.startswith("file://") else source
    for word in (part.strip() for part in settings.display.kind.split(",")):
        path = word[len("file:") :] if word.startswith("file:") else ""
        written = [one for one in (path, unfinished(path)) if path and os.path.exists(one)]
        if os.path.exists(source) and any(os.path.samefile(one, source) for one in written):
            raise DisplayError(
                "{} would be overwritten by its own clip; give another name to --display "
                "file:PATH.".format(path)
            )


class _Limits:
    """When a run ends by itself: after so many frames on the screen, or so many seconds of looking.

    The seconds begin when the detector is ready: its first start on a Jetson takes ten minutes.
    """

    def __init__(self, frames: Optional[int], seconds: Optional[float]) -> None:
        self._frames = frames
        self._seconds = seconds
        self._ready_at: Optional[float] = None

    def reached(self, shown: int, is_ready: bool) -> bool:
        """Whether to end now, ``shown`` frames having been shown, by a detector that ``is_ready``."""
        if self._frames is not None and shown >= self._frames:
            return True
        now = time.monotonic()
        if self._ready_at is None and is_ready:
            self._ready_at = now
        if self._seconds is None or self._ready_at is None:
            return False
        return now - self._ready_at >= self._seconds


def _stop_on_signals() -> threading.Event:
    """An event that Ctrl-C, SIGTERM and a terminal that is closed set; a second one ends it at once."""
    stopping = threading.Event()

    def stop(number: int, _frame: Optional[FrameType]) -> None:
        if stopping.is_set() and number != signal.SIGHUP:  # which comes from the shell and the kernel
            os._exit(128 + number)
        stopping.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, stop)
    return stopping


def _leave(status: int, stuck: Sequence[str]) -> int:
    """The exit status; but where a thread is stuck inside a driver, the process ends here and now."""
    if not stuck:
        return status
    log.warning("the %s would not stop (stuck in its driver); leaving without it", " and ".join(stuck))
    logging.shutdown()
    _settle()
    os._exit(status)


def _settings(options: argparse.Namespace) -> config.LoadedSettings:
    """Defaults, then ``--config``, then ``--set``, then the options that have a name of their own."""
    given = config.read_file(options.config) if options.config else []
    given += [config.from_assignment(text) for text in options.set]
    for path, option in (
        ("camera.source", "source"),
        ("display.kind", "display"),
        ("faces.show", "threshold"),
    ):
        value = getattr(options, option, None)
        if value is not None:
            given.append(config.Given(path, value, "--" + option))
    return config.resolve(given)


_COMMANDS: Dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "detect": detect,
    "bench": bench,
    "config": show_config,
    "convert": convert,
    "check": check,
}
