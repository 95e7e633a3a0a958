"""The page in a real browser: by pixels and by text, wide and narrow, in every state."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn

import numpy as np
import pytest
from chromium import Chromium
from pictures import FACE, Shower, greenness, picture
from programs import HOT
from waiting import until
from webclient import get, open_web

from edge_app.appliance.guard import FAILURES
from edge_app.appliance.status import Status

GREY = 90


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(autouse=True)
def no_complaints(tab):
    tab.problems.clear()
    tab.requests.clear()
    yield
    assert tab.problems == []
    tab.call("Page.navigate", url="about:blank")


@contextmanager
def served(**settings):
    """The page with pictures, and what is known besides."""
    with open_web(max_rate_hz=10.0, **settings) as display, Shower(display, pace_s=0.05):
        yield display


def is_in(state):
    return "document.body.dataset.state === '{}'".format(state)


def test_the_picture_is_shown_with_the_box_where_the_face_is(tab):
    with served() as display:
        tab.open(display.url, 1000, 800)
        tab.wait(is_in("live") + " && document.getElementById('picture').naturalWidth > 0")
        tab.wait("getComputedStyle(document.getElementById('picture')).opacity === '1'")
        left, top, width = tab.evaluate(
            "(r => [r.left, r.top, r.width])(document.getElementById('picture').getBoundingClientRect())"
        )
        pixels = tab.screenshot()
    scale = width / 640.0
    inside = pixels[int(top) : int(top + 360 * scale), int(left) : int(left + width)]
    grey = np.abs(inside.astype(int) - GREY).max(axis=2) < 6
    assert grey.mean() > 0.8, "the page shows no picture"
    green = np.argwhere(greenness(inside) > 30) / scale
    assert green[:, 1].min() == pytest.approx(FACE[0], abs=4)
    assert green[:, 1].max() == pytest.approx(FACE[2], abs=4)
    assert green[:, 0].max() == pytest.approx(FACE[3], abs=4)


def test_what_the_page_tells(tab):
    status = Status()
    status.measured(HOT)
    status.note("camera", "frames are 640x360 from now on")
    status.restarted("camera-daemon")
    status.dropped("heat", 1234)
    with served(status=status) as display:
        tab.open(display.url)
        tab.wait(is_in("live"))
        text = tab.text()
        count = tab.evaluate("document.getElementById('faces').textContent")
        title = tab.evaluate("document.title")
    assert count == "1" and title == "(1) edge-app"
    wanted = ["Live", "Face 7", "97%", "30.0fps", "25.0fps", "24.0fps", "All is well"]
    wanted += ["72°C", "thermal: CPU held back", "hot: 10 frames a second"]
    wanted += ["63%", "7.5 W", "0 MAXN", "to cool down", "1,234", "in the camera", "network"]
    wanted += ["camera-daemon restarts", "frames are 640x360 from now on", "a detector in words"]
    flat = " ".join(text.split())
    assert not [words for words in wanted if words not in flat], flat


def test_it_asks_nobody_but_its_own_server(tab):
    with served() as display:
        tab.open(display.url)
        tab.wait(is_in("live"))
        assert len(tab.requests) >= 3
        assert [one for one in tab.requests if not one.startswith(display.url)] == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_window(tab, width):
    status = Status()
    status.measured(HOT)
    status.waiting(
        "events", "mqtt://a-very-long-name-of-a-broker-somewhere.example.org:1883/a/topic"
    )
    status.note("camera", "x" * 300)
    with served(status=status) as display:
        tab.open(display.url, width, 740)
        tab.wait(is_in("live"))
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('body *')].filter("
        wide += "e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.id + e.tagName)"
        assert tab.evaluate(wide) == []
        shot = tab.screenshot()
    assert shot.shape[1] == width


def test_on_a_phone_the_picture_comes_first_and_then_the_faces(tab):
    with served() as display:
        tab.open(display.url, 360, 740)
        tab.wait(is_in("live"))
        tops = tab.evaluate(
            "['stage', 'now', 'tiles', 'how'].map("
            "id => document.getElementById(id).getBoundingClientRect().top)"
        )
    assert tops == sorted(tops) and tops[1] < 740


@pytest.mark.parametrize("scheme, is_dark", [("dark", True), ("light", False)])
def test_dark_and_light_as_the_person_likes_it(tab, scheme, is_dark):
    with open_web() as display:
        tab.open(display.url, scheme=scheme)
        tab.wait(is_in("starting"))
        corner = tab.screenshot()[-1, 0].mean()
    assert (corner < 60) == is_dark and (corner > 200) != is_dark


def test_before_the_first_picture_it_says_what_is_missing(tab):
    status = Status()
    with open_web(status=status) as display:
        tab.open(display.url)
        tab.wait(
            is_in("starting") + " && document.getElementById('title').textContent === 'Starting'"
        )
        status.waiting("camera", "csi://0: no camera is connected")
        tab.wait(is_in("waiting"))
        stage = tab.evaluate("document.getElementById('stage').innerText")
        assert "Waiting for the camera" in stage and "csi://0: no camera is connected" in stage
        assert tab.evaluate("document.getElementById('faces').textContent") == "–"
        status.waiting("camera", "")
        with Shower(display, pace_s=0.05):
            tab.wait(is_in("live"))
            assert tab.evaluate("document.getElementById('message').hidden")


def test_a_camera_that_falls_silent_is_not_called_live(tab):
    with open_web() as display:
        display.show(picture(0, time.monotonic() - 4))
        tab.open(display.url)
        tab.wait(is_in("silent"))
        assert "No picture for" in tab.text()


def test_it_notices_that_the_server_is_gone_and_comes_back(tab):
    with served() as display:
        tab.open(display.url)
        tab.wait(is_in("live"))
        port = int(display.url.rsplit(":", 1)[1])
    tab.wait(is_in("lost"))
    assert "The program does not answer" in tab.text()
    assert tab.evaluate("document.getElementById('faces').textContent") == "–"
    before = len([one for one in tab.requests if "stream.mjpg" in one])
    with served(port=port):
        tab.wait(is_in("live"))
        tab.wait("document.getElementById('picture').naturalWidth > 0")
    assert len([one for one in tab.requests if "stream.mjpg" in one]) > before


def test_with_a_token_it_works_from_the_cookie_and_without_it_says_so(tab):
    with served(host="0.0.0.0", token="a long and secret token") as display:
        url = display.url.replace("0.0.0.0", "127.0.0.1")
        tab.open(url + "/?token=a+long+and+secret+token")
        tab.wait(is_in("live"))
        assert tab.evaluate("location.href") == url + "/"
        tab.call("Network.clearBrowserCookies")
        tab.wait(is_in("locked"))
        assert "A token is needed" in tab.text()


@contextmanager
def elsewhere(target):
    """The address of a page of another site (by name: localhost) with one link."""

    class Server(ThreadingMixIn, HTTPServer):  # Chromium opens a connection more than it uses
        daemon_threads = True

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write('<link rel="icon" href="data:,"><a href="{}">look</a>'.format(target).encode())

        def log_message(self, *words):
            pass

    server = Server(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield "http://localhost:{}/".format(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_link_of_another_site_leads_to_the_page(tab, is_known):
    """With the token, and later, when the browser has its cookie, without."""
    with served(host="0.0.0.0", token="a long and secret token") as display:
        url = display.url.replace("0.0.0.0", "127.0.0.1")
        target = url + "/?token=a+long+and+secret+token"
        tab.call("Network.clearBrowserCookies")
        if is_known:
            tab.open(target)
            tab.wait(is_in("live"))
            target = url + "/"
        with elsewhere(target) as other:
            tab.open(other)
            tab.wait("document.links.length === 1")
            tab.evaluate("document.links[0].click()")
            tab.wait("location.href.startsWith('{}') && !!document.body".format(url))
            tab.wait(is_in("live"), 20.0)
        assert tab.evaluate("location.href") == url + "/"


# Whether the tab is hidden, and when answers arrive, is said by the test: flip(true) hides, release() lets through.
HELD = """
window.isAway = AWAY; window.held = []; window.read = 0; window.isHolding = HOLDING;
Object.defineProperty(document, "hidden", {get: () => window.isAway, configurable: true});
window.flip = (away) => { window.isAway = away; document.dispatchEvent(new Event("visibilitychange")); };
window.release = () => window.held.splice(0).forEach((go) => go());
const realFetch = window.fetch;
window.fetch = async (...words) => {
  const answer = await realFetch(...words), json = answer.json.bind(answer);
  answer.json = async () => { const value = await json(); window.read += 1; return value; };
  if (window.isHolding) await new Promise((go) => window.held.push(go));
  return answer;
};
"""


def streams(display):
    return display._server._routes._connections.streams


def test_a_tab_that_is_hidden_in_the_middle_of_a_request_gets_no_picture(tab):
    with served() as display:
        tab.open(display.url)
        tab.wait(is_in("live"))
        tab.evaluate(HELD.replace("AWAY", "false").replace("HOLDING", "true"))
        tab.wait("held.length === 1")
        tab.evaluate("flip(true)")
        assert tab.evaluate("picture.getAttribute('src')") is None
        tab.evaluate("release()")
        tab.wait("read === 1")
        assert tab.evaluate("picture.getAttribute('src')") is None
        until(lambda: streams(display) == 0)
        tab.evaluate("isHolding = false; flip(false)")
        tab.wait("picture.naturalWidth > 0 && picture.getAttribute('src') !== null")


def test_hiding_and_showing_a_tab_quickly_makes_no_second_loop(tab):
    with served() as display:
        tab.open(display.url)
        tab.wait(is_in("live"))
        tab.evaluate(HELD.replace("AWAY", "false").replace("HOLDING", "true"))
        tab.wait("held.length === 1")
        tab.evaluate("for (let n = 0; n < 4; n++) { flip(true); flip(false); }")
        tab.wait("held.length === 5")
        tab.evaluate("release()")
        tab.wait("held.length > 0")
        seen_ms = tab.evaluate("performance.now()")
        tab.wait("performance.now() > {} + 2 * POLL_MS".format(seen_ms))
        assert tab.evaluate("held.length") == 1


def test_a_tab_that_nobody_has_looked_at_yet_asks_for_nothing(tab):
    script = HELD.replace("AWAY", "true").replace("HOLDING", "false")
    given = tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    try:
        with served() as display:
            tab.open(display.url)
            tab.wait("document.readyState === 'complete'")
            assert [one for one in tab.requests if one != display.url + "/"] == []
            assert streams(display) == 0
            tab.evaluate("flip(false)")
            tab.wait(is_in("live"))
            tab.wait("picture.naturalWidth > 0")
    finally:
        tab.call("Page.removeScriptToEvaluateOnNewDocument", **given)


def test_whoever_must_wait_is_told_so_and_not_asked_for_a_token(tab):
    with served(host="0.0.0.0", token="a long and secret token") as display:
        url = display.url.replace("0.0.0.0", "127.0.0.1")
        tab.open(url + "/?token=a+long+and+secret+token")
        tab.wait(is_in("live"))
        for number in range(FAILURES):
            assert get(url + "/?token=guess{}".format(number))[0] == 401
        tab.wait(is_in("locked"))
        assert "Too many wrong tokens" in tab.text() and "A token is needed" not in tab.text()
