"""The kernels of preprocess.cu and nms.cu as Python calls: modules, arguments, launch shapes."""

from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np

from edge_app.card import ModelInput
from edge_app.errors import DetectorError
from edge_app.nvidia.context import explained, import_driver
from edge_app.nvidia.stream import Stream

PIXEL_FORMATS = {"BGR": 0, "RGB": 1, "BGRx": 2, "RGBA": 3, "NV12": 4}  # as in preprocess.cu
BYTES_A_PIXEL = {"BGR": 3, "RGB": 3, "BGRx": 4, "RGBA": 4, "NV12": 1}  # of a row; NV12: of luma

FACE = np.dtype([("box", np.float32, (4,)), ("score", np.float32), ("default_box", np.int32)])

WORD = 64  # candidates in a word of the overlap mask, as in nms.cu
TILE = 256  # threads a block of rank_and_decode, as in nms.cu
SUPPRESS_THREADS = 512
MASK_BLOCKS = 512  # at most; they share out the tiles of the mask


class Source(NamedTuple):
    """A picture in memory that the GPU can read. NV12 has even sides, its chroma after the luma."""

    address: int
    format: str  # a key of PIXEL_FORMATS
    size_wh: Tuple[int, int]
    pitch_bytes: int  # from one row to the next


def source_bytes(pixel_format: str, size_wh: Tuple[int, int]) -> int:
    """Bytes of a picture whose rows follow each other without a gap."""
    width, height = size_wh
    luma = width * height * BYTES_A_PIXEL[pixel_format]
    return luma * 3 // 2 if pixel_format == "NV12" else luma


def stretch_table(source_px: int, target_px: int, repeat_edge: bool) -> np.ndarray:
    """Between which source pixels each target pixel lies, as cv2.resize with INTER_LINEAR has it.

    Half-pixel centres, weights in 1/2048. Beyond the outermost centres cv2 takes a column whole but
    blends a row with itself, which its truncating sums can tell apart: ``repeat_edge`` for rows.

    Returns:
        (target_px, 4) int32: position, next position, weight, weight of the next.
    """
    centres = (np.arange(target_px, dtype=np.float64) + 0.5) * (source_px / target_px) - 0.5
    centres = centres.astype(np.float32)
    first = np.floor(centres)
    weight = centres - first
    if not repeat_edge:
        weight[(first < 0) | (first >= source_px - 1)] = 0
    table = np.empty((target_px, 4), np.int32)
    table[:, 0] = np.clip(first, 0, source_px - 1)
    table[:, 1] = np.clip(first + 1, 0, source_px - 1)
    table[:, 2] = np.rint((np.float32(1) - weight) * np.float32(2048))
    table[:, 3] = np.rint(weight * np.float32(2048))
    return table


class Work(NamedTuple):
    """Device addresses the post-processing works on; ``Kernels.work_bytes`` gives their sizes."""

    keys: int
    found: int  # two int32, both 0 before the first frame
    boxes: int
    default_boxes: int
    mask: int


