"""The live view: one page, one motion-JPEG stream, one JSON object; a display like any other.

aiohttp runs on a thread with an event loop of its own. The main thread hands over the newest picture
and never waits: a viewer that is slow, or gone, skips pictures and slows nobody. However many viewers
there are, a picture is encoded once; without a viewer it is not encoded at all.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import os
import secrets
import socket
import threading
import time
from typing import Any, Awaitable, Callable, Dict, List, NamedTuple, Optional, Set

from edge_app import __version__
from edge_app.config import WebSettings
from edge_app.detector import Detector
from edge_app.display import Display
from edge_app.errors import ConfigError, DisplayError
from edge_app.frames import Picture
from edge_app.source import Camera

log = logging.getLogger(__name__)

_PAGE = os.path.join(os.path.dirname(__file__), "page.html")
_COOKIE = "edge_app_token"
_STOP_S = 1.0  # how long stopping may take, viewers or not
_FAREWELL_S = 0.05  # for aiohttp's own tasks to notice that their connections are cut
_SNAPSHOT_S = 2.0  # how long a snapshot waits for a picture
_FAILURES, _FAILURES_S = 5, 60.0  # wrong tokens an address may send in that time
_ADDRESSES = 1000  # whose failures are remembered; the oldest go first
_SENDING_S = 20.0  # a viewer that takes longer for one picture is cut off
_SEND_BUFFER_BYTES = 128 << 10  # what the kernel holds for a viewer, hence how old its picture gets
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other site may embed the picture
}


class _Shown(NamedTuple):
    """What the page tells of the newest picture."""

    picture_number: int
    captured_at: float
    faces: Any
    figures: Any
    size_wh: Any


class WebDisplay(Display):
    """Serves the live view while it is open.

    Args:
        settings: where to listen; beyond loopback only with a token.
        detector: told on the page.
        camera: told on the page.

    Raises:
        ConfigError: on opening: a host beyond loopback without ``web.token``.
        DisplayError: on opening: the port is taken, or aiohttp is not installed.
    """

    def __init__(self, settings: WebSettings, detector: Detector, camera: Camera) -> None:
        super().__init__()
        self._settings = settings
        self._detector = detector
        self._camera = camera
        self._server: Optional[_Server] = None
        self._next_at = 0.0
        self.encoded = 0  # pictures encoded since the start

    def __enter__(self) -> "WebDisplay":
        import cv2

        self._encode = cv2.imencode
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, self._settings.jpeg_quality]
        self._server = _Server(self._settings, self._about())
        self._server.start()
        log.info("live view: %s", self.url)
        return self

    @property
    def url(self) -> str:
        """Where the page is, with the port that was really taken."""
        assert self._server is not None, "used outside 'with'"
        host = self._settings.host
        return "http://{}:{}".format("[{}]".format(host) if ":" in host else host, self._server.port)

    def show(self, picture: Picture) -> None:
        """Hand the newest picture over; encodes it when somebody is looking."""
        server = self._server
        assert server is not None, "used outside 'with'"
        now = time.monotonic()
        server.shown = _Shown(
            picture.result.frame.number,
            picture.result.frame.captured_at,
            picture.faces,
            picture.figures,
            picture.result.frame.size_wh,
        )
        if not server.is_watched or now < self._next_at:
            return
        self._next_at = now + 1.0 / self._settings.max_rate_hz
        done, jpeg = self._encode(".jpg", picture.pixels, self._quality)
        if done:
            self.encoded += 1
            server.publish(jpeg.tobytes())

    def close(self) -> None:
        """Stop serving, within a second whatever the viewers do. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _about(self) -> Callable[[], Dict[str, str]]:
        return lambda: {"source": self._camera.name, "detector": self._detector.description}


