"""The HTTP side against what strangers send: nothing breaks, nothing grows, it still serves afterwards.

The seed is fixed, so that a failure can be repeated; EDGE_APP_SEED takes another.
"""

import gc
import logging
import os
import random
import select
import socket
import struct
import threading
import time
from contextlib import suppress

import pytest
from aiohttp.web_protocol import RequestHandler
from pictures import Shower
from programs import used
from waiting import until
from webclient import first_jpeg, get, open_stream, open_web

from edge_app.appliance import guard, server
from edge_app.appliance.connections import BURST_BYTES, LIMIT, SHARE, WAITING
from edge_app.appliance.metrics import Metrics

SEED = int(os.environ.get("EDGE_APP_SEED", "20261122"))
METHODS = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"",
    b"G\0T",
]
METHODS += [b"get", b"PRI * HTTP/2.0\r\n\r\nSM", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
PATHS = [
    b"/",
    b"/api/status",
    b"/metrics",
    b"/healthz",
    b"/readyz",
    b"/snapshot.jpg",
    b"/favicon.ico",
]
PATHS += [
    b"*",
    b"//evil.example/%2e%2e",
    b"/../../etc/passwd",
    b"/%00",
    b"/%ff%fe",
    b"/?token=%ff",
    b"",
]
PATHS += [
    b"http://evil.example/",
    b"/" + b"a" * 9000,
    b"/?" + b"x=1&" * 500,
    "/ünïcode".encode("utf-8"),
]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.1.1", b"", b"ICY"]
HOSTS = [
    b"localhost",
    b"127.0.0.1",
    b"evil.example",
    b"[::1]",
    b"",
    b"localhost:99999",
    b"\xff\xfe",
    b"[",
]
HEADERS = [
    b"Authorization: Bearer \xff",
    b"Cookie: edge_app_token=%s" % (b"a" * 3000),
    b"Cookie: ;;=;",
]
HEADERS += [b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 10"]
HEADERS += [
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Expect: 100-continue",
]
HEADERS += [
    b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Connection: close",
    b": no name",
    b"no colon",
]
HEADERS += [
    b"X: " + b"y" * 20000,
    b"Range: bytes=0-",
    b"If-None-Match: *",
    b" folded",
    b"A\0: b",
    b"X:\ty",
]


def request(chance):
    """Something that is more or less a request."""
    lines = [
        b" ".join(
            [chance.choice(METHODS[:2] + METHODS), chance.choice(PATHS), chance.choice(VERSIONS)]
        )
    ]
    if chance.random() < 0.9:
        lines.append(b"Host: " + chance.choice(HOSTS[:2] * 4 + HOSTS))
    lines += [chance.choice(HEADERS) for _ in range(chance.choice([0, 0, 1, 2, 5, 60]))]
    data = chance.choice([b"\r\n", b"\r\n", b"\n"]).join(lines) + b"\r\n\r\n"
    body = bytes(bytearray(chance.getrandbits(8) for _ in range(chance.choice([0, 0, 3, 40]))))
    return data + body


def broken(chance, data):
    """The same cut short, with bytes changed, or several at once."""
    kind = chance.randrange(5)
    if kind == 0:
        return data[: chance.randrange(len(data) + 1)]
    if kind == 1:
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 20)):
            changed[chance.randrange(len(changed))] = chance.getrandbits(8)
        return bytes(changed)
    if kind == 2:
        return bytes(bytearray(chance.getrandbits(8) for _ in range(chance.randrange(600))))
    return data * chance.choice([1, 2, 30]) if kind == 3 else data


def connect(display):
    return socket.create_connection(("127.0.0.1", int(display.url.rsplit(":", 1)[1])), timeout=60)


def send(display, data, reset):
    """Send, read what comes at once, and leave, rudely or not; the first bytes of the answer."""
    with connect(display) as connection:
        answer = b""
        try:
            connection.sendall(data)
            if select.select([connection], [], [], 0.02)[0]:
                answer = connection.recv(4096)
        except OSError:
            pass  # cut off, as it should be
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return answer


