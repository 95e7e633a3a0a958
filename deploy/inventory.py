"""Which devices there are: from names on the command line, or from a file.

    defaults:                        # of every host
      user: nvidia
      settings: {camera.rate_hz: 30}
    groups:
      shop:
        hosts: [nano-1, nano-2]
        settings: {privacy.mode: blur}
    hosts:
      nano-1: {address: 10.0.0.11, settings: {camera.source: "csi://1"}}
      nano-2:                        # the name is the address

What stands nearer to the host wins: host over group over defaults. ``settings`` become the device's configuration when it
has none yet; one that is there is never changed.
"""

import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

_KEYS = (
    "address",
    "user",
    "port",
    "key",
    "known_hosts",
    "target",
    "health_s",
    "start_s",
    "rate_hz",
    "settings",
)
_HOST = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?P<address>\[[0-9a-fA-F:.]+\]|[^:@\s]+)(?::(?P<port>\d+))?$"
)


class InventoryError(Exception):
    """The inventory is not to be understood; the message says where."""


class Device(NamedTuple):
    """One device, and how it is reached. Empty values are what ssh's own configuration says."""

    name: str
    address: str = ""
    user: str = ""
    port: int = 0
    key: str = ""  # file of a private key
    known_hosts: str = ""  # file; ssh's own by default
    target: str = ""  # kind of release; found out by default
    health_s: float = 20.0  # a new release is watched for so long
    start_s: float = 180.0  # its first frame must come within
    rate_hz: float = 5.0  # frames it must look at in a second
    settings: Dict[str, Any] = {}  # by path: {"camera.source": "csi://0"}


def devices_named(names: Sequence[str], options: Optional[Dict[str, Any]] = None) -> List[Device]:
    """Devices from ``user@host:port`` words, doubles left out.

    Raises:
        InventoryError: a word is no host.
    """
    found: Dict[str, Device] = {}
    for name in names:
        match = _HOST.match(name)
        if match is None or name.startswith("-"):
            raise InventoryError(
                "{}: not a host; write name, user@name or user@name:port".format(name)
            )
        values = dict(options or {}, address=match.group("address").strip("[]"))
        if match.group("user"):
            values["user"] = match.group("user")
        if match.group("port"):
            values["port"] = int(match.group("port"))
        found.setdefault(name, _device(name, values, name))
    return list(found.values())


def read_inventory(
    path: str, group: str = "", options: Optional[Dict[str, Any]] = None
) -> List[Device]:
    """Devices of an inventory file, in its order.

    Args:
        group: only those of this group.
        options: for all of them, where the file says nothing.

    Raises:
        InventoryError: it is missing, no YAML, or has a key that is not known.
    """
    tree = _read(path)
    groups = {
        name: _mapping(value, "groups." + name, path) for name, value in tree["groups"].items()
    }
    if group and group not in groups:
        raise InventoryError(
            "{}: no group {}; there are {}".format(path, group, ", ".join(groups) or "none")
        )
    hosts = {
        str(name): _mapping(value, "hosts." + str(name), path)
        for name, value in tree["hosts"].items()
    }
    for values in groups.values():
        for name in values.get("hosts") or []:
            hosts.setdefault(str(name), {})
    found = []
    for name, own in hosts.items():
        member_of = [
            values
            for values in groups.values()
            if name in [str(host) for host in values.get("hosts") or []]
        ]
        if group and groups[group] not in member_of:
            continue
        layers = (
            [options or {}, tree["defaults"]] + [_without_hosts(one) for one in member_of] + [own]
        )
        found.append(_device(name, _merged(layers), "{}: {}".format(path, name)))
    if not found:
        raise InventoryError("{}: no hosts in it".format(path))
    return found


def _read(path: str) -> Dict[str, Dict[str, Any]]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            tree = _mapping(yaml.safe_load(file), "the file", path)
    except OSError as error:
        raise InventoryError("{}: {}".format(path, error.strerror)) from error
    except yaml.YAMLError as error:
        raise InventoryError("{}: {}".format(path, " ".join(str(error).split()))) from error
    unknown = sorted(set(tree) - {"defaults", "groups", "hosts"})
    if unknown:
        raise InventoryError(
            "{}: {}: not known; there are defaults, groups and hosts".format(path, unknown[0])
        )
    return {name: _mapping(tree.get(name), name, path) for name in ("defaults", "groups", "hosts")}


def _mapping(value: Any, name: str, path: str) -> Dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InventoryError("{}: {} must hold 'key: value' lines".format(path, name))
    return value


def _without_hosts(values: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in values.items() if key != "hosts"}


def _merged(layers: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Later over earlier; settings one by one."""
    merged: Dict[str, Any] = {}
    settings: Dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
        settings.update(layer.get("settings") or {})
    return dict(merged, settings=settings)


def _device(name: str, values: Dict[str, Any], where: str) -> Device:
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise InventoryError(
            "{}: {}: not known; there are {}".format(where, unknown[0], ", ".join(_KEYS))
        )
    numbers = {
        key: values[key] for key in ("port", "health_s", "start_s", "rate_hz") if key in values
    }
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise InventoryError("{}: {}: {!r} is not a number".format(where, key, value))
    for path in values.get("settings") or {}:
        if not re.match(r"[a-z_]+\.[a-z_]+$", str(path)):
            raise InventoryError("{}: settings: {}: write section.key: value".format(where, path))
    return Device(name, **{**values, "address": values.get("address") or name})
