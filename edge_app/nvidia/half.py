"""An ONNX in half precision with float32 ends, for builders that take the types from the model.

TensorRT 11 and TensorRT-RTX have no FP16 flag: what shall run in half precision must stand so in
the ONNX. Softmax stays in float32, so that scores near 0.95 are not rounded to steps of 0.0005.
"""

from typing import Any, List, Set

import numpy as np

from edge_app.errors import DetectorError

FLOAT32_OPERATORS = ("Softmax",)
HALF_MAX = 65504.0


def cast_to_half(onnx_path: str, half_path: str) -> float:
    """Write a half-precision copy of a float32 model.

    Returns:
        Share of the nodes with a floating-point answer that now give it in half precision.

    Raises:
        DetectorError: no onnx package, an unreadable model, or a weight that half cannot hold.
    """
    try:
        import onnx
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise DetectorError(
            "this TensorRT takes the precision from the model, and rewriting it needs the onnx "
            "package: pip install onnx."
        ) from error
    try:
        model = onnx.load(onnx_path)
    except Exception as error:  # of protobuf or the system, without a common base
        raise DetectorError(
            "{} cannot be read as ONNX: {}.".format(onnx_path, str(error).strip() or "it is empty")
        ) from error
    share = _Caster(onnx, model).cast()
    onnx.save(model, half_path)
    return share


class _Caster:
    """One pass over the nodes; remembers which tensors are half by now."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx = onnx
        self._graph = model.graph
        self._float, self._half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
        self._floats = self._float_tensors(model)
        self._kept = self._tensors_that_stay()
        self._nodes: List[Any] = []
        self._halves: Set[str] = set()

    def _float_tensors(self, model: Any) -> Set[str]:
        inferred = self._onnx.shape_inference.infer_shapes(model).graph
        values = list(inferred.value_info) + list(inferred.input) + list(inferred.output)
        kinds = {value.name: value.type.tensor_type.elem_type for value in values}
        kinds.update((weight.name, weight.data_type) for weight in model.graph.initializer)
        return {name for name, kind in kinds.items() if kind == self._float}

    def _tensors_that_stay(self) -> Set[str]:
        """What a float32 operator reads, and Resize's region and scales, whatever its data are."""
        return {
            name
            for node in self._graph.node
            for index, name in enumerate(node.input)
            if node.op_type in FLOAT32_OPERATORS or (node.op_type == "Resize" and index > 0)
        }

    def cast(self) -> float:
        """Rewrite the graph in place; the share of half nodes."""
        self._cast_weights()
        halves = floats = 0
        for node in list(self._graph.node):
            answers = [name for name in node.output if name in self._floats]
            half = node.op_type not in FLOAT32_OPERATORS
            if node.op_type == "Constant" and node.output[0] in self._kept:
                half = False
            self._convert_inputs(node, half)
            self._nodes.append(node)
            if half:
                self._retype(node)
                self._halves.update(answers)
                self._give_back(node, answers)
            floats, halves = floats + bool(answers), halves + bool(answers and half)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        del self._graph.value_info[:]
        return halves / floats if floats else 0.0

    def _cast_weights(self) -> None:
        numpy_helper = self._onnx.numpy_helper
        for weight in self._graph.initializer:
            if weight.name in self._floats and weight.name not in self._kept:
                halved = _halved(numpy_helper.to_array(weight), weight.name)
                weight.CopyFrom(numpy_helper.from_array(halved, weight.name))
                self._halves.add(weight.name)

    def _convert_inputs(self, node: Any, half: bool) -> None:
        for index, name in enumerate(node.input):
            stays = node.op_type == "Resize" and index > 0
            if name in self._floats and not stays and (name in self._halves) != half:
                node.input[index] = self._converted(name, half)

    def _converted(self, name: str, half: bool) -> str:
        """The tensor in the other type, through one Cast however many nodes want it."""
        other = name + ("/half" if half else "/float")
        if other not in self._floats:
            self._floats.add(other)
            if half:
                self._halves.add(other)
            self._nodes.append(self._cast_node(name, other, self._half if half else self._float))
        return other

    def _cast_node(self, source: str, target: str, kind: int) -> Any:
        return self._onnx.helper.make_node("Cast", [source], [target], name=target, to=kind)

    def _retype(self, node: Any) -> None:
        """Casts and constants of the original that spoke of float32."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self._float:
                attribute.i = self._half
            if node.op_type in ("Constant", "ConstantOfShape") and attribute.name == "value":
                if attribute.t.data_type == self._float:
                    values = self._onnx.numpy_helper.to_array(attribute.t)
                    halved = _halved(values, node.output[0])
                    attribute.t.CopyFrom(self._onnx.numpy_helper.from_array(halved))

    def _give_back(self, node: Any, answers: List[str]) -> None:
        """An output of the graph keeps its name and type; what made it gets another name."""
        outputs = {value.name for value in self._graph.output}
        for name in outputs.intersection(answers):
            inner = name + "/inner"
            node.output[list(node.output).index(name)] = inner
            self._halves.discard(name)
            self._nodes.append(self._cast_node(inner, name, self._float))


def _halved(values: np.ndarray, name: str) -> np.ndarray:
    if values.size and not np.abs(values).max() <= HALF_MAX:
        raise DetectorError(
            "weight {!r} reaches {:g}; half precision ends at {:g}. Convert with --precision "
            "fp32.".format(name, float(np.abs(values).max()), HALF_MAX)
        )
    return values.astype(np.float16)
