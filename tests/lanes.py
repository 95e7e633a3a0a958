"""Runs targets of the Makefile here side by side; what each says appears whole when it ends, with its time.

    python3 tests/lanes.py test-boxes test-app ...      LANES=1: one after the other

Most tests wait (for a camera, a screen, a machine that boots): side by side they need half the time. While a lane
runs, its words are in build/lanes/TARGET.log. A lane that fails does not stop the others; the exit status is then 1.
"""

import os
import re
import signal
import subprocess
import sys
import time

LOGS = os.path.join("build", "lanes")
_POLL_S = 0.2


class Lane:
    """One target, running from the moment it is made.

    Args:
        target: of the Makefile.
        about: what it is, in words.
    """

    def __init__(self, target, about):
        self.target = target
        self.log = os.path.join(LOGS, target + ".log")
        self.seconds = 0.0
        self._started = time.monotonic()
        with open(self.log, "wb") as log:
            command = ["make", "--no-print-directory", target]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        say("   {}: {} (see {})".format(target, about, self.log))

    @property
    def passed(self):
        """Whether it has ended well; None while it runs."""
        status = self._process.poll()
        return None if status is None else status == 0

    def finish(self):
        """Show everything it has said."""
        self.seconds = time.monotonic() - self._started
        say("\n===== {} {}".format(self.target, "=" * (94 - len(self.target))))
        with open(self.log, "rb") as log:
            sys.stdout.buffer.write(log.read())
        say("===== {}\n".format(self.outcome()))

    def outcome(self):
        """A line: which, how, how long."""
        word = "passed" if self.passed else "FAILED"
        return "{} {} after {:.0f} s".format(self.target, word, self.seconds)

    def stop(self):
        """End it early: make passes the signal on."""
        if self.passed is None:
            self._process.terminate()
            self._process.wait()


def say(text):
    """A line that appears now."""
    print(text, flush=True)


def abouts():
    """What the Makefile says of its targets, by name."""
    with open("Makefile", encoding="utf-8") as file:
        return dict(re.findall(r"^([a-z0-9-]+):.*?## (.*)$", file.read(), re.M))


def run(targets, at_once):
    """Run all targets, so many at once, begun in their order; the lanes in the order of their ends."""
    waiting, running, ended = list(targets), [], []
    about = abouts()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                target = waiting.pop(0)
                running.append(Lane(target, about.get(target, "")))
            for lane in [lane for lane in running if lane.passed is not None]:
                running.remove(lane)
                lane.finish()
                ended.append(lane)
            time.sleep(_POLL_S)
    finally:
        for lane in running:
            lane.stop()
    return ended


def main(targets):
    at_once = int(os.environ.get("LANES") or 4)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.makedirs(LOGS, exist_ok=True)
    started = time.monotonic()
    say("Lanes, {} at once; what each says appears when it ends:".format(at_once))
    ended = run(targets, at_once)
    for lane in ended:
        say(lane.outcome())
    say("{:.0f} s for all".format(time.monotonic() - started))
    return 0 if all(lane.passed for lane in ended) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
