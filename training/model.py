"""The networks: backbone, extra layers, heads and default-box table, composed into one ``SSD``.

Equation and section numbers are those of Liu et al., "SSD: Single Shot MultiBox Detector" (ECCV
2016) unless another source is named. All networks are fully convolutional: any input size works,
and the maps have ``ceil(side / stride)`` cells but for the last two of SSD300. Face default boxes
keep their size in pixels, the paper's their share of the input.
"""

import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from edge_app.boxes import BoxLayer, face_layers, paper_layers
from edge_app.errors import ConfigError

ABOUT = "about"  # in an .npz: how the weights came to be, as JSON
VARIANCES = (0.1, 0.2)  # of centre and size, as in the authors' own code


class Preparation(NamedTuple):
    """What becomes of a pixel before it enters: ``(pixel - mean) * scale``, pixel in 0..255."""

    order: str  # "RGB" or "BGR"
    mean: Tuple[float, float, float]
    scale: Tuple[float, float, float]


IMAGENET_RGB = Preparation(
    "RGB",
    (0.485 * 255, 0.456 * 255, 0.406 * 255),
    (1 / (0.229 * 255), 1 / (0.224 * 255), 1 / (0.225 * 255)),
)


class SSD(nn.Module):
    """A single-shot detector with the two classes background and face.

    Args:
        name: what its files are called.
        body: pictures (B, 3, H, W) -> one map for each row of the default-box table, finest first.
        heads: for each map a module that gives (B, boxes * 6, h, w): 4 offsets and 2 logits a box.
        layers: input size (width, height) in pixels -> default-box table.
        preparation: of the pixels.
        input_wh: size it is meant for; others work as well.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        heads: Sequence[nn.Module],
        layers: Callable[[Tuple[int, int]], List[BoxLayer]],
        preparation: Preparation,
        input_wh: Tuple[int, int],
    ) -> None:
        super().__init__()
        self.name = name
        self.input_wh = input_wh
        self.body = body
        self.heads = nn.ModuleList(heads)
        self.layers = layers
        self.preparation = preparation
        self.norm_frozen = False
        self.register_buffer("mean", torch.tensor(preparation.mean).view(3, 1, 1), persistent=False)
        self.register_buffer(
            "scale", torch.tensor(preparation.scale).view(3, 1, 1), persistent=False
        )

    def train(self, mode: bool = True) -> "SSD":
        """As usual, but a backbone that came with good statistics keeps them.

        It saves a third of the time, and a batch of 16 pictures estimates them worse than ImageNet
        did. With large batches it costs a little (docs/results.md).
        """
        super().train(mode)
        if self.norm_frozen and mode:
            self.body.backbone.eval()
        return self

    def prepare(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 in the network's own channel order -> (B, 3, H, W) float32."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) * self.scale

    def forward(self, pictures: Tensor) -> Tuple[Tensor, Tensor]:
        """Prepared pictures -> offsets (B, N, 4) and logits (B, N, 2) as background, face.

        The order of the N is that of ``edge_app.boxes.default_boxes``: NHWC-flattened, map by map.
        """
        offsets, logits = [], []
        for head, feature in zip(self.heads, self.body(pictures)):
            box, score = head(feature)
            offsets.append(box.permute(0, 2, 3, 1).reshape(box.shape[0], -1, 4))
            logits.append(score.permute(0, 2, 3, 1).reshape(score.shape[0], -1, 2))
        return torch.cat(offsets, 1), torch.cat(logits, 1)


class Head(nn.Module):
    """Offsets and logits of one map (section 2.1): two predictors of the same shape.

    Args:
        predictor: (channels in, channels out) -> module.
    """

    def __init__(
        self, channels: int, boxes: int, predictor: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.offsets = predictor(channels, boxes * 4)
        self.logits = predictor(channels, boxes * 2)

    def forward(self, feature: Tensor) -> Tuple[Tensor, Tensor]:
        """(B, C, h, w) -> (B, boxes * 4, h, w), (B, boxes * 2, h, w)."""
        return self.offsets(feature), self.logits(feature)


class DepthwiseInBfloat16(torch.autograd.Function):
    """A depthwise convolution in bfloat16 whose gradients are taken in float32.

    On a CPU oneDNN's bfloat16 gradient of one with a stride or a 5x5 kernel is 3 to 14 times slower
    than that in float32; it was half the time of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor],
        stride: Tuple[int, int], padding: Tuple[int, int],
    ) -> Tensor:  # fmt: skip
        """(B, C, H, W), (C, 1, k, k) and (C,) -> (B, C, h, w) bfloat16."""
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.shape = (None if bias is None else [len(bias)], stride, padding)
        bias = None if bias is None else bias.bfloat16()
        return functional.conv2d(x, weight.bfloat16(), bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tuple[Optional[Tensor], ...]:
        """Gradients of ``x`` (bfloat16), ``weight`` and ``bias`` (float32)."""
        x, weight = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:3])
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            above.float(), x.float(), weight, *ctx.shape, [1, 1], False, [0, 0], len(weight), needs
        )
        return None if of_x is None else of_x.bfloat16(), of_weight, of_bias, None, None


