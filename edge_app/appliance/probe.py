"""Looking at a library in a process of its own: one that crashes or hangs is a finding, not our end.

    python -m edge_app.appliance.probe numpy

prints what was found as one line of JSON: the child's side. ``ask`` is the parent's.
"""

import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

_PACKAGE_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_BURIAL_S = 1.0  # how long a killed child may take to be gone; one stuck in a driver never is
_TEXT = 400  # characters kept of an error


class Answer(NamedTuple):
    """What came of a command."""

    status: Optional[int]  # as of subprocess: negative is a signal; None: it did not end in time
    text: str  # standard output
    error: str  # standard error


class Probed(NamedTuple):
    """What came of a probe."""

    facts: Dict[str, Any]  # empty when it failed
    problem: str  # why it failed, in the words of the library or of the system; "" when it did not
    crashed: bool  # it was ended by a signal


def command(arguments: Sequence[str], limit_s: float, environment: Sequence[str] = ()) -> Answer:
    """Run a program, never for longer than ``limit_s`` and a second.

    Args:
        environment: NAME=VALUE, besides our own variables.
    """
    variables = dict(os.environ, **dict(one.split("=", 1) for one in environment))
    try:
        child = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=variables,
            start_new_session=True,
        )
    except OSError as error:
        return Answer(127, "", "{}: {}".format(arguments[0], error.strerror))
    try:
        text, error_text = child.communicate(timeout=limit_s)
        return Answer(child.returncode, text, error_text)
    except subprocess.TimeoutExpired:
        _kill(child)
        return Answer(None, "", "no answer within {:g} s".format(limit_s))


