"""The RTSP stream, read back by GStreamer's and by FFmpeg's client."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import cv2
import numpy as np
import pytest
from needs import require
from pictures import FACE, Shower, picture
from ports import free_port
from waiting import until

from edge_app.appliance import guard
from edge_app.appliance import stream as module
from edge_app.appliance.guard import FAILURES
from edge_app.appliance.stream import RtspDisplay
from edge_app.camera import open_camera
from edge_app.config import CameraSettings, RtspSettings
from edge_app.errors import CameraError, ConfigError, DisplayError
from edge_app.overlay import BOX_BGR


@pytest.fixture(autouse=True)
def rtsp(gstreamer):
    """GStreamer with its RTSP server and an encoder."""
    import gi

    try:
        gi.require_version("GstRtspServer", "1.0")
    except ValueError:
        require(False, "GStreamer's RTSP server (apt install gir1.2-gst-rtsp-server-1.0)")
    require(gstreamer.ElementFactory.find("x264enc"), "x264enc (gstreamer1.0-plugins-ugly)")
    return gstreamer


def settings(**more):
    return RtspSettings(**dict({"port": 0}, **more))


def viewer(url, **more):
    """The product's own RTSP source: GStreamer's client."""
    return open_camera(
        CameraSettings(**dict({"source": url, "latency_ms": 0, "timeout_s": 30.0}, **more))
    )


def read(camera, count=1):
    """The last of ``count`` frames."""
    frames = []
    deadline = time.monotonic() + 90.0
    while len(frames) < count and time.monotonic() < deadline:
        frame = camera.read(1.0)
        if frame is not None:
            frames.append(frame)
    assert len(frames) == count
    return frames[-1]


def shows_the_face(pixels, shade=90):
    """Whether a decoded picture is ours: the grey ground, and the box in its colour at its place."""
    x1, y1, x2, y2 = FACE
    edges = [pixels[y1, x1 + 20 : x2 - 20], pixels[y1 + 20 : y2 - 20, x1]]
    greener = [
        edge[:, 1].astype(int) - np.maximum(edge[:, 0], edge[:, 2]).astype(int) for edge in edges
    ]
    assert BOX_BGR[1] > max(BOX_BGR[0], BOX_BGR[2]) + 100
    is_boxed = all(np.median(green) > 40 for green in greener)
    ground = np.median(pixels[300:340, 400:600])
    return is_boxed and abs(ground - shade) <= 6


def test_the_picture_arrives_with_its_boxes_in_gstreamers_client():
    with RtspDisplay(settings()) as display, Shower(display):
        assert re.match(r"rtsp://127\.0\.0\.1:\d+/faces$", display.url)
        with viewer(display.url) as camera:
            frame = read(camera, 5)
    assert frame.pixels.shape == (360, 640, 3)
    assert shows_the_face(frame.pixels)


def ffmpeg(url):
    """FFmpeg's client, the one of most recorders, within OpenCV."""
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
    require(
        capture.isOpened() or "FFMPEG:                      YES" in cv2.getBuildInformation(),
        "FFmpeg",
    )
    return capture


def test_a_recorders_client_gets_the_times_of_capture():
    captured_ms = []

    def make(number):
        one = picture(number)
        captured_ms.append(one.result.frame.captured_at * 1000.0)
        return one

    with RtspDisplay(settings()) as display, Shower(display, 0.05, make):
        capture = ffmpeg(display.url)
        stamps_ms = []
        for _ in range(40):
            done, pixels = capture.read()
            assert done
            stamps_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
        capture.release()
    assert shows_the_face(pixels)
    seen = np.asarray(stamps_ms[1:])  # OpenCV gives the first picture the stamp of a later one
    assert (np.diff(seen) > 0).all()
    shown = np.asarray(captured_ms)
    deviations = [np.abs(shown[None] - (seen - seen[0] + at)[:, None]).min(axis=1) for at in shown]
    assert (
        min(np.percentile(one, 80) for one in deviations) < 2.0
    ), "each stamp is that of a picture"


