"""A camera daemon in a process of its own, so that a test can stop, kill and start it: fills shared memory.

Arguments: the socket, width and height. A camera reads it by ``shmsrc``.
"""

import os
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402


def main():
    Gst.init(None)
    socket, width, height = sys.argv[1:4]
    if os.path.exists(socket):  # left behind by one that was killed
        os.unlink(socket)
    pipeline = Gst.parse_launch(
        "videotestsrc is-live=true pattern=ball ! video/x-raw, format=NV12, width={}, height={}, "
        "framerate=60/1 ! shmsink socket-path={} wait-for-connection=false shm-size=4000000".format(
            width, height, socket
        )
    )
    pipeline.set_state(Gst.State.PLAYING)
    pipeline.get_state(5 * Gst.SECOND)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
