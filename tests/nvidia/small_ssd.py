"""A small SSD as ONNX with its card: random weights, real structure, any input size.

Operators are those of the trained network (Conv, Clip, Add, Transpose, Reshape, Concat, Softmax), at
opset 11, which TensorRT 8.2 parses. Scores lie on both sides of a half, so that every step has work.
"""

import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_app.boxes import default_boxes, face_layers
from edge_app.card import ModelCard, ModelInput, ModelOutputs, card_path, save_card, sha256_of

STEPS = (8, 16, 32)
SIZES = ((12, 18), (30, 45), (70, 100))


class Graph:
    """Nodes and weights; each method returns the name of its output."""

    def __init__(self, seed):
        self.nodes, self.weights, self._rng = [], [], np.random.RandomState(seed)

    def constant(self, values, dtype=np.float32):
        name = "w{}".format(len(self.weights))
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind, inputs, outputs=None, **attributes):
        outputs = outputs or ["{}_{}".format(kind.lower(), len(self.nodes))]
        name = outputs[0] + "_node"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def conv(self, x, channels_in, channels_out, stride=1, relu6=True, spread=1.4):
        scale = spread / np.sqrt(channels_in * 9)
        weights = self.constant(self._rng.randn(channels_out, channels_in, 3, 3) * scale)
        bias = self.constant(self._rng.randn(channels_out) * 0.1)
        y = self.op("Conv", [x, weights, bias], strides=[stride] * 2, pads=[1] * 4)
        if relu6:
            y = self.op("Clip", [y, self.constant(0), self.constant(6)])
        return y

    def head(self, x, channels, boxes, width, spread):
        y = self.conv(x, channels, boxes * width, relu6=False, spread=spread)
        y = self.op("Transpose", [y], perm=[0, 2, 3, 1])
        return self.op("Reshape", [y, self.constant([1, -1, width], np.int64)])


def make_model(side_px=96, seed=1, opset=11):
    """The ONNX model."""
    graph, x, channels = Graph(seed), "image", 3
    offsets, logits = [], []
    for stride, out in enumerate((8, 16, 24, 32, 48)):
        x, channels = graph.conv(x, channels, out, stride=2), out
        x = graph.op("Add", [x, graph.conv(x, channels, out)])
        if stride >= 2:
            boxes = len(SIZES[stride - 2])
            offsets.append(graph.head(x, channels, boxes, 4, 1.0))
            logits.append(graph.head(x, channels, boxes, 2, 2.0))
    graph.op("Concat", offsets, ["offsets"], axis=1)
    graph.op("Softmax", [graph.op("Concat", logits, axis=1)], ["scores"], axis=2)
    count = len(default_boxes(layers(side_px), (side_px, side_px)))
    value = helper.make_tensor_value_info
    image = value("image", TensorProto.FLOAT, [1, 3, side_px, side_px])
    ends = [
        value("offsets", TensorProto.FLOAT, [1, count, 4]),
        value("scores", TensorProto.FLOAT, [1, count, 2]),
    ]
    made = helper.make_graph(graph.nodes, "small_ssd", [image], ends, graph.weights)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=6)
    onnx.checker.check_model(model)
    return model


def layers(side_px):
    return face_layers((side_px, side_px), SIZES, STEPS)


def write(folder, side_px=96, seed=1, name="small_ssd"):
    """Write NAME.onnx and its card into ``folder``; return the path of the ONNX."""
    path = os.path.join(str(folder), name + ".onnx")
    onnx.save(make_model(side_px, seed), path)
    return write_card(path, side_px)


def write_card(path, side_px=96):
    """Write the card of an ONNX of this file; return the path of the ONNX."""
    card = ModelCard(
        name="small_ssd",
        onnx=os.path.basename(path),
        sha256=sha256_of(path),
        input=ModelInput("image", side_px, side_px, "RGB", (127.0, 127.0, 127.0), (1 / 64.0,) * 3),
        outputs=ModelOutputs("offsets", "scores"),
        layers=tuple(layers(side_px)),
        variances=(0.1, 0.2),
        licence="none",
        training={},
        measured={},
    )
    save_card(card, card_path(path))
    return path
