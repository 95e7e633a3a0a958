"""The live view: a page, a motion-JPEG stream, figures for people and for probes; a display like any other.

The main thread hands over the newest picture and never waits: a viewer that is slow, or gone, skips
pictures and slows nobody. However many viewers there are, a picture is encoded once; without a viewer
it is not encoded at all. The page is there before the first picture, and says what is missing.
"""

import logging
import time
from typing import Optional

from edge_app.appliance.metrics import Metrics
from edge_app.appliance.pace import Pace
from edge_app.appliance.server import Server
from edge_app.appliance.status import Status
from edge_app.appliance.view import View
from edge_app.config import WebSettings
from edge_app.detector import Detector
from edge_app.display import Display
from edge_app.frames import Picture
from edge_app.source import Camera

log = logging.getLogger(__name__)


class WebDisplay(Display):
    """Serves the live view while it is open. docs/api.md lists its addresses.

    Args:
        settings: where to listen; beyond loopback only with a token.
        detector: told on the page.
        camera: told on the page.
        status: what the appliance knows of itself.
        metrics: what ``/metrics`` gives; without, that address does not exist.

    Raises:
        ConfigError: on opening: a host beyond loopback without ``web.token``.
        DisplayError: on opening: the port is taken, or aiohttp is not installed.
    """

    def __init__(
        self,
        settings: WebSettings,
        detector: Detector,
        camera: Camera,
        status: Optional[Status] = None,
        metrics: Optional[Metrics] = None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._view = View(detector, camera, status or Status())
        self._metrics = metrics
        self._server: Optional[Server] = None
        self._pace = Pace()
        self.encoded = 0  # pictures encoded since the start

    def __enter__(self) -> "WebDisplay":
        import cv2

        self._encode = cv2.imencode
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, self._settings.jpeg_quality]
        server = Server(self._settings, self._view, self._metrics)
        server.start()
        self._server = server
        log.info("live view: %s", self.url)
        return self

    @property
    def url(self) -> str:
        """Where the page is, with the port that was really taken."""
        assert self._server is not None, "used outside 'with'"
        host = self._settings.host
        return "http://{}:{}".format(
            "[{}]".format(host) if ":" in host else host, self._server.port
        )

    def show(self, picture: Picture) -> None:
        """Hand the newest picture over; encodes it when somebody is looking."""
        server = self._server
        assert server is not None, "used outside 'with'"
        self._view.show(picture)
        if not server.is_watched:
            return
        if not self._pace.takes(time.monotonic(), self._settings.max_rate_hz):
            return
        done, jpeg = self._encode(".jpg", picture.pixels, self._quality)
        if done:
            self.encoded += 1
            server.publish(jpeg.tobytes())

    def idle(self) -> None:
        """Nothing to show: the main loop turns all the same."""
        self._view.turn()

    def close(self) -> None:
        """Stop serving, within a second whatever the viewers do. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
