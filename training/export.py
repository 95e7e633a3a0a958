"""Weights become an ONNX file and its card: ``python3 -m training.export ssd_mobilenet_v2 --weights
FILE``.

What leaves here is what a device runs: normalisation folded into the convolutions, calibration
folded into the score heads, a fixed batch of 1, float32 at both ends, no suppression inside, and
only operators that the ONNX parser of TensorRT 8.2 knows (opset 13). The file is run by ONNX
Runtime beside PyTorch before it is kept; a difference is an error.
"""

import argparse
import json
import os
from typing import Any, Dict, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge_app import card
from edge_app.errors import ConfigError
from training import command, model, train

OPSET = 13
IR_VERSION = 7  # what ONNX Runtime 1.10, the last for Python 3.6, still reads
LARGEST_DIFFERENCE = 1e-3  # of a score or an offset, PyTorch against ONNX Runtime
# What WIDER FACE makes of weights; the card says so unless it is told otherwise.
LICENCE = "research, non-commercial: trained on WIDER FACE (CC BY-NC-ND, non-commercial research)"
# Operators of the ONNX parser of TensorRT 8.2 that our networks may use.
OPERATORS = frozenset(
    "Add AveragePool Clip Concat Constant Conv Div Gather Identity MaxPool Mul Pad Pow ReduceL2 "
    "Relu Reshape Resize Slice Softmax Sqrt Squeeze Sub Transpose Unsqueeze".split()
)


class Calibration(NamedTuple):
    """Platt scaling of a face's logit: ``factor * logit + shift`` (Platt 1999; Guo et al. 2017)."""

    factor: float = 1.0
    shift: Tuple[float, ...] = (0.0,)  # of each feature map, or one for all


class Deployed(nn.Module):
    """What a device runs: prepared pictures (1, 3, H, W) to raw offsets and softmaxed scores."""

    def __init__(self, network: model.SSD) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tuple[Tensor, Tensor]:
        """Offsets (1, N, 4) and scores (1, N, 2) as background, face."""
        offsets, logits = self.network(pictures)
        return offsets, logits.softmax(2)


def fold_norms(module: nn.Module) -> None:
    """Put each batch normalisation into the convolution before it, in place."""
    children = list(module.named_children())
    for (name, child), (following, after) in zip(children, children[1:]):
        if isinstance(child, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child, after))
            setattr(module, following, nn.Identity())
    for child in module.children():
        fold_norms(child)


@torch.no_grad()
def fold_calibration(network: model.SSD, calibration: Calibration) -> None:
    """Make the softmax of the heads give calibrated scores, in place.

    Only the difference of the two logits counts, so each takes half of the shift.

    Raises:
        ConfigError: there are as many shifts neither as maps nor one, or the factor is not over 0.
    """
    shifts = calibration.shift
    if not calibration.factor > 0:
        raise ConfigError(
            "--factor {:g}: it must be over 0; at 0 or below better scores would not be "
            "higher.".format(calibration.factor)
        )
    if len(shifts) not in (1, len(network.heads)):
        raise ConfigError(
            "--shift: {} numbers; {} has {} feature maps, so give one for all or that many.".format(
                len(shifts), network.name, len(network.heads)
            )
        )
    for number, head in enumerate(network.heads):
        shift = shifts[number % len(shifts)]
        last = [part for part in head.logits.modules() if isinstance(part, nn.Conv2d)][-1]
        last.weight.mul_(calibration.factor)
        last.bias.mul_(calibration.factor)
        last.bias.view(-1, 2).add_(torch.tensor([-0.5, 0.5]) * shift)


def deployed(network: model.SSD, calibration: Calibration = Calibration()) -> Deployed:
    """The network as a device runs it; the one given is used up."""
    network.norm_frozen = False
    network.eval()
    fold_norms(network)
    fold_calibration(network, calibration)
    return Deployed(network).eval()


