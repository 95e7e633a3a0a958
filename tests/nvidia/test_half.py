"""The cast to half precision, judged by ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
import small_ssd
from onnx import TensorProto, helper, numpy_helper

from edge_app.errors import DetectorError
from edge_app.nvidia.half import cast_to_half


def answers(path, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_the_answers_are_nearly_the_same_at_float32_ends(tmp_path):
    model, half = small_ssd.write(tmp_path), str(tmp_path / "half.onnx")
    share = cast_to_half(model, half)
    onnx.checker.check_model(onnx.load(half))
    image = {"image": np.random.RandomState(0).randn(1, 3, 96, 96).astype(np.float32)}
    for wanted, found in zip(answers(model, image), answers(half, image)):
        assert found.dtype == np.float32
        assert 0 < np.abs(wanted - found).max() < 0.02
    assert share > 0.95


def test_only_the_softmax_stays_in_single_precision(tmp_path):
    model, half = small_ssd.write(tmp_path), str(tmp_path / "half.onnx")
    cast_to_half(model, half)
    graph = onnx.load(half).graph
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert len(casts) == 3  # in, before the softmax, out of the offsets
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    floats = [name for name, kind in kinds.items() if kind == TensorProto.FLOAT]
    assert floats == [] and TensorProto.FLOAT16 in kinds.values()


def write_graph(path, nodes, weights, opset=11):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [image], [answer], tensors)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=6), path)


def test_resize_keeps_its_scales_and_constants_and_casts_follow(tmp_path):
    path, half = str(tmp_path / "m.onnx"), str(tmp_path / "half.onnx")
    two = numpy_helper.from_array(np.array([2.0], np.float32))
    nodes = [
        helper.make_node("Resize", ["x", "roi", "scales"], ["a"], mode="nearest"),
        helper.make_node("Constant", [], ["two"], value=two),
        helper.make_node("Mul", ["a", "two"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["c"], ["d"], axis=3),
        helper.make_node("Add", ["d", "c"], ["y"]),
    ]
    scales = np.array([1, 1, 2, 2], np.float32)
    write_graph(path, nodes, {"roi": np.zeros(0, np.float32), "scales": scales})
    cast_to_half(path, half)
    x = {"x": np.random.RandomState(0).rand(1, 2, 4, 4).astype(np.float32)}
    np.testing.assert_allclose(answers(half, x)[0], answers(path, x)[0], atol=3e-3)


def test_a_weight_beyond_half_precision_is_refused(tmp_path):
    path = str(tmp_path / "m.onnx")
    nodes = [helper.make_node("Mul", ["x", "big"], ["y"])]
    for value in (70000.0, np.inf, np.nan):
        write_graph(path, nodes, {"big": np.array([value], np.float32)})
        with pytest.raises(DetectorError, match="weight 'big' reaches .*--precision fp32"):
            cast_to_half(path, str(tmp_path / "half.onnx"))


def test_an_unreadable_model_is_told(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(DetectorError, match="cannot be read as ONNX"):
        cast_to_half(str(path), str(tmp_path / "half.onnx"))


def test_without_the_onnx_package_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(DetectorError, match="pip install onnx"):
        cast_to_half("m.onnx", "half.onnx")
