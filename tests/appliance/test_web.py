"""The live view, over real sockets."""

import json
import re
import threading
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest
from pictures import FACE, Shower, greenness, picture
from webclient import first_jpeg, get, open_stream, open_web

from edge_app.appliance.metrics import Metrics
from edge_app.appliance.status import Status
from edge_app.errors import ConfigError, DisplayError
from edge_app.frames import Figures
from edge_app.meter import Meter


def test_a_viewer_gets_the_picture_with_its_box():
    with open_web() as display, Shower(display):
        connection = open_stream(display)
        pixels = cv2.imdecode(np.frombuffer(first_jpeg(connection), np.uint8), cv2.IMREAD_COLOR)
        connection.close()
    assert pixels.shape == (360, 640, 3)
    rows = np.flatnonzero(greenness(pixels)[:, 250] > 30)
    assert abs(rows.max() - FACE[3]) <= 3 and np.any(np.abs(rows - FACE[1]) <= 3)
    assert np.abs(pixels[300, 500].astype(int) - 90).max() < 10


def test_status_tells_what_is_on_the_screen():
    with open_web() as display:
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


def test_without_a_viewer_nothing_is_encoded():
    with open_web() as display:
        for number in range(20):
            display.show(picture(number))
        assert display.encoded == 0


def test_twenty_viewers_cost_one_encoding_a_picture():
    with open_web() as display, Shower(display) as shower:
        viewers = [open_stream(display) for _ in range(20)]
        for viewer in viewers:
            assert first_jpeg(viewer)[:2] == b"\xff\xd8"
        _, body = get(display.url + "/api/status")
        assert json.loads(body.decode())["viewers"] == 20
        for viewer in viewers:
            viewer.close()
    assert 0 < display.encoded <= shower.shown


def test_a_viewer_that_does_not_read_slows_nobody():
    with open_web() as display, Shower(display, pace_s=0.002) as shower:
        idle = open_stream(display, buffer_bytes=2048)
        eager = open_stream(display)
        for _ in range(5):
            first_jpeg(eager)
        before = shower.shown
        deadline = time.monotonic() + 60
        while shower.shown < before + 200 and time.monotonic() < deadline:
            eager.recv(1 << 20)
        assert shower.shown >= before + 200
        idle.close()
        eager.close()


def test_a_viewer_that_paused_goes_on_with_the_newest_picture():
    noise = np.random.RandomState(0).randint(0, 255, (360, 640, 3)).astype(np.uint8)

    def show(display, shade):
        one = picture()
        one.pixels[:] = noise
        one.pixels[:, :64] = shade
        display.show(one)
        time.sleep(0.01)

    def shade_of(jpeg):
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, 10:50].mean()

    with open_web(max_rate_hz=1000.0) as display:
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


def test_figures_that_are_not_numbers_are_null():
    nan = float("nan")
    with open_web() as display:
        display.show(picture()._replace(figures=Figures(nan, nan, nan, nan, {"network": nan}, {})))
        _, body = get(display.url + "/api/status")
    status = json.loads(body.decode(), parse_constant=pytest.fail)
    assert status["camera_fps"] is None and status["steps_ms"] == {"network": None}


