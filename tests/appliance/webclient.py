"""A web server on a free port, and what asks it."""

import re
import socket
import urllib.error
import urllib.request

from edge_app.appliance.web import WebDisplay
from edge_app.config import WebSettings
from edge_app.detector import Detector
from edge_app.source import Camera


def open_web(status=None, metrics=None, **settings):
    """A WebDisplay, to be opened by ``with``."""
    settings = dict({"port": 0, "max_rate_hz": 120.0}, **settings)
    detector = Detector()
    detector.description = "a detector in words"
    camera = Camera("test://", True)
    return WebDisplay(WebSettings(**settings), detector, camera, status, metrics)


def get(url, **headers):
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=60
        ) as answer:
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
    connection.settimeout(60)
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