class Depthwise(nn.Conv2d):
    """A convolution of every channel by itself; training on a CPU takes its gradients faster."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
        )

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        is_slow = self.stride[0] > 1 or self.kernel_size[0] > 3
        if is_slow and x.is_cpu and torch.is_autocast_enabled("cpu"):
            return DepthwiseInBfloat16.apply(x, weight, bias, self.stride, self.padding)
        return super()._conv_forward(x, weight, bias)


def normalised(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``, in one pass when the statistics are fixed.

    With fixed statistics normalisation is a scale and a shift, which the convolution takes in: a
    third less memory traffic in training with a frozen norm, and the same numbers.
    """
    if norm.training or not isinstance(norm, nn.BatchNorm2d):
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    shift = norm.bias - norm.running_mean * scale
    return conv._conv_forward(x, weight, shift)


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation, ReLU6: the unit MobileNetV2 is made of."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, is_depthwise: bool = False
    ) -> None:
        super().__init__(
            Depthwise(c_in, kernel, stride)
            if is_depthwise
            else nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) -> (B, c_out, ceil(h / stride), ceil(w / stride)), in 0..6."""
        return functional.relu6(normalised(self[0], self[1], x), inplace=True)


def separable(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then pointwise, each with its normalisation."""
    return nn.Sequential(ConvNorm(c_in, c_in, 3, stride, is_depthwise=True), ConvNorm(c_in, c_out, 1))


def lite_predictor(c_in: int, c_out: int) -> nn.Sequential:
    """SSDLite (Sandler et al., MobileNetV2, section 6.2): depthwise 3x3, then pointwise."""
    return nn.Sequential(ConvNorm(c_in, c_in, 3, is_depthwise=True), nn.Conv2d(c_in, c_out, 1))


def set_prior(model: SSD, face_share: float) -> None:
    """Make an untrained network call this share of its default boxes a face (Lin et al. 2017, 3.3).

    Without it the thousands of background boxes swamp the first steps.
    """
    logit = torch.logit(torch.tensor(face_share)).item()
    for head in model.heads:
        last = [m for m in head.logits.modules() if isinstance(m, nn.Conv2d)][-1]
        nn.init.normal_(last.weight, std=0.01)
        with torch.no_grad():
            last.bias.view(-1, 2)[:] = torch.tensor([-logit / 2, logit / 2])


