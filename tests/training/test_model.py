"""Shapes, default boxes and weights of the networks."""

import itertools

import numpy as np
import pytest
import torch

from edge_app import boxes
from edge_app.errors import ConfigError
from training import model


@pytest.mark.parametrize("name", sorted(model.MODELS))
def test_a_network_answers_for_each_of_its_default_boxes(name):
    network = model.MODELS[name]().eval()
    width, height = network.input_wh
    with torch.no_grad():
        offsets, logits = network(torch.zeros(2, 3, height, width))
    count = len(boxes.default_boxes(network.layers((width, height)), (width, height)))
    assert offsets.shape == (2, count, 4) and logits.shape == (2, count, 2)


def test_ssd300_has_the_papers_8732():
    network = model.ssd_vgg16()
    assert len(boxes.default_boxes(network.layers((300, 300)), (300, 300))) == 8732
    with pytest.raises(ConfigError, match="300x300"):
        network.layers((480, 256))


@pytest.mark.parametrize(
    "name, size_wh",
    [
        *itertools.product(["ssd_mobilenet_v2", "blazeface"], [(300, 300), (480, 272), (97, 65)]),
        *itertools.product(["ssd_vgg16"], [(480, 272), (257, 390)]),
    ],
)
def test_any_size_fits_its_table(name, size_wh):
    network = model.MODELS[name]().eval()
    with torch.no_grad():
        offsets, _ = network(torch.zeros(1, 3, size_wh[1], size_wh[0]))
    assert offsets.shape[1] == len(boxes.default_boxes(network.layers(size_wh), size_wh))


def test_the_arithmetic_fits_the_nano():
    assert model.count_macs(model.ssd_mobilenet_v2(), (320, 320)) <= 0.75e9


def test_macs_by_hand():
    class One(torch.nn.Module):
        def forward(self, x):
            return [x]

    network = model.SSD(
        "one", One(), [model.Head(3, 1, lambda i, o: torch.nn.Conv2d(i, o, 1))],
        lambda _: [], model.IMAGENET_RGB, (10, 10),
    )  # fmt: skip
    assert model.count_macs(network, (10, 10)) == 100 * 3 * (4 + 2)


