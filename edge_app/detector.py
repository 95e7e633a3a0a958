"""Pixels become faces: stretch and normalise, run the network, select.

``OnnxDetector`` runs anywhere on the CPU; ``edge_app.nvidia`` has the one that never leaves the GPU.
"""

import logging
import os
import time
from typing import Any, List, Optional, Tuple

import numpy as np

from edge_app import boxes
from edge_app.card import ModelCard, ModelInput, card_path, halvings, load_card, verify_model
from edge_app.config import DetectorSettings
from edge_app.errors import DetectorError, OutOfMemoryError
from edge_app.frames import Detections, StepTimes

log = logging.getLogger(__name__)


class Detector:
    """Finds faces in pictures of any size. Used by one thread, inside ``with``.

    Attributes:
        card: what the network expects and gives.
        description: back end and device in words, once opened.
        times: of the last ``detect``.
        overflow: candidates that did not fit into ``max_candidates``, since the start.
    """

    card: ModelCard
    description: str = ""
    times: StepTimes = StepTimes(0.0, 0.0, 0.0)
    overflow: int = 0

    def __enter__(self) -> "Detector":
        raise NotImplementedError

    def __exit__(self, *error: Any) -> None:
        raise NotImplementedError

    def detect(self, pixels: np.ndarray, threshold: float) -> Detections:
        """Find the faces of one picture.

        Args:
            pixels: (H, W, 3) uint8 BGR, any size from 1x1.
            threshold: lowest score wanted, 0..1.

        Returns:
            Faces in pixels of this picture, best first.

        Raises:
            DetectorError: the network failed or answered nothing but NaN.
        """
        raise NotImplementedError


class FallbackDetector(Detector):
    """The first of two detectors; where it cannot be opened the second, and one line of the log says why.

    Want of memory at the moment (``OutOfMemoryError``) goes to the caller: a restart may find memory,
    while the second would stay the slow one until somebody looks.

    Args:
        first, second: not yet opened; the second runs on the CPU.
    """

    def __init__(self, first: Detector, second: Detector) -> None:
        self._first = first
        self._second = second
        self._open = first

    def __enter__(self) -> "FallbackDetector":
        self._open = self._first
        try:
            self._first.__enter__()
        except OutOfMemoryError:
            raise
        except DetectorError as error:
            log.warning("on the CPU, since: %s", error)
            self._open = self._second
            self._second.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def detect(self, pixels: np.ndarray, threshold: float) -> Detections:
        return self._open.detect(pixels, threshold)

    @property
    def card(self) -> ModelCard:
        """Of the one that is open, as all that follows."""
        return self._open.card

    @property
    def description(self) -> str:
        """Back end and device."""
        return self._open.description

    @property
    def times(self) -> StepTimes:
        """Of the last ``detect``."""
        return self._open.times

    @property
    def overflow(self) -> int:
        """Candidates that did not fit."""
        return self._open.overflow


