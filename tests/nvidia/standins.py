"""Building the stand-ins of standin/, each kept under the hash of what it is made of."""

import ctypes
import hashlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
STANDIN = os.path.join(HERE, "standin")
sys.path.insert(0, STANDIN)

import cuda_cpu  # noqa: E402
import libcuda  # noqa: E402,F401


def hash_of(*paths):
    """Of the files' contents and names."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.path.basename(path).encode())
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


def compiled_kernels(cu, folder):
    """Path of the host library of a .cu file, compiled unless there is one of the same source."""
    parts = [os.path.join(STANDIN, name) for name in ("cuda_cpu.py", "cuda_cpu.h", "cuda_cpu.cpp")]
    name = "{}-{}.so".format(os.path.basename(cu)[:-3], hash_of(cu, *parts))
    library = os.path.join(folder, name)
    if not os.path.exists(library):
        os.makedirs(folder, exist_ok=True)
        temporary = "{}.{}".format(library, os.getpid())
        cuda_cpu.build(cu, temporary)
        os.replace(temporary, library)
    return library


class StandIn:
    """The stand-in driver library, and what is alive in it."""

    KINDS = ("bytes", "streams", "events", "modules", "contexts", "current")

    def __init__(self, library, folder):
        self._library = library
        self.folder = folder  # that holds libcuda.so.1

    def alive(self):
        """Everything that was made and not freed, by kind; empty when nothing was left."""
        counts = (ctypes.c_long * len(self.KINDS))()
        self._library.cuda_standin_live(counts)
        return {kind: count for kind, count in zip(self.KINDS, counts) if count}

    CALLS = ("allocations", "waits", "copies", "launches")

    def calls(self):
        """How often each was asked for so far."""
        counts = (ctypes.c_long * len(self.CALLS))()
        self._library.cuda_standin_calls(counts)
        return dict(zip(self.CALLS, counts))
