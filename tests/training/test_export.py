"""ONNX and card: the same answers, only operators the device knows, facts in both files."""

import os

import numpy as np
import pytest
import torch

from edge_app import card
from edge_app.config import DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.errors import ConfigError
from training import export, model, train


def network(name="blazeface"):
    torch.manual_seed(0)
    made = model.MODELS[name]()
    for part in made.modules():  # statistics as after training, so that folding them shows
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.8, 1.2)
    return made


@pytest.mark.parametrize(
    "name, size_wh", [("ssd_mobilenet_v2", (160, 96)), ("blazeface", (128, 128))]
)
def test_an_exported_network_runs_on_the_device_code(tmp_path, name, size_wh):
    import onnx

    path = export.export(network(name), size_wh, str(tmp_path), name, {"note": "a test"})
    graph = onnx.load(path)
    assert graph.ir_version <= 8
    assert [(o.domain, o.version) for o in graph.opset_import if o.version > 13] == []
    assert {node.op_type for node in graph.graph.node} <= export.OPERATORS
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    assert "non-commercial" in {p.key: p.value for p in graph.metadata_props}["licence"]
    read = card.load_card(card.card_path(path))
    card.verify_model(read, path)
    assert read.input.size_wh == size_wh
    with OnnxDetector(DetectorSettings(model=path)) as detector:
        faces = detector.detect(np.full((50, 70, 3), 120, np.uint8), 0.0)
        assert np.isfinite(faces.boxes).all()


def test_folding_changes_no_answer():
    pictures = torch.randn(1, 3, 128, 128)
    plain = network().eval()
    with torch.no_grad():
        offsets, logits = plain(pictures)
        found = export.deployed(plain)(pictures)
    torch.testing.assert_close(found[0], offsets, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], logits.softmax(2), atol=1e-5, rtol=1e-4)


def test_calibration_is_a_factor_and_a_shift_of_the_logit():
    pictures = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        logits = network().eval()(pictures)[1]
        scores = export.deployed(network(), export.Calibration(2.0, (-0.5,)))(pictures)[1]
    expected = torch.sigmoid(2.0 * (logits[..., 1] - logits[..., 0]) - 0.5)
    torch.testing.assert_close(scores[..., 1], expected, atol=1e-5, rtol=1e-4)


def test_each_feature_map_has_its_own_shift():
    pictures = torch.randn(1, 3, 128, 128)
    shifts = tuple(0.1 * number for number in range(len(network().heads)))
    with torch.no_grad():
        logits = network().eval()(pictures)[1]
        scores = export.deployed(network(), export.Calibration(1.0, shifts))(pictures)[1]
    sizes = [layer.grid_wh[0] * layer.grid_wh[1] * len(layer.sizes_px)
             for layer in network().layers((128, 128))]  # fmt: skip
    each = torch.tensor(shifts).repeat_interleave(torch.tensor(sizes))
    expected = torch.sigmoid(logits[0, :, 1] - logits[0, :, 0] + each)
    torch.testing.assert_close(scores[0, :, 1], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="--shift: 3 numbers"):
        export.deployed(network(), export.Calibration(1.0, (0.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match="--factor -2"):
        export.deployed(network(), export.Calibration(-2.0, (0.0,)))


def test_a_file_that_differs_is_refused(tmp_path):
    ready = export.deployed(network())
    path = str(tmp_path / "one.onnx")
    export.write_onnx(ready, (128, 128), path)
    assert export.parity(ready, path, (128, 128)) < 1e-4
    with torch.no_grad():
        ready.network.heads[0].offsets.bias.add_(0.1)
    with pytest.raises(ConfigError, match="differs"):
        export.parity(ready, path, (128, 128))


def test_weights_written_small_load_again(tmp_path):
    made = network()
    path = str(tmp_path / "weights.npz")
    export.save_weights(made, path, {})
    other = model.MODELS["blazeface"]()
    train.load_weights(other, path)
    for name, value in made.state_dict().items():
        torch.testing.assert_close(
            other.state_dict()[name].float(), value.float(), atol=1e-3, rtol=1e-3
        )


def test_weights_tell_their_story_and_their_calibration(tmp_path):
    """An export from the file of weights alone is the one that wrote it."""
    plain, told = str(tmp_path / "plain.npz"), str(tmp_path / "told.npz")
    export.save_weights(network(), plain, {})
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    story = ["--trained-on", "made faces", "--note", "a test"]
    calibrated = ["--factor", "2", "--shift", "0.25", "0.5", "--save-weights", told]
    export.main(["blazeface", "--weights", plain, "--out", first, *story, *calibrated])
    export.main(["blazeface", "--weights", told, "--out", second])
    one, other = (card.load_card(os.path.join(path, "blazeface.json")) for path in (first, second))
    assert one.training == other.training and one.sha256 == other.sha256
    assert other.training["data"] == "made faces" and other.training["note"] == "a test"
    assert other.training["calibration"] == {"factor": 2.0, "shift": [0.25, 0.5]}


def test_the_mean_of_two_runs(tmp_path):
    first, second = model.blazeface(), model.blazeface()
    export.save_weights(second, str(tmp_path / "second.npz"), {})
    name = next(name for name, one in first.named_parameters() if one.ndim == 4)
    before = first.state_dict()[name].clone()
    export.mix(first, str(tmp_path / "second.npz"), 0.25)
    wanted = 0.75 * before + 0.25 * second.state_dict()[name].half().float()
    torch.testing.assert_close(first.state_dict()[name], wanted)


def test_a_share_that_is_none_is_refused(tmp_path):
    weights = str(tmp_path / "weights.npz")
    export.save_weights(model.blazeface(), weights, {})
    for share in ("half", "1.5"):
        with pytest.raises(ConfigError, match="--mix WEIGHTS " + share):
            export.main(["blazeface", "--weights", weights, "--mix", weights, share])
