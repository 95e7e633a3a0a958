"""The live view, over real sockets and in a real browser."""

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from edge_app.appliance.web import WebDisplay
from edge_app.config import WebSettings
from edge_app.detector import Detector
from edge_app.errors import ConfigError, DisplayError
from edge_app.frames import Detections, Figures, Frame, Picture, Result, StepTimes
from edge_app.overlay import Overlay
from edge_app.source import Camera

FACE = [200, 100, 300, 220]


def picture(number=0, captured_at=None, shade=90):
    pixels = np.full((360, 640, 3), shade, np.uint8)
    faces = Detections(np.asarray([FACE], np.float32), np.asarray([0.97], np.float32))
    now = time.monotonic() if captured_at is None else captured_at
    figures = Figures(30.0, 25.0, 24.0, 12.0, {"network": 5.5}, {"camera": 3, "detector": 4})
    result = Result(Frame(number, now, 0.0, pixels), faces, StepTimes(0, 0, 0), now)
    return Picture(Overlay(False).draw(pixels, faces), faces, result, figures, (7,))


def greenness(pixels):
    """How much greener than red and blue, the colour of boxes; JPEG blurs a thin line's own colour."""
    pixels = pixels.astype(int)
    return pixels[..., 1] - np.maximum(pixels[..., 0], pixels[..., 2])


class Shower:
    """Shows a picture every few milliseconds, as the main thread does."""

    def __init__(self, display, pace_s=0.01):
        self.display, self.pace_s = display, pace_s
        self.shown, self.longest_s = 0, 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._ending.wait(self.pace_s):
            one = picture(self.shown)
            started = time.monotonic()
            self.display.show(one)
            self.longest_s = max(self.longest_s, time.monotonic() - started)
            self.shown += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ending.set()
        self._thread.join()


@pytest.fixture
def make():
    def display(**settings):
        settings = dict({"port": 0, "max_rate_hz": 120.0}, **settings)
        detector = Detector()
        detector.description = "a detector in words"
        return WebDisplay(WebSettings(**settings), detector, Camera("test://", True))

    return display


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def open_stream(display, buffer_bytes=None):
    """A raw connection to the stream, its request sent."""
    connection = socket.socket()
    if buffer_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    port = int(display.url.rsplit(":", 1)[1])
    connection.connect(("127.0.0.1", port))
    connection.settimeout(10)
    connection.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return connection


def first_jpeg(connection):
    data = b""
    while True:
        found = re.search(rb"Content-Length: (\d+)\r\n\r\n", data)
        if found and len(data) >= found.end() + int(found.group(1)):
            return data[found.end() : found.end() + int(found.group(1))]
        more = connection.recv(65536)
        assert more, data[:500]
        data += more


def test_a_viewer_gets_the_picture_with_its_box(make):
    with make() as display, Shower(display):
        connection = open_stream(display)
        pixels = cv2.imdecode(np.frombuffer(first_jpeg(connection), np.uint8), cv2.IMREAD_COLOR)
        connection.close()
    assert pixels.shape == (360, 640, 3)
    rows = np.flatnonzero(greenness(pixels)[:, 250] > 30)
    assert abs(rows.max() - FACE[3]) <= 3 and np.any(np.abs(rows - FACE[1]) <= 3)
    assert np.abs(pixels[300, 500].astype(int) - 90).max() < 10


def test_status_tells_what_is_on_the_screen(make):
    with make() as display:
        _, empty = get(display.url + "/api/status")
        assert json.loads(empty.decode())["age_ms"] is None
        display.show(picture(41, time.monotonic() - 5))
        _, body = get(display.url + "/api/status")
    status = json.loads(body.decode())
    assert status["frame"] == 41 and (status["width"], status["height"]) == (640, 360)
    assert status["faces"] == [{"box": FACE, "score": 0.97, "track": 7}]
    assert status["age_ms"] >= 5000
    assert (status["camera_fps"], status["detect_fps"], status["display_fps"]) == (30.0, 25.0, 24.0)
    assert status["dropped"] == {"camera": 3, "detector": 4}
    assert status["detector"] == "a detector in words" and status["source"] == "test://"


