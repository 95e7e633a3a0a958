"""An X server for tests, and a tiny client that finds a window, presses keys and asks it to close.

The client speaks the core protocol (X Window System Protocol, X Consortium Standard, appendix B)
over the server's Unix socket, so that no tool has to be installed for it.
"""

import os
import signal
import socket
import struct
import subprocess

import numpy as np

KEY_PRESS, KEY_RELEASE, CLIENT_MESSAGE = 2, 3, 33
SEND_EVENT = 25
KEYCODES = {"q": 24, "f": 41, "escape": 9}  # of a PC keyboard (evdev), the default of Xvfb


class Screen:
    """An X server without a screen; what it shows can be read from its frame buffer."""

    def __init__(self, folder):
        self._folder = str(folder)
        self._process = None
        self.display = ""

    def __enter__(self):
        self._process = subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp", "-ac"]
            + ["-noreset", "-fbdir", self._folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        number = self._process.stdout.readline().decode().strip()
        assert number, "Xvfb did not start"
        self.display = ":" + number
        return self

    def __exit__(self, *error):
        self.kill()
        self._process.stdout.close()

    def kill(self):
        """End the server at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def freeze(self):
        """Stop the server in its tracks, as a hung graphics driver would."""
        self._process.send_signal(signal.SIGSTOP)

    def shot(self):
        """(800, 1280, 3) uint8 BGR: what is on the screen. The buffer has the format of xwd."""
        with open(os.path.join(self._folder, "Xvfb_screen0"), "rb") as file:
            data = file.read()
        head = struct.unpack(">25I", data[:100])
        start, width, height, row_bytes, colours = head[0], head[4], head[5], head[12], head[19]
        pixels = np.frombuffer(data, np.uint8, row_bytes * height, start + 12 * colours)
        return pixels.reshape(height, row_bytes // 4, 4)[:, :width, :3].copy()


class XClient:
    """A connection to a server without access control, used through ``with``."""

    def __init__(self, display):
        self._number = int(display.lstrip(":"))

    def __enter__(self):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect("/tmp/.X11-unix/X{}".format(self._number))
        self._socket.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, 0, 0))
        status, length = struct.unpack("<BxxxxxH", self._exactly(8))
        setup = self._exactly(4 * length)
        assert status == 1, setup
        vendor_bytes, formats = struct.unpack("<H", setup[16:18])[0], setup[21]
        screen = 32 + (vendor_bytes + 3) // 4 * 4 + 8 * formats
        self.root = struct.unpack("<I", setup[screen : screen + 4])[0]
        return self

    def __exit__(self, *error):
        self._socket.close()

    def find(self, title):
        """The window of that name and where it is: (id, (x, y, width, height)), or None."""
        name = self._atom(b"WM_NAME")
        todo = [self.root]
        while todo:
            window = todo.pop()
            if self._property(window, name) == title.encode():
                return window, self._place(window)
            todo += self._children(window)
        return None

    def press(self, window, key):
        """Send a key to a window."""
        for kind in (KEY_PRESS, KEY_RELEASE):
            event = struct.pack(
                "<BBHIIIIhhhhHBx", kind, KEYCODES[key], 0, 0, self.root, window, 0, 1, 1, 1, 1, 0, 1
            )
            self._send_event(window, event)
        self.find("")  # a round trip: the events have been delivered

    def ask_to_close(self, window):
        """What a click on the cross of its frame does."""
        protocols, delete = self._atom(b"WM_PROTOCOLS"), self._atom(b"WM_DELETE_WINDOW")
        event = struct.pack(
            "<BBHII5I", CLIENT_MESSAGE, 32, 0, window, protocols, delete, 0, 0, 0, 0
        )
        self._send_event(window, event)
        self.find("")

    def _send_event(self, window, event):
        self._socket.sendall(struct.pack("<BBHII", SEND_EVENT, 0, 11, window, 0) + event)

    def _atom(self, name):
        padded = name + b"\0" * (-len(name) % 4)
        request = struct.pack("<BBHHxx", 16, 0, 2 + len(padded) // 4, len(name)) + padded
        return struct.unpack("<I", self._ask(request)[8:12])[0]

    def _property(self, window, name):
        reply = self._ask(struct.pack("<BBHIIIII", 20, 0, 6, window, name, 0, 0, 64))
        return reply[32 : 32 + struct.unpack("<I", reply[16:20])[0] * (reply[1] // 8)]

    def _children(self, window):
        reply = self._ask(struct.pack("<BBHI", 15, 0, 2, window))
        count = struct.unpack("<H", reply[16:18])[0]
        return struct.unpack("<{}I".format(count), reply[32 : 32 + 4 * count])

    def _place(self, window):
        width, height = struct.unpack(
            "<HH", self._ask(struct.pack("<BBHI", 14, 0, 2, window))[16:20]
        )
        moved = self._ask(struct.pack("<BBHIIhh", 40, 0, 4, window, self.root, 0, 0))
        return struct.unpack("<hh", moved[12:16]) + (width, height)

    def _ask(self, request):
        self._socket.sendall(request)
        while True:
            head = self._exactly(32)
            if head[0] == 1:
                return head + self._exactly(4 * struct.unpack("<I", head[4:8])[0])
            is_late = head[0] == 0 and head[10] == SEND_EVENT  # the window has gone in the meantime
            assert head[0] != 0 or is_late, "X error {} on request {}".format(head[1], request[0])

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            assert more, "the X server hung up"
            data += more
        return data