def key_frames_and_times(url, seconds, gstreamer):
    """(kind, time in seconds) of each picture that arrives: is it a key frame?"""
    line = (
        "rtspsrc location={} protocols=tcp latency=0 buffer-mode=none ! rtph264depay ! video/x-h264, "
        "stream-format=byte-stream, alignment=au ! appsink name=sink sync=false"
    )
    pipeline = gstreamer.parse_launch(line.format(url))
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(gstreamer.State.PLAYING)
    found = []
    try:
        while not found or found[-1][1] - found[0][1] < seconds:
            sample = sink.try_pull_sample(30 * gstreamer.SECOND)
            assert sample is not None
            buffer = sample.get_buffer()
            is_key = not buffer.has_flags(gstreamer.BufferFlags.DELTA_UNIT)
            found.append((is_key, buffer.pts / gstreamer.SECOND))
    finally:
        pipeline.set_state(gstreamer.State.NULL)
    return found


@pytest.mark.parametrize("rate_hz", [25.0, 4.0])
def test_there_is_a_key_frame_every_second_whatever_the_rate(gstreamer, rate_hz):
    """Four pictures a second are what is left on a hot board."""
    with RtspDisplay(settings(rate_hz=30.0)) as display, Shower(display, 1 / rate_hz):
        found = key_frames_and_times(display.url, 4.0, gstreamer)
    steps = np.diff([at for _, at in found])
    assert (steps >= 0).all()
    keys = [at for is_key, at in found if is_key]
    assert found[0][0], "a viewer starts with a whole picture"
    assert len(keys) >= 2
    assert max(np.diff(keys)) <= 1.3 + 3.0 * max(steps), "a busy machine shows pictures late"


def test_two_viewers_cost_one_encoder_and_one_leaves():
    with RtspDisplay(settings()) as display, Shower(display) as shower:
        with viewer(display.url) as first:
            read(first, 5)
            source = display._server.source
            with viewer(display.url) as second:
                one, other = read(first, 20), read(second, 20)
                assert display.viewers == 2
                assert shows_the_face(one.pixels) and shows_the_face(other.pixels)
            until(lambda: display.viewers == 1)
            read(first, 10)
            assert display._server.source is source, "one pipeline for both"
            assert display.encoded <= shower.shown, "and each picture went in once"


def test_nothing_is_encoded_without_a_viewer_and_one_may_come_back():
    with RtspDisplay(settings()) as display, Shower(display) as shower:
        until(lambda: shower.shown >= 10)
        assert display.encoded == 0
        for _ in range(3):
            with viewer(display.url) as camera:
                assert shows_the_face(read(camera, 3).pixels)
            server = display._server
            until(lambda: server.source is None)
            time.sleep(0.05)
            before, shown = display.encoded, shower.shown
            until(lambda: shower.shown >= shown + 5)
            assert display.encoded == before


def test_a_viewer_that_reads_nothing_slows_nobody():
    """It asks for the stream and then leaves everything in its socket."""
    noise = np.random.RandomState(0).randint(0, 255, (360, 640, 3)).astype(np.uint8)

    def noisy(number):
        one = picture(number)
        return one._replace(
            pixels=np.roll(noise, int(one.result.frame.captured_at * 1000) % 640, axis=1)
        )

    def rate_hz(camera):
        started = time.monotonic()
        read(camera, 40)
        return 40 / (time.monotonic() - started)

    fast = settings(bitrate_kbps=50000)  # so much noise fills its buffers within a second
    with RtspDisplay(fast) as display, Shower(display, 0.02, noisy) as shower:
        with viewer(display.url) as camera:
            before_hz = rate_hz(camera)
            before_s = np.median(shower.times_s)
            del shower.times_s[:]
            stuck = ask_for_the_stream(display._server.port)
            until(lambda: display.viewers == 2)
            rate_hz(camera)
            assert rate_hz(camera) > 0.4 * before_hz, "the other viewer goes on"
            stuck.close()
    assert np.median(shower.times_s) < 10 * before_s + shower.pace_s, "nor does whoever shows wait"