def test_without_a_viewer_nothing_is_encoded(make):
    with make() as display:
        for number in range(20):
            display.show(picture(number))
        assert display.encoded == 0


def test_twenty_viewers_cost_one_encoding_a_picture(make):
    with make() as display, Shower(display) as shower:
        viewers = [open_stream(display) for _ in range(20)]
        for viewer in viewers:
            assert first_jpeg(viewer)[:2] == b"\xff\xd8"
        _, body = get(display.url + "/api/status")
        assert json.loads(body.decode())["viewers"] == 20
        for viewer in viewers:
            viewer.close()
    assert 0 < display.encoded <= shower.shown


def test_a_viewer_that_does_not_read_slows_nobody(make):
    with make() as display, Shower(display, pace_s=0.002) as shower:
        idle = open_stream(display, buffer_bytes=2048)
        eager = open_stream(display)
        for _ in range(5):
            first_jpeg(eager)
        before = shower.shown
        deadline = time.monotonic() + 20
        while shower.shown < before + 200 and time.monotonic() < deadline:
            eager.recv(1 << 20)
        assert shower.shown >= before + 200
        idle.close()
        eager.close()


def test_a_viewer_that_paused_goes_on_with_the_newest_picture(make):
    noise = np.random.RandomState(0).randint(0, 255, (360, 640, 3)).astype(np.uint8)

    def show(display, shade):
        one = picture()
        one.pixels[:] = noise
        one.pixels[:, :64] = shade
        display.show(one)
        time.sleep(0.01)

    def shade_of(jpeg):
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, 10:50].mean()

    with make(max_rate_hz=1000.0) as display:
        viewer = open_stream(display, buffer_bytes=65536)
        for _ in range(50):
            show(display, 50)
        assert display.encoded > 20  # some hundred kilobytes each: far more than a viewer is owed
        for _ in range(3):
            show(display, 200)
        old = 0
        while shade_of(first_jpeg(viewer)) < 120:
            show(display, 200)
            old += 1
        viewer.close()
    assert old <= 5


def test_figures_that_are_not_numbers_are_null(make):
    nan = float("nan")
    with make() as display:
        display.show(picture()._replace(figures=Figures(nan, nan, nan, nan, {"network": nan}, {})))
        _, body = get(display.url + "/api/status")
    status = json.loads(body.decode(), parse_constant=pytest.fail)
    assert status["camera_fps"] is None and status["steps_ms"] == {"network": None}


def test_every_answer_is_kept_from_caches_and_other_sites(make):
    with make() as display, Shower(display):
        for path in ("/", "/stream.mjpg", "/snapshot.jpg", "/api/status", "/missing"):
            try:
                answer = urllib.request.urlopen(display.url + path, timeout=10)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                assert answer.headers["Cache-Control"] == "no-store", path
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", path


def test_the_rate_is_bounded(make):
    with make(max_rate_hz=5.0) as display, Shower(display, pace_s=0.002) as shower:
        connection = open_stream(display)
        first_jpeg(connection)
        first_jpeg(connection)
        connection.close()
    assert display.encoded < shower.shown / 3


def test_stopping_is_quick_with_viewers_that_do_not_read(make):
    display = make()
    with display:
        with Shower(display, pace_s=0.002):
            stuck = [open_stream(display, buffer_bytes=2048) for _ in range(5)]
            first_jpeg(stuck[0])
        started = time.monotonic()
    assert time.monotonic() - started < 2
    assert not [thread for thread in threading.enumerate() if thread.name == "web"]
    display.close()