# ---- MobileNetV2 -------------------------------------------------------------------------------


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; parameter names are torchvision's, so that its weights load."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.is_residual = stride == 1 and c_in == c_out
        hidden = c_in * expansion
        expand = [ConvNorm(c_in, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvNorm(hidden, hidden, 3, stride, is_depthwise=True),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) -> (B, c_out, ceil(h / stride), ceil(w / stride))."""
        y = self.project(self.conv[:-2](x))
        return x + y if self.is_residual else y

    def project(self, x: Tensor) -> Tensor:
        """The last convolution, without activation: (B, hidden, h, w) -> (B, c_out, h, w)."""
        return normalised(self.conv[-2], self.conv[-1], x)


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last 1280-channel convolution, giving maps of stride 4, 8, 16 and 32.

    The first three are the *expanded* activations (144, 192 and 576 channels) at the head of the
    block that halves the map: richer than the narrow bottleneck before it. The last has 320.
    """

    # expansion, channels, repeats, first stride (Sandler et al., table 2)
    BLOCKS = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    TAPS = (4, 7, 14)  # blocks whose expansion is handed out
    CHANNELS = (144, 192, 576, 320)

    def __init__(self, taps: Sequence[int] = TAPS) -> None:
        super().__init__()
        self.taps = taps
        blocks: List[nn.Module] = [ConvNorm(3, 32, 3, 2)]
        c_in = 32
        for expansion, channels, repeats, stride in self.BLOCKS:
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(c_in, channels, stride if repeat == 0 else 1, expansion)
                )
                c_in = channels
        self.features = nn.Sequential(*blocks)

    def adapt(self, arrays: Dict[str, np.ndarray]) -> Dict[str, Tensor]:
        """Weights under our names; they are torchvision's already."""
        ours = self.state_dict()
        return {name: torch.from_numpy(array) for name, array in arrays.items() if name in ours}

    def freeze(self, blocks: int) -> None:
        """Leave the first ``blocks`` as they are: the finest maps cost most and change least."""
        self.features[:blocks].requires_grad_(False)

    def forward(self, x: Tensor) -> List[Tensor]:
        """(B, 3, H, W) -> maps of stride 4, 8, 16, 32."""
        maps = []
        for number, block in enumerate(self.features):
            if number in self.taps:
                expanded = block.conv[0](x)
                maps.append(expanded)
                x = block.project(block.conv[1:-2](expanded))
            else:
                x = block(x)
        return maps + [x]


class Pyramid(nn.Module):
    """Extra maps of stride 64 and 128, and a light top-down path into the finer maps.

    Small faces are told from noise by what is around them; the top-down path (after Lin et al.,
    "Feature Pyramid Networks", 2017) carries that to the fine maps for little arithmetic: maps are
    narrowed *before* they are enlarged, and smoothed by separable convolutions.
    """

    def __init__(self, backbone: nn.Module, taps: Sequence[int], widths: Sequence[int]) -> None:
        """``taps``: channels of the backbone's maps; ``widths``: channels of each map given."""
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(ConvNorm(tap, width, 1) for tap, width in zip(taps, widths))
        self.extras = nn.ModuleList(
            separable(above, width, stride=2)
            for above, width in zip(widths[len(taps) - 1 :], widths[len(taps) :])
        )
        self.narrow = nn.ModuleList(
            ConvNorm(coarse, fine, 1) for fine, coarse in zip(widths, widths[1 : len(taps)])
        )
        self.smooth = nn.ModuleList(separable(width, width) for width in widths[: len(taps)])

    def forward(self, pictures: Tensor) -> List[Tensor]:
        """(B, 3, H, W) -> one map for each of ``widths``, finest first."""
        maps = [lateral(tap) for lateral, tap in zip(self.lateral, self.backbone(pictures))]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        for level in reversed(range(len(self.narrow))):
            coarse = functional.interpolate(
                self.narrow[level](maps[level + 1]), scale_factor=2.0, mode="nearest"
            )
            height, width = maps[level].shape[
                -2:
            ]  # odd maps are one cell short of twice the coarse
            maps[level] = maps[level] + coarse[:, :, :height, :width]
        return [smooth(m) for smooth, m in zip(self.smooth, maps)] + maps[len(self.smooth) :]


FACE_STEPS = (4, 8, 16, 32, 64, 128)
# Sizes are a factor of 1.5 apart, from 8 to 280 px. One size only on the 4 px map, which has three
# quarters of all cells; it is for the faces of 4 to 10 px that most of WIDER FACE consists of.
FACE_SIZES: Tuple[Tuple[float, ...], ...] = ((8,), (12, 18), (27, 40), (60, 88), (130, 190), (280,))
FACE_ASPECT = 0.75  # upright faces are 0.8, and stretching a 4:3 picture makes them narrower


def ssd_mobilenet_v2() -> SSD:
    """SSD on MobileNetV2 with SSDLite heads, a light pyramid and near-square boxes."""
    return _on_mobilenet_v2("ssd_mobilenet_v2", MobileNetV2.TAPS, FACE_STEPS, FACE_SIZES)


