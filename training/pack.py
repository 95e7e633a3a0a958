"""A data folder as one small file: ``python3 -m training.pack DATA FILE.tar``.

For a machine that trains and has no data yet. Pictures of the training set are reduced and written
anew, boxes scaled with them; test pictures, lists and ground truth go in as they are, so that what
is measured does not change. Unpack with ``tar -xf``: the layout is the same.
"""

import argparse
import io
import os
import tarfile
from typing import List, Optional, Sequence

import cv2
import numpy as np
from tqdm import tqdm

from edge_app.errors import ImageError
from edge_app.images import read_image
from training import command, data

TRAIN = os.path.join("wider", "WIDER_train", "images")
LIST = os.path.join("wider", "wider_face_split", "wider_face_train_bbx_gt.txt")


def pack(root: str, path: str, long_side_px: int, quality: int) -> int:
    """Write the file; gives the number of pictures packed. Unreadable ones stay out, by name."""
    entries = list(data.read_list(os.path.join(root, LIST)))
    lines: List[str] = []
    count = 0
    with tarfile.open(path + ".new", "w") as archive:
        for name, rows in tqdm(entries, desc="packing"):
            try:
                pixels = read_image(os.path.join(root, TRAIN, *name.split("/")))
            except ImageError as error:
                print("skipped: {}".format(error))
                continue
            ratio = min(1.0, long_side_px / max(pixels.shape[:2]))
            if ratio < 1:
                pixels = cv2.resize(pixels, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
            coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            _add(archive, os.path.join(TRAIN, *name.split("/")), coded)
            lines += _entry(name, rows, ratio)
            count += 1
        _add(archive, LIST, ("\n".join(lines) + "\n").encode("utf-8"))
        for folder in ("wider/WIDER_val", "wider/ground_truth", "near"):
            if os.path.isdir(os.path.join(root, folder)):
                archive.add(os.path.join(root, folder), folder)
        test_list = LIST.replace("_train_", "_val_")
        if os.path.isfile(os.path.join(root, test_list)):
            archive.add(os.path.join(root, test_list), test_list)
    os.replace(path + ".new", path)
    return count


def _entry(name: str, rows: np.ndarray, ratio: float) -> List[str]:
    lines = [name, str(len(rows))]
    for row in rows if len(rows) else np.zeros((1, 10)):
        numbers = ["{:.1f}".format(value * ratio) for value in row[:4]]
        lines.append(" ".join(numbers + [str(int(value)) for value in row[4:]]))
    return lines


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Pack one folder."""
    parser = argparse.ArgumentParser(prog="training.pack", description=__doc__)
    parser.add_argument("data", help="folder with wider/ and, if there, near/")
    parser.add_argument("file", help="the .tar to write")
    parser.add_argument("--long-side", type=int, default=448, help="of training pictures, in px")
    parser.add_argument("--quality", type=int, default=85, help="of their JPEG")
    options = parser.parse_args(arguments)
    count = pack(options.data, options.file, options.long_side, options.quality)
    print("{}: {} training pictures, {:.1f} MB".format(
        options.file, count, os.path.getsize(options.file) / 1e6))  # fmt: skip


if __name__ == "__main__":
    command.run("training.pack", main)