def test_a_fixed_norm_gives_the_same_as_its_two_steps():
    torch.manual_seed(0)
    unit = model.ConvNorm(4, 8, 3).eval()
    unit[1].running_mean.uniform_(-1, 1)
    unit[1].running_var.uniform_(0.5, 2)
    x = torch.randn(1, 4, 9, 9)
    expected = unit[1](unit[0](x)).clamp(0, 6)
    torch.testing.assert_close(unit(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel, stride", [(3, 2), (5, 1), (5, 2), (3, 1)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gradients_of_a_depthwise_convolution_in_bfloat16_are_those_in_float32(
    kernel, stride, has_bias
):
    torch.manual_seed(3)
    conv = model.Depthwise(8, kernel, stride)
    x = torch.randn(2, 8, 13, 11).bfloat16().float().requires_grad_()
    bias = torch.randn(8).requires_grad_() if has_bias else None
    leaves = [x, conv.weight] + [bias] * has_bias
    with torch.no_grad():
        conv.weight.copy_(conv.weight.bfloat16())  # so that rounding of the inputs is none
    above = torch.randn(2, 8, -(-13 // stride), -(-11 // stride)).bfloat16()

    exact = conv._conv_forward(x, conv.weight, bias)
    wanted = torch.autograd.grad(exact, leaves, above.float())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = conv._conv_forward(x, conv.weight, bias)
    given = torch.autograd.grad(rounded, leaves, above)

    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=2e-2, atol=2e-2)
    for one, other in zip(given, wanted):
        assert one.dtype == torch.float32  # as the leaf
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_the_first_box_of_a_cell_is_the_heads_first_answer():
    """The order of the table is that of the flattened heads: give one cell of one map a mark."""
    network = model.ssd_mobilenet_v2().eval()
    maps = [
        torch.zeros(1, c, s, s) for c, s in zip((32, 64, 96, 128, 128, 128), (8, 4, 2, 1, 1, 1))
    ]

    class Marked(torch.nn.Module):
        def forward(self, _):
            return maps

    class Seen(torch.nn.Module):
        def forward(self, x):
            mark = x[:, :1]
            return torch.cat([mark * 0 + n for n in range(8)], 1) + 10 * mark, mark.repeat(
                1, 4, 1, 1
            )

    network.body = Marked()
    network.heads[1] = Seen()
    maps[1][0, 0, 2, 3] = 1.0  # row 2, column 3 of the map of stride 8
    keep = network.heads[1](maps[1])[0]
    offsets = keep.permute(0, 2, 3, 1).reshape(-1, 4)
    table = boxes.default_boxes(network.layers((32, 32))[1:2], (32, 32))
    marked = np.flatnonzero(offsets[:, 0] >= 10)
    np.testing.assert_allclose(table[marked, :2] * 32, [[28, 20], [28, 20]])
    assert offsets[marked[0]].tolist() == [10, 11, 12, 13]
    assert offsets[marked[1]].tolist() == [14, 15, 16, 17]


def test_backbone_weights_are_checked_by_name(tmp_path):
    network = model.ssd_mobilenet_v2()
    state = {k: v.numpy() for k, v in network.body.backbone.state_dict().items()}
    np.savez(str(tmp_path / "all.npz"), **state)
    model.load_backbone(model.ssd_mobilenet_v2(), str(tmp_path / "all.npz"))
    state.pop("features.0.0.weight")
    np.savez(str(tmp_path / "less.npz"), **state)
    with pytest.raises(ConfigError, match="lacks 1 of .*features.0.0.weight"):
        model.load_backbone(model.ssd_mobilenet_v2(), str(tmp_path / "less.npz"))
    with pytest.raises(ConfigError, match="not a file of weights"):
        model.load_backbone(network, str(tmp_path / "none.npz"))
    with pytest.raises(ConfigError, match="from nothing"):
        model.load_backbone(model.blazeface(), str(tmp_path / "all.npz"))


def torchvision_names(backbone):
    """Our VGG's weights under torchvision's names."""
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {}
    for place, conv in zip(places, backbone.convolutions()):
        state["features.{}.weight".format(place)] = conv.weight.detach().clone()
        state["features.{}.bias".format(place)] = conv.bias.detach().clone()
    return state


def test_torchvisions_vgg_is_rewritten_for_our_pixels(tmp_path):
    torch.manual_seed(1)
    theirs, ours = model.Vgg16(), model.ssd_vgg16()
    torch.save(torchvision_names(theirs), str(tmp_path / "vgg16.pth"))
    model.load_backbone(ours, str(tmp_path / "vgg16.pth"))
    rgb = torch.randint(0, 256, (1, 3, 8, 8)).float()
    scale, mean = (
        torch.tensor(v).view(3, 1, 1) for v in (model.IMAGENET_RGB.scale, model.IMAGENET_RGB.mean)
    )
    expected = theirs.blocks[0][0]((rgb - mean) * scale)
    bgr = rgb.flip(1) - torch.tensor(model.CAFFE_BGR.mean).view(3, 1, 1)
    found = ours.body.backbone.blocks[0][0](bgr)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # without the padding's edge
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-4, rtol=1e-4)


def test_caffe_style_vgg_arrays_are_taken_in_either_layout(tmp_path):
    theirs, ours = model.Vgg16(), model.ssd_vgg16()
    arrays, convolutions = {}, theirs.convolutions()
    names = [
        "block{}_conv{}".format(b + 1, c + 1)
        for b, w in enumerate(model.Vgg16.WIDTHS)
        for c in range(len(w))
    ]
    for name, conv in zip(names, convolutions):
        arrays["net/{}/kernel".format(name)] = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
        arrays["net/{}/bias".format(name)] = conv.bias.detach().numpy()
    np.savez(str(tmp_path / "vgg.npz"), **arrays)
    model.load_backbone(ours, str(tmp_path / "vgg.npz"))
    for one, other in zip(ours.body.backbone.convolutions(), convolutions):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