def ssd_mobilenet_v2_stride_8() -> SSD:
    """The same without the 4 px map; to measure what that one gains."""
    sizes = ((8, 12, 18), *FACE_SIZES[2:])
    name = "ssd_mobilenet_v2_stride_8"
    return _on_mobilenet_v2(name, MobileNetV2.TAPS[1:], FACE_STEPS[1:], sizes)


def ssd_mobilenet_v2_ratios() -> SSD:
    """The same with the paper's ratios 1, 2 and 1/2; to measure what boxes shaped as faces gain."""
    name = "ssd_mobilenet_v2_ratios"
    return _on_mobilenet_v2(name, MobileNetV2.TAPS, FACE_STEPS, FACE_SIZES, (1.0, 2.0, 0.5))


def _on_mobilenet_v2(
    name: str,
    taps: Sequence[int],
    steps: Sequence[int],
    sizes: Sequence[Sequence[float]],
    aspects: Sequence[float] = (FACE_ASPECT,),
) -> SSD:
    """``steps`` and ``sizes`` in pixels, one of each a map; every size has a box of each aspect."""
    widths = (32, 64, 96, 128, 128, 128)[-len(steps) :]
    channels = MobileNetV2.CHANNELS[-len(taps) - 1 :]
    body = Pyramid(MobileNetV2(taps), channels, widths)
    heads = [
        Head(width, len(own) * len(aspects), lite_predictor) for width, own in zip(widths, sizes)
    ]

    def layers(input_wh: Tuple[int, int]) -> List[BoxLayer]:
        tables = [face_layers(input_wh, sizes, steps, aspect) for aspect in aspects]
        return [
            maps[0]._replace(sizes_px=tuple(box for one in maps for box in one.sizes_px))
            for maps in zip(*tables)
        ]

    return SSD(name, body, heads, layers, IMAGENET_RGB, (320, 320))


# ---- SSD300 with VGG-16 -------------------------------------------------------------------------

# Of the Caffe model that SSD started from: BGR, only the mean taken off.
CAFFE_BGR = Preparation("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))


class Vgg16(nn.Module):
    """The 13 convolutions of VGG-16, giving conv4_3 (stride 8) and conv5_3 (stride 16)."""

    WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self) -> None:
        super().__init__()
        c_in, blocks = 3, []
        for widths in self.WIDTHS:
            layers = []
            for width in widths:
                layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.ReLU(inplace=True)]
                c_in = width
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.ModuleList(blocks)
        for conv in self.convolutions():  # He et al. 2015: what lets 13 layers learn from nothing
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def freeze(self, convolutions: int) -> None:
        """Leave the first convolutions as they are."""
        for conv in self.convolutions()[:convolutions]:
            conv.requires_grad_(False)

    def convolutions(self) -> List[nn.Conv2d]:
        """All 13, in order."""
        return [part for part in self.blocks.modules() if isinstance(part, nn.Conv2d)]

    def forward(self, x: Tensor) -> List[Tensor]:
        """(B, 3, H, W) -> maps of stride 8 and 16, 512 channels each."""
        maps = []
        for number, block in enumerate(self.blocks):
            if number:  # rounded up, so that 75 cells become 38
                x = functional.max_pool2d(x, 2, ceil_mode=True)
            x = block(x)
            maps.append(x)
        return maps[3:]

    def adapt(self, arrays: Dict[str, np.ndarray]) -> Dict[str, Tensor]:
        """Weights under our names, from torchvision's state dict or a Caffe-style ``block1_conv1``.

        torchvision's network wants RGB divided by a deviation; its first layer is rewritten for
        ours.
        """
        state, is_torchvision = {}, any(name.startswith("features.") for name in arrays)
        names = sorted(
            {name.rsplit(".", 1)[0] for name in arrays if re.match(r"features\.\d+\.", name)},
            key=lambda name: int(name.split(".")[1]),
        )
        if not is_torchvision:
            names = [
                "block{}_conv{}".format(block + 1, conv + 1)
                for block, widths in enumerate(self.WIDTHS)
                for conv in range(len(widths))
            ]
        ours = [name[: -len(".weight")] for name in self.state_dict() if name.endswith("weight")]
        for mine, theirs in zip(ours, names):
            parts = [
                value
                for name, value in arrays.items()
                if re.search(theirs + r"\b|" + theirs + "_", name)
            ]
            for value in parts:
                if value.ndim == 4:
                    is_hwio = value.shape[:2] == (3, 3)
                    value = value.transpose(3, 2, 0, 1) if is_hwio else value
                if value.ndim in (1, 4):
                    kind = "weight" if value.ndim == 4 else "bias"
                    state[mine + "." + kind] = torch.from_numpy(np.ascontiguousarray(value)).float()
        if is_torchvision and ours[0] + ".weight" in state:
            _from_rgb(state, ours[0])
        return state


