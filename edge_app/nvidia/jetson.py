"""jetson-utils as an optional back end: frames that stay on the GPU, and a display drawn there.

Source ``jetson:csi://0`` (any URI of jetson-utils after the colon) and display ``jetson`` or
``jetson:URI``. NVIDIA's jetson-utils is built on the device; the package of that name on PyPI is
another program. Both of its generations are spoken: 2022 (JetPack 4.6, module ``jetson.utils``, where
a timeout raises) and 2023 and later (``jetson_utils``, where it gives None).
"""

import time
from typing import Any, List, Optional

import numpy as np

from edge_app.camera import Camera
from edge_app.config import CameraSettings
from edge_app.display import Display
from edge_app.errors import CameraError, DisplayError, EdgeAppError
from edge_app.frames import Frame, Picture
from edge_app.launch import FIRST_FRAME_S
from edge_app.nvidia.kernels import Source

RING = 8  # copies of frames: one each in camera, both slots, detector and screen, and some to spare
LINE_PX = 3
GREEN = (0, 255, 0, 255)
BLACK = (0, 0, 0, 160)
_FLIPS = {"horizontal-flip": "horizontal", "vertical-flip": "vertical"}
_HALF_TURN = {"none": "rotate-180", "rotate-180": "none"}
_MISSING = (
    "{}. NVIDIA's jetson-utils is built on the Jetson (dusty-nv/jetson-inference, branch of your "
    "JetPack); the package of that name on PyPI is something else."
)


class GpuPixels(np.ndarray):
    """A frame's pixels, (H, W, 3) uint8 BGR for the CPU, that the GPU reads in place.

    ``on_gpu`` says where; a slice or copy has none.
    """

    on_gpu: Optional[Source] = None


def import_jetson_utils(error_class: Any) -> Any:
    """NVIDIA's module under its newer or older name.

    Raises:
        error_class: it is not installed, or only PyPI's namesake is.
    """
    try:
        import jetson_utils as module
    except ImportError:
        try:
            import jetson.utils as module
        except ImportError as error:
            raise error_class(_MISSING.format("jetson-utils is not installed")) from error
    if not hasattr(module, "videoSource"):
        raise error_class(_MISSING.format("the installed jetson_utils is not NVIDIA's"))
    return module


class JetsonCamera(Camera):
    """jetson-utils' videoSource. Frames are copied on the GPU into a ring of our own at once.

    videoSource reuses four buffers, and five frames may be on their way to the screen.

    Args:
        uri: of jetson-utils, for instance ``csi://0`` or ``/dev/video0``.
        settings: size, rate, flip and timeout are passed on.
    """

    def __init__(self, uri: str, settings: CameraSettings) -> None:
        super().__init__("jetson:" + uri, live=True)
        self._uri = uri
        self._settings = settings
        self._source: Optional[Any] = None
        self._ring: List[Any] = []
        self._number = 0

    def open(self) -> None:
        self._utils = import_jetson_utils(CameraError)
        try:
            self._source = self._utils.videoSource(self._uri, argv=self._arguments())
        except Exception as error:  # jetson-utils raises plain Exception
            raise CameraError(
                "{} cannot be opened: {}. See jetson-utils' own messages above.".format(
                    self.name, error
                )
            ) from error
        self._started = self._last = time.monotonic()
        self._silence_s = max(FIRST_FRAME_S, self._settings.timeout_s)

    def _arguments(self) -> List[str]:
        settings = self._settings
        flip = _FLIPS.get(settings.flip, settings.flip)
        if self._uri.startswith("csi"):  # where jetson-utils means the half turn by "none"
            flip = _HALF_TURN.get(flip, flip)
        return [
            "--input-width={}".format(settings.width_px),
            "--input-height={}".format(settings.height_px),
            "--input-rate={:g}".format(settings.rate_hz),
            "--input-flip={}".format(flip),
        ]

    def read(self, timeout_s: float) -> Optional[Frame]:
        image = self._capture(timeout_s)
        now = time.monotonic()
        if image is None:
            if now - self._last > self._silence_s:
                raise CameraError(
                    "{} gave nothing for {:.1f} s. Is the camera connected? After a crash: sudo "
                    "systemctl restart nvargus-daemon.".format(self.name, now - self._last)
                )
            return None
        self._last, self._silence_s = now, self._settings.timeout_s
        frame = Frame(self._number, now, now - self._started, self._keep(image))
        self._number += 1
        return frame

    def _capture(self, timeout_s: float) -> Optional[Any]:
        assert self._source is not None, "used outside 'with'"
        started = time.monotonic()
        try:
            return self._source.Capture(format="rgb8", timeout=max(1, int(1000 * timeout_s)))
        except (
            Exception
        ) as error:  # jetson-utils raises plain Exception; the older one also in vain
            if time.monotonic() - started >= 0.9 * timeout_s:
                return None
            raise CameraError("{} failed: {}".format(self.name, error)) from error

    def _keep(self, image: Any) -> GpuPixels:
        """Copy into the ring; the CPU's view of the copy."""
        if not self._ring or (self._ring[0].width, self._ring[0].height) != (
            image.width,
            image.height,
        ):
            self._ring = [
                self._utils.cudaAllocMapped(width=image.width, height=image.height, format="rgb8")
                for _ in range(RING)
            ]
        copy = self._ring[self._number % RING]
        self._utils.cudaMemcpy(copy, image)
        self._utils.cudaDeviceSynchronize()  # before the CPU may look at it
        pixels = self._utils.cudaToNumpy(copy)[:, :, ::-1].view(GpuPixels)
        pixels.on_gpu = Source(int(copy.ptr), "RGB", (copy.width, copy.height), 3 * copy.width)
        return pixels

    def close(self) -> None:
        source, self._source = self._source, None
        self._ring = []
        if source is not None:
            source.Close()


