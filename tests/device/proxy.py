"""A way out for a box that has none: an HTTP proxy on this machine, for apt and pip in it.

It does GET and HEAD for plain addresses and CONNECT for encrypted ones, a thread for each connection, and ends with
its ``with``.
"""

import contextlib
import http.client
import http.server
import select
import shutil
import socket
import threading
import urllib.parse

_TIMEOUT_S = 120.0
_HOP_BY_HOP = ("connection", "keep-alive", "proxy-connection", "transfer-encoding")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S

    def do_GET(self):
        place = urllib.parse.urlsplit(self.path)
        connection = http.client.HTTPConnection(place.netloc, timeout=_TIMEOUT_S)
        with contextlib.closing(connection):
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            path = urllib.parse.urlunsplit(("", "", place.path or "/", place.query, ""))
            connection.request(self.command, path, headers=headers)
            answer = connection.getresponse()
            self.send_response(answer.status, answer.reason)
            for key, value in answer.getheaders():
                if key.lower() not in _HOP_BY_HOP:
                    self.send_header(key, value)
            # Without a length the end of the connection is the end of the file.
            self.close_connection = answer.getheader("Content-Length") is None
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "GET":
                shutil.copyfileobj(answer, self.wfile)

    do_HEAD = do_GET

    def do_CONNECT(self):
        host, _, port = self.path.rpartition(":")
        self.close_connection = True
        with socket.create_connection((host, int(port)), _TIMEOUT_S) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while True:
                ready = select.select(list(ends), [], [], _TIMEOUT_S)[0]
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    ends[one].sendall(data)
                if not ready:
                    return

    def log_message(self, *_):
        """Nothing: what failed is told by apt and pip."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Nothing: a client that hangs up is no news."""


@contextlib.contextmanager
def proxy(address):
    """The URL of a proxy that listens on ``address``."""
    with _Server((address, 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "http://{}:{}".format(address, server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