def write_onnx(network: Deployed, input_wh: Tuple[int, int], path: str) -> None:
    """Trace and write; then stamp, check and lint the file.

    Raises:
        ConfigError: the graph holds an operator that the device's parser does not know.
    """
    import onnx

    picture = torch.zeros(1, 3, input_wh[1], input_wh[0])
    torch.onnx.export(
        network, (picture,), path, dynamo=False, opset_version=OPSET,
        input_names=["input"], output_names=["offsets", "scores"],
    )  # fmt: skip
    graph = onnx.load(path)
    graph.ir_version = IR_VERSION
    graph.producer_name = "edge-app"
    unknown = sorted({node.op_type for node in graph.graph.node} - OPERATORS)
    if unknown:
        raise ConfigError(
            "{}: the ONNX parser of TensorRT 8.2 is not known to take {}; write the layer "
            "otherwise.".format(path, ", ".join(unknown))
        )
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def parity(network: Deployed, path: str, input_wh: Tuple[int, int], seed: int = 0) -> float:
    """Largest difference of any output, PyTorch against ONNX Runtime, on smooth random pictures.

    Raises:
        ConfigError: it is over ``LARGEST_DIFFERENCE``.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for _ in range(3):
        coarse = torch.rand(1, 3, 12, 12, generator=generator) * 4 - 2
        picture = nn.functional.interpolate(coarse, (input_wh[1], input_wh[0]), mode="bicubic")
        with torch.no_grad():
            mine = network(picture)
        theirs = session.run(["offsets", "scores"], {"input": picture.numpy()})
        for one, other in zip(mine, theirs):
            worst = max(worst, float(np.abs(one.numpy() - other).max()))
    if not worst <= LARGEST_DIFFERENCE:
        raise ConfigError(
            "{} differs from PyTorch by {:.2g}, more than {:g}; nothing was kept.".format(
                path, worst, LARGEST_DIFFERENCE
            )
        )
    return worst


def stamp(path: str, about: Dict[str, Any]) -> None:
    """Write facts into the ONNX file's metadata: a file that lost its card explains itself."""
    import onnx

    graph = onnx.load(path)
    del graph.metadata_props[:]
    for key, value in about.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    onnx.save(graph, path)


def save_weights(network: model.SSD, path: str, about: Dict[str, Any]) -> None:
    """Weights to export or to train from: convolutions as float16, all else exact; and their story."""
    arrays = {model.ABOUT: np.array(json.dumps(about))}
    for name, value in network.state_dict().items():
        array = value.cpu().numpy()
        arrays[name] = array.astype(np.float16) if array.ndim == 4 else array
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    np.savez_compressed(path, **arrays)


def export(
    network: model.SSD,
    input_wh: Tuple[int, int],
    folder: str,
    name: str,
    training: Dict[str, Any],
    calibration: Calibration = Calibration(),
    licence: str = LICENCE,
) -> str:
    """Write ``NAME.onnx`` and its card into a folder; gives the path of the ONNX.

    The old pair stays until the new one has passed.
    """
    preparation, layers = network.preparation, network.layers(input_wh)
    macs = model.count_macs(network, input_wh)
    parameters = sum(part.numel() for part in network.parameters())
    ready = deployed(network, calibration)
    path = os.path.join(folder, name + ".onnx")
    fresh = path + ".new"
    os.makedirs(folder, exist_ok=True)
    try:
        write_onnx(ready, input_wh, fresh)
        worst = parity(ready, fresh, input_wh)
        stamp(
            fresh, {"licence": licence, "training": training, "calibration": calibration._asdict()}
        )
        written = card.ModelCard(
            name=name,
            onnx=os.path.basename(path),
            sha256=card.sha256_of(fresh),
            input=card.ModelInput(
                "input",
                input_wh[0],
                input_wh[1],
                preparation.order,
                preparation.mean,
                preparation.scale,
            ),
            outputs=card.ModelOutputs("offsets", "scores"),
            layers=tuple(layers),
            variances=model.VARIANCES,
            licence=licence,
            training=dict(training, calibration=dict(calibration._asdict())),
            measured={},
        )
        os.replace(fresh, path)
    finally:
        if os.path.exists(fresh):
            os.remove(fresh)
    card.save_card(written, card.card_path(path))
    size_mb, count = os.path.getsize(path) / 1e6, len(written.default_boxes())
    print("{}: {:.2f} MB, {} default boxes, {:.3f} GMAC, {:.2f} million parameters".format(
        path, size_mb, count, macs / 1e9, parameters / 1e6))  # fmt: skip
    print("PyTorch and ONNX Runtime differ by at most {:.1e}".format(worst))
    return path


