"""Several models on the same picture: ``python3 -m training.comparison A.onnx B.onnx --out X.jpg``.

Side by side, each under its name, with the boxes of at least ``--threshold`` and their scores.
"""

import argparse
from typing import Optional, Sequence

import cv2
import numpy as np

from edge_app.config import DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.errors import ConfigError
from edge_app.images import read_image
from edge_app.overlay import Overlay
from edge_app.scene import Scene
from training import command

SCENE_WH = (1280, 720)
SCENE_FRAME = 6  # five faces in sight
LABEL_PX = 40
GAP_PX = 8


def panel(path: str, pixels: np.ndarray, threshold: float, width_px: int) -> np.ndarray:
    """The picture with one model's boxes, under the model's name."""
    with OnnxDetector(DetectorSettings(model=path)) as detector:
        faces = detector.detect(pixels, threshold)
        name = detector.card.name
    drawn = Overlay(with_figures=False).draw(pixels, faces)
    height_px = round(drawn.shape[0] * width_px / drawn.shape[1])
    drawn = cv2.resize(drawn, (width_px, height_px), interpolation=cv2.INTER_AREA)
    label = np.full((LABEL_PX, width_px, 3), 255, np.uint8)
    cv2.putText(label, name, (8, LABEL_PX - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 1, 16)
    gap = np.full((LABEL_PX + height_px, GAP_PX, 3), 255, np.uint8)
    return np.concatenate([np.concatenate([label, drawn]), gap], axis=1)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(prog="training.comparison", description=__doc__)
    parser.add_argument("models", nargs="+", help="ONNX files, their cards beside them")
    parser.add_argument("--picture", help="default: a frame of the demo's scene")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--width", type=int, default=640, help="of each panel, in px")
    parser.add_argument("--out", required=True, help="the .jpg or .png to write")
    options = parser.parse_args(arguments)
    if options.picture:
        pixels = read_image(options.picture)
    else:
        pixels = Scene(SCENE_WH).render(SCENE_FRAME)
    panels = [
        panel(path, pixels, options.threshold, options.width) for path in options.models
    ]
    write(options.out, np.concatenate(panels, axis=1))


def write(path: str, pixels: np.ndarray) -> None:
    """(H, W, 3) uint8 BGR to a file.

    Raises:
        ConfigError: it cannot be written, or its name ends in nothing that OpenCV writes.
    """
    try:
        is_written = cv2.imwrite(path, pixels)
    except cv2.error:
        is_written = False
    if not is_written:
        raise ConfigError(
            "--out {}: cannot be written; take a .jpg or .png in a folder there is.".format(path)
        )


if __name__ == "__main__":
    command.run("training.comparison", main)