class _Server:
    """aiohttp on its own thread. ``publish`` and ``stop`` may be called from any thread."""

    def __init__(self, settings: WebSettings, about: Callable[[], Dict[str, str]]) -> None:
        self._settings = settings
        self._about = about
        self._guard = _Guard(settings.token, is_loopback(settings.host))
        self._thread = threading.Thread(target=self._run, name="web")
        self._started = threading.Event()
        self._started_at = time.monotonic()
        self._failure: Optional[BaseException] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._viewers: Set[Any] = set()  # transports, so that a stuck one can be cut off
        self._waiting = 0  # snapshots that wait for a picture
        self._jpeg = b""
        self.port = settings.port
        self.shown: Optional[_Shown] = None

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants a picture."""
        return bool(self._viewers) or self._waiting > 0

    def start(self) -> None:
        """Listen; returns once it does.

        Raises:
            ConfigError, DisplayError: see ``WebDisplay``.
        """
        settings = self._settings
        if not is_loopback(settings.host) and not settings.token:
            raise ConfigError(
                "web.host: {} can be reached from elsewhere, so web.token must be set (a long random text); "
                "or keep 127.0.0.1.".format(settings.host)
            )
        self._thread.start()
        self._started.wait()
        if self._failure is None:
            return
        self._thread.join()
        if isinstance(self._failure, ImportError):
            raise DisplayError(
                "aiohttp, which serves the live view, is not installed: 'make setup', or choose "
                "another --display."
            ) from self._failure
        if not isinstance(self._failure, OSError):
            raise self._failure
        raise DisplayError(
            "the live view cannot listen on {}:{}: {}. Choose another port, for instance "
            "--set web.port=8081.".format(
                settings.host, settings.port, self._failure.strerror
            )
        ) from self._failure

    def publish(self, jpeg: bytes) -> None:
        """Give every viewer a new picture."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._spread, jpeg)

    def stop(self) -> None:
        """Cut off the viewers and end the thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            log.warning("the live view did not stop within %.0f s", _STOP_S)

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(loop))
        except Exception as error:
            self._failure = error
        finally:
            self._started.set()
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        from aiohttp import web

        self._ended = asyncio.Event()
        self._fresh = asyncio.Event()

        @web.middleware
        async def guarded(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
            return await self._guard.check(request, handler)

        async def harden(request: Any, response: Any) -> None:
            response.headers.update(_HEADERS)

        app = web.Application(middlewares=[guarded])
        app.on_response_prepare.append(harden)
        app.router.add_get("/", self._page)
        app.router.add_get("/stream.mjpg", self._stream)
        app.router.add_get("/snapshot.jpg", self._snapshot)
        app.router.add_get("/api/status", self._status)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._settings.host, self._settings.port)
            await site.start()
            self.port = runner.addresses[0][1]
            self._loop = loop
            self._started.set()
            await self._ended.wait()
            self._loop = None
            self._spread(b"")
            for transport in list(self._viewers):
                transport.abort()
        finally:
            await runner.cleanup()
            await asyncio.sleep(_FAREWELL_S)

    def _spread(self, jpeg: bytes) -> None:
        """On the loop: wake all who wait for a picture."""
        self._jpeg = jpeg
        fresh, self._fresh = self._fresh, asyncio.Event()
        fresh.set()

    async def _page(self, request: Any) -> Any:
        from aiohttp import web

        with open(_PAGE, encoding="utf-8") as file:
            page = file.read()
        nonce = secrets.token_urlsafe(16)
        policy = "default-src 'none'; img-src 'self'; connect-src 'self'; "
        policy += "style-src 'nonce-{0}'; script-src 'nonce-{0}'; base-uri 'none'; form-action 'none'"
        return web.Response(
            text=page.replace("NONCE", nonce),
            content_type="text/html",
            headers={"Content-Security-Policy": policy.format(nonce)},
        )

    async def _stream(self, request: Any) -> Any:
        from aiohttp import web

        response = web.StreamResponse(
            headers={"Content-Type": "multipart/x-mixed-replace; boundary=picture"}
        )
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        self._viewers.add(transport)
        transport.set_write_buffer_limits(high=0)
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES
        )
        try:
            await response.write(b"--picture\r\n")
            while not self._ended.is_set():
                await self._fresh.wait()
                if self._jpeg:
                    await asyncio.wait_for(self._send(request, response), _SENDING_S)
        except (ConnectionError, asyncio.TimeoutError):
            log.debug("a viewer left, or was too slow")
            transport.abort()
        finally:
            self._viewers.discard(transport)
        return response

    async def _send(self, request: Any, response: Any) -> None:
        """Send the newest picture, and wait until the kernel has all of it.

        The line that ends a picture goes with it: a browser shows a picture only when it sees that line,
        which would otherwise be a picture later.
        """
        head = "Content-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n".format(len(self._jpeg))
        await response.write(head.encode() + self._jpeg + b"\r\n--picture\r\n")
        await request.writer.drain()

    async def _snapshot(self, request: Any) -> Any:
        from aiohttp import web

        self._waiting += 1
        try:
            await asyncio.wait_for(self._fresh.wait(), _SNAPSHOT_S)
        except asyncio.TimeoutError:
            return web.Response(status=503, text="no picture: the camera is silent\n")
        finally:
            self._waiting -= 1
        return web.Response(body=self._jpeg, content_type="image/jpeg")

    async def _status(self, request: Any) -> Any:
        from aiohttp import web

        return web.Response(text=json.dumps(self.status()), content_type="application/json")

    def status(self) -> Dict[str, Any]:
        """The object behind ``/api/status``; ``age_ms`` is null before the first picture."""
        now = time.monotonic()
        status: Dict[str, Any] = {
            "version": __version__,
            "uptime_s": round(now - self._started_at, 1),
            "viewers": len(self._viewers),
            "age_ms": None,
            "faces": [],
        }
        status.update(self._about())
        shown = self.shown
        if shown is not None:
            figures = shown.figures
            status.update(
                frame=shown.picture_number,
                age_ms=round((now - shown.captured_at) * 1000.0, 1),
                width=shown.size_wh[0],
                height=shown.size_wh[1],
                faces=[
                    {"box": [round(float(side), 1) for side in box], "score": round(score, 4)}
                    for box, score in shown.faces
                ],
                camera_fps=_rounded(figures.camera_fps, 1),
                detect_fps=_rounded(figures.detect_fps, 1),
                display_fps=_rounded(figures.display_fps, 1),
                steps_ms={step: _rounded(value, 2) for step, value in figures.steps_ms.items()},
                dropped=figures.dropped,
            )
        return status


def _rounded(value: float, digits: int) -> Optional[float]:
    """``None``, JSON's null, for what is not a finite number: JSON has no NaN."""
    return round(value, digits) if math.isfinite(value) else None


