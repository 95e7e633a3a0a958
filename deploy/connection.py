"""A device, reached by ssh through pyinfra: commands with their exit status, files, and a bounded wait for both."""

import io
import re
import socket
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence
from contextlib import contextmanager

from deploy.inventory import Device

CONNECT_S = 10  # a device that does not answer for so long counts as down
_KEEPALIVE_S = 10
_SILENT_MS = 30000  # a connection whose packets nobody acknowledges for so long is cut
_EXIT = "edge-app exit status "
_SSH_KEYS = {
    "ssh_hostname": "address",
    "ssh_user": "user",
    "ssh_port": "port",
    "ssh_key": "key",
    "ssh_known_hosts_file": "known_hosts",
}


class Unreachable(Exception):
    """A device cannot be connected to; the message says why, and what to do."""


class ConnectionLost(Exception):
    """The connection ended in the middle of something."""


class Said(NamedTuple):
    """What a command said, and its exit status."""

    status: int
    lines: List[str]

    def value(self, key: str) -> str:
        """The rest of the line that begins with ``key=``; empty without one."""
        prefix = key + "="
        return next((line[len(prefix) :] for line in self.lines if line.startswith(prefix)), "")


class Fleet:
    """Devices as pyinfra knows them, and as many at a time as this machine can bear."""

    def __init__(self, devices: Sequence[Device], parallel: int) -> None:
        from pyinfra.api import Config, Inventory, State

        hosts = [(device.name, _host_data(device)) for device in devices]
        config = Config(CONNECT_TIMEOUT=CONNECT_S, PARALLEL=max(1, min(parallel, len(devices))))
        self._state = State(Inventory((hosts, {})), config)

    def map(self, task: Any, devices: Sequence[Device]) -> List[Any]:
        """``task(device)`` for every one, side by side; results in their order."""
        return list(self._state.pool.map(task, devices))

    @contextmanager
    def connection(self, device: Device) -> Iterator["Connection"]:
        """An open connection.

        Raises:
            Unreachable: there is no way in.
        """
        host = self._state.inventory.get_host(device.name)
        connection = Connection(host)
        try:
            connection.open(device)
            yield connection
        finally:
            connection.close()


def _host_data(device: Device) -> Any:
    # As ssh does it: a host whose key is not known, or is another one, is not talked to.
    data = {"ssh_strict_host_key_checking": "yes"}
    data.update(
        {key: getattr(device, name) for key, name in _SSH_KEYS.items() if getattr(device, name)}
    )
    return data


class Connection:
    """An open connection to one device, made by ``Fleet.connection``."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self.sent_bytes = 0

    def open(self, device: Device) -> None:
        """Connect, and notice within half a minute when the other end has gone."""
        from pyinfra.api.exceptions import ConnectError

        try:
            self._host.connect(show_errors=False, raise_exceptions=True)
        except ConnectError as error:
            raise Unreachable(_explain(str(error), device)) from error
        except (
            Exception
        ) as error:  # paramiko's own: a key file that cannot be read, a server that talks nonsense
            raise Unreachable("{}: {}".format(type(error).__name__, error)) from error
        transport = self._host.connector.client.get_transport()
        transport.set_keepalive(_KEEPALIVE_S)
        if hasattr(socket, "TCP_USER_TIMEOUT") and isinstance(transport.sock, socket.socket):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_MS)

    def close(self) -> None:
        """Hang up. Idempotent."""
        client = getattr(self._host.connector, "client", None)
        if client is not None:
            client.close()
            self._host.connector.client = None
        self._host.connector.get_file_transfer_connection.cache.clear()
        self._host.connected = False

    def run(self, command: str, timeout_s: float) -> Said:
        """Run a line of shell; stdout and stderr of it together.

        Raises:
            ConnectionLost: the connection ended before the command did, or it took too long.
        """
        from pyinfra.api import StringCommand

        line = "{{ {}; }} 2>&1; echo {}$?".format(command, _EXIT)
        try:
            _, output = self._host.run_shell_command(StringCommand(line), _timeout=timeout_s)
        except (
            Exception
        ) as error:  # gevent's, paramiko's and the socket's ways to say that it is over
            raise ConnectionLost("{}: {}".format(type(error).__name__, error)) from error
        lines = [str(entry.line).rstrip() for entry in output.combined_lines]
        status = _status(lines)
        if status is None:
            raise ConnectionLost("the connection ended before the command did")
        return Said(status, [line for line in lines if not line.startswith(_EXIT)])

    def put(self, content: Any, path: str) -> None:
        """Write a file: ``content`` is the path of one here, or bytes.

        Raises:
            ConnectionLost: it did not get there.
        """
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        try:
            done = self._host.put_file(source, path)
        except Exception as error:
            raise ConnectionLost(
                "while sending {}: {}".format(path, error or type(error).__name__)
            ) from error
        if not done:
            raise ConnectionLost("while sending {}".format(path))
        self.sent_bytes += _size(content)


def _size(content: Any) -> int:
    if isinstance(content, bytes):
        return len(content)
    with open(content, "rb") as file:
        return file.seek(0, io.SEEK_END)


def _status(lines: Sequence[str]) -> Optional[int]:
    for line in reversed(lines):
        if line.startswith(_EXIT):
            return int(line[len(_EXIT) :])
    return None


def _explain(text: str, device: Device) -> str:
    """What pyinfra says of a failed connection, with what to do."""
    port = " -p {}".format(device.port) if device.port else ""
    login = "{}@{}".format(device.user, device.address) if device.user else device.address
    if "No host key" in text:
        return "its host key is not known here; compare it, then accept it: ssh{} {} true".format(
            port, login
        )
    if "host key" in text.lower():
        return "its host key is not the known one: another machine answers, or it was set up anew (ssh-keygen -R {})".format(
            device.address
        )
    if "Authentication" in text:
        return "it takes none of our keys: ssh-copy-id{} {}".format(port, login)
    return re.sub(r"\s+", " ", text)
