"""Run as root inside camera_vm: our program looks at a camera that is pulled and put back; every line it prints is JSON.

usage: pull_camera.py [NAME=VALUE ...]        settings of the program besides its own

Pulling is the kernel's own: the driver vivid is unbound from its device while the program reads it, so the node
vanishes, and reads fail, as with a USB cable. Binding it again brings a node with the lowest number that is free.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

NODE, OTHER_NODE = "/dev/video0", "/dev/video1"
LINK = "/dev/v4l/by-path/platform-vivid.0-video-index0"
DRIVER = "/sys/bus/platform/drivers/vivid/"
LOG = "/tmp/program.log"
LIMIT_S = 300.0  # for whatever is waited for: everything is slow here
FRAMES = 5


class Failed(Exception):
    """What was waited for did not happen."""


def tell(step, **known):
    """One line for the test outside."""
    print(json.dumps(dict(known, step=step)), flush=True)


def until(happened, what, every_s=0.05):
    """What ``happened()`` gives, once that is true."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        found = happened()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise Failed("not within {:g} s: {}".format(LIMIT_S, what))
        time.sleep(every_s)


class Program:
    """Our program, watched through its page; used by ``with``."""

    def __init__(self, source, settings):
        self.source = source
        self._settings = ["recovery.mode=always", "display.kind=web"] + settings
        self._last = {}

    def __enter__(self):
        command = [sys.executable, "-m", "edge_app", "run", "--source", self.source]
        for one in self._settings:
            command += ["--set", one]
        with open(LOG, "w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until(self.status, "the page of the program")
        return self

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        tell("ended", source=self.source, code=code)

    def status(self):
        """What the page says; empty while there is none."""
        if self._process.poll() is not None:
            raise Failed("the program has ended with {}".format(self._process.returncode))
        try:
            with urllib.request.urlopen("http://127.0.0.1:8080/api/status", timeout=60) as answer:
                return json.load(answer)
        except OSError:
            return {}

    def waits(self, text=""):
        """The message of the waiting state, once it holds ``text``."""
        return until(
            lambda: self._camera_waits(text),
            "the program waits, and says: {}".format(text or "anything"),
        )

    def _camera_waits(self, text):
        said = self.status().get("waiting", {}).get("camera", "")
        return said if text in said else ""

    def shows(self, count=FRAMES):
        """Wait for so many frames more than now, each of them inferred."""
        first = self.status().get("frame")
        first = -1 if first is None else first
        return until(lambda: self._newer_than(first + count), "{} frames".format(count))

    def _newer_than(self, number):
        found = self.status()
        frame = found.get("frame")
        return found if frame is not None and frame >= number else None


def write(path, text):
    """To a file of the kernel's."""
    with open(path, "w") as file:
        file.write(text)


def pull():
    """Pull the camera."""
    write(DRIVER + "unbind", "vivid.0")


def put_back(program, path):
    """Put it in again, and wait for a frame that was inferred after that.

    Args:
        path: whose return counts: of the node, or of the link that the program was given.
    """
    before = program.status()
    write(DRIVER + "bind", "vivid.0")
    until(lambda: os.path.exists(path), path)
    back_at = os.lstat(path).st_mtime
    last = -1 if before["frame"] is None else before["frame"]
    found = until(lambda: program._newer_than(last + 1), "a frame")
    seconds = time.time() - back_at
    program.shows()
    after = program.status()
    tell(
        "back",
        source=program.source,
        node=os.path.realpath(path),
        recovered_s=round(seconds, 2),
        frame_age_ms=found["age_ms"],
        frames=[last, found["frame"], after["frame"]],
        waiting=after["waiting"],
        restarts=after["restarts"],
        said=after["notes"][-1]["text"],
    )


def pulled_and_put_back(program, path, away_s):
    """It is away for a while; under which number it comes back is the kernel's choice."""
    node = os.path.realpath(path)
    pull()
    gone = not os.path.exists(node)
    pulled_at = time.monotonic()
    said = program.waits()
    noticed_s = time.monotonic() - pulled_at
    time.sleep(max(0.0, away_s - (time.monotonic() - pulled_at)))
    tell("pulled", source=program.source, gone=gone, noticed_s=round(noticed_s, 2), said=said)
    put_back(program, path)


def other_number(program):
    """Another program holds on to the old node: the camera comes back under another number."""
    with open(NODE, "rb"):
        pull()
        program.waits()
        put_back(program, LINK)


def story(settings):
    """Everything, in order. With the end of a program the numbers are free again."""
    subprocess.run(["/usr/lib/systemd/systemd-udevd", "--daemon"], check=True)
    with Program("v4l2://" + LINK, settings) as program:
        tell("no camera", said=program.waits())
        subprocess.run(["modprobe", "vivid", "n_devs=1", "node_types=0x1"], check=True)
        found = program.shows()
        tell("frames", fps=found["detect_fps"], size=[found["width"], found["height"]])
        for away_s in (0.0, 12.0):
            pulled_and_put_back(program, LINK, away_s)
    pull()
    write(DRIVER + "bind", "vivid.0")
    with Program("v4l2://" + NODE, settings) as program:
        program.shows()
        other_number(program)
    tell("done")


if __name__ == "__main__":
    try:
        story(sys.argv[1:])
    except Exception as error:
        with open(LOG) as log:
            tell("failed", error=repr(error), log=log.read())
        raise