@torch.no_grad()
def mix(network: model.SSD, path: str, share: float) -> None:
    """Move the weights by ``share`` towards those of another run that began from the same ones.

    Wortsman et al., "Model soups", ICML 2022: such a mean may be better than each of them.
    """
    other = model.MODELS[network.name]()
    train.load_weights(other, path)
    theirs = other.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name], share)


def story(path: str) -> Dict[str, Any]:
    """What a checkpoint or a file of ``save_weights`` tells of how its weights came to be."""
    if path.endswith(".npz"):
        with np.load(path) as file:
            told = json.loads(str(file[model.ABOUT])) if model.ABOUT in file.files else {}
            return {"data": "not stated", "note": "", **told}
    state = train.read_checkpoint(path)
    return {
        "data": "not stated", "note": "", "steps": state["step"],
        "batch": state["options"]["batch"], "recipe": state["recipe"],
    }  # fmt: skip


def main(arguments: Sequence[str] = ()) -> None:
    """Load weights, export."""
    parser = argparse.ArgumentParser(prog="training.export", description=__doc__)
    parser.add_argument("model", choices=sorted(model.MODELS))
    parser.add_argument("--weights", required=True, help="a checkpoint (.pt) or weights (.npz)")
    parser.add_argument(
        "--size", type=train.size, help="of the input, as 320x320; default the model's own"
    )
    parser.add_argument("--out", default="engines", help="folder")
    parser.add_argument("--name", help="of the files; default the model's")
    parser.add_argument(
        "--factor", type=float, help="of training.calibration; default that of the weights, if any"
    )
    parser.add_argument(
        "--shift", type=float, nargs="+", help="of training.calibration; default likewise"
    )
    parser.add_argument("--save-weights", help="write the weights to this .npz as well")
    parser.add_argument(
        "--mix", nargs=2, metavar=("WEIGHTS", "SHARE"),
        help="other weights of this network, and their share in the mean of both",
    )  # fmt: skip
    parser.add_argument("--trained-on", help="which data, for the card; default as the weights say")
    parser.add_argument("--licence", default=LICENCE, help="of the weights, for the card")
    parser.add_argument("--note", help="how it was trained, for the card; default likewise")
    options = parser.parse_args(arguments or None)
    network = model.MODELS[options.model]()
    train.load_weights(network, options.weights)
    if options.mix:
        try:
            share = train.share(options.mix[1])
        except ValueError as error:
            raise ConfigError(
                "--mix WEIGHTS {}: the share is a number from 0 up to 1.".format(options.mix[1])
            ) from error
        mix(network, options.mix[0], share)
    about = story(options.weights)
    about.update({"data": options.trained_on} if options.trained_on else {})
    about.update({"note": options.note} if options.note else {})
    calibration = Calibration(**about.pop("calibration", {}))
    if options.factor is not None or options.shift is not None:
        calibration = Calibration(
            1.0 if options.factor is None else options.factor, tuple(options.shift or [0.0])
        )
    if options.save_weights:
        save_weights(network, options.save_weights, dict(about, calibration=calibration._asdict()))
    export(
        network, tuple(options.size or network.input_wh), options.out,
        options.name or options.model, about, calibration, options.licence,
    )  # fmt: skip


if __name__ == "__main__":
    command.run("training.export", main)
