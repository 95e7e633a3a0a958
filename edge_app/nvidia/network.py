"""The network on the GPU: an engine, checked against its card, with memory for its tensors."""

from contextlib import ExitStack
from typing import Dict, Tuple

import numpy as np

from edge_app.card import ModelCard
from edge_app.errors import DetectorError
from edge_app.nvidia.buffers import DeviceBuffer
from edge_app.nvidia.context import explained
from edge_app.nvidia.engine import Engine
from edge_app.nvidia.stream import Stream


class Network:
    """Needs a current CUDA context while open.

    Args:
        engine_path: the engine file.
        card: of the ONNX it was built from.

    Attributes:
        input: device address of the input, (1, 3, h, w) float32.
        offsets, scores: device addresses of the outputs, (1, N, 4) and (1, N, 2) float32.
    """

    def __init__(self, engine_path: str, card: ModelCard) -> None:
        self._engine = Engine(engine_path)
        self._path = engine_path
        self._card = card
        self._stack = ExitStack()
        self._buffers: Dict[str, DeviceBuffer] = {}

    def __enter__(self) -> "Network":
        with ExitStack() as stack:
            engine = stack.enter_context(self._engine)
            self._check_signature()
            for tensor in engine.tensors:
                buffer = stack.enter_context(DeviceBuffer(tensor.size_bytes))
                self._buffers[tensor.name] = buffer
            engine.bind({name: buffer.address for name, buffer in self._buffers.items()})
            self._stack = stack.pop_all()
        self.input = self._buffers[self._card.input.name].address
        self.offsets = self._buffers[self._card.outputs.offsets].address
        self.scores = self._buffers[self._card.outputs.scores].address
        return self

    def _check_signature(self) -> None:
        card, count = self._card, len(self._card.default_boxes())
        width, height = card.input.size_wh
        wanted = {
            (card.input.name, True, (1, 3, height, width), np.dtype(np.float32)),
            (card.outputs.offsets, False, (1, count, 4), np.dtype(np.float32)),
            (card.outputs.scores, False, (1, count, 2), np.dtype(np.float32)),
        }
        found = {tuple(tensor) for tensor in self._engine.tensors}
        if found != wanted:
            raise DetectorError(
                "{} has the tensors {}, its card speaks of {}. Run 'edge-app convert' again.".format(
                    self._path, sorted(map(str, found)), sorted(map(str, wanted))
                )
            )

    def enqueue(self, stream: Stream) -> None:
        """Queue one inference on a stream."""
        self._engine.enqueue(stream.handle)

    def run(self, tensor: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Upload, infer, download, and wait: for the parity gate and tests, not for the loop.

        Args:
            tensor: (1, 3, h, w) float32.

        Returns:
            (N, 4) offsets and (N,) scores of *face*, float32.
        """
        count = len(self._card.default_boxes())
        offsets = np.empty((count, 4), np.float32)
        scores = np.empty((count, 2), np.float32)
        self._buffers[self._card.input.name].upload(np.ascontiguousarray(tensor, np.float32))
        with Stream() as stream, explained("running {}".format(self._path)):
            self.enqueue(stream)
            stream.synchronize()
        self._buffers[self._card.outputs.offsets].download(offsets)
        self._buffers[self._card.outputs.scores].download(scores)
        return offsets, np.ascontiguousarray(scores[:, 1])

    def close(self) -> None:
        """Free everything. Idempotent."""
        self._buffers = {}
        self._stack.close()

    def __exit__(self, *_: object) -> None:
        self.close()
