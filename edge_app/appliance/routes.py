"""What each address of the web server answers."""

import asyncio
import json
import logging
import os
import secrets
import socket
import time
from typing import Any, Awaitable, Callable, Optional

from edge_app.appliance.connections import Connections
from edge_app.appliance.guard import COOKIE, Guard
from edge_app.appliance.metrics import Metrics
from edge_app.appliance.view import View

log = logging.getLogger(__name__)

_PAGE = os.path.join(os.path.dirname(__file__), "page.html")
_SNAPSHOT_S = 2.0  # how long a snapshot waits for a picture
_SENDING_S = 20.0  # a viewer that takes longer for one picture is cut off
_NOTICE_S = 1.0  # a viewer that left is noticed so soon when there are no pictures
_SEND_BUFFER_BYTES = 128 << 10  # what the kernel holds for a viewer, hence how old its picture gets
_PROBES = ("/healthz", "/readyz")  # answer everybody, with one word
_HEADERS = {
    "Server": "edge-app",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other site may embed the picture
}
_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'nonce-{0}'; "
    "script-src 'nonce-{0}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Routes:
    """The handlers, and the picture they share; made and used on the server's event loop.

    Args:
        guard: who may look.
        view: what is told.
        metrics: what ``/metrics`` gives; without, that address does not exist.
        connections: who asks.
    """

    def __init__(
        self, guard: Guard, view: View, metrics: Optional[Metrics], connections: Connections
    ) -> None:
        self._guard = guard
        self._view = view
        self._metrics = metrics
        self._connections = connections
        self._ended = False
        self._fresh = asyncio.Event()
        self._waiting = 0  # snapshots that wait for a picture
        self._jpeg = b""
        self._part = b""  # the same as a part of the stream, made once for all viewers

    def application(self) -> Any:
        """The aiohttp application."""
        from aiohttp import web

        @web.middleware
        async def answer(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
            return await self._answer(request, handler)

        app = web.Application(middlewares=[answer])
        app.on_response_prepare.append(_harden)
        app.router.add_get("/", self._page)
        app.router.add_get("/stream.mjpg", self._stream, allow_head=False)
        app.router.add_get("/snapshot.jpg", self._snapshot, allow_head=False)
        app.router.add_get("/api/status", self._status)
        if self._metrics is not None:
            app.router.add_get("/metrics", self._metrics_text)
        return app

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants a picture; may be asked from any thread."""
        return self._waiting > 0 or self._connections.streams > 0

    def spread(self, jpeg: bytes) -> None:
        """Wake all who wait for a picture.

        The line that ends a picture goes with it: a browser shows a picture only when it sees that line,
        which would otherwise be a picture later.
        """
        head = "Content-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n".format(len(jpeg))
        self._part = head.encode("ascii") + jpeg + b"\r\n--picture\r\n"
        self._jpeg = jpeg
        self._wake()

    def end(self) -> None:
        """Send all viewers home."""
        self._ended = True
        self._wake()
        self._connections.abort()

    def _wake(self) -> None:
        fresh, self._fresh = self._fresh, asyncio.Event()
        fresh.set()

    async def _answer(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Every request passes here: who may look, and what becomes of our own mistakes."""
        from aiohttp import web

        try:
            self._connections.heard(request.transport)
            refusal = self._guard.refuse(request, time.monotonic())
            if request.path in _PROBES and (refusal is None or refusal.http_status != 403):
                return self._probe(request.path, refusal is None)
            if refusal is not None:
                return web.Response(status=refusal.http_status, text=refusal.text + "\n")
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            log.error("%s %s failed", request.method, request.path, exc_info=error)
            return web.Response(status=500, text="an error of the program; its log tells more\n")

    def _probe(self, path: str, is_trusted: bool) -> Any:
        """200 "ok" or 503 "not ok"; for those who may look, the reasons as well, a line each."""
        from aiohttp import web

        health = self._view.health()
        is_good = health.ok if path == "/healthz" else health.ready
        lines = ["ok" if is_good else "not ok"] + list(health.reasons if is_trusted else ())
        return web.Response(status=200 if is_good else 503, text="\n".join(lines) + "\n")

    async def _page(self, request: Any) -> Any:
        from aiohttp import web

        if (
            self._guard.needs_token and "token" in request.query
        ):  # out of the address, into a cookie
            response = web.HTTPFound("/")
            # Lax: with Strict a browser would not send it when a link of another page led here.
            response.set_cookie(
                COOKIE, self._guard.cookie, httponly=True, samesite="Lax", path="/"
            )
            raise response
        with open(_PAGE, encoding="utf-8") as file:
            page = file.read()
        nonce = secrets.token_urlsafe(16)
        return web.Response(
            text=page.replace("NONCE", nonce),
            content_type="text/html",
            headers={"Content-Security-Policy": _POLICY.format(nonce)},
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
        transport.set_write_buffer_limits(high=0)
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES
        )
        self._connections.streaming(transport, True)
        try:
            await response.write(b"--picture\r\n")
            while not (self._ended or transport.is_closing()):
                if await _set_within(self._fresh, _NOTICE_S) and self._part:
                    await asyncio.wait_for(self._send(request, response), _SENDING_S)
        except (ConnectionError, asyncio.TimeoutError):
            log.debug("a viewer left, or was too slow")
            transport.abort()
        finally:
            self._connections.streaming(transport, False)
        return response

    async def _send(self, request: Any, response: Any) -> None:
        """Send the newest picture, and wait until the kernel has all of it."""
        await response.write(self._part)
        await request.writer.drain()

    async def _snapshot(self, request: Any) -> Any:
        from aiohttp import web

        self._waiting += 1
        try:
            if not await _set_within(self._fresh, _SNAPSHOT_S):
                return web.Response(status=503, text="no picture: the camera is silent\n")
        finally:
            self._waiting -= 1
        return web.Response(body=self._jpeg, content_type="image/jpeg")

    async def _status(self, request: Any) -> Any:
        from aiohttp import web

        text = json.dumps(self._view.report(self._connections.streams))
        return web.Response(text=text, content_type="application/json")

    async def _metrics_text(self, request: Any) -> Any:
        from aiohttp import web

        assert self._metrics is not None, "routed only with metrics"
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": self._metrics.content_type}
        )


async def _harden(request: Any, response: Any) -> None:
    response.headers.update(_HEADERS)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; whether it came in time."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True