def test_a_snapshot_is_encoded_for_itself(make):
    with make() as display, Shower(display):
        status, body = get(display.url + "/snapshot.jpg")
    assert status == 200 and cv2.imdecode(np.frombuffer(body, np.uint8), 1).shape == (360, 640, 3)


def test_a_snapshot_of_a_silent_camera_says_so(make):
    with make() as display:
        status, body = get(display.url + "/snapshot.jpg")
    assert status == 503 and b"camera is silent" in body


def test_a_port_that_is_taken_is_named(make):
    with make() as first:
        port = int(first.url.rsplit(":", 1)[1])
        with pytest.raises(DisplayError, match=r"{}.*already in use.*web\.port".format(port)):
            with make(port=port):
                pass


def test_beyond_loopback_a_token_is_needed(make):
    with pytest.raises(ConfigError, match="web.token must be set"):
        with make(host="0.0.0.0"):
            pass


def test_the_token_opens_the_page_by_header_query_and_cookie(make):
    with make(host="0.0.0.0", token="correct horse") as display:
        url = display.url.replace("0.0.0.0", "127.0.0.1")
        assert get(url + "/api/status")[0] == 401
        assert get(url + "/api/status", Authorization="Bearer correct horse")[0] == 200
        assert get(url + "/api/status", Cookie="edge_app_token=correct%20horse")[0] == 401
        jar = urllib.request.HTTPCookieProcessor()
        opener = urllib.request.build_opener(jar)
        with opener.open(url + "/?token=correct+horse", timeout=10) as answer:
            assert answer.geturl() == url + "/"
        with opener.open(url + "/api/status", timeout=10) as answer:
            assert answer.status == 200


def test_wrong_tokens_are_counted_and_then_refused(make):
    with make(host="0.0.0.0", token="secret") as display:
        url = display.url.replace("0.0.0.0", "127.0.0.1")
        assert [get(url + "/")[0] for _ in range(9)] == [401] * 9  # asking is no guess
        answers = [get(url + "/?token=guess{}".format(n))[0] for n in range(7)]
        assert answers == [401] * 5 + [429] * 2
        assert get(url + "/?token=secret")[0] == 429


def test_a_strangers_name_for_loopback_is_refused(make):
    with make() as display:
        assert get(display.url + "/", Host="evil.example")[0] == 403
        assert get(display.url + "/", Host="localhost:1")[0] == 200


def test_the_page_needs_nothing_from_elsewhere(make):
    with make() as display:
        with urllib.request.urlopen(display.url + "/", timeout=10) as answer:
            policy, page = answer.headers["Content-Security-Policy"], answer.read().decode()
            assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in policy
    assert "http://" not in page and "https://" not in page and "NONCE" not in page


def test_the_page_in_a_browser(make, browser, tmp_path):
    with make(max_rate_hz=10.0) as display, Shower(display, pace_s=0.05):
        shot = tmp_path / "page.png"
        browser(
            display.url, "--window-size=1000,800", "--timeout=4000", "--screenshot={}".format(shot)
        )
        text = browser(display.url, "--virtual-time-budget=2000", "--timeout=4000", "--dump-dom")
    pixels = cv2.imread(str(shot))
    grey = np.argwhere(np.abs(pixels.astype(int) - 90).max(axis=2) < 6)
    assert len(grey) > 10000, "the page shows no picture"
    (top, left), (_, right) = grey.min(axis=0), grey.max(axis=0)
    scale = (right - left + 1) / 640.0
    green = np.argwhere(greenness(pixels) > 30) - [top, left]
    green = green[(green[:, 0] > 0) & (green[:, 1] < 640 * scale)]  # not the words beside the picture
    assert green[:, 1].min() == pytest.approx(FACE[0] * scale, abs=4)
    assert green[:, 1].max() == pytest.approx(FACE[2] * scale, abs=4)
    assert green[:, 0].max() == pytest.approx(FACE[3] * scale, abs=4)
    assert '<div id="faces">1</div>' in text and "97%" in text and "a detector in words" in text