def _from_rgb(state: Dict[str, Tensor], layer: str) -> None:
    """Rewrite a first layer made for ``IMAGENET_RGB`` to take ``CAFFE_BGR``, in place."""
    scale = torch.tensor(IMAGENET_RGB.scale)
    shift = torch.tensor(CAFFE_BGR.mean).flip(0) - torch.tensor(IMAGENET_RGB.mean)
    weight = state[layer + ".weight"] * scale.view(1, 3, 1, 1)
    state[layer + ".bias"] = state[layer + ".bias"] + (weight.sum((2, 3)) * shift).sum(1)
    state[layer + ".weight"] = weight.flip(1).contiguous()


class L2Norm(nn.Module):
    """Each cell's features to a learned length, at first 20 (section 3.1; Liu et al., ParseNet)."""

    def __init__(self, channels: int, length: float = 20.0) -> None:
        super().__init__()
        self.length = nn.Parameter(torch.full((channels,), length))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return x / (x.norm(dim=1, keepdim=True) + 1e-6) * self.length.view(-1, 1, 1)


class Ssd300Body(nn.Module):
    """VGG-16, fc6 and fc7 as convolutions, and four extra pairs of layers (section 3, figure 2)."""

    CHANNELS = (512, 1024, 512, 256, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Vgg16()
        self.norm = L2Norm(512)
        self.top = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),  # fc6 "a trous": sees as far as 7x7 did
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),  # fc7
            nn.ReLU(inplace=True),
        )
        self.extras = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c_in, narrow, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(narrow, c_out, 3, stride, padding),
                nn.ReLU(inplace=True),
            )
            for c_in, narrow, c_out, stride, padding in (
                (1024, 256, 512, 2, 1),
                (512, 128, 256, 2, 1),
                (256, 128, 256, 1, 0),
                (256, 128, 256, 1, 0),
            )
        )
        for module in [*self.top, *self.extras.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, pictures: Tensor) -> List[Tensor]:
        """(B, 3, H, W) -> six maps; of 38, 19, 10, 5, 3 and 1 cells a side for 300x300."""
        conv4_3, conv5_3 = self.backbone(pictures)
        maps = [self.norm(conv4_3), self.top(conv5_3)]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps


def ssd_vgg16() -> SSD:
    """SSD300 as in the paper: 8,732 default boxes at 300x300; larger inputs have more."""

    def predictor(c_in: int, c_out: int) -> nn.Conv2d:
        conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
        return conv

    def layers(input_wh: Tuple[int, int]) -> List[BoxLayer]:
        if min(input_wh) <= 256:
            raise ConfigError(
                "--size {}x{}: ssd_vgg16's last map has no cell left at 256 px and less a side; take "
                "300x300, or ssd_mobilenet_v2.".format(*input_wh)
            )
        return paper_layers(input_wh)

    boxes = [len(layer.sizes_px) for layer in paper_layers()]
    heads = [Head(c, count, predictor) for c, count in zip(Ssd300Body.CHANNELS, boxes)]
    return SSD("ssd_vgg16", Ssd300Body(), heads, layers, CAFFE_BGR, (300, 300))


# ---- BlazeFace ----------------------------------------------------------------------------------


