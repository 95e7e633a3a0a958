"""Can the network run on the GPU: driver and pycuda, TensorRT, the engine, its kernels' compiler."""

import os
import sys
from typing import List

from edge_app.appliance.cures import program, setup_command
from edge_app.appliance.finding import Finding, failure, not_needed, ok, warning
from edge_app.appliance.machine import Machine
from edge_app.appliance.probe import ask
from edge_app.card import card_path
from edge_app.config import LoadedSettings

_NVIDIA = ("proc/driver/nvidia/version", "dev/nvidiactl")  # of a PC's driver
_SLOW_S = 60.0  # a cold SD card
_JETPACK = "sudo apt install nvidia-jetpack"


def _why_not(loaded: LoadedSettings, machine: Machine) -> str:
    """Why nobody will ask for a GPU here; "" when somebody will."""
    backend = loaded.settings.detector.backend
    if backend == "onnxruntime":
        return "detector.backend is onnxruntime"
    if backend == "auto" and not _has_gpu(machine):
        return "no NVIDIA GPU here; the network runs on the CPU"
    return ""


def _has_gpu(machine: Machine) -> bool:
    return machine.is_jetson or any(machine.exists(name) for name in _NVIDIA)


def _broken(name: str, text: str, fix: str, loaded: LoadedSettings) -> Finding:
    """A failure where TensorRT was asked for by name; with ``auto`` the CPU does it, slowly."""
    if loaded.settings.detector.backend == "tensorrt":
        return failure(name, text, fix)
    slowly = "Until then the network runs on the CPU, slowly."
    return warning(name, "{}. {}".format(text.rstrip("."), slowly), fix)


def gpu(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Driver and pycuda."""
    reason = _why_not(loaded, machine)
    if reason:
        return [not_needed("GPU", reason)]
    if not _has_gpu(machine):
        text = "detector.backend is tensorrt, and there is no NVIDIA GPU or driver here"
        return [failure("GPU", text, program("run --set detector.backend=auto"))]
    probed = ask("gpu", limit_s=_SLOW_S)
    if probed.facts:
        seen = "{name} (sm_{sm}), CUDA {cuda}, pycuda {pycuda}".format(**probed.facts)
        return [ok("GPU", seen)]
    return [_broken("GPU", probed.problem, _gpu_fix(probed.problem, machine), loaded)]


def _gpu_fix(problem: str, machine: Machine) -> str:
    if "No module named 'pycuda" in problem:
        if machine.is_jetson:
            return "sudo apt install cuda-nvcc-10-2 || {}\n{}".format(
                _JETPACK, setup_command("pycuda")
            )
        return "{} -m pip install pycuda".format(sys.executable)
    if "no CUDA-capable device" in problem:
        return "sudo usermod -aG video {}\nnewgrp video".format(os.environ.get("USER", "$USER"))
    if "libcuda" in problem:
        return "sudo apt install --reinstall nvidia-l4t-cuda" if machine.is_jetson else "nvidia-smi"
    return "sudo dmesg | grep -iE 'nvgpu|nvrm' | tail"


def tensorrt(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """TensorRT for this Python."""
    reason = _why_not(loaded, machine)
    if not reason and not _has_gpu(machine):
        reason = "first a GPU, see above"
    if reason:
        return [not_needed("TensorRT", reason)]
    probed = ask("tensorrt", limit_s=_SLOW_S)
    if probed.facts:
        return [ok("TensorRT", "{version} ({path})".format(**probed.facts))]
    fix = _JETPACK if machine.is_jetson else program("run --set detector.backend=onnxruntime")
    return [_broken("TensorRT", probed.problem, fix, loaded)]


def engine(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Would the next start use the engine that is there, or build for minutes?"""
    reason = _why_not(loaded, machine)
    settings = loaded.settings.detector
    if not reason and not os.path.exists(card_path(settings.model)):
        reason = "first the model, see above"
    if reason:
        return [not_needed("engine", reason)]
    probed = ask("engine", [os.path.abspath(settings.model), settings.engines], _SLOW_S)
    if probed.problem:
        return [not_needed("engine", "first GPU and TensorRT, see above")]
    facts = probed.facts
    convert = program("convert {}".format(settings.model))
    if settings.engines:
        convert += " --output {}".format(settings.engines)
    if facts["refusal"]:
        text = "it is not built again, since it was refused: {refusal}".format(**facts)
        return [_broken("engine", text, convert, loaded)]
    if facts["engine"]:
        text = "the next start builds it for several minutes, since {}".format(facts["engine"])
        return [warning("engine", text, convert)] + _compiler()
    if facts["kernels"]:
        text = "the next start compiles its kernels, since {}".format(facts["kernels"])
        return [warning("engine", text, convert)] + _compiler()
    if not facts["verified"]:
        text = "{path} fits, and is compared with the model at the next start".format(**facts)
        return [warning("engine", text, convert)]
    return [ok("engine", "{path} fits model, TensorRT, GPU and precision".format(**facts))]


def _compiler() -> List[Finding]:
    """Only asked for when kernels must be compiled."""
    probed = ask("compiler")
    if probed.facts:
        return [ok("CUDA compiler", "{version} ({path})".format(**probed.facts))]
    return [failure("CUDA compiler", probed.problem, "sudo apt install cuda-nvcc-10-2")]