def ask_for_the_stream(port):
    """A connection on which OPTIONS to PLAY were said by hand, with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60.0)
    connection.connect(("127.0.0.1", port))
    url, session = "rtsp://127.0.0.1:{}/faces".format(port), ""
    transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
    steps = (("DESCRIBE", url, ""), ("SETUP", url + "/stream=0", transport), ("PLAY", url, ""))
    for number, (verb, target, extra) in enumerate(steps, 1):
        request = "{} {} RTSP/1.0\r\nCSeq: {}\r\n{}{}\r\n".format(
            verb, target, number, extra, session
        )
        connection.sendall(request.encode())
        answer = connection.recv(4096).decode("latin-1")
        assert answer.startswith("RTSP/1.0 200"), answer
        found = re.search(r"Session: ([^;\r]+)", answer)
        session = "Session: {}\r\n".format(found.group(1)) if found else session
    return connection


def test_a_viewer_that_vanishes_is_forgotten():
    with RtspDisplay(settings()) as display, Shower(display):
        connection = ask_for_the_stream(display._server.port)
        server = display._server
        until(lambda: display.viewers == 1 and server.source is not None)
        connection.close()
        until(lambda: display.viewers == 0 and server.source is None)


def is_open(connection):
    """Whether the server has not hung up yet; what it has sent is taken."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_connections_beyond_the_limit_are_closed_and_viewers_stay():
    limit, viewers = module._LIMIT, []

    def has_settled():
        viewers.append(display.viewers)
        return sum(map(is_open, crowd)) == limit - 1

    with RtspDisplay(settings(password="s3cret")) as display, Shower(display):
        port = display._server.port
        place = "127.0.0.1:{}/faces".format(port)
        with viewer("rtsp://edge-app:s3cret@" + place) as camera:
            read(camera, 3)
            before = len(os.listdir("/proc/self/fd"))
            crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(4 * limit)]
            until(has_settled)
            assert max(viewers) == limit
            until(lambda: len(os.listdir("/proc/self/fd")) - before <= len(crowd) + limit)
            read(camera, 10)
            for connection in crowd:
                connection.close()
            until(lambda: display.viewers == 1)
        with viewer("rtsp://edge-app:s3cret@" + place) as camera:
            assert shows_the_face(read(camera, 3).pixels)


def test_one_network_cannot_take_all_connections(monkeypatch):
    protected = settings(host="0.0.0.0", password="s3cret")
    with RtspDisplay(protected) as display, Shower(display):
        port = display._server.port
        monkeypatch.setattr(guard, "is_loopback", lambda host: False)
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * module._SHARE)]
        until(lambda: sum(map(is_open, crowd)) == module._SHARE)
        other = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
        assert describe(other, "127.0.0.1:{}/faces".format(port)).startswith("RTSP/1.0 401")
        for connection in crowd + [other]:
            connection.close()


