"""A Network that takes the tensors off the GPU, asks ONNX Runtime and puts the answer back.

So that everything around the engine can be held to the CPU detector exactly, with or without TensorRT.
"""

from contextlib import ExitStack

import numpy as np

from edge_app.nvidia import parity
from edge_app.nvidia.buffers import DeviceBuffer


class OnnxNetwork:
    """See ``edge_app.nvidia.network.Network``; ``enqueue`` waits, so it is for comparisons only."""

    def __init__(self, onnx_path, card):
        self._infer = parity.onnx_answers(onnx_path, card)
        width, height = card.input.size_wh
        self._tensor = np.empty((1, 3, height, width), np.float32)
        self._count = len(card.default_boxes())
        self._stack = ExitStack()

    def __enter__(self):
        sizes = (self._tensor.nbytes, 16 * self._count, 8 * self._count)
        self._buffers = [self._stack.enter_context(DeviceBuffer(size)) for size in sizes]
        self.input, self.offsets, self.scores = [buffer.address for buffer in self._buffers]
        return self

    def __exit__(self, *_):
        self._stack.close()

    def enqueue(self, stream):
        stream.synchronize()
        self._buffers[0].download(self._tensor)
        offsets, scores = self._infer(self._tensor)
        both = np.ascontiguousarray(np.stack([1 - scores, scores], 1))
        self._buffers[1].upload(np.ascontiguousarray(offsets))
        self._buffers[2].upload(both)
