"""Pictures from files: any kind OpenCV decodes, as 8-bit BGR, upright, or one clear error."""

import os
from typing import Iterator, List, Optional, Sequence

import numpy as np

from edge_app.errors import ImageError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_images(paths: Sequence[str]) -> List[str]:
    """Files as given, folders (and those inside them) sorted by name, in the order of ``paths``.

    A file is taken whatever its ending, since somebody asked for it; in a folder only ``ENDINGS``
    count and hidden files do not.

    Raises:
        ImageError: a path does not exist, a folder is closed to us, or there is no image at all.
    """
    found: List[str] = []
    for path in paths:
        if os.path.isdir(path):
            found += _in_folder(path)
        elif os.path.exists(path):
            found.append(path)
        else:
            raise ImageError("{}: no such file or folder; check the path".format(path))
    if not found:
        raise ImageError(
            "{}: no images there; known endings are {}".format(", ".join(paths), " ".join(ENDINGS))
        )
    return found


def read_image(path: str) -> np.ndarray:
    """Decode one image.

    Grey, palette, 16-bit and CMYK images become 8-bit BGR; transparency is dropped; the orientation
    a camera noted (EXIF) is applied.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        ImageError: missing, unreadable, empty, truncated, or not an image.
    """
    import cv2

    data = _content(path)
    problem = _incomplete(data)
    pixels: Optional[np.ndarray] = None
    if problem is None:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            pixels = None
    if pixels is None or pixels.size == 0:
        raise ImageError(
            "{}: {}; make it again or leave it out".format(
                path, problem or "not an image that OpenCV can decode, or damaged"
            )
        )
    return pixels


def _in_folder(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder, onerror=_closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield os.path.join(place, name)


def _closed(error: OSError) -> None:
    raise ImageError(
        "{}: the folder cannot be read ({}); check the rights".format(error.filename, error.strerror)
    ) from error


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except IsADirectoryError as error:
        raise ImageError("{}: a folder, not an image".format(path)) from error
    except OSError as error:
        raise ImageError(
            "{}: cannot be read ({}); check the path and the rights".format(path, error.strerror)
        ) from error
    if not data:
        raise ImageError("{}: the file is empty; make it again or leave it out".format(path))
    return data


def _incomplete(data: bytes) -> Optional[str]:
    """Why the file cannot be whole, or ``None``; decoders fill what is missing with grey."""
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]:
        return "a PNG that ends too early"
    if data.startswith(b"\xff\xd8") and not _jpeg_ends(data):
        return "a JPEG that ends too early"
    if data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return "a WebP that ends too early"
    return None


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end-of-image marker follows the first scan (ITU-T T.81, annex B).

    Segments before it are skipped by their length, since a preview in them has an end of its own;
    inside a scan 0xFF is always followed by 0x00 or a restart marker.
    """
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding before a marker
            place += 1
            continue
        if marker == 0xDA:
            return data.find(b"\xff\xd9", place) >= 0
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False
