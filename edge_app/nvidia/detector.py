"""The detector that never leaves the GPU.

Frame in mapped memory, preprocessing kernels, engine, NMS kernels, faces in mapped memory: one stream, nothing allocated
in the loop, no tensor copied back, one wait a frame.
"""

import logging
import time
from contextlib import ExitStack
from typing import Any, List, Optional, Tuple

import numpy as np

from edge_app import boxes
from edge_app.card import ModelCard, card_path, halvings, load_card, verify_model
from edge_app.config import DetectorSettings
from edge_app.detector import Detector
from edge_app.errors import DetectorError
from edge_app.frames import Detections, StepTimes
from edge_app.nvidia import convert
from edge_app.nvidia.buffers import DeviceBuffer, MappedBuffer
from edge_app.nvidia.cache import EngineFiles
from edge_app.nvidia.context import CudaContext, Gpu, describe_gpu, explained
from edge_app.nvidia.engine import EngineRefused
from edge_app.nvidia.kernels import FACE, Kernels, Source, Work, source_bytes, stretch_table
from edge_app.nvidia.network import Network
from edge_app.nvidia.stream import Stream

log = logging.getLogger(__name__)


def open_cuda_detector(
    settings: DetectorSettings, progress: convert.Progress = log.info
) -> "CudaDetector":
    """The detector for ``with``; checks at once that there are a driver, a GPU and TensorRT.

    Raises:
        DetectorError: one of them is missing; the message says which and what to do.
    """
    describe_gpu()
    convert.import_tensorrt()
    return CudaDetector(settings, progress)


class CudaDetector(Detector):
    """See ``Detector``. Entered, used and left by one thread, which holds the primary context.

    Args:
        settings: ``model`` is the ONNX; engine and kernels lie beside it, or in ``engines``, and are
            made when they are missing or stale.
        progress: is told about that, as by ``convert.build``.
    """

    def __init__(self, settings: DetectorSettings, progress: convert.Progress = log.info) -> None:
        self._settings = settings
        self._progress = progress
        self._stack = ExitStack()
        self._post: Optional[_PostProcess] = None

    def __enter__(self) -> "CudaDetector":
        path = self._settings.model
        self.card = load_card(card_path(path))
        verify_model(self.card, path)
        gpu = describe_gpu()
        folder = self._settings.engines or None
        files = convert.ensure(path, self.card, gpu, self._progress, folder)
        try:
            self._open(files, gpu)
        except EngineRefused as error:
            files = convert.rebuild(path, self.card, gpu, files, str(error), self._progress)
            self._open(files, gpu)
        self.description = "{} on {} (sm_{})".format(
            convert.builder.tensorrt_version(convert.import_tensorrt()), gpu.name, gpu.sm
        )
        return self

    def _open(self, files: EngineFiles, gpu: Gpu) -> None:
        with ExitStack() as stack:
            stack.enter_context(CudaContext())
            self._network = stack.enter_context(Network(files.engine, self.card))
            kernels = stack.enter_context(Kernels(files.cubins))
            self._stream = stack.enter_context(Stream(marks=4))
            self._input = stack.enter_context(_FrameInput(kernels, self.card, gpu))
            self._post = stack.enter_context(_PostProcess(kernels, self.card, self._settings))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Free everything. Idempotent."""
        self._post = None
        self._stack.close()

    def __exit__(self, *error: Any) -> None:
        self.close()

    def detect(self, pixels: np.ndarray, threshold: float) -> Detections:
        if self._post is None:
            raise DetectorError("the detector is not open.")
        started = time.perf_counter()
        stream = self._stream
        with explained("looking for faces"):
            source = self._input.place(pixels, stream)
            placed = time.perf_counter()
            stream.mark(0)
            self._input.preprocess(source, self._network.input, stream)
            stream.mark(1)
            self._network.enqueue(stream)
            stream.mark(2)
            self._post.queue(self._network.offsets, self._network.scores, threshold, stream)
            stream.mark(3)
            stream.wait_for(3)  # the only wait of a frame
            self.times = StepTimes(
                placed - started + stream.between_s(0, 1),
                stream.between_s(1, 2),
                stream.between_s(2, 3),
            )
        faces, overflow = self._post.faces()
        self.overflow += overflow
        size_wh = (pixels.shape[1], pixels.shape[0])
        return Detections(boxes.to_pixels(faces["box"], size_wh), faces["score"].copy())


class _FrameInput:
    """Where frames are put for the GPU, and the kernels that make the network's input of them."""

    def __init__(self, kernels: Kernels, card: ModelCard, gpu: Gpu) -> None:
        self._kernels = kernels
        self._spec = card.input
        self._integrated = gpu.integrated
        self._stack = ExitStack()
        self._frames = ExitStack()
        self._size_wh: Optional[Tuple[int, int]] = None
        self._halves: List[DeviceBuffer] = []

    def __enter__(self) -> "_FrameInput":
        with ExitStack() as stack:
            self._columns = stack.enter_context(DeviceBuffer(16 * self._spec.width_px))
            self._rows = stack.enter_context(DeviceBuffer(16 * self._spec.height_px))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._stack.close()

    def place(self, pixels: np.ndarray, stream: Stream) -> Source:
        """Put a picture where the GPU reads it; one that is there already (``on_gpu``) stays."""
        source: Optional[Source] = getattr(pixels, "on_gpu", None)
        if source is None and (
            pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3
        ):
            raise DetectorError(
                "a frame must be (H, W, 3) uint8, not {} {}.".format(pixels.shape, pixels.dtype)
            )
        size_wh = (pixels.shape[1], pixels.shape[0]) if source is None else source.size_wh
        if size_wh != self._size_wh:
            self._resize(size_wh, source is None)
        if source is not None:
            return source
        np.copyto(self._host.array.reshape(pixels.shape), pixels)
        address = self._host.address
        if not self._integrated:  # a discrete GPU would read across the bus pixel by pixel
            address = self._device.address
            stream.upload(address, self._host.array)
        return Source(address, "BGR", size_wh, 3 * size_wh[0])

    def _resize(self, size_wh: Tuple[int, int], with_memory: bool) -> None:
        """Frames of another size from now on: seldom, since a camera keeps its size."""
        self._frames.close()
        self._size_wh = None
        size_bytes = source_bytes("BGR", size_wh) if with_memory else 1
        self._host = self._frames.enter_context(MappedBuffer((size_bytes,), np.uint8))
        self._device = self._frames.enter_context(
            DeviceBuffer(0 if self._integrated else size_bytes)
        )
        width, height = size_wh
        self._halves = []
        for _ in range(halvings(size_wh, self._spec.size_wh)):
            width, height = width // 2, height // 2
            half = DeviceBuffer(source_bytes("BGR", (width, height)))
            self._halves.append(self._frames.enter_context(half))
        self._columns.upload(stretch_table(width, self._spec.width_px, False))
        self._rows.upload(stretch_table(height, self._spec.height_px, True))
        self._size_wh = size_wh

    def preprocess(self, source: Source, tensor: int, stream: Stream) -> None:
        """Queue the kernels."""
        for half in self._halves:
            source = self._kernels.halve(source, half.address, stream)
        tables = (self._columns.address, self._rows.address)
        self._kernels.preprocess(source, tables, self._spec, tensor, stream)