class BlazeBlock(nn.Module):
    """Depthwise 5x5, pointwise, and a shortcut (Bazarevsky et al., "BlazeFace", 2019, figure 1)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Depthwise(c_in, 5, stride),
            nn.BatchNorm2d(c_in),
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        shortcut: List[nn.Module] = []
        if stride > 1:
            shortcut.append(nn.MaxPool2d(stride, ceil_mode=True))
        if c_in != c_out:
            shortcut += [nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) -> (B, c_out, ceil(h / stride), ceil(w / stride))."""
        return functional.relu(self.conv(x) + self.shortcut(x))


class BlazeBody(nn.Module):
    """Eleven single and double blocks down to stride 8 and 16; trained from nothing."""

    CHANNELS = (88, 96)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 24, 5, 2)
        self.fine = nn.Sequential(
            *(BlazeBlock(24, 24) for _ in range(2)),
            BlazeBlock(24, 48, 2),
            *(BlazeBlock(48, 48) for _ in range(2)),
            BlazeBlock(48, 88, 2),
            *(BlazeBlock(88, 88) for _ in range(2)),
        )
        self.coarse = nn.Sequential(BlazeBlock(88, 96, 2), *(BlazeBlock(96, 96) for _ in range(4)))

    def forward(self, pictures: Tensor) -> List[Tensor]:
        """(B, 3, H, W) -> maps of stride 8 and 16."""
        fine = self.fine(self.stem(pictures))
        return [fine, self.coarse(fine)]


BLAZE_SIZES: Tuple[Tuple[float, ...], ...] = ((13, 19), (26, 36, 48, 64, 86, 112))


def blazeface() -> SSD:
    """For close faces at the highest rate: 128x128, 896 default boxes on strides 8 and 16."""

    def layers(input_wh: Tuple[int, int]) -> List[BoxLayer]:
        return face_layers(input_wh, BLAZE_SIZES, (8, 16), FACE_ASPECT)

    heads = [
        Head(channels, len(sizes), lambda c_in, c_out: nn.Conv2d(c_in, c_out, 1))
        for channels, sizes in zip(BlazeBody.CHANNELS, BLAZE_SIZES)
    ]
    return SSD("blazeface", BlazeBody(), heads, layers, IMAGENET_RGB, (128, 128))


MODELS = {
    "ssd_mobilenet_v2": ssd_mobilenet_v2,
    "ssd_mobilenet_v2_ratios": ssd_mobilenet_v2_ratios,
    "ssd_mobilenet_v2_stride_8": ssd_mobilenet_v2_stride_8,
    "ssd_vgg16": ssd_vgg16,
    "blazeface": blazeface,
}


def count_macs(model: SSD, input_wh: Tuple[int, int]) -> int:
    """Multiply-accumulates of all convolutions for one picture of this size."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, input_wh[1], input_wh[0], device=model.mean.device))
    finally:
        model.train(was_training)
    return counter.get_total_flops() // 2


def load_backbone(network: SSD, path: str) -> None:
    """ImageNet weights for the backbone, from an ``.npz``, a state dict (``.pth``) or an ``.onnx``.

    Raises:
        ConfigError: the file is missing or lacks something, or the network starts from nothing.
    """
    backbone = getattr(network.body, "backbone", None)
    if backbone is None:
        raise ConfigError("--backbone: {} is trained from nothing.".format(network.name))
    state = backbone.adapt(read_arrays(path))
    wanted = {name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")}
    missing = sorted(wanted - set(state))
    if missing:
        raise ConfigError(
            "{} lacks {} of the {} arrays of the backbone, first {}.".format(
                path, len(missing), len(wanted), missing[0]
            )
        )
    backbone.load_state_dict(state, strict=False)


def read_arrays(path: str) -> Dict[str, np.ndarray]:
    """Named float32 arrays of an ``.npz``, a PyTorch state dict or an ONNX file's initialisers.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        if path.endswith(".npz"):
            with np.load(path) as file:
                names = [name for name in file.files if name != ABOUT]
                return {name: file[name].astype(np.float32) for name in names}
        if path.endswith(".onnx"):
            import onnx
            from onnx import numpy_helper

            graph = onnx.load(path).graph
            return {part.name: numpy_helper.to_array(part).copy() for part in graph.initializer}
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value.float().numpy() for name, value in state.items()}
    except Exception as error:  # three libraries, each with its own errors for a damaged file
        raise ConfigError("{} is not a file of weights: {}.".format(path, error)) from error
