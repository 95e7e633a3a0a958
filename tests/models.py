"""Small networks made on the spot: real ONNX, run by the real ONNX Runtime, with answers known by hand."""

import os

import numpy as np

from edge_app.boxes import BoxLayer
from edge_app.card import ModelCard, ModelInput, ModelOutputs, card_path, save_card, sha256_of

STEP_PX = 16


def bright_card(onnx_path, input_wh):
    """The card of a ``bright`` model: one default box a cell, as large as the cell."""
    columns, rows = input_wh[0] // STEP_PX, input_wh[1] // STEP_PX
    layer = BoxLayer((columns, rows), (STEP_PX, STEP_PX), ((float(STEP_PX), float(STEP_PX)),))
    return ModelCard(
        name="bright",
        onnx=os.path.basename(onnx_path),
        sha256=sha256_of(onnx_path),
        input=ModelInput("input", input_wh[0], input_wh[1], "RGB", (0.0,) * 3, (1 / 255.0,) * 3),
        outputs=ModelOutputs("offsets", "scores"),
        layers=(layer,),
        variances=(0.1, 0.2),
        licence="none",
        training={},
        measured={},
    )


def make_bright(folder, input_wh=(64, 48), gain=20.0, scores_name="scores"):
    """A network that takes a white cell for a face: score = sigmoid(gain * (mean - 0.5)).

    Mean is over the cell's red channel only, so that a wrong channel order shows. Returns the ONNX
    path; the card lies beside it.
    """
    import onnx
    from onnx import TensorProto, helper

    width, height = input_wh
    cells = (width // STEP_PX) * (height // STEP_PX)
    weights = np.zeros((2, 3, STEP_PX, STEP_PX), np.float32)
    weights[1, 0] = gain / STEP_PX**2  # background's logit is 0, a face's grows with red
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel().tolist()),
        helper.make_tensor("b", TensorProto.FLOAT, [2], [0.0, -gain / 2]),
        helper.make_tensor("flat", TensorProto.INT64, [3], [1, cells, 2]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1, 1, 1], [0.0]),
        helper.make_tensor("twice", TensorProto.INT64, [3], [1, 1, 2]),
    ]
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["map"], strides=[STEP_PX, STEP_PX]),
        helper.make_node("Transpose", ["map"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["nhwc", "flat"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [scores_name], axis=2),
        helper.make_node("Mul", ["logits", "zero"], ["nothing"]),
        helper.make_node("Tile", ["nothing", "twice"], ["offsets"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, height, width])],
        [
            helper.make_tensor_value_info("offsets", TensorProto.FLOAT, [1, cells, 4]),
            helper.make_tensor_value_info(scores_name, TensorProto.FLOAT, [1, cells, 2]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    path = os.path.join(str(folder), "bright.onnx")
    onnx.save(model, path)
    save_card(bright_card(path, input_wh), card_path(path))
    return path
