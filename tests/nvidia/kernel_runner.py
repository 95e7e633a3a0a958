"""Run the kernels of a host library made by standin/cuda_cpu.py. NumPy arrays stand for device memory."""

import ctypes

import numpy as np

from edge_app.nvidia import kernels

ORDERS = (0, 1, 7)  # threads of a block ascending, descending, shuffled


class KernelError(Exception):
    """The runner's own complaint: divergence at a barrier, or an impossible launch."""


class Runner:
    """Kernels by name."""

    def __init__(self, library):
        self._library = ctypes.CDLL(library)

    def launch(self, name, grid, block, arguments, dynamic_bytes=0, order=0):
        """Run one kernel; arrays by address, int as int32, float as float32."""
        values = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous
                values.append(ctypes.c_void_p(argument.ctypes.data))
            elif isinstance(argument, int):
                values.append(ctypes.c_int(argument))
            else:
                values.append(ctypes.c_float(argument))
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        function = getattr(self._library, name + "__launch")
        function.restype = ctypes.c_char_p
        text = function(_three(grid), _three(block), dynamic_bytes, order, pointers)
        if text:
            raise KernelError(text.decode())


def _three(sizes):
    return (ctypes.c_uint * 3)(*(tuple(sizes) + (1, 1))[:3])


class PostProcess:
    """The four kernels of nms.cu in the order and shapes of ``kernels.Kernels``."""

    def __init__(self, runner, defaults, variances, capacity, max_faces):
        self._runner = runner
        self._defaults = np.ascontiguousarray(defaults)
        self._variances = [float(v) for v in variances]
        self._capacity = min(capacity, len(defaults))
        self._max_faces = max_faces
        sizes = kernels.Kernels.work_bytes(len(defaults), self._capacity)
        self._guarded = []
        self.keys = self._allocate(sizes.keys // 8, np.uint64)
        self.found = self._allocate(sizes.found // 4, np.int32)
        self.found[:] = 0
        self.boxes = self._allocate(sizes.boxes // 4, np.float32).reshape(-1, 4)
        self.default_boxes = self._allocate(sizes.default_boxes // 4, np.int32)
        self.mask = self._allocate(sizes.mask // 8, np.uint64)
        self._faces = self._allocate(max_faces * kernels.FACE.itemsize, np.uint8)

    def _allocate(self, count, dtype):
        """An array of nonsense with a page of it behind, which no kernel may touch."""
        size = count * np.dtype(dtype).itemsize
        raw = np.full((size + 7) // 8 * 8 + 4096, 0xCD, np.uint8)
        self._guarded.append(raw[-4096:])
        return raw[:size].view(dtype)

    def __call__(self, offsets, scores, threshold, iou_threshold, order=0):
        """(faces as ``kernels.FACE``, candidates, NaN scores) of offsets (N, 4) and scores (N,)."""
        run, count = self._runner.launch, len(scores)
        both = np.ascontiguousarray(np.stack([1 - scores, scores], 1))
        words = (self._capacity + kernels.WORD - 1) // kernels.WORD
        faces = self._faces.view(kernels.FACE)
        counts = np.full(3, -7, np.int32)
        args = [both, count, float(threshold), self.keys, self.found]
        run("collect", ((count + 255) // 256,), (256,), args, order=order)
        args = [self.keys, self.found, offsets, self._defaults] + self._variances
        args += [self._capacity, self.boxes, self.default_boxes]
        grid = ((count + kernels.WORD - 1) // kernels.WORD,)
        run("rank_and_decode", grid, (kernels.TILE,), args, order=order)
        args = [self.found, self._capacity, float(iou_threshold), self.boxes, self.mask]
        run("overlap_mask", (min(7, words * words),), (kernels.WORD,), args, order=order)
        args = [self.found, self._capacity, self._max_faces, self.boxes, self.default_boxes]
        args += [both, self.mask, faces, counts]
        block = (kernels.SUPPRESS_THREADS,)
        run("suppress", (1,), block, args, dynamic_bytes=8 * words, order=order)
        assert self.found.tolist() == [0, 0]
        assert all((guard == 0xCD).all() for guard in self._guarded), "written beyond the end"
        return faces[: counts[0]].copy(), int(counts[1]), int(counts[2])