class Talkers:
    """Strangers on some threads, who connect, talk, and do not care for answers, until the end."""

    def __init__(self, port, count=3):
        self.connections = 0
        self._port = port
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def _run(self):
        while not self._ending.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as one:
                for _ in range(10):
                    one.sendall(b"OPTIONS rtsp://x/faces RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            self.connections += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._ending.set()
        for thread in self._threads:
            thread.join()


def test_those_who_are_cut_off_while_they_talk_leave_nothing_behind(monkeypatch, capfd):
    """GStreamer's server must not read on from a connection that another thread has closed."""
    monkeypatch.setattr(module, "_LIMIT", 2)
    with RtspDisplay(settings(password="s3cret")) as display, Shower(display):
        with Talkers(display._server.port) as talkers:
            until(lambda: talkers.connections > 1500)
        until(lambda: display.viewers == 0)
        place = "edge-app:s3cret@127.0.0.1:{}/faces".format(display._server.port)
        with viewer("rtsp://" + place) as camera:
            assert shows_the_face(read(camera, 3).pixels)
    assert "CRITICAL" not in capfd.readouterr().err


def test_closing_while_strangers_talk_leaves_nothing_behind(capfd):
    for _ in range(5):
        display = RtspDisplay(settings()).__enter__()
        with Talkers(display._server.port) as talkers:
            until(lambda: talkers.connections > 50)
            display.close()
    assert "CRITICAL" not in capfd.readouterr().err


@pytest.mark.parametrize("size_wh", [(641, 361), (353, 289), (322, 242)])
def test_odd_sizes_are_made_even(size_wh):
    def make(number):
        return picture(number, size_wh=size_wh)

    with RtspDisplay(settings()) as display, Shower(display, 0.02, make):
        with viewer(display.url) as camera:
            pixels = read(camera, 5).pixels
    assert pixels.shape == (size_wh[1] + size_wh[1] % 2, size_wh[0] + size_wh[0] % 2, 3)
    expected = cv2.resize(make(0).pixels, (pixels.shape[1], pixels.shape[0])).astype(int)
    assert np.abs(pixels.astype(int) - expected).mean() < 6.0


def test_another_size_in_mid_run_fits_into_the_same_stream():
    sizes = [(640, 360)]

    def make(number):
        return picture(number, size_wh=sizes[0])

    with RtspDisplay(settings()) as display, Shower(display, 0.02, make):
        with viewer(display.url) as camera:
            assert shows_the_face(read(camera, 3).pixels)
            sizes[0] = (360, 360)
            deadline = time.monotonic() + 60.0
            while time.monotonic() < deadline:
                pixels = read(camera).pixels
                if pixels[180, 20].max() < 30:  # the bar at the left
                    break
            assert pixels.shape == (360, 640, 3)
            assert pixels[:, :130].max() < 60 and pixels[:, 510:].max() < 60, "bars left and right"
            assert (
                abs(np.median(pixels[300:340, 400:480]) - 90) <= 6
            ), "and the picture between them"
            sizes[0] = (640, 360)
            until(lambda: shows_the_face(read(camera).pixels))


def test_the_port_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        taken = "127.0.0.1:{}: .*in use. Choose another port, .* rtsp:{}".format(port, port + 1)
        with pytest.raises(DisplayError, match=taken):
            RtspDisplay(settings(port=port)).__enter__()


def test_the_address_is_not_this_machines():
    elsewhere = settings(host="192.0.2.1", password="only for this test")
    with pytest.raises(DisplayError, match="192.0.2.1.*address of this machine to rtsp.host"):
        RtspDisplay(elsewhere).__enter__()


def test_the_port_may_stand_behind_the_kind():
    port = free_port()
    with RtspDisplay(settings(), str(port)) as display:
        assert display.url == "rtsp://127.0.0.1:{}/faces".format(port)
    for wrong in ("eight", "70000", "-1", "80 80"):
        with pytest.raises(ConfigError, match="rtsp:8554"):
            RtspDisplay(settings(), wrong).__enter__()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_beyond_loopback_only_with_a_password(host):
    with pytest.raises(ConfigError, match="rtsp.password"):
        RtspDisplay(settings(host=host)).__enter__()


def test_who_has_the_password_may_watch():
    protected = settings(host="0.0.0.0", user="door", password="s3cret:@/")
    with RtspDisplay(protected) as display, Shower(display):
        place = "127.0.0.1:{}/faces".format(display._server.port)
        for who in ("", "door:wrong@", "other:s3cret%3A%40%2F@"):
            with pytest.raises(CameraError):
                with viewer("rtsp://" + who + place) as camera:
                    read(camera)
        with viewer("rtsp://door:s3cret%3A%40%2F@" + place) as camera:
            assert shows_the_face(read(camera, 3).pixels)
        with socket.create_connection(("127.0.0.1", display._server.port)) as asking:
            asking.sendall("DESCRIBE rtsp://{} RTSP/1.0\r\nCSeq: 1\r\n\r\n".format(place).encode())
            answer = asking.recv(4096).decode()
    assert "401" in answer and "Digest" in answer and "Basic" not in answer


def digest(place, user, password, answer):
    """The header that answers a challenge (RFC 2617, section 3.2.2, without qop)."""

    def md5(text):
        return hashlib.md5(text.encode()).hexdigest()

    realm, nonce = [re.search(name + '="([^"]*)"', answer).group(1) for name in ("realm", "nonce")]
    secret = md5("{}:{}:{}".format(user, realm, password))
    proof = md5("{}:{}:{}".format(secret, nonce, md5("DESCRIBE:rtsp://" + place)))
    words = 'Digest username="{}", realm="{}", nonce="{}", uri="rtsp://{}", response="{}"'
    return "Authorization: " + words.format(user, realm, nonce, place, proof) + "\r\n"


def describe(connection, place, header=""):
    """The server's answer to DESCRIBE; nothing when it has hung up."""
    request = "DESCRIBE rtsp://{} RTSP/1.0\r\nCSeq: 1\r\n{}\r\n".format(place, header)
    try:
        connection.sendall(request.encode())
        return connection.recv(4096).decode()
    except OSError:
        return ""


def test_after_some_wrong_passwords_nobody_of_that_network_is_let_in_for_a_while():
    with RtspDisplay(settings(password="s3cret")) as display, Shower(display):
        server = display._server
        place = "127.0.0.1:{}/faces".format(server.port)
        with socket.create_connection(("127.0.0.1", server.port)) as guesser:
            for _ in range(FAILURES):
                challenge = describe(guesser, place)
                answer = describe(guesser, place, digest(place, "edge-app", "guess", challenge))
                assert challenge.startswith("RTSP/1.0 401") and answer.startswith("RTSP/1.0 401")
            right = digest(place, "edge-app", "s3cret", challenge)
            assert not describe(guesser, place, right).startswith("RTSP/1.0 200")
        with pytest.raises(CameraError):
            with viewer("rtsp://edge-app:s3cret@" + place) as camera:
                read(camera)
        server.failures.forget()
        with viewer("rtsp://edge-app:s3cret@" + place) as camera:
            assert shows_the_face(read(camera, 3).pixels)


def test_asking_without_a_password_is_no_guess():
    with RtspDisplay(settings(password="s3cret")) as display, Shower(display):
        place = "127.0.0.1:{}/faces".format(display._server.port)
        with socket.create_connection(("127.0.0.1", display._server.port)) as asking:
            for _ in range(2 * FAILURES):
                assert describe(asking, place).startswith("RTSP/1.0 401")
        with viewer("rtsp://edge-app:s3cret@" + place) as camera:
            assert shows_the_face(read(camera, 3).pixels)


def test_while_the_camera_is_silent_viewers_are_refused_at_once(monkeypatch):
    """Of itself the server would let each, one after the other, wait 20 s for a first picture."""
    monkeypatch.setattr(module, "_SILENT_S", 0.0)
    with RtspDisplay(settings()) as display:
        port = display._server.port
        place = "127.0.0.1:{}/faces".format(port)
        started = time.monotonic()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as asking:
                assert describe(asking, place).startswith("RTSP/1.0 503")
        assert time.monotonic() - started < 15.0
        assert display._server.source is None, "nothing was begun for them"
        monkeypatch.setattr(module, "_SILENT_S", 60.0)
        with Shower(display), viewer(display.url) as camera:
            assert shows_the_face(read(camera, 3).pixels)


def test_closing_takes_its_time_at_most_and_viewers_see_the_end():
    display = RtspDisplay(settings()).__enter__()
    with Shower(display) as shower, viewer(display.url) as camera:
        read(camera, 3)
        port = display._server.port
        connection = ask_for_the_stream(port)
        shower.__exit__()
        started = time.monotonic()
        display.close()
        display.close()
        assert time.monotonic() - started < 15
        with pytest.raises(CameraError):
            read(camera, 1000)
        connection.close()
    assert "rtsp" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    "encoder, problem",
    [
        ("nvv4l2h264enc", "nvv4l2h264enc: not installed"),
        ("jpegdec", "jpegdec: "),  # is there, but does not take raw video
    ],
)
def test_an_encoder_that_does_not_work_is_found_at_the_start(encoder, problem):
    with pytest.raises(DisplayError, match=problem) as raised:
        RtspDisplay(settings(encoder=encoder)).__enter__()
    assert "rtsp.encoder" in str(raised.value)


