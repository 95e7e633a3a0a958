"""The main job with the network that is shipped: boxes where faces are, on the screen and on the page."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import cv2
import numpy as np
import pytest
from chromium import Chromium
from ports import free_port

from edge_app import boxes
from edge_app.config import DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.images import read_image
from edge_app.scene import Scene

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHOTS = os.path.join(ROOT, "build", "screenshots")
PORTRAIT = os.path.join(ROOT, "edge_app", "data", "astronaut.jpg")
PORTRAIT_FACE = [178, 60, 272, 178]  # measured by hand, hairline to chin


@pytest.fixture(scope="module")
def detector():
    with OnnxDetector(DetectorSettings()) as opened:
        yield opened


def array(rows):
    return np.asarray(rows, np.float32).reshape(-1, 4)


def test_the_astronaut_is_found_at_95_percent(detector):
    faces = detector.detect(read_image(PORTRAIT), 0.95)
    assert len(faces) == 1
    assert boxes.iou(faces.boxes, array(PORTRAIT_FACE))[0, 0] > 0.5


def test_what_is_shown_in_the_scene_are_its_faces_and_most_of_the_near_ones(detector):
    scene = Scene((1280, 720))
    shown = right = near = found = 0
    for number in range(0, 600, 12):
        faces = detector.detect(scene.render(number), 0.95)
        everyone = scene.boxes(number, least_visible=0.05)
        whole = scene.boxes(number, least_visible=0.9)
        whole = whole[whole[:, 3] - whole[:, 1] >= 60]
        shown += len(faces)
        if len(faces) and len(everyone):
            right += int((boxes.iou(faces.boxes, array(everyone)).max(axis=1) > 0.4).sum())
        near += len(whole)
        if len(whole) and len(faces):
            found += int((boxes.iou(array(whole), faces.boxes).max(axis=1) > 0.5).sum())
    assert right >= 0.95 * shown
    assert found >= 0.5 * near > 20


@pytest.fixture
def running(screen):
    """The program itself, with a window under Xvfb and its page; gives the page's address."""
    port = free_port()
    command = [sys.executable, "-m", "edge_app", "run", "--source", "test://", "--seconds", "120"]
    command += ["--display", "window,web", "--set", "web.port={}".format(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    url = "http://127.0.0.1:{}".format(port)
    try:
        wait_for(process, lambda: status(url).get("faces"))
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=60)


def status(url):
    try:
        with urllib.request.urlopen(url + "/api/status", timeout=5) as answer:
            return json.loads(answer.read().decode())
    except OSError:
        return {}


def wait_for(process, holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def framed_faces(pixels, detector):
    """(faces found in a screenshot, those of them with the green of a box along their edges)."""
    channels = pixels.astype(int)
    green = channels[..., 1] - np.maximum(channels[..., 0], channels[..., 2]) > 60
    faces = detector.detect(pixels, 0.5)
    framed = 0
    for x1, y1, x2, y2 in faces.boxes:
        margin = 0.25 * min(x2 - x1, y2 - y1) + 4
        left, top = int(max(x1 - margin, 0)), int(max(y1 - margin, 0))
        region = green[top : int(y2 + margin), left : int(x2 + margin)]
        middle = region[region.shape[0] // 3 : -(region.shape[0] // 3) or None,
                        region.shape[1] // 3 : -(region.shape[1] // 3) or None]  # fmt: skip
        sides = region.any(axis=1).mean() > 0.5 and region.any(axis=0).mean() > 0.5
        framed += int(sides and middle.mean() < 0.1)
    return len(faces), framed


def test_the_window_and_the_page_show_boxes_around_faces(running, screen, tmp_path, detector):
    os.makedirs(SHOTS, exist_ok=True)
    best = 0
    for _ in range(20):  # a moment at which somebody is well in sight
        shot = screen.shot()
        best = max(best, framed_faces(shot, detector)[1])
        if best >= 2:
            break
        time.sleep(0.5)
    cv2.imwrite(os.path.join(SHOTS, "window.png"), shot)
    assert best >= 1
    with Chromium(tmp_path / "chromium") as tab:
        tab.open(running)
        tab.wait("getComputedStyle(document.getElementById('picture')).opacity === '1'")
        tab.wait("document.getElementById('picture').naturalWidth > 0")
        for _ in range(20):
            shot = tab.screenshot()
            framed = framed_faces(shot, detector)[1]
            if framed:
                break
            time.sleep(0.5)
    cv2.imwrite(os.path.join(SHOTS, "web.png"), shot)
    assert framed >= 1