class OnnxDetector(Detector):
    """The network on the CPU by ONNX Runtime, everything else in NumPy and OpenCV.

    Args:
        settings: ``model`` is the ONNX file; its card lies beside it.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._session: Optional[Any] = None

    def __enter__(self) -> "OnnxDetector":
        path = self._settings.model
        self.card = load_card(card_path(path))
        verify_model(self.card, path)
        self._defaults = self.card.default_boxes()
        self._stretch = Stretch(self.card.input)
        self._session = _open_session(path, self._settings.threads)
        self.description = _describe(self._session, self._settings.threads)
        _check_signature(self._session, self.card, len(self._defaults))
        return self

    def __exit__(self, *error: Any) -> None:
        self._session = None

    def detect(self, pixels: np.ndarray, threshold: float) -> Detections:
        started = time.perf_counter()
        tensor = self._stretch(pixels)
        stretched = time.perf_counter()
        offsets, scores = self._infer(tensor)
        inferred = time.perf_counter()
        faces = self._select(offsets, scores, pixels.shape, threshold)
        done = time.perf_counter()
        self.times = StepTimes(stretched - started, inferred - stretched, done - inferred)
        return faces

    def _infer(self, tensor: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """(N, 4) offsets and (N,) scores of *face*."""
        names = list(self.card.outputs)
        assert self._session is not None, "used outside 'with'"
        try:
            offsets, scores = self._session.run(names, {self.card.input.name: tensor})
        except Exception as error:  # ONNX Runtime's own exceptions share no base
            raise DetectorError("{} failed: {}".format(self.card.name, error)) from error
        return offsets[0], scores[0, :, 1]

    def _select(
        self, offsets: np.ndarray, scores: np.ndarray, shape: Tuple[int, ...], threshold: float
    ) -> Detections:
        if np.isnan(scores).all():
            raise DetectorError(
                "{} answered only NaN. Its weights are damaged: take model and card afresh from "
                "engines/, or export again.".format(self.card.name)
            )
        settings = self._settings
        selection = boxes.select(
            offsets,
            scores,
            self._defaults,
            self.card.variances,
            threshold,
            settings.nms_iou,
            settings.max_candidates,
            settings.max_faces,
        )
        self.overflow += selection.overflow
        size_wh = (shape[1], shape[0])
        return Detections(boxes.to_pixels(selection.boxes, size_wh), selection.scores)


def halved(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (H // 2, W // 2, 3): means of 2x2 pixels, halves rounded up.

    A last row or column that has no partner is left out.
    """
    import cv2

    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    even = pixels[: 2 * height, : 2 * width]
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)


class Stretch:
    """Preprocessing on the CPU: (H, W, 3) uint8 BGR to the network's (1, 3, h, w) float32.

    Halved while it is far larger, then bilinear with half-pixel centres, aspect not kept (as SSD),
    then ``(pixel - mean) * scale``. The tensor it returns is overwritten by the next call.
    """

    def __init__(self, model_input: ModelInput) -> None:
        import cv2

        self._resize = cv2.resize
        self._bilinear = cv2.INTER_LINEAR
        self._size_wh = model_input.size_wh
        width, height = model_input.size_wh
        self._channels = (2, 1, 0) if model_input.order == "RGB" else (0, 1, 2)
        self._scale = [np.float32(value) for value in model_input.scale]
        self._shift = [
            np.float32(-mean * scale) for mean, scale in zip(model_input.mean, model_input.scale)
        ]
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._tensor = np.empty((1, 3, height, width), np.float32)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        for _ in range(halvings((pixels.shape[1], pixels.shape[0]), self._size_wh)):
            pixels = halved(pixels)
        resized = self._resize(pixels, self._size_wh, self._pixels, 0, 0, self._bilinear)
        for plane, channel, scale, shift in zip(
            self._tensor[0], self._channels, self._scale, self._shift
        ):
            np.multiply(resized[:, :, channel], scale, out=plane)
            np.add(plane, shift, out=plane)
        return self._tensor


def _open_session(path: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DetectorError(
            "ONNX Runtime is not installed, and it is what runs the network on a CPU: "
            "'make setup', or 'pip install onnxruntime'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise DetectorError(
            "{} cannot be loaded: {}. Take it afresh from engines/, or export again.".format(
                path, str(error).strip().splitlines()[-1]
            )
        ) from error


def _describe(session: Any, threads: int) -> str:
    import onnxruntime

    count = threads or os.cpu_count() or 1
    return "ONNX Runtime {} on the CPU, {} thread{}".format(
        onnxruntime.__version__, count, "" if count == 1 else "s"
    )


def _check_signature(session: Any, card: ModelCard, count: int) -> None:
    """The model's tensors must be those of its card.

    Raises:
        DetectorError: a name is missing or a shape differs.
    """
    width, height = card.input.size_wh
    found = {tensor.name: list(tensor.shape) for tensor in session.get_inputs()}
    found.update((tensor.name, list(tensor.shape)) for tensor in session.get_outputs())
    wanted: List[Tuple[str, List[int]]] = [
        (card.input.name, [1, 3, height, width]),
        (card.outputs.offsets, [1, count, 4]),
        (card.outputs.scores, [1, count, 2]),
    ]
    for name, shape in wanted:
        if found.get(name) != shape:
            raise DetectorError(
                "{}: the card speaks of a tensor {!r} of shape {}, the model has {}. Model and card are "
                "not from the same export.".format(card.onnx, name, shape, found)
            )
