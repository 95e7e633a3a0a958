"""Waiting for what happens beside the test."""

import time


def until(holds, limit_s=60.0):
    """Return when ``holds()`` is true; fail when it is not within ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds()


def is_running(process):
    """Whether a process lives; not when it is dead and nobody has collected it yet.

    One that was killed lives until its turn to die has come: wait for it.
    """
    try:
        with open("/proc/{}/stat".format(process)) as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
