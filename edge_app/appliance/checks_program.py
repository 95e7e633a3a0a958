"""Is the software there that the program is made of: Python, NumPy, OpenCV, ONNX Runtime, the model?"""

import importlib.util
import os
import re
import sys
from typing import List

from edge_app.appliance import cures
from edge_app.appliance.cures import program, setup_command
from edge_app.appliance.finding import Finding, failure, not_needed, ok, warning
from edge_app.appliance.machine import CONFIG, Machine
from edge_app.appliance.preflight import look_at_numpy
from edge_app.appliance.probe import ask
from edge_app.card import card_path, load_card, verify_model
from edge_app.config import LoadedSettings, Settings
from edge_app.errors import CardError

_SYSTEM_PACKAGES = "/usr/lib/python3"  # where apt's Python packages lie
_ORDER = (
    "numpy",
    "pycuda.driver",
    "tensorrt",
    "gi",
    "cv2",
    "onnxruntime",
    "aiohttp",
)  # as in a run
_SLOW_S = 60.0  # a cold SD card


def settings(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Whether these are the settings of the service."""
    origins = {re.sub(r", line \d+$", "", origin) for origin in loaded.origins.values()}
    given = "{} given".format(len(loaded.origins)) if loaded.origins else "all defaults"
    if loaded.origins:
        given += " (by {})".format(", ".join(sorted(origins)))
    service = machine.path(CONFIG)
    if machine.exists(CONFIG) and service not in origins:
        return [
            warning(
                "settings",
                "{}; the service on this machine has others, in {}".format(given, service),
                ("" if os.access(service, os.R_OK) else "sudo ")
                + program("check --config {}".format(service)),
            )
        ]
    return [ok("settings", given)]


def python(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Version and environment."""
    seen = "{} ({})".format(".".join(map(str, sys.version_info[:3])), sys.executable)
    isolated = "include-system-site-packages = false"
    try:
        with open(os.path.join(sys.prefix, "pyvenv.cfg"), encoding="utf-8") as file:
            is_isolated = isolated in file.read().lower()
    except OSError:
        is_isolated = False
    if machine.is_jetson and is_isolated:
        return [
            failure(
                "Python",
                "{}: an environment that cannot see what JetPack brings (tensorrt, cv2, gi)".format(
                    seen
                ),
                "rm -rf {0} && python3 -m venv --system-site-packages {0}\n{1}".format(
                    sys.prefix, setup_command("edge-app[cpu,web]")
                ),
            )
        ]
    return [ok("Python", seen)]


def numpy(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Does it load and multiply?"""
    return [look_at_numpy()]


def opencv(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Does it load, whose is it, has it windows?"""
    probed = ask("opencv", limit_s=_SLOW_S)
    facts = probed.facts
    if not facts:
        return [failure("OpenCV", "does not load: " + probed.problem, opencv_fix(probed.problem))]
    seen = "{version} ({path})".format(**facts)
    if machine.is_jetson and not facts["path"].startswith(_SYSTEM_PACKAGES):
        return [
            warning(
                "OpenCV",
                "{}: a pip wheel hides the one of JetPack".format(seen),
                "{} -m pip uninstall -y opencv-python opencv-python-headless "
                "opencv-contrib-python".format(sys.executable),
            )
        ]
    if not facts["gstreamer"]:
        seen += ", without GStreamer, which is fine: cameras are read by GStreamer itself"
    kinds = [kind.strip() for kind in loaded.settings.display.kind.split(",")]
    if not facts["windows"] and "window" in kinds:
        fix = "{0} -m pip uninstall -y opencv-python-headless\n{0} -m pip install opencv-python"
        text = "{version} was built without windows, and display.kind asks for one".format(**facts)
        return [failure("OpenCV", text, fix.format(sys.executable))]
    return [ok("OpenCV", seen)]


def opencv_fix(problem: str) -> str:
    """What to paste against an OpenCV, or a library beside it, that does not load."""
    static = re.search(r"(\S+\.so[.\d]*): cannot allocate memory in static TLS block", problem)
    if static:
        path = static.group(1)
        return "export LD_PRELOAD={0}\necho LD_PRELOAD={0} | sudo tee -a /etc/environment".format(
            path
        )
    if "libGL.so" in problem:
        return "sudo apt install libgl1"
    if "libgthread" in problem or "libglib" in problem:
        return "sudo apt install libglib2.0-0"
    if "multiarray" in problem or "_ARRAY_API" in problem:
        return "{} -m pip install 'numpy<2'".format(sys.executable)
    return setup_command("opencv-python")


def onnx_runtime(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Does it load? It runs the network on a CPU, and judges a new engine on a GPU."""
    probed = ask("version", ["onnxruntime"], _SLOW_S)
    if probed.facts:
        return [ok("ONNX Runtime", "{version} ({path})".format(**probed.facts))]
    purpose = "runs the network on the CPU"
    if loaded.settings.detector.backend == "tensorrt":
        purpose = "compares a new TensorRT engine with the model"
    fix = setup_command("onnxruntime")
    return [
        failure("ONNX Runtime", "it {}, and does not load: {}".format(purpose, probed.problem), fix)
    ]


def model(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Are model and card there, whole, and of the same export?"""
    path = loaded.settings.detector.model
    try:
        card = load_card(card_path(path))
        verify_model(card, path)
    except CardError as error:
        return [failure("model", str(error), model_fix(loaded.settings))]
    size = "{}x{}".format(*card.input.size_wh)
    return [ok("model", "{} for {} pixels, whole and as its card says".format(path, size))]


def model_fix(settings: Settings) -> str:
    """How to get model and card afresh."""
    if os.path.exists(os.path.join(cures.PROJECT, ".git")) and settings.detector.model.startswith(
        cures.PROJECT
    ):
        return "git -C {} checkout engines/".format(cures.PROJECT)
    return "ls -l {}".format(os.path.dirname(settings.detector.model) or ".")


def network(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Does the network give an answer on the CPU, and how fast?"""
    settings = loaded.settings.detector
    if settings.backend == "tensorrt":
        return [not_needed("network", "detector.backend is tensorrt: see engine")]
    probed = ask("network", [os.path.abspath(settings.model), str(settings.threads)], _SLOW_S)
    if probed.facts:
        seen = "{description}: {milliseconds:.0f} ms for one picture".format(**probed.facts)
        rate_hz = 1e3 / max(1e-3, probed.facts["milliseconds"])
        return [ok("network", "{}, {:.0f} a second at most".format(seen, rate_hz))]
    fix = (
        model_fix(loaded.settings) if "engines/" in probed.problem else setup_command("onnxruntime")
    )
    return [failure("network", "does not run: " + probed.problem, fix)]


def together(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Libraries that load alone may not load together: static TLS, two versions of one C library."""
    there = [name for name in _ORDER if importlib.util.find_spec(name.split(".")[0]) is not None]
    probed = ask("together", there, _SLOW_S)
    failed = dict(probed.facts.get("failed", {}))
    if probed.problem:
        failed = dict.fromkeys(there, probed.problem)
    alone = {name: ask("together", [name], _SLOW_S) for name in failed}
    if any(one.problem or one.facts["failed"] for one in alone.values()):
        return [
            not_needed("libraries together", "first one that does not load by itself, see above")
        ]
    order = ", ".join(there)
    if not failed:
        return [ok("libraries together", "{}: load one after the other".format(order))]
    problem = "; ".join(sorted(set(failed.values())))
    text = "each loads alone, but not in the order of the program ({}): {}".format(order, problem)
    return [failure("libraries together", text, opencv_fix(problem))]
