"""A TensorRT engine, from file to queue: both generations of its interface in two functions.

TensorRT 8.2 numbers its tensors ("bindings"), TensorRT 10 and later name them; 8.5 and 8.6 do both.
We ask for what is there and never compare versions. Nothing else in the program knows the difference.
"""

from collections import deque
from functools import lru_cache
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from edge_app.errors import DetectorError, OutOfMemoryError
from edge_app.nvidia.context import MEMORY_ADVICE, lacks_memory


class EngineRefused(DetectorError):
    """TensorRT does not take this file: damaged, or of another version or GPU. Build it again."""


class Tensor(NamedTuple):
    """One end of an engine."""

    name: str
    is_input: bool
    shape: Tuple[int, ...]
    dtype: np.dtype

    @property
    def size_bytes(self) -> int:
        """Of all its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def import_tensorrt() -> Any:
    """TensorRT, or TensorRT-RTX, which has the interface of TensorRT 11.

    Raises:
        DetectorError: neither is installed.
    """
    reasons = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return __import__(name)
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    raise DetectorError(
        "TensorRT cannot be used: {}. On a Jetson it comes with JetPack (sudo apt install "
        "nvidia-jetpack), for the system's own python3; elsewhere set detector.backend to "
        "onnxruntime.".format("; ".join(reasons))
    )


@lru_cache(maxsize=None)
def logger_of(trt: Any) -> Any:
    """The process's one logger of a TensorRT module, as ``trt.ILogger``.

    TensorRT keeps the first logger it is given for the life of the process and only warns about
    others, so this one is kept as well. ``take()`` empties it: the latest warnings and errors.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: Deque[str] = deque(maxlen=40)

        def log(self, severity: Any, text: str) -> None:
            if severity in (self.INTERNAL_ERROR, self.ERROR, self.WARNING):
                self.lines.append(str(text).strip().replace("\n", " "))

        def take(self) -> List[str]:
            lines = list(self.lines)
            self.lines.clear()
            return lines

    return Log()


def describe_tensors(trt: Any, engine: Any) -> List[Tensor]:
    """Inputs and outputs of a deserialised engine, by either interface."""
    dtypes = {
        trt.DataType.FLOAT: np.dtype(np.float32),
        trt.DataType.HALF: np.dtype(np.float16),
        trt.DataType.INT32: np.dtype(np.int32),
        trt.DataType.INT8: np.dtype(np.int8),
        trt.DataType.BOOL: np.dtype(np.bool_),
    }
    if hasattr(engine, "num_io_tensors"):
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [
            Tensor(
                name,
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                tuple(engine.get_tensor_shape(name)),
                dtypes[engine.get_tensor_dtype(name)],
            )
            for name in names
        ]
    return [
        Tensor(
            engine.get_binding_name(index),
            engine.binding_is_input(index),
            tuple(engine.get_binding_shape(index)),
            dtypes[engine.get_binding_dtype(index)],
        )
        for index in range(engine.num_bindings)
    ]


def bind(engine: Any, context: Any, addresses: Dict[str, int]) -> Callable[[int], bool]:
    """Tell the context where its tensors lie; the result queues one run on a stream handle."""
    if hasattr(engine, "num_io_tensors"):
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise DetectorError("TensorRT refused the address of tensor {!r}.".format(name))
        enqueue: Callable[[int], bool] = context.execute_async_v3
        return enqueue
    names = [engine.get_binding_name(index) for index in range(engine.num_bindings)]
    bindings = [addresses[name] for name in names]
    return lambda stream: bool(context.execute_async_v2(bindings, stream))


class Engine:
    """A deserialised engine with one execution context. Needs a current CUDA context while open.

    Opening it raises ``EngineRefused``, or ``OutOfMemoryError``, which says nothing against the engine.

    Args:
        path: of the engine file.

    Attributes:
        tensors: its inputs and outputs, once open.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: List[Any] = []  # runtime, engine, context: each must outlive the next
        self._enqueue: Optional[Callable[[int], bool]] = None
        self.tensors: List[Tensor] = []

    def __enter__(self) -> "Engine":
        self._trt = import_tensorrt()
        self._log = logger_of(self._trt)
        self._log.take()
        try:
            with open(self._path, "rb") as file:
                plan = file.read()
        except OSError as error:
            raise EngineRefused(
                "no engine at {}: {}.".format(self._path, error.strerror)
            ) from error
        try:
            self._held.append(self._trt.Runtime(self._log))
            self._held.append(
                self._made("deserialise", self._held[0].deserialize_cuda_engine(plan))
            )
            self._held.append(self._made("run", self._held[1].create_execution_context()))
            self.tensors = describe_tensors(self._trt, self._held[1])
        except BaseException:
            self.close()
            raise
        return self

    def _made(self, verb: str, thing: Optional[Any]) -> Any:
        """TensorRT answers None where others raise."""
        if thing is not None:
            return thing
        reasons = self._reasons()
        if lacks_memory(reasons):  # the engine is as good as it was
            raise OutOfMemoryError(
                "no memory to {} {}: {}. {}".format(verb, self._path, reasons, MEMORY_ADVICE)
            )
        raise EngineRefused("TensorRT cannot {} {}: {}.".format(verb, self._path, reasons))

    def _reasons(self) -> str:
        return "; ".join(self._log.take()) or "it gave no reason"

    def bind(self, addresses: Dict[str, int]) -> None:
        """Say where each tensor lies; before the first ``enqueue``.

        Raises:
            DetectorError: a tensor has no address, or TensorRT refuses one.
        """
        missing = [tensor.name for tensor in self.tensors if tensor.name not in addresses]
        if missing:
            raise DetectorError("no address for {}.".format(", ".join(missing)))
        self._enqueue = bind(self._held[1], self._held[2], addresses)

    def enqueue(self, stream_handle: int) -> None:
        """Queue one inference.

        Raises:
            DetectorError: TensorRT refused; its own words are in the message.
        """
        if self._enqueue is None or not self._enqueue(stream_handle):
            raise DetectorError("the engine {} failed: {}.".format(self._path, self._reasons()))

    def close(self) -> None:
        """Free it. Idempotent."""
        self._enqueue = None
        while self._held:
            self._held.pop()  # context, engine, runtime

    def __exit__(self, *_: object) -> None:
        self.close()
