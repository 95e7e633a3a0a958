"""aiohttp on a thread with an event loop of its own."""

import asyncio
import errno
import logging
import threading
from functools import partial
from typing import Any, Dict, Optional

from edge_app.appliance.connections import LIMIT, SILENT_S, Connections, Murmur
from edge_app.appliance.guard import Guard, is_loopback
from edge_app.appliance.metrics import Metrics
from edge_app.appliance.routes import Routes
from edge_app.appliance.view import View
from edge_app.config import WebSettings
from edge_app.errors import ConfigError, DisplayError

log = logging.getLogger(__name__)

_STOP_S = 1.0  # how long stopping may take, viewers or not
_FAREWELL_S = 0.05  # for aiohttp's own tasks to notice that their connections are cut
_LONG_TOKEN = 16  # characters; a shorter one may be guessed


class Server:
    """Serves from ``start`` to ``stop``; ``publish`` and ``is_watched`` may be used from any thread.

    Args:
        settings: where to listen, and the token.
        view: what is told.
        metrics: what ``/metrics`` gives.
        limit, silent_s: see ``Connections``.
    """

    def __init__(
        self,
        settings: WebSettings,
        view: View,
        metrics: Optional[Metrics],
        limit: int = LIMIT,
        silent_s: float = SILENT_S,
    ) -> None:
        self._settings = settings
        self._guard = Guard(settings.token, is_loopback(settings.host))
        self._view = view
        self._metrics = metrics
        self._limit = limit
        self._silent_s = silent_s
        self._thread = threading.Thread(target=self._run, name="web")
        self._started = threading.Event()
        self._failure: Optional[BaseException] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._routes: Optional[Routes] = None
        self.port = settings.port

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants a picture."""
        return self._routes is not None and self._routes.is_watched

    def start(self) -> None:
        """Listen; returns once it does.

        Raises:
            ConfigError, DisplayError: see ``web.WebDisplay``.
        """
        _check(self._settings)
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
        port_is_wrong = self._failure.errno in (errno.EADDRINUSE, errno.EACCES)
        raise DisplayError(
            "the live view cannot listen on {}:{}: {}. {}".format(
                self._settings.host,
                self._settings.port,
                self._failure.strerror or self._failure,
                "Choose another port, for instance --set web.port=8081."
                if port_is_wrong
                else "Give an address of this machine to web.host; `ip address` lists them.",
            )
        ) from self._failure

    def publish(self, jpeg: bytes) -> None:
        """Give every viewer a new picture."""
        if self._loop is not None and self._routes is not None:
            self._loop.call_soon_threadsafe(self._routes.spread, jpeg)

    def stop(self) -> None:
        """Cut off the viewers and end the thread. Idempotent."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            log.warning("the live view did not stop within %.0f s", _STOP_S)

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(_complain)
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
        connections = Connections(self._limit, self._silent_s)
        self._routes = routes = Routes(self._guard, self._view, self._metrics, connections)
        murmur = Murmur(log, {})
        runner = web.AppRunner(routes.application(), access_log=None, logger=murmur)
        await runner.setup()
        listener: Any = None
        try:
            listener = await loop.create_server(
                partial(connections.protocol, runner.server),
                self._settings.host,
                self._settings.port,
                backlog=128,
            )
            self.port = listener.sockets[0].getsockname()[1]
            self._loop = loop
            self._started.set()
            await self._ended.wait()
            self._loop = None
            listener.close()
            routes.end()
        finally:
            await runner.cleanup()
            await asyncio.sleep(_FAREWELL_S)


def _complain(loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
    """aiohttp's own tasks fail on some requests (without a path): a matter of whoever sent them."""
    if "task" in context or "future" in context:
        log.debug("%s", context.get("message"), exc_info=context.get("exception"))
    else:
        loop.default_exception_handler(context)


def _check(settings: WebSettings) -> None:
    """What may not, or should not, be served."""
    if is_loopback(settings.host):
        return
    if not settings.token:
        raise ConfigError(
            "web.host: {} can be reached from elsewhere, so web.token must be set (a long random text); "
            "or keep 127.0.0.1.".format(settings.host)
        )
    if len(settings.token) < _LONG_TOKEN:
        log.warning(
            "web.token is short; this makes one that nobody guesses: `openssl rand -hex 16`"
        )
