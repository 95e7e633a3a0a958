"""A stand-in for NVIDIA's jetson-utils of either generation; images are ordinary memory.

``module("2022")`` is jetson.utils of JetPack 4.6 (a timeout raises), ``module("2024")`` a later one.
Colours are those of the picture that ``frames`` gives, RGB; drawing really draws.
"""

import types

import numpy as np


class Image:
    def __init__(self, width, height, format="rgb8"):
        self.width, self.height, self.format, self.channels = width, height, format, 3
        self.array = np.zeros((height, width, 3), np.uint8)
        self.mapped = True

    @property
    def ptr(self):
        return self.array.ctypes.data


def module(generation, frames):
    """A module whose videoSource gives ``frames``: arrays, None for a timeout, or an Exception."""
    made = types.ModuleType("jetson_utils")
    made.sources, made.outputs = [], []

    class videoSource:
        def __init__(self, uri, argv=None):
            if uri == "csi://9":
                raise Exception("jetson.utils -- failed to create videoSource device")
            self.uri, self.argv, self.closed = uri, argv, False
            self._buffers = [None] * 4
            self._count = 0
            made.sources.append(self)

        def Capture(self, format="rgb8", timeout=1000):
            assert format == "rgb8" and timeout >= 1
            item = frames.pop(0) if frames else None
            if isinstance(item, Exception):
                raise item
            if item is None:
                made.clock[0] += timeout / 1000.0
                if generation == "2022":
                    raise Exception("jetson.utils -- videoSource failed to capture image")
                return None
            index = self._count % 4
            self._count += 1
            if self._buffers[index] is None:
                self._buffers[index] = Image(item.shape[1], item.shape[0])
            self._buffers[index].array[:] = item  # the ring of four comes round
            return self._buffers[index]

        def Close(self):
            assert not self.closed
            self.closed = True

    class videoOutput:
        def __init__(self, uri):
            if uri == "display://9":
                raise Exception("jetson.utils -- failed to create videoOutput device")
            self.rendered, self.status, self.streaming, self.closed = [], "", True, False
            made.outputs.append(self)

        def Render(self, image):
            self.rendered.append(image.array.copy())

        def SetStatus(self, text):
            self.status = text

        def IsStreaming(self):
            return self.streaming

        def Close(self):
            assert not self.closed
            self.closed = True

    class cudaFont:
        def OverlayText(self, image, width, height, text, x, y, color, background):
            image.array[y : y + 5, x : x + 5] = 255
            made.texts.append(text)

    def cudaDrawLine(image, start, end, color, line_width):
        assert len(color) == 4 and line_width > 0
        (x1, y1), (x2, y2) = sorted([start, end])
        top, bottom = sorted([y1, y2])
        image.array[top : bottom + 1, x1 : x2 + 1] = color[:3]

    def cudaMemcpy(destination, source):
        destination.array[:] = source.array

    def cudaAllocMapped(width, height, format):
        made.allocated += 1
        return Image(width, height, format)

    made.clock, made.texts, made.allocated, made.synchronised = [0.0], [], 0, 0
    made.videoSource, made.videoOutput, made.cudaFont = videoSource, videoOutput, cudaFont
    made.cudaDrawLine, made.cudaMemcpy, made.cudaAllocMapped = (
        cudaDrawLine,
        cudaMemcpy,
        cudaAllocMapped,
    )
    made.cudaToNumpy = lambda image: image.array
    made.cudaDeviceSynchronize = lambda: None
    return made
