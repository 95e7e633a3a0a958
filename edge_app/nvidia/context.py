"""The GPU's primary context, held by one thread, and its errors in our words.

TensorRT and jetson-utils work in the *primary* context (they use the CUDA runtime); a context of
pycuda.autoinit would be another one, whose addresses they cannot use. The current context is a
property of the thread, so the thread that enters is the one that calls CUDA.
"""

import ctypes
from typing import Any, NamedTuple, Optional

from edge_app.errors import DetectorError, OutOfMemoryError

MEMORY_ADVICE = "Close other programs, choose a smaller network or add swap."
_MEMORY = (  # CUDA's words, and TensorRT's; not "an illegal memory access", not "reduces memory usage"
    "out of memory",
    "outofmemory",
    "bad_alloc",
    "could not be allocated",
    "cannot allocate memory",
)
_ADVICE = (
    ("no CUDA-capable device", "Is this machine's GPU visible to this user (group video)?"),
    (
        "launch failure",
        "The GPU is lost to this process; start it again. See 'dmesg' for the cause.",
    ),
    (
        "illegal address",
        "The GPU is lost to this process; start it again and report this as a fault.",
    ),
    (
        "kernel image",
        "The compiled kernels are for another GPU: run 'edge-app convert' on this one.",
    ),
)


def lacks_memory(text: str) -> bool:
    """Whether CUDA or TensorRT says in it that there is too little memory."""
    return any(words in text.lower() for words in _MEMORY)


class Gpu(NamedTuple):
    """What an engine and a kernel depend on."""

    name: str
    sm: int  # compute capability: 53 is 5.3
    integrated: bool  # shares its memory with the CPU, as every Jetson does


def import_driver() -> Any:
    """pycuda's driver module.

    Raises:
        DetectorError: it is not installed, or there is no NVIDIA driver.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise DetectorError(
            "CUDA cannot be used: {}. Install pycuda (see README, 'On a Jetson') on a machine with an "
            "NVIDIA driver, or set detector.backend to onnxruntime.".format(error)
        ) from error
    return driver


class explained:
    """Turn what pycuda raises inside ``with`` into a ``DetectorError`` that says what was done;
    ``OutOfMemoryError`` where that is the reason.

    pycuda's MemoryError and RuntimeError are its own, derived from its ``Error``, not built-ins.
    Their traceback is dropped: its frames hold streams and kernels, which pycuda destroys with the
    last reference, and that must not be after their context.

    Args:
        action: in the -ing form.
    """

    def __init__(self, action: str) -> None:
        self._action = action
        self._driver = import_driver()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> None:
        del trace
        if not isinstance(error, self._driver.Error):
            return
        text = str(error)
        if lacks_memory(text):
            raise OutOfMemoryError(
                "CUDA failed while {}: {}. {}".format(self._action, text, MEMORY_ADVICE)
            ) from error.with_traceback(None)
        advice = [hint for words, hint in _ADVICE if words in text]
        raise DetectorError(
            "CUDA failed while {}: {}.{}".format(
                self._action, text, " " + advice[0] if advice else ""
            )
        ) from error.with_traceback(None)


def describe_gpu(index: int = 0) -> Gpu:
    """Name and abilities of a GPU; makes no context.

    Raises:
        DetectorError: there is none, or no driver, or no pycuda.
    """
    driver = import_driver()
    with explained("looking for GPU {}".format(index)):
        driver.init()
        device = driver.Device(index)
        major, minor = device.compute_capability()
        integrated = device.get_attribute(driver.device_attribute.INTEGRATED)
        return Gpu(device.name(), 10 * major + minor, bool(integrated))


class CudaContext:
    """A GPU's primary context, current in the entering thread until ``close``. Not to be nested.

    Args:
        index: which GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._context: Optional[Any] = None

    def __enter__(self) -> "CudaContext":
        driver = import_driver()
        with explained("opening GPU {}".format(self._index)):
            driver.init()
            context = driver.Device(self._index).retain_primary_context()
            context.push()
        self._context = context
        return self

    def close(self) -> None:
        """Leave the context; whatever was allocated in it must be freed before. Idempotent."""
        context, self._context = self._context, None
        if context is not None:
            context.pop()
            left_current = _current_context()
            context.detach()
            if _current_context() != left_current:
                _library().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def __exit__(self, *_: object) -> None:
        self.close()


def _current_context() -> Optional[int]:
    """Handle of this thread's current context.

    pycuda (2022.1 to 2026.1) pushes a context to detach it and counts on its destruction to pop it
    again, which the release of a primary context does not do. So ``close`` pops it itself.
    """
    handle = ctypes.c_void_p()
    _library().cuCtxGetCurrent(ctypes.byref(handle))
    return handle.value


def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")  # loaded already: pycuda is linked with it