class _Guard:
    """Who may look: on loopback whoever asks for a loopback name, elsewhere whoever has the token.

    The name is checked because a page of a stranger could point a name of its own at 127.0.0.1 and
    read the camera through the visitor's browser (DNS rebinding).
    """

    def __init__(self, token: str, is_local: bool) -> None:
        self._token = token.encode("utf-8")
        self._is_local = is_local
        self._failures: Dict[str, List[float]] = {}  # by address, oldest first

    async def check(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Answer a request, or refuse it."""
        from aiohttp import web

        refusal = self._refuse(request, time.monotonic())
        if refusal is not None:
            return web.Response(status=refusal[0], text=refusal[1] + "\n")
        if self._token and "token" in request.query:
            response = web.HTTPFound(request.path)
            response.set_cookie(
                _COOKIE, request.query["token"], httponly=True, samesite="Strict", path="/"
            )
        else:
            response = await handler(request)
        return response

    def _refuse(self, request: Any, now: float) -> Any:
        """``(status, why)`` or ``None``."""
        name = request.host.rsplit(":", 1)[0] if request.host[-1:] != "]" else request.host
        if self._is_local and not is_loopback(name.strip("[]")):
            return 403, "this page answers to localhost only"
        if not self._token:
            return None
        peer = request.remote or ""
        failures = [at for at in self._failures.pop(peer, []) if now - at <= _FAILURES_S]
        if failures:
            self._failures[peer] = failures
        if len(failures) >= _FAILURES:
            return 429, "too many wrong tokens; wait a minute"
        given = request.query.get("token") or request.cookies.get(_COOKIE) or ""
        if not given and request.headers.get("Authorization", "").startswith("Bearer "):
            given = request.headers["Authorization"][len("Bearer ") :]
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            return None
        if given:  # whoever just asks has not guessed
            self._failures[peer] = failures + [now]
            if len(self._failures) > _ADDRESSES:
                del self._failures[next(iter(self._failures))]
        return 401, "a token is needed: open this address with ?token=..."


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
