"""Generated pictures with generated faces, and folders of them in WIDER FACE's layout."""

import os

import cv2
import numpy as np


def picture(seed, size_wh=(160, 160), faces=2, sizes_px=(24, 60)):
    """(H, W, 3) uint8 BGR with ovals that have eyes and a mouth, and their boxes (G, 4) float32."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    coarse = rng.integers(40, 150, (6, 6, 3), np.uint8)
    pixels = cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC)
    boxes = []
    for _ in range(50 * faces):
        high = rng.uniform(*sizes_px)
        wide = 0.78 * high
        x, y = rng.uniform(0, width - wide), rng.uniform(0, height - high)
        box = np.array([x, y, x + wide, y + high], np.float32)
        if any(np.all(np.minimum(box[2:], b[2:]) > np.maximum(box[:2], b[:2])) for b in boxes):
            continue
        boxes.append(box)
        _draw(pixels, box)
        if len(boxes) == faces:
            break
    return pixels, np.asarray(boxes, np.float32).reshape(-1, 4)


def _draw(pixels, box):
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    middle = tuple(int(v) for v in centre)
    cv2.ellipse(pixels, middle, tuple(int(v) for v in half), 0, 0, 360, (150, 190, 235), -1)
    for side in (-0.4, 0.4):
        eye = (int(centre[0] + side * half[0]), int(centre[1] - 0.25 * half[1]))
        cv2.circle(pixels, eye, max(1, int(half[0] / 6)), (30, 20, 20), -1)
    mouth = (int(centre[0]), int(centre[1] + 0.5 * half[1]))
    cv2.ellipse(pixels, mouth, (max(1, int(half[0] / 3)), 1), 0, 0, 360, (60, 40, 160), -1)


def write_wider(root, count, split="train", size_wh=(160, 160), **more):
    """A folder in WIDER FACE's layout with generated pictures; gives the path of its list."""
    images = os.path.join(str(root), "WIDER_" + split, "images", "0--Made")
    lists = os.path.join(str(root), "wider_face_split")
    os.makedirs(images, exist_ok=True)
    os.makedirs(lists, exist_ok=True)
    lines = []
    for number in range(count):
        pixels, boxes = picture(number, size_wh, **more)
        name = "made_{}.png".format(number)  # whatever the name, the pixels stay exact
        cv2.imwrite(os.path.join(images, name), pixels)
        lines += ["0--Made/" + name, str(len(boxes))]
        for x1, y1, x2, y2 in boxes:
            row = [round(x1), round(y1), round(x2 - x1), round(y2 - y1), 0, 0, 0, 0, 0, 0]
            lines.append(" ".join(str(int(value)) for value in row))
    path = os.path.join(lists, "wider_face_{}_bbx_gt.txt".format(split))
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path
