"""The command line's words: what may be typed, and what it says about itself."""

import argparse
from typing import Any, Callable, Optional, Sequence

from edge_app import __version__


def parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    """The options; ``name`` is that of the command. Ends the process with status 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="edge-app", description="Finds faces in a live camera, a clip or images, and shows them."
    )
    parser.add_argument("--version", action="version", version="edge-app " + __version__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", metavar="FILE", help="settings as YAML (see 'edge-app config')")
    shared.add_argument(
        "--set", metavar="section.key=value", action="append", default=[], help="one setting"
    )
    shared.add_argument("--verbose", action="store_true", help="debug log, traceback of errors")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND")
    commands.required = True

    def add(name: str, text: str) -> Any:
        return commands.add_parser(name, parents=[shared], help=text, description=text)

    sub = add("run", "Show the faces of a camera or clip, live.")
    sub.add_argument("--source", metavar="URI", help="csi://0, v4l2:///dev/video0, rtsp://..., FILE, ...")
    sub.add_argument("--display", metavar="KIND", help="auto, window, web, rtsp:, file:PATH, none, or A,B")
    sub.add_argument("--threshold", metavar="T", type=float, help="score at which a face appears")
    sub.add_argument("--frames", metavar="N", type=_positive(int), help="end after N frames")
    sub.add_argument("--seconds", metavar="S", type=_positive(float), help="end S seconds after the network is ready")
    sub.add_argument("--stats", metavar="FILE.json", help="write the summary here as well")

    sub = add("detect", "Find the faces of images and folders of images.")
    sub.add_argument("paths", metavar="PATH", nargs="+", help="image or folder")
    sub.add_argument("--threshold", metavar="T", type=float, help="lowest score wanted, 0 to 1")
    sub.add_argument("--json", action="store_true", help="one JSON object a line and image")
    sub.add_argument("--draw", metavar="DIR", help="write the images with boxes into this folder")

    sub = add("bench", "Measure every stage: p50, p95, p99, throughput, drops, memory.")
    sub.add_argument("--source", metavar="URI", help="default: camera.source, as for run")
    sub.add_argument("--frames", metavar="N", type=_positive(int), default=300)
    sub.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    sub = add("convert", "Build the TensorRT engine of a model, on the device it is for.")
    sub.add_argument("onnx", metavar="ONNX", help="the model; its card lies beside it")
    sub.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    sub.add_argument("--output", metavar="DIR", help="default: beside the ONNX")
    sub.add_argument("--sm", type=int, default=0, help="for another GPU, for instance 86")
    sub.add_argument("--force", action="store_true", help="keep an engine that fails the comparison")

    add("config", "Print the settings in force and where each came from.")

    sub = add(
        "check",
        "Look whether everything here fits together, and say what to do where it does not. "
        "Exit status 0: it does, perhaps with warnings; 1: something is in the way.",
    )
    sub.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    sub.add_argument("--bundle", metavar="FILE.tar.gz", help="write an archive for whoever helps you")
    return parser.parse_args(arguments)


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse_one(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError("{} is not a positive number".format(text))
        return value

    return parse_one