def _kill(child: "subprocess.Popen[str]") -> None:
    """End it and its children; one that cannot be killed (it hangs in a driver) is left behind."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        pass
    try:
        child.communicate(timeout=_BURIAL_S)
    except subprocess.TimeoutExpired:
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def ask(
    probe: str,
    arguments: Sequence[str] = (),
    limit_s: float = 30.0,
    environment: Sequence[str] = (),
) -> Probed:
    """Run one of ``PROBES`` in a child process.

    Args:
        arguments: of the probe.
        environment: NAME=VALUE, besides our own variables.
    """
    paths = [_PACKAGE_FOLDER, os.environ.get("PYTHONPATH", "")]
    line = [sys.executable, "-m", "edge_app.appliance.probe", probe] + list(arguments)
    python_path = "PYTHONPATH=" + os.pathsep.join(path for path in paths if path)
    answer = command(line, limit_s, [python_path] + list(environment))
    if answer.status == 0:
        return Probed(json.loads(answer.text.splitlines()[-1]), "", False)
    if answer.status is None:
        return Probed({}, answer.error, False)
    if answer.status < 0:
        name = signal.Signals(-answer.status).name
        return Probed({}, "the process was ended by {}".format(name), True)
    lines = answer.error.strip().splitlines() or ["it said nothing"]
    return Probed({}, lines[-1][-_TEXT:], False)


def _numpy() -> Dict[str, Any]:
    import numpy

    product = numpy.ones((64, 64), numpy.float32).dot(numpy.ones((64, 64), numpy.float32))
    assert product[0, 0] == 64.0, "numpy multiplies wrongly"
    return {"version": numpy.__version__, "path": os.path.dirname(numpy.__file__)}


def _opencv() -> Dict[str, Any]:
    import cv2
    import numpy

    cv2.resize(numpy.zeros((8, 8, 3), numpy.uint8), (4, 4))
    information = cv2.getBuildInformation()

    def line(key: str) -> str:
        match = re.search(r"^ *{}: *(.*)$".format(key), information, re.MULTILINE)
        return match.group(1).strip() if match else ""

    return {
        "version": cv2.__version__,
        "path": os.path.dirname(os.path.abspath(cv2.__file__)),
        "gstreamer": line("GStreamer").startswith("YES"),
        "windows": line("GUI") not in ("", "NONE"),
    }


def _gstreamer(*elements: str) -> Dict[str, Any]:
    from edge_app.gstreamer import load_gstreamer

    gst = load_gstreamer()
    there = [name for name in elements if gst.ElementFactory.find(name) is not None]
    return {"version": gst.version_string().replace("GStreamer ", ""), "elements": there}


def _version(name: str) -> Dict[str, Any]:
    module = importlib.import_module(name)
    return {
        "version": str(getattr(module, "__version__", "of unknown version")),
        "path": os.path.dirname(str(module.__file__)),
    }


def _network(model: str, threads: str) -> Dict[str, Any]:
    import numpy

    from edge_app.config import DetectorSettings
    from edge_app.detector import OnnxDetector

    with OnnxDetector(DetectorSettings(model=model, threads=int(threads))) as detector:
        picture = numpy.zeros(
            (detector.card.input.height_px, detector.card.input.width_px, 3), numpy.uint8
        )
        detector.detect(picture, 0.95)
        started = time.perf_counter()
        detector.detect(picture, 0.95)
        milliseconds = 1e3 * (time.perf_counter() - started)
        return {"description": detector.description, "milliseconds": milliseconds}


def _gpu() -> Dict[str, Any]:
    from edge_app.nvidia.context import describe_gpu, import_driver

    driver = import_driver()
    gpu = describe_gpu()
    cuda = "{}.{}".format(
        driver.get_driver_version() // 1000, driver.get_driver_version() % 1000 // 10
    )
    return {"name": gpu.name, "sm": gpu.sm, "cuda": cuda, "pycuda": _version("pycuda")["version"]}


def _tensorrt() -> Dict[str, Any]:
    from edge_app.nvidia.builder import tensorrt_version
    from edge_app.nvidia.engine import import_tensorrt

    module = import_tensorrt()
    return {"version": tensorrt_version(module), "path": os.path.dirname(module.__file__)}


def _engine(model: str, folder: str) -> Dict[str, Any]:
    """Why engine and kernels would be made anew at the next start, and why the engine would not."""
    from edge_app.card import card_path, load_card
    from edge_app.nvidia import cache, convert
    from edge_app.nvidia.context import describe_gpu

    files = cache.files_of(model, folder or None)
    stale = convert.why_stale(files, load_card(card_path(model)), describe_gpu())
    verified = not stale.engine and cache.load_record(files.record).verified
    facts = {"path": files.engine, "engine": stale.engine, "kernels": stale.kernels}
    return dict(facts, verified=verified, refusal=stale.refusal)


def _compiler() -> Dict[str, Any]:
    from edge_app.nvidia.compiler import find_compiler

    found = find_compiler()
    return {"version": found.version, "path": found.path}


def _screen() -> Dict[str, Any]:
    """Whether the X server of DISPLAY lets us in."""
    library = ctypes.CDLL("libX11.so.6")
    library.XOpenDisplay.restype = ctypes.c_void_p
    display = library.XOpenDisplay(None)
    if not display:
        return {"open": False}
    library.XCloseDisplay(ctypes.c_void_p(display))
    return {"open": True}


def _recorder(encoder: str) -> Dict[str, Any]:
    """Open the RTSP stream for a moment, at a free port of this machine, with an encoder that works."""
    from edge_app.appliance.stream import RtspDisplay
    from edge_app.config import RtspSettings

    with RtspDisplay(RtspSettings(host="127.0.0.1", port=0, encoder=encoder)):
        return {"works": True}


def _together(*names: str) -> Dict[str, Any]:
    """Import libraries in this order; what failed, by name."""
    failed = {}
    for name in names:
        try:
            if name == "gi":
                _gstreamer()
            else:
                importlib.import_module(name)
        except Exception as error:  # a broken library raises what it likes
            failed[name] = " ".join(str(error).split())[-_TEXT:]
    return {"failed": failed}


PROBES: Dict[str, Callable[..., Dict[str, Any]]] = {
    "numpy": _numpy,
    "opencv": _opencv,
    "gstreamer": _gstreamer,
    "version": _version,
    "network": _network,
    "gpu": _gpu,
    "tensorrt": _tensorrt,
    "engine": _engine,
    "compiler": _compiler,
    "screen": _screen,
    "recorder": _recorder,
    "together": _together,
}


def main(arguments: List[str]) -> int:
    """The child's side: run a probe, print its facts; 1 and the error's text when it fails."""
    try:
        facts = PROBES[arguments[0]](*arguments[1:])
    except Exception as error:  # whatever a broken library raises is what we want to know
        sys.stderr.write("{}\n".format(" ".join(str(error).split()) or type(error).__name__))
        return 1
    sys.stdout.write("\n{}\n".format(json.dumps(facts)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
