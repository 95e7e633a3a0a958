"""Many viewers in a process of their own, so that they take no time from the server's.

    python tests/appliance/viewers.py PORT COUNT PICTURES

Every viewer fetches so many pictures of /stream.mjpg. Prints a JSON object: "seconds" from the first to
the last picture, and "pictures" of each viewer in that time.
"""

import json
import selectors
import socket
import sys
import time

REQUEST = b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
MARK = b"Content-Type: image/jpeg"


class Viewer:
    """A connection that counts pictures and throws them away."""

    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.connection.sendall(REQUEST)
        self.connection.setblocking(False)
        self.pictures = 0
        self._tail = b""

    def read(self):
        """Take what is there."""
        data = self.connection.recv(1 << 18)
        assert data, "cut off"
        seen = self._tail + data
        self.pictures += seen.count(MARK)
        self._tail = seen[-len(MARK) + 1 :]


def watch(port, count, pictures):
    """Until every one of ``count`` viewers has got so many pictures."""
    selector = selectors.DefaultSelector()
    viewers = [Viewer(port) for _ in range(count)]
    for viewer in viewers:
        selector.register(viewer.connection, selectors.EVENT_READ, viewer)
    started = None
    while min(viewer.pictures for viewer in viewers) < pictures:
        for key, _ in selector.select(30):
            key.data.read()
        if started is None and all(viewer.pictures for viewer in viewers):
            started, before = time.monotonic(), [viewer.pictures for viewer in viewers]
    seconds = time.monotonic() - started
    got = [viewer.pictures - first for viewer, first in zip(viewers, before)]
    return {"seconds": seconds, "pictures": got}


if __name__ == "__main__":
    print(json.dumps(watch(*[int(word) for word in sys.argv[1:]])))
