"""Faces of still images: the ``detect`` command."""

import json
import os
import sys
from typing import Any, Dict, Optional, Sequence

from edge_app.config import PrivacySettings
from edge_app.detector import Detector
from edge_app.errors import DisplayError, ImageError
from edge_app.frames import Detections
from edge_app.images import list_images, read_image
from edge_app.overlay import Overlay
from edge_app.privacy import Privacy, pixelate


def detect_stills(
    detector: Detector,
    paths: Sequence[str],
    threshold: float,
    as_json: bool,
    draw_folder: Optional[str],
    privacy: PrivacySettings = PrivacySettings(),
) -> int:
    """Print the faces of every image, in the order given; folders sorted by name.

    An image that cannot be read is reported on the standard error, and the others go on.

    Args:
        detector: opened.
        paths: images and folders.
        threshold: lowest score wanted.
        as_json: print one JSON object a line and image.
        draw_folder: write the images with boxes there.
        privacy: faces in what is written there may have to be covered.

    Returns:
        The exit status: 0, or that of ImageError when an image could not be read.

    Raises:
        ImageError: there is no image at all under ``paths``.
        DisplayError: a drawn image cannot be written.
    """
    status = 0
    overlay = Overlay(False)
    hidden_from = Privacy(privacy).threshold(threshold)
    for path in list_images(paths):
        try:
            pixels = read_image(path)
        except ImageError as error:
            print("edge-app: {}".format(error), file=sys.stderr)
            status = error.exit_status
            continue
        suspected = detector.detect(pixels, hidden_from if draw_folder else threshold)
        faces = suspected.above(threshold)
        if as_json:
            print(json.dumps(as_dict(path, pixels, faces)))
        else:
            print(_in_words(path, faces))
        if draw_folder:
            if privacy.mode == "blur":
                pixelate(pixels, suspected)
            _write(draw_folder, path, overlay.draw(pixels, faces))
    return status


def as_dict(path: str, pixels: Any, faces: Detections) -> Dict[str, Any]:
    """The documented JSON object of one image; boxes in pixels of the image."""
    height, width = pixels.shape[:2]
    return {
        "file": path,
        "width": width,
        "height": height,
        "faces": [
            {"box": [round(float(side), 2) for side in box], "score": round(score, 6)}
            for box, score in faces
        ],
    }


def _in_words(path: str, faces: Detections) -> str:
    boxes = "; ".join(
        "{:.1%} at {:.0f},{:.0f} to {:.0f},{:.0f}".format(score, *box) for box, score in faces
    )
    count = "1 face" if len(faces) == 1 else "{} faces".format(len(faces))
    return "{}: {}{}".format(path, count, ": " + boxes if boxes else "")


def _write(folder: str, path: str, pixels: Any) -> None:
    import cv2

    target = os.path.join(folder, os.path.basename(path))
    root, ending = os.path.splitext(target)
    if ending.lower() not in (".jpg", ".jpeg", ".png", ".bmp"):
        target = root + ".png"
    if os.path.exists(target) and os.path.samefile(target, path):
        raise DisplayError(
            "{} would be overwritten by its own drawing; give another folder to --draw.".format(path)
        )
    try:
        os.makedirs(folder, exist_ok=True)
        encoded = cv2.imencode(os.path.splitext(target)[1], pixels)[1]
        with open(target, "wb") as file:
            file.write(encoded.tobytes())
    except OSError as error:
        raise DisplayError(
            "{} cannot be written: {}. Give a writable folder to --draw.".format(
                target, error.strerror
            )
        ) from error