def storm(display, chance, count):
    """So many broken requests, on four threads; the answers that tell of a mistake of ours."""
    ours = []
    lots = [[broken(chance, request(chance)) for _ in range(count // 4)] for _ in range(4)]

    def run(lot):
        for number, data in enumerate(lot):
            if send(display, data, number % 3 == 0)[9:12] == b"500":
                ours.append(data)

    threads = [threading.Thread(target=run, args=(lot,)) for lot in lots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ours


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def objects():
    """How many there are; a leak of one for each request would show, the allocator's moods do not."""
    gc.collect()
    return len(gc.get_objects())


@pytest.fixture
def display():
    status, meter = used()
    with Metrics(status, meter) as metrics, open_web(status, metrics) as web:
        with Shower(web, pace_s=0.02):
            yield web


def test_broken_requests_break_nothing_and_nothing_grows(display, caplog):
    chance = random.Random(SEED)
    storm(display, chance, 400)  # what is made once, is made now
    open_before, threads_before, objects_before = descriptors(), threading.active_count(), objects()
    with caplog.at_level(logging.WARNING):
        assert storm(display, chance, 1600) == []
    until(lambda: descriptors() <= open_before + 2)
    assert threading.active_count() == threads_before
    assert objects() - objects_before < 1600 / 2
    assert caplog.records == []
    assert get(display.url + "/api/status")[0] == 200
    viewer = open_stream(display)
    assert first_jpeg(viewer)[:2] == b"\xff\xd8"
    viewer.close()


def test_with_a_token_no_broken_request_gets_past_it(caplog):
    chance = random.Random(SEED + 1)
    with open_web(host="0.0.0.0", token="a long and secret token") as display, Shower(display):
        for _ in range(300):
            data = broken(chance, request(chance))
            answer = send(display, data, False)
            assert (
                b"uptime_s" not in answer and b"\xff\xd8" not in answer and b"<html" not in answer
            ), data
            assert b"# HELP" not in answer, data


def test_connections_beyond_the_limit_are_closed_and_the_rest_lives_on(display):
    before = descriptors()
    held = [connect(display) for _ in range(LIMIT + 50)]
    for one in held[-20:]:
        one.settimeout(60)
        try:
            assert one.recv(1) == b""
        except ConnectionResetError:
            pass
    with held[0] as first:  # has its place
        first.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert first.recv(4096).startswith(b"HTTP/1.1 200")
    for one in held:
        one.close()
    until(lambda: descriptors() <= before + 2)
    assert get(display.url + "/api/status")[0] == 200


def test_one_network_keeps_nobody_else_from_the_page_and_the_probes(monkeypatch):
    monkeypatch.setattr(guard, "is_loopback", lambda host: False)
    with open_web(host="0.0.0.0", token="a long and secret token") as display:
        port = int(display.url.rsplit(":", 1)[1])
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(LIMIT + 50)]
        for one in held[SHARE:]:
            one.settimeout(60)
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
        probe = socket.create_connection(("127.0.0.1", port), 60, source_address=("127.0.0.2", 0))
        for one in (held[0], probe):
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
        for one in held + [probe]:
            one.close()


def test_thousands_of_connections_one_after_the_other(display):
    before = descriptors()
    for number in range(40):
        some = [connect(display) for _ in range(50)]
        for connection in some:
            if number % 2:
                connection.sendall(b"GET / HT")
            connection.close()
    until(lambda: descriptors() <= before + 2)
    assert get(display.url + "/api/status")[0] == 200


def test_half_a_request_is_not_waited_for_for_ever(monkeypatch):
    make = server.Connections
    monkeypatch.setattr(server, "Connections", lambda limit, _: make(limit, 0.3))
    with open_web() as display, Shower(display):
        viewer = open_stream(display)
        first_jpeg(viewer)
        silent, half = connect(display), connect(display)
        half.sendall(b"GET /api/status HTTP/1.1\r\nHost: local")
        kept = connect(display)
        kept.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for one in (silent, half, kept):
            one.settimeout(60)
            try:
                while one.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            one.close()
        first_jpeg(viewer)  # who watches stays, however long
        viewer.close()


def test_who_sends_without_end_is_cut_off(display):
    with connect(display) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        flood = b"x" * 4096
        with pytest.raises(OSError):
            for _ in range(1000 * BURST_BYTES // len(flood)):  # more than kernels hold
                connection.sendall(flood)
    assert get(display.url + "/api/status")[0] == 200


def answers(connection):
    """How many come until the server hangs up, or says nothing for half a second."""
    data = b""
    connection.settimeout(0.5)
    try:
        while True:
            more = connection.recv(1 << 16)
            if not more:
                return data.count(b"HTTP/1.1 200"), True
            data += more
    except socket.timeout:
        return data.count(b"HTTP/1.1 200"), False
    except ConnectionError:
        return data.count(b"HTTP/1.1 200"), True


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_requests_that_do_not_wait_for_answers_are_answered_up_to_a_limit(display, line_end):
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(display) as connection:
        for _ in range(3):
            connection.sendall(one * WAITING)
            heard = 0
            while heard < WAITING:
                heard += connection.recv(1 << 16).count(b"HTTP/1.1 200")
        connection.sendall((one * (WAITING + 1)).replace(b"\r\n", line_end))
        assert answers(connection) == (0, True)
    with connect(display) as connection:
        connection.sendall(one * WAITING)
        assert answers(connection) == (WAITING, False)


def test_requests_behind_one_that_takes_long_are_not_kept_without_end(display, monkeypatch):
    """The connection is cut off by us or, with aiohttp 3.14, not read any further."""
    request, handed = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", []
    hand_on = RequestHandler.data_received

    def counted(handler, data):
        handed.append(len(data))
        hand_on(handler, data)

    monkeypatch.setattr(RequestHandler, "data_received", counted)
    with connect(display) as connection:
        stream = b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(stream)
        first_jpeg(connection)
        assert sum(handed) == len(stream)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(5)
        with suppress(ConnectionError, socket.timeout):
            for byte in request * 1000:
                connection.sendall(bytes([byte]))
        before = -1
        while before < len(handed):  # until a second has brought no more
            before = len(handed)
            time.sleep(1)
    assert sum(handed) <= len(stream) + (WAITING + 1) * len(request)


def test_a_viewer_that_leaves_while_there_are_no_pictures_is_forgotten():
    with open_web() as display:
        for _ in range(20):
            open_stream(display).close()
        until(lambda: b'"viewers": 0' in get(display.url + "/api/status")[1])
