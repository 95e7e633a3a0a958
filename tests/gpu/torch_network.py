"""The network by torch, in half precision and as one CUDA graph: something to hold TensorRT's engine against.

Also what there is where TensorRT-RTX does not take the GPU. Only the operators that our export makes.
"""

import numpy as np

PADDING = (
    1,
    3,
    0,
    2,
)  # torch.nn.functional.pad wants left, right, top, bottom; ONNX has top, left, bottom, right


class OnnxGraph:
    """An ONNX file, run by torch.

    Args:
        path: of the file.
        device: of torch.
        half: weights and pictures in half precision, the softmax in float32.
    """

    def __init__(self, path, device="cuda", half=True):
        import onnx
        import torch

        self._torch = torch
        self._dtype = torch.float16 if half else torch.float32
        self._device = device
        graph = onnx.load(path).graph
        self.outputs = [output.name for output in graph.output]
        self._input = graph.input[0].name
        self._known = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        self._nodes = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._known[node.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
            else:
                self._nodes.append((node.op_type, list(node.input), node.output[0], attributes))
        self._weights = {
            name: self._weight(self._known[name])
            for kind, names, _, _ in self._nodes
            for name in names
            if name in self._known and kind in ("Conv", "Add")
        }

    def _weight(self, array):
        tensor = self._torch.from_numpy(np.array(array)).to(self._device, self._dtype)
        if tensor.dim() == 4:
            return tensor.contiguous(memory_format=self._torch.channels_last)
        return tensor

    def __call__(self, picture):
        """(1, 3, h, w) float32 to the outputs, float32."""
        layout = self._torch.channels_last
        values = dict(self._weights)
        values[self._input] = picture.to(self._dtype).contiguous(memory_format=layout)
        for kind, names, output, attributes in self._nodes:
            step = getattr(self, "_" + kind.lower())
            known = [self._known.get(name) for name in names]
            values[output] = step([values.get(name) for name in names], known, attributes)
        return [values[name].float() for name in self.outputs]

    def _conv(self, inputs, known, attributes):
        top, left, bottom, right = attributes["pads"]
        picture, padding = inputs[0], (top, left)
        if (top, left) != (bottom, right):
            sides = [attributes["pads"][index] for index in PADDING]
            picture, padding = self._torch.nn.functional.pad(picture, sides), 0
        convolve = self._torch.nn.functional.conv2d
        return convolve(
            picture,
            inputs[1],
            inputs[2] if len(inputs) > 2 else None,
            attributes["strides"],
            padding,
            attributes["dilations"],
            attributes["group"],
        )

    def _clip(self, inputs, known, attributes):
        return inputs[0].clamp(float(known[1]), float(known[2]))

    def _add(self, inputs, known, attributes):
        return inputs[0] + inputs[1]

    def _transpose(self, inputs, known, attributes):
        return inputs[0].permute(*attributes["perm"])

    def _reshape(self, inputs, known, attributes):
        return inputs[0].reshape(*[int(side) for side in known[1]])

    def _slice(self, inputs, known, attributes):
        picture = inputs[0]
        for start, end, axis, step in zip(*[array.tolist() for array in known[1:5]]):
            cut = [slice(None)] * picture.dim()
            cut[axis] = slice(start, min(end, picture.shape[axis]), step)
            picture = picture[tuple(cut)]
        return picture

    def _resize(self, inputs, known, attributes):
        """Nearest, floor, asymmetric: each pixel repeated."""
        for axis in (2, 3):
            times = int(known[2][axis])
            inputs[0] = inputs[0].repeat_interleave(times, axis)
        return inputs[0]

    def _concat(self, inputs, known, attributes):
        return self._torch.cat(inputs, attributes["axis"])

    def _softmax(self, inputs, known, attributes):
        return inputs[0].float().softmax(attributes["axis"])


class TorchNetwork:
    """See ``edge_app.nvidia.network.Network``. Needs the primary context to be current."""

    def __init__(self, onnx_path, card):
        self._path, self._card = onnx_path, card

    def __enter__(self):
        import torch

        self._torch = torch
        torch.backends.cudnn.benchmark = True
        width, height = self._card.input.size_wh
        self._input = torch.zeros((1, 3, height, width), device="cuda")
        graph = OnnxGraph(self._path)
        order = [graph.outputs.index(name) for name in self._card.outputs]
        side = torch.cuda.Stream()
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(5):
                graph(self._input)
        torch.cuda.synchronize()
        self._replayed = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._replayed):
            outputs = graph(self._input)
            self._outputs = [outputs[index].contiguous() for index in order]
        self.input = self._input.data_ptr()
        self.offsets, self.scores = [output.data_ptr() for output in self._outputs]
        return self

    def __exit__(self, *_):
        self._replayed = self._outputs = self._input = None

    def enqueue(self, stream):
        """Queue one inference on a stream."""
        with self._torch.cuda.stream(self._torch.cuda.ExternalStream(stream.handle)):
            self._replayed.replay()

    def run(self, tensor):
        """As ``Network.run``: (N, 4) offsets and (N,) scores of one tensor."""
        self._input.copy_(self._torch.from_numpy(np.ascontiguousarray(tensor)))
        self._replayed.replay()
        self._torch.cuda.synchronize()
        offsets, scores = [output.cpu().numpy()[0] for output in self._outputs]
        return offsets, np.ascontiguousarray(scores[:, 1])
