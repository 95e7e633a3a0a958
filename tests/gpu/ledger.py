"""The books that ledger.c keeps, read from Python; run.sh compiles and preloads it."""

import ctypes


class Ledger:
    """What pycuda has alive in this process, and what it called.

    Raises:
        LookupError: ledger.so is not preloaded.
    """

    KINDS = ("device blocks", "host blocks", "streams", "events", "modules", "contexts")
    CALLS = ("allocations", "waits", "blocking copies", "queued copies", "launches")

    def __init__(self):
        self._library = ctypes.CDLL(None)
        if not hasattr(self._library, "ledger_alive"):
            raise LookupError("ledger.so is not preloaded: run.sh compiles it, if there is a cc")

    def alive(self):
        """How many of each kind; empty when nothing is left."""
        return {kind: n for kind, n in self._read("ledger_alive", self.KINDS).items() if n}

    def calls(self):
        """How often each was called so far."""
        return self._read("ledger_calls", self.CALLS)

    def fail_allocation(self, nth):
        """The nth allocation from now on and all after it fail for want of memory; 0: none does."""
        self._library.ledger_fail_allocation(ctypes.c_long(nth))

    def _read(self, function, names):
        counts = (ctypes.c_long * len(names))()
        getattr(self._library, function)(counts)
        return dict(zip(names, counts))
