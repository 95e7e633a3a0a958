"""What strangers may cost: how many connections there are, how long one is silent, how much it sends.

aiohttp bounds the size of one request, but neither the number of connections nor the time that half a
request may take, nor, for Python 3.6, how many requests wait for their answer; and every connection is a
file descriptor that the camera needs as well.
"""

import asyncio
import logging
import re
from typing import Any, Callable, Dict, Optional, Set

from edge_app.appliance.guard import Places

LIMIT = 250  # connections at once
SHARE = 40  # of these for one network: some ten browsers
SILENT_S = 20.0  # without a complete request, or with an answer that nobody fetches
BURST_BYTES, RATE_BYTES_S = 64 << 10, 16 << 10  # what one may send at once, and for ever
WAITING = 32  # requests sent without waiting for their answers; browsers send one at a time

_BLANK_LINE = re.compile(rb"\n\r?\n")  # ends a request's head


class Connections:
    """All connections of a server; used on its event loop.

    Args:
        limit: further connections are closed as they come.
        silent_s: see ``SILENT_S``.
    """

    def __init__(self, limit: int = LIMIT, silent_s: float = SILENT_S) -> None:
        self._places = Places(limit, SHARE)
        self._silent_s = silent_s
        self._open: Dict[Any, _Connection] = {}  # by transport
        self._streams: Set[Any] = set()  # transports

    def protocol(self, make_handler: Callable[[], Any]) -> Any:
        """For a connection that has just come; ``make_handler`` gives what answers it: aiohttp's."""
        return _Connection(self, make_handler)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def streams(self) -> int:
        """How many watch the live picture."""
        return len(self._streams)

    def heard(self, transport: Any) -> None:
        """A complete request has come, and is being answered now."""
        if transport in self._open:
            self._open[transport].answered()
            self._open[transport].expire_in(self._silent_s)

    def streaming(self, transport: Any, is_streaming: bool) -> None:
        """A connection begins to get the live picture, or gets it no more."""
        if is_streaming and transport in self._open:
            self._streams.add(transport)
            self._open[transport].expire_in(None)
        else:
            self._streams.discard(transport)
            if transport in self._open:
                self._open[transport].expire_in(self._silent_s)

    def abort(self) -> None:
        """Cut all off."""
        for transport in list(self._open):
            transport.abort()

    def admit(self, connection: "_Connection") -> bool:
        """Whether a connection that is there now may stay; one that is too many is cut off."""
        transport = connection.transport
        peer = transport.get_extra_info("peername") or ("",)
        if not self._places.take(transport, peer[0]):
            # Not at once: Python 3.6 would go on to watch a descriptor that is closed by then.
            asyncio.get_event_loop().call_soon(transport.abort)
            return False
        self._open[transport] = connection
        connection.expire_in(self._silent_s)
        return True

    def closed(self, transport: Any) -> None:
        """A connection is gone."""
        self._places.leave(transport)
        self._open.pop(transport, None)
        self._streams.discard(transport)


class _Connection(asyncio.Protocol):
    """Hands everything on to aiohttp's handler, within the limits."""

    def __init__(self, owner: Connections, make_handler: Callable[[], Any]) -> None:
        self.transport: Any = None
        self._make_handler = make_handler
        self._handler: Any = None
        self._owner = owner
        self._loop = asyncio.get_event_loop()
        self._expiry: Optional[asyncio.TimerHandle] = None
        self._credit_bytes, self._credited_at = float(BURST_BYTES), self._loop.time()
        self._waiting = 0  # requests that nobody has begun to answer
        self._line_end = b""  # what came last, if a blank line may have begun with it

    def answered(self) -> None:
        """A request waits no longer."""
        self._waiting = max(0, self._waiting - 1)

    def expire_in(self, seconds: Optional[float]) -> None:
        """Cut the connection off then; ``None``: never."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = None
        if seconds is not None:
            self._expiry = self._loop.call_later(seconds, self.transport.abort)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._handler = self._make_handler() if self._owner.admit(self) else asyncio.Protocol()
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        self._credit_bytes += (now - self._credited_at) * RATE_BYTES_S
        self._credit_bytes = min(self._credit_bytes, BURST_BYTES) - len(data)
        self._credited_at = now
        self._waiting += self._blank_lines(data)
        if self._credit_bytes < 0 or self._waiting > WAITING:
            self.transport.abort()
            return
        self._handler.data_received(data)

    def _blank_lines(self, data: bytes) -> int:
        """How many there are: at least as many as requests; nobody needs one with lines in its body."""
        seen, end, count = self._line_end + data, 0, 0
        for found in _BLANK_LINE.finditer(seen):
            end, count = found.end(), count + 1
        self._line_end = seen[max(end, len(seen) - 2) :]
        return count

    def eof_received(self) -> Optional[bool]:
        return self._handler.eof_received()  # type: ignore[no-any-return]

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.expire_in(None)
        self._owner.closed(self.transport)
        self._handler.connection_lost(error)


class Murmur(logging.LoggerAdapter):  # type: ignore[type-arg]
    """What aiohttp says of strangers' broken requests, at the level DEBUG: they could fill a disk."""

    def exception(self, message: Any, *arguments: Any, **more: Any) -> None:
        self.debug(message, *arguments, **more)

    error = warning = exception
