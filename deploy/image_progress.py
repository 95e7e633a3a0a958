"""How far a long step is, for the person who waits for it."""

import time


class Progress:
    """Shows how far a step is: in place on a terminal, a line for each tenth elsewhere.

    Args:
        step: what is being done.
        total: bytes in all, or None where that is not known yet.
        stream: where to write.
        clock: seconds, for the rate.
    """

    def __init__(self, step, total, stream, clock=time.monotonic):
        self._step = step
        self._total = total
        self._stream = stream
        self._clock = clock
        self._start = self._shown = clock()
        self._tenth = -1

    def __call__(self, done):
        now = self._clock()
        finished = done == self._total
        rate = done / max(now - self._start, 1e-3)
        text = "{} {}".format(self._step, in_words(done))
        if self._total:
            left = (self._total - done) / max(rate, 1)
            text += " of {}, {:3.0f} %".format(in_words(self._total), 100 * done / self._total)
            text += ", {}/s".format(in_words(rate))
            text += "" if finished else ", {:.0f} s left".format(left)
        if self._stream.isatty():
            if finished or now - self._shown >= 0.5:
                self._shown = now
                self._stream.write("\r\x1b[K" + text + ("\n" if finished else ""))
        else:
            tenth = 10 * done // self._total if self._total else done >> 30
            if tenth != self._tenth:
                self._tenth = tenth
                self._stream.write(text + "\n")
        self._stream.flush()


def in_words(size):
    """A number of bytes for people: "14.7 GB", as cards are sold."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return "{:.1f} {}".format(size / factor, unit)
    return "{:.0f} bytes".format(size)