def test_an_encoder_may_be_named(gstreamer):
    require(gstreamer.ElementFactory.find("openh264enc"), "openh264enc (gstreamer1.0-plugins-bad)")
    with RtspDisplay(settings(encoder="openh264enc")) as display, Shower(display):
        with viewer(display.url) as camera:
            assert shows_the_face(read(camera, 3).pixels)


def test_an_encoder_that_fails_in_mid_run_is_made_anew_for_the_next_viewer(monkeypatch):
    broken = module._ENCODERS["x264enc"] + " ! identity error-after=20"
    monkeypatch.setitem(module._ENCODERS, "x264enc", broken)
    with RtspDisplay(settings(encoder="x264enc")) as display, Shower(display):
        for _ in range(2):
            with viewer(display.url) as camera:
                assert shows_the_face(read(camera, 5).pixels)
                with pytest.raises(CameraError):
                    read(camera, 50)


def test_without_the_server_it_says_what_to_install(monkeypatch):
    code = (
        "import gi; real = gi.require_version\n"
        "def require(name, version):\n"
        "    if name == 'GstRtspServer': raise ValueError('Namespace GstRtspServer not available')\n"
        "    real(name, version)\n"
        "gi.require_version = require\n"
        "from edge_app.appliance.stream import *\n"
        "RtspDisplay(RtspSettings(port=0)).__enter__()\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=root)
    assert (
        b"DisplayError" in done.stderr and b"apt install gir1.2-gst-rtsp-server-1.0" in done.stderr
    )