class JetsonDisplay(Display):
    """jetson-utils' videoOutput; boxes and scores are drawn on the GPU, over the frame itself.

    Args:
        uri: of jetson-utils: ``display://0``, ``rtp://...``, a file.
    """

    def __init__(self, uri: str = "display://0") -> None:
        super().__init__()
        self._uri = uri
        self._output: Optional[Any] = None
        self._canvas: Optional[Any] = None

    def __enter__(self) -> "JetsonDisplay":
        self._utils = import_jetson_utils(DisplayError)
        try:
            self._output = self._utils.videoOutput(self._uri)
            self._font = self._utils.cudaFont()
        except Exception as error:  # jetson-utils raises plain Exception
            raise DisplayError(
                "{} cannot be opened: {}. Without a screen choose --display web or none.".format(
                    self._uri, error
                )
            ) from error
        return self

    def show(self, picture: Picture) -> None:
        assert self._output is not None, "used outside 'with'"
        try:
            canvas = self._frame_on_canvas(picture)
            for box, score in picture.faces:
                self._draw(canvas, [int(round(float(side))) for side in box], score)
            self._output.Render(canvas)
            self._output.SetStatus(
                "edge-app: {:.1f} frames/s shown, {:.1f} detected".format(
                    picture.figures.display_fps, picture.figures.detect_fps
                )
            )
        except EdgeAppError:
            raise
        except Exception as error:  # jetson-utils raises plain Exception
            raise DisplayError("{} failed: {}".format(self._uri, error)) from error
        self.closed = not self._output.IsStreaming()

    def _frame_on_canvas(self, picture: Picture) -> Any:
        """The frame without the CPU's drawing, in an image of our own."""
        pixels = picture.result.frame.pixels
        height, width = pixels.shape[:2]
        canvas = self._canvas
        if canvas is None or (canvas.width, canvas.height) != (width, height):
            canvas = self._utils.cudaAllocMapped(width=width, height=height, format="rgb8")
            self._canvas = canvas
        self._utils.cudaDeviceSynchronize()  # the last picture has left it
        np.copyto(self._utils.cudaToNumpy(canvas), pixels[:, :, ::-1])
        return canvas

    def _draw(self, canvas: Any, box: List[int], score: float) -> None:
        """Four lines: the outline of cudaDrawRect is not in the older jetson-utils."""
        x1, y1, x2, y2 = box
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        for start, end in zip(corners, corners[1:] + corners[:1]):
            self._utils.cudaDrawLine(canvas, start, end, GREEN, LINE_PX)
        text = "{:.0f}%".format(100 * score)
        self._font.OverlayText(
            canvas, canvas.width, canvas.height, text, x1, max(0, y1 - 36), GREEN, BLACK
        )

    def close(self) -> None:
        output, self._output = self._output, None
        self._canvas = None
        if output is not None:
            output.Close()