class _PostProcess:
    """From the network's outputs to faces in mapped memory."""

    def __init__(self, kernels: Kernels, card: ModelCard, settings: DetectorSettings) -> None:
        self._kernels = kernels
        self._card = card
        self._iou = settings.nms_iou
        self._max_faces = settings.max_faces
        self._defaults = card.default_boxes()
        self._capacity = min(settings.max_candidates, len(self._defaults))
        self._stack = ExitStack()

    def __enter__(self) -> "_PostProcess":
        with ExitStack() as stack:
            sizes = Kernels.work_bytes(len(self._defaults), self._capacity)
            work = [stack.enter_context(DeviceBuffer(size)) for size in sizes]
            self._work = Work(*[buffer.address for buffer in work])
            work[Work._fields.index("found")].clear()
            defaults = stack.enter_context(DeviceBuffer(self._defaults.nbytes))
            defaults.upload(self._defaults)
            self._default_address = defaults.address
            self._faces = stack.enter_context(MappedBuffer((self._max_faces,), FACE))
            self._counts = stack.enter_context(MappedBuffer((3,), np.int32))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def queue(self, offsets: int, scores: int, threshold: float, stream: Stream) -> None:
        """Queue the kernels; their answer is in ``faces`` once the stream has come so far."""
        count = len(self._defaults)
        self._kernels.collect(scores, count, threshold, self._work, stream)
        self._kernels.rank_and_decode(
            offsets,
            self._default_address,
            count,
            self._card.variances,
            self._capacity,
            self._work,
            stream,
        )
        self._kernels.suppress(
            scores,
            self._capacity,
            self._iou,
            self._max_faces,
            self._work,
            self._faces.address,
            self._counts.address,
            stream,
        )

    def faces(self) -> Tuple[np.ndarray, int]:
        """(faces as ``FACE``, best first, candidates that did not fit); copies.

        Raises:
            DetectorError: the network answered nothing but NaN.
        """
        kept, candidates, not_numbers = self._counts.array.tolist()
        if not_numbers == len(self._defaults):
            raise DetectorError(
                "{} answered only NaN. Its weights are damaged, or half precision is not enough for "
                "them: convert with --precision fp32.".format(self._card.name)
            )
        return self._faces.array[:kept].copy(), max(0, candidates - self._capacity)
