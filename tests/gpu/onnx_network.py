"""Networks for the detector under test, with or without TensorRT: ONNX Runtime's answer, or always the same."""

from contextlib import ExitStack

import numpy as np

from edge_app.nvidia import parity
from edge_app.nvidia.buffers import DeviceBuffer


def opened(sizes):
    """(buffers of these sizes, the stack that frees them); none is left when one cannot be had."""
    with ExitStack() as stack:
        buffers = [stack.enter_context(DeviceBuffer(size)) for size in sizes]
        return buffers, stack.pop_all()


class OnnxNetwork:
    """Takes the tensor off the GPU, asks ONNX Runtime and puts the answer back; the detector is then exact.

    See ``edge_app.nvidia.network.Network``; ``enqueue`` waits, so it is for comparisons only.
    """

    def __init__(self, onnx_path, card):
        self._infer = parity.onnx_answers(onnx_path, card)
        width, height = card.input.size_wh
        self._tensor = np.empty((1, 3, height, width), np.float32)
        self._count = len(card.default_boxes())
        self._stack = ExitStack()

    def __enter__(self):
        sizes = (self._tensor.nbytes, 16 * self._count, 8 * self._count)
        self._buffers, self._stack = opened(sizes)
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


class FixedNetwork:
    """Gives every picture the same answer, without a call of the driver: what remains is the detector's own.

    Five default boxes score 0.99.
    """

    def __init__(self, onnx_path, card):
        del onnx_path
        width, height = card.input.size_wh
        count = len(card.default_boxes())
        self._offsets = np.zeros((count, 4), np.float32)
        self._scores = np.tile(np.float32([0.99, 0.01]), (count, 1))
        self._scores[:: count // 4] = np.float32([0.01, 0.99])
        self._sizes = (12 * width * height, self._offsets.nbytes, self._scores.nbytes)
        self._stack = ExitStack()

    def __enter__(self):
        buffers, self._stack = opened(self._sizes)
        self.input, self.offsets, self.scores = [buffer.address for buffer in buffers]
        buffers[1].upload(self._offsets)
        buffers[2].upload(self._scores)
        return self

    def __exit__(self, *_):
        self._stack.close()

    def enqueue(self, stream):
        del stream
