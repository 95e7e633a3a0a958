"""Faces of still images: the ``detect`` command."""

import json
import os
import sys
from typing import Any, Dict, Optional, Sequence, Set, Tuple

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
        draw_folder: write the images with boxes there; of two with one name the second gets a number.
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
    images = list_images(paths)
    drawings = _Drawings(draw_folder, images) if draw_folder else None
    for path in images:
        try:
            pixels = read_image(path)
        except ImageError as error:
            print("edge-app: {}".format(error), file=sys.stderr)
            status = error.exit_status
            continue
        suspected = detector.detect(pixels, hidden_from if drawings else threshold)
        faces = suspected.above(threshold)
        if as_json:
            print(json.dumps(as_dict(path, pixels, faces)))
        else:
            print(_in_words(path, faces))
        if drawings:
            if privacy.mode == "blur":
                pixelate(pixels, suspected)
            drawings.write(path, overlay.draw(pixels, faces))
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


class _Drawings:
    """The drawn images of one call, in one folder: each gets a name of its own.

    Args:
        folder: made when it does not exist.
        images: all that will be read; none of them is written over.
    """

    def __init__(self, folder: str, images: Sequence[str]) -> None:
        self._folder = folder
        self._images = {_identity(image) for image in images}
        self._names: Set[str] = set()

    def write(self, path: str, pixels: Any) -> None:
        """Write the drawing of the image ``path``.

        Raises:
            DisplayError: it cannot be written, or only in the place of an image.
        """
        import cv2

        target = os.path.join(self._folder, self._name(path))
        if _identity(target) in self._images - {None}:
            raise DisplayError(
                "{} would be overwritten by {}; give another folder to --draw.".format(
                    target, "its own drawing" if target == path else "the drawing of " + path
                )
            )
        try:
            os.makedirs(self._folder, exist_ok=True)
            encoded = cv2.imencode(os.path.splitext(target)[1], pixels)[1]
            with open(target, "wb") as file:
                file.write(encoded.tobytes())
        except OSError as error:
            raise DisplayError(
                "{} cannot be written: {}. Give a writable folder to --draw.".format(
                    target, error.strerror
                )
            ) from error

    def _name(self, path: str) -> str:
        """That of the image; with a number where another image had the same."""
        root, ending = os.path.splitext(os.path.basename(path))
        if ending.lower() not in (".jpg", ".jpeg", ".png", ".bmp"):
            ending = ".png"
        name, number = root + ending, 1
        while name in self._names:
            number += 1
            name = "{}-{}{}".format(root, number, ending)
        self._names.add(name)
        return name


def _identity(path: str) -> Optional[Tuple[int, int]]:
    """What is the same for all names of one file; ``None`` when there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