class Kernels:
    """The loaded kernels. Needs a current context from ``__enter__`` to ``close``.

    Args:
        cubins: paths of preprocess.cubin and nms.cubin.
    """

    def __init__(self, cubins: Sequence[str]) -> None:
        self._cubins = tuple(cubins)
        self._functions: List[Any] = []

    def __enter__(self) -> "Kernels":
        driver = import_driver()
        with explained("loading the kernels {}".format(" and ".join(self._cubins))):
            first, second = [driver.module_from_file(path) for path in self._cubins]
            self._functions = [
                _prepared(first, "halve", "PiiiPii"),
                _prepared(first, "preprocess", "PiiiPPPiiiffffff"),
                _prepared(second, "collect", "PifPP"),
                _prepared(second, "rank_and_decode", "PPPPffiPP"),
                _prepared(second, "overlap_mask", "PifPP"),
                _prepared(second, "suppress", "PiiPPPPPP"),
            ]
        return self

    def close(self) -> None:
        """Unload them. Idempotent."""
        self._functions = []  # the modules go with the last reference

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def work_bytes(default_boxes: int, capacity: int) -> Work:
        """Sizes in bytes of what ``Work`` points at."""
        words = (capacity + WORD - 1) // WORD
        return Work(8 * default_boxes, 8, 16 * capacity, 4 * capacity, 8 * words * capacity)

    def halve(self, source: Source, half: int, stream: Stream) -> Source:
        """Queue: a picture at half its size.

        Args:
            half: device address of room for it, as BGR without gaps.

        Returns:
            The half; an odd last column or row has no part in it.
        """
        width, height = source.size_wh[0] // 2, source.size_wh[1] // 2
        grid = ((width + 31) // 32, (height + 7) // 8)
        arguments = [source.address, PIXEL_FORMATS[source.format]]
        arguments += [source.size_wh[1], source.pitch_bytes, half, width, height]
        self._launch(0, grid, (32, 8, 1), stream, *arguments)
        return Source(half, "BGR", (width, height), 3 * width)

    def preprocess(
        self, source: Source, tables: Tuple[int, int], spec: ModelInput, tensor: int, stream: Stream
    ) -> None:
        """Queue: stretch and normalise a picture into the tensor (3, height, width) float32.

        Args:
            tables: device addresses of ``stretch_table`` of the columns and of the rows.
        """
        grid = ((spec.width_px + 31) // 32, (spec.height_px + 7) // 8)
        arguments = [source.address, PIXEL_FORMATS[source.format]]
        arguments += [source.size_wh[1], source.pitch_bytes]
        arguments += [tables[0], tables[1], tensor, spec.width_px, spec.height_px]
        arguments += [int(spec.order == "RGB")] + list(spec.scale)
        arguments += [-mean * scale for mean, scale in zip(spec.mean, spec.scale)]
        self._launch(1, grid, (32, 8, 1), stream, *arguments)

    def collect(
        self, scores: int, default_boxes: int, threshold: float, work: Work, stream: Stream
    ) -> None:
        """Queue: keys of the scores of at least ``threshold``."""
        grid = ((default_boxes + 255) // 256, 1)
        self._launch(
            2, grid, (256, 1, 1), stream, scores, default_boxes, threshold, work.keys, work.found
        )

    def rank_and_decode(
        self,
        offsets: int,
        defaults: int,
        default_boxes: int,
        variances: Tuple[float, float],
        capacity: int,
        work: Work,
        stream: Stream,
    ) -> None:
        """Queue: sort the keys, decode the best ``capacity``."""
        grid = ((default_boxes + WORD - 1) // WORD, 1)
        self._launch(
            3,
            grid,
            (TILE, 1, 1),
            stream,
            work.keys,
            work.found,
            offsets,
            defaults,
            variances[0],
            variances[1],
            capacity,
            work.boxes,
            work.default_boxes,
        )

    def suppress(
        self,
        scores: int,
        capacity: int,
        iou_threshold: float,
        max_faces: int,
        work: Work,
        faces: int,
        counts: int,
        stream: Stream,
    ) -> None:
        """Queue: non-maximum suppression; faces (max_faces,) of ``FACE``, counts (3,) int32:
        faces, candidates, scores that are NaN."""
        words = (capacity + WORD - 1) // WORD
        blocks = min(MASK_BLOCKS, words * words)
        self._launch(
            4,
            (blocks, 1),
            (WORD, 1, 1),
            stream,
            work.found,
            capacity,
            iou_threshold,
            work.boxes,
            work.mask,
        )
        self._launch(
            5,
            (1, 1),
            (SUPPRESS_THREADS, 1, 1),
            stream,
            work.found,
            capacity,
            max_faces,
            work.boxes,
            work.default_boxes,
            scores,
            work.mask,
            faces,
            counts,
            shared_bytes=8 * words,
        )

    def _launch(
        self,
        index: int,
        grid: Tuple[int, int],
        block: Tuple[int, int, int],
        stream: Stream,
        *arguments: Any,
        shared_bytes: int = 0,
    ) -> None:
        if not self._functions:
            raise DetectorError("the kernels are not loaded.")
        self._functions[index].prepared_async_call(
            grid, block, stream.raw, *arguments, shared_size=shared_bytes
        )


def _prepared(module: Any, name: str, types: str) -> Any:
    function = module.get_function(name)
    function.prepare(types)
    return function
