"""The model card: what a network expects and gives. JSON beside the ONNX, one home for these facts.

Written by ``training/export.py``, read by whoever runs the network; preprocessing and default boxes
stand nowhere else.
"""

import hashlib
import json
import os
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from edge_app.boxes import BoxLayer, default_boxes
from edge_app.errors import CardError

FORMAT = 2


class ModelInput(NamedTuple):
    """The input tensor, (1, 3, height_px, width_px) float32: ``(pixel - mean) * scale`` a channel.

    A frame is *halved* (see ``halvings``), and what that gives is *stretched* to this size (bilinear,
    half-pixel centres: cv2.INTER_LINEAR), as SSD does. Bilinear sampling looks at four pixels only: of
    a large frame it would leave most out, and small faces would flicker.
    """

    name: str
    width_px: int
    height_px: int
    order: str  # "RGB" or "BGR"
    mean: Tuple[float, float, float]  # in pixel units 0..255, in the tensor's channel order
    scale: Tuple[float, float, float]

    @property
    def size_wh(self) -> Tuple[int, int]:
        """Width and height in pixels."""
        return self.width_px, self.height_px


class ModelOutputs(NamedTuple):
    """Names of the outputs: raw offsets (1, N, 4), softmaxed scores (1, N, 2) as background, face."""

    offsets: str
    scores: str


class ModelCard(NamedTuple):
    """A card as read from its file."""

    name: str
    onnx: str  # file name, in the card's own folder
    sha256: str  # of the ONNX file, hexadecimal
    input: ModelInput
    outputs: ModelOutputs
    layers: Tuple[BoxLayer, ...]
    variances: Tuple[float, float]  # of centre and size, SSD's 0.1 and 0.2
    licence: str
    training: Dict[str, Any]  # what it was trained on and how; free form
    measured: Dict[str, Any]  # average precision and the like; free form

    def default_boxes(self) -> np.ndarray:
        """(N, 4) float32 ``cx, cy, w, h`` as fractions of the input."""
        return default_boxes(self.layers, self.input.size_wh)


def halvings(size_wh: Tuple[float, float], input_wh: Tuple[int, int]) -> int:
    """How often a picture is halved before it is stretched to the input; sizes in pixels.

    As long as it has four times the input's pixels and neither side is shorter than the input's.
    """
    (width, height), times = size_wh, 0
    while (
        width * height >= 4 * input_wh[0] * input_wh[1]
        and width >= input_wh[0]
        and height >= input_wh[1]
    ):
        width, height, times = width / 2, height / 2, times + 1
    return times


def sha256_of(path: str) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def card_path(onnx_path: str) -> str:
    """Where the card of an ONNX file lies: same name, ``.json``."""
    return os.path.splitext(onnx_path)[0] + ".json"


def save_card(card: ModelCard, path: str) -> None:
    """Write a card as JSON, whole or not at all."""
    tree = card._asdict()
    tree["input"] = dict(card.input._asdict())
    tree["outputs"] = dict(card.outputs._asdict())
    tree["layers"] = [dict(layer._asdict()) for layer in card.layers]
    tree = dict(format=FORMAT, **tree)
    text = json.dumps(tree, indent=1, sort_keys=False)
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_card(path: str) -> ModelCard:
    """Read and check a card.

    Raises:
        CardError: no such file, not JSON, or a field missing, of the wrong type or impossible.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = json.load(file)
    except OSError as error:
        raise CardError(
            "no model card at {}: {}. The card lies beside the ONNX file; run 'make export' or take "
            "both files from engines/.".format(path, error.strerror)
        ) from error
    except ValueError as error:
        raise CardError("{} is not a model card (JSON): {}".format(path, error)) from error
    try:
        return _card_from(tree)
    except KeyError as error:
        raise CardError("{}: field {} is missing.".format(path, error)) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CardError("{}: {}".format(path, error)) from error


def verify_model(card: ModelCard, onnx_path: str) -> None:
    """Check that the ONNX file is the one the card speaks of.

    Raises:
        CardError: the file is missing or its sha256 differs.
    """
    try:
        found = sha256_of(onnx_path)
    except OSError as error:
        raise CardError(
            "no model at {}: {}. Run 'git checkout engines/' or 'make export'.".format(
                onnx_path, error.strerror
            )
        ) from error
    if found != card.sha256:
        raise CardError(
            "{} does not match its card: sha256 is {}..., the card says {}... . The file is damaged or the "
            "card is another model's; take both from the same export.".format(
                onnx_path, found[:12], card.sha256[:12]
            )
        )


def _card_from(tree: Dict[str, Any]) -> ModelCard:
    if tree["format"] != FORMAT:
        raise ValueError(
            "card format {} is not {}; export the model again.".format(tree["format"], FORMAT)
        )
    source = tree["input"]
    card = ModelCard(
        name=str(tree["name"]),
        onnx=os.path.basename(str(tree["onnx"])),
        sha256=str(tree["sha256"]),
        input=ModelInput(
            name=str(source["name"]),
            width_px=int(source["width_px"]),
            height_px=int(source["height_px"]),
            order=str(source["order"]),
            mean=_floats("input.mean", source["mean"], 3),
            scale=_floats("input.scale", source["scale"], 3),
        ),
        outputs=ModelOutputs(str(tree["outputs"]["offsets"]), str(tree["outputs"]["scores"])),
        layers=tuple(_layer_from(layer) for layer in tree["layers"]),
        variances=_floats("variances", tree["variances"], 2),
        licence=str(tree["licence"]),
        training=dict(tree["training"]),
        measured=dict(tree["measured"]),
    )
    if card.input.order not in ("RGB", "BGR"):
        raise ValueError("input.order is {!r}, expected 'RGB' or 'BGR'.".format(card.input.order))
    if min(card.input.size_wh) < 1:
        raise ValueError("input size {}x{} is impossible.".format(*card.input.size_wh))
    if min(card.variances) <= 0:
        raise ValueError("variances must be positive.")
    if not card.layers:
        raise ValueError("layers is empty: there are no default boxes.")
    return card


def _layer_from(layer: Dict[str, Any]) -> BoxLayer:
    columns, rows = (int(side) for side in layer["grid_wh"])
    sizes = tuple(_floats("layers.sizes_px", size, 2) for size in layer["sizes_px"])
    step = _floats("layers.step_px", layer["step_px"], 2)
    if min(columns, rows, len(sizes)) < 1 or min(step) <= 0 or min(min(size) for size in sizes) <= 0:
        raise ValueError("a layer of default boxes is impossible: {}.".format(layer))
    return BoxLayer((columns, rows), step, sizes)


def _floats(field: str, values: Any, count: int) -> Tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not np.all(np.isfinite(numbers)):
        raise ValueError("{} must be {} finite numbers, not {!r}.".format(field, count, values))
    return numbers