def test_every_answer_is_kept_from_caches_and_other_sites():
    with open_web() as display, Shower(display):
        for path in ("/", "/stream.mjpg", "/snapshot.jpg", "/api/status", "/missing"):
            try:
                answer = urllib.request.urlopen(display.url + path, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                assert answer.headers["Cache-Control"] == "no-store", path
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", path


def test_the_rate_is_bounded():
    with open_web(max_rate_hz=5.0) as display:
        started = time.monotonic()
        with Shower(display, pace_s=0.002) as shower:
            connection = open_stream(display)
            while shower.shown < 50:
                first_jpeg(connection)
            connection.close()
        passed_s = time.monotonic() - started
    assert 0 < display.encoded <= 5.0 * passed_s + 2


def test_stopping_is_quick_with_viewers_that_do_not_read():
    display = open_web()
    with display:
        with Shower(display, pace_s=0.002):
            stuck = [open_stream(display, buffer_bytes=2048) for _ in range(5)]
            first_jpeg(stuck[0])
        started = time.monotonic()
    assert time.monotonic() - started < 15
    assert not [thread for thread in threading.enumerate() if thread.name == "web"]
    display.close()


def test_a_snapshot_is_encoded_for_itself():
    with open_web() as display, Shower(display):
        deadline, status = time.monotonic() + 60, 503
        while status == 503 and time.monotonic() < deadline:  # no picture in time, on a busy machine
            status, body = get(display.url + "/snapshot.jpg")
    assert status == 200 and cv2.imdecode(np.frombuffer(body, np.uint8), 1).shape == (360, 640, 3)


def test_a_snapshot_of_a_silent_camera_says_so():
    with open_web() as display:
        status, body = get(display.url + "/snapshot.jpg")
    assert status == 503 and b"camera is silent" in body


def test_a_port_that_is_taken_is_named():
    with open_web() as first:
        port = int(first.url.rsplit(":", 1)[1])
        with pytest.raises(DisplayError, match=r"{}.*already in use.*web\.port".format(port)):
            with open_web(port=port):
                pass


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_named(host):
    with pytest.raises(DisplayError) as raised:
        with open_web(host=host, token="only for this test"):
            pass
    assert host in str(raised.value) and "address of this machine to web.host" in str(raised.value)
    assert "port" not in str(raised.value)


def test_beyond_loopback_a_token_is_needed():
    with pytest.raises(ConfigError, match="web.token must be set"):
        with open_web(host="0.0.0.0"):
            pass


def test_the_token_opens_the_page_by_header_query_and_cookie():
    with open_web(host="0.0.0.0", token="correct horse") as display:
        url = display.url.replace("0.0.0.0", "127.0.0.1")
        assert get(url + "/api/status")[0] == 401
        assert get(url + "/api/status", Authorization="Bearer correct horse")[0] == 200
        assert get(url + "/api/status", Cookie="edge_app_token=correct%20horse")[0] == 401
        jar = urllib.request.HTTPCookieProcessor()
        opener = urllib.request.build_opener(jar)
        with opener.open(url + "/?token=correct+horse", timeout=60) as answer:
            assert answer.geturl() == url + "/"
        with opener.open(url + "/api/status", timeout=60) as answer:
            assert answer.status == 200
        (cookie,) = jar.cookiejar
        assert cookie.get_nonstandard_attr("SameSite") == "Lax"  # a link in a mail works
        assert cookie.has_nonstandard_attr("HttpOnly")


def test_strangers_are_told_ok_or_not_ok_and_nothing_else():
    status, token = Status(), "a long and secret token"
    status.waiting("camera", "csi://0 is not there")
    with Metrics(status, Meter()) as metrics:
        with open_web(status, metrics, host="0.0.0.0", token=token) as display:
            url = display.url.replace("0.0.0.0", "127.0.0.1")
            assert get(url + "/healthz") == (200, b"ok\n")
            assert get(url + "/readyz") == (503, b"not ok\n")
            for path in ("/metrics", "/api/status", "/stream.mjpg", "/snapshot.jpg", "/", "/none"):
                assert get(url + path)[0] == 401, path
            known = {"Authorization": "Bearer " + token}
            assert get(url + "/metrics", **known)[0] == 200
            assert get(url + "/readyz", **known) == (503, b"not ok\ncamera: csi://0 is not there\n")
            for n in range(7):  # wrong ones count here as well, and then the right one is not heard
                assert get(url + "/healthz?token=guess{}".format(n)) == (200, b"ok\n")
            assert get(url + "/readyz", **known) == (503, b"not ok\n")
            assert get(url + "/metrics", **known)[0] == 429


def test_probes_on_loopback_tell_why_and_still_check_the_name():
    with open_web() as display:
        assert get(display.url + "/healthz") == (200, b"ok\nno frame yet\n")
        display.show(picture())
        assert get(display.url + "/readyz") == (200, b"ok\n")
        assert get(display.url + "/healthz", Host="evil.example")[0] == 403


def test_the_main_loop_may_have_nothing_to_show():
    with open_web() as display:
        turned = display._view._turned_at
        display.idle()
        assert display._view._turned_at > turned


def test_wrong_tokens_are_counted_and_then_refused():
    with open_web(host="0.0.0.0", token="secret") as display:
        url = display.url.replace("0.0.0.0", "127.0.0.1")
        assert [get(url + "/")[0] for _ in range(9)] == [401] * 9  # asking is no guess
        answers = [get(url + "/?token=guess{}".format(n))[0] for n in range(7)]
        assert answers == [401] * 5 + [429] * 2
        assert get(url + "/?token=secret")[0] == 429


def test_a_strangers_name_for_loopback_is_refused():
    with open_web() as display:
        assert get(display.url + "/", Host="evil.example")[0] == 403
        assert get(display.url + "/", Host="localhost:1")[0] == 200


def test_the_page_needs_nothing_from_elsewhere():
    with open_web() as display:
        with urllib.request.urlopen(display.url + "/", timeout=60) as answer:
            policy, page = answer.headers["Content-Security-Policy"], answer.read().decode()
            assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in policy
    assert not re.search("(src|href)=.?https?:|url[(]|@import", page) and "NONCE" not in page
