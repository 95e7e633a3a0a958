"""Who may look: on loopback whoever asks for a loopback name, elsewhere whoever has the token."""

import hashlib
import hmac
import ipaddress
from typing import Any, Dict, List, NamedTuple, Optional

COOKIE = "edge_app_token"
FAILURES, FAILURES_S = 5, 60.0  # wrong tokens a network may send in that time
_NETWORKS = 1000  # whose failures are remembered; the oldest go first


class Refusal(NamedTuple):
    """Why somebody may not look."""

    http_status: int
    text: str


class Failures:
    """Who has sent wrong tokens or passwords lately; used by one thread."""

    def __init__(self) -> None:
        self._times: Dict[str, List[float]] = {}  # by network, oldest first

    def are_too_many(self, address: str, now: float) -> bool:
        """Whether the network of an IP address must wait, at ``now`` (monotonic seconds)."""
        network = _network(address)
        times = [at for at in self._times.pop(network, []) if now - at <= FAILURES_S]
        if times:
            self._times[network] = times
        return len(times) >= FAILURES

    def add(self, address: str, now: float) -> None:
        """Somebody at an IP address has just sent a wrong one."""
        network = _network(address)
        self._times[network] = self._times.pop(network, []) + [now]
        if len(self._times) > _NETWORKS:
            del self._times[next(iter(self._times))]

    def forget(self) -> None:
        """Let everybody try again."""
        self._times.clear()

    def __len__(self) -> int:
        return len(self._times)


class Places:
    """For connections: so many in all, of one network only a share of them.

    Whoever is on this machine has no share but the whole: its viewers may all come through a proxy, and a
    probe must find a place. Used by several threads; each changes something in one step.

    Args:
        limit: connections at once.
        share: of these for one network (an IPv4 address, or 64 bits of IPv6).
    """

    def __init__(self, limit: int, share: int) -> None:
        self._limit = limit
        self._share = share
        self._networks: Dict[Any, str] = {}  # by connection

    def take(self, connection: Any, address: str) -> bool:
        """Whether there is a place for a connection from an IP address; it is taken then."""
        network, taken = _network(address), list(self._networks.values())
        if len(taken) >= self._limit:
            return False
        is_ours = is_loopback(address) or is_loopback(network)  # the latter: IPv4 within IPv6
        if not is_ours and taken.count(network) >= self._share:
            return False
        self._networks[connection] = network
        return True

    def leave(self, connection: Any) -> None:
        """A connection is gone, whether it had a place or not."""
        self._networks.pop(connection, None)

    def __len__(self) -> int:
        return len(self._networks)


class Guard:
    """Checks requests; used by one thread.

    The name asked for is checked on loopback, because a page of a stranger could point a name of its own
    at 127.0.0.1 and read the camera through the visitor's browser (DNS rebinding).

    Args:
        token: needed for everything; empty: none is.
        is_local: only this machine can reach the page.
    """

    def __init__(self, token: str, is_local: bool) -> None:
        self._token = token.encode("utf-8")
        self._is_local = is_local
        self._failures = Failures()
        #: What a browser keeps instead of the token: it tells nothing of it, and is as good here.
        self.cookie = hmac.new(self._token, b"edge-app cookie", hashlib.sha256).hexdigest()

    @property
    def needs_token(self) -> bool:
        """Whether there is a token at all."""
        return bool(self._token)

    def refuse(self, request: Any, now: float) -> Optional[Refusal]:
        """Why an aiohttp request is refused at ``now`` (monotonic seconds); ``None`` lets it pass."""
        if self._is_local and not _is_local_name(request.headers.get("Host", "")):
            return Refusal(403, "this page answers to localhost only")
        if not self._token:
            return None
        address = request.remote or ""
        if self._failures.are_too_many(address, now):
            return Refusal(429, "too many wrong tokens; wait a minute")
        given = _given(request)
        expected = self._token if given else self.cookie.encode("ascii")
        given = given or request.cookies.get(COOKIE, "")
        if hmac.compare_digest(given.encode("utf-8", "replace"), expected):
            return None
        if given:  # whoever just asks has not guessed
            self._failures.add(address, now)
        return Refusal(401, "a token is needed: open this address with ?token=...")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _given(request: Any) -> str:
    """The token in a request's address or header."""
    token = request.query.get("token", "")
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    if not token and kind.lower() == "bearer":
        token = value.strip()
    return str(token)


def _is_local_name(host: str) -> bool:
    """Whether a Host header, with or without a port, means this machine."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return is_loopback(name.strip("[]").lower())


def _network(address: str) -> str:
    """Whose failures are counted together: an IPv4 address, or the 64 bits of IPv6 one customer has."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv4Address):
        return address
    if known.ipv4_mapped:
        return str(known.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(known) >> 64 << 64, 64)))
