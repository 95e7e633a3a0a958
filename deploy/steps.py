"""What is done on one device, over an open connection; the device's own script does what must not be done by halves."""

import os
import shlex
import tarfile
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Sequence

from deploy import archive
from deploy.connection import Connection, ConnectionLost, Fleet, Said, Unreachable
from deploy.inventory import Device
from deploy.wheels import ROOT, ReleaseError
from deploy.targets import TARGETS, find_target
from deploy.waves import Outcome

_SHORT_S = 60.0
_LONGEST_S = 3600.0  # an engine takes minutes on a Nano; so do packages
_BUSY = 75
# A folder of this connection's own; those of connections that were cut are a day old at most.
_FACTS = (
    "find /var/tmp -maxdepth 1 -name 'edge-app.*' -mmin +1440 -user $(id -un) -exec rm -rf {} + 2>/dev/null; "
    "echo folder=$(mktemp -d /var/tmp/edge-app.XXXXXX); echo machine=$(uname -m); "
    "[ $(id -u) -eq 0 ] && echo root=yes || { sudo -n true >/dev/null 2>&1 && echo root=sudo; }; "
    "for p in python3 python3.12 python3.11 python3.10 python3.8 python3.6; do "
    "$p -c 'import sys; print(\"python=%d.%d\" % sys.version_info[:2])' 2>/dev/null; done; true"
)
_NO_ROOT = (
    'no root there without a password: log in once and run  echo "$USER ALL=(ALL) NOPASSWD: ALL" | '
    "sudo tee /etc/sudoers.d/deploy"
)


class Refused(Exception):
    """A device cannot be worked on as it is; the message says why."""


class Facts(NamedTuple):
    """What a device is."""

    folder: str  # ours for this connection
    machine: str
    pythons: Sequence[str]
    sudo: str  # what a command as root begins with


class Releases:
    """Archives of this machine, opened once each, and the parts of them that devices lack."""

    def __init__(self, find: Callable[[str], str]) -> None:
        self._find = find  # path of the archive of a target
        self._lock = threading.RLock()  # devices are worked on side by side
        self._failed: Dict[str, str] = {}
        self._read: Dict[str, archive.Release] = {}
        self._parts: Dict[Any, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="edge-app-")

    def of(self, target: str) -> archive.Release:
        """The release for a kind of device, built if need be and checked; tried once for all who ask.

        Raises:
            ReleaseError: it cannot be had.
        """
        with self._lock:
            if target in self._failed:
                raise ReleaseError(self._failed[target])
            if target not in self._read:
                try:
                    self._read[target] = archive.read_release(self._find(target))
                except (ReleaseError, archive.ArchiveError) as error:
                    self._failed[target] = str(error)
                    raise ReleaseError(str(error)) from error
            return self._read[target]

    def text(self, target: str, name: str) -> bytes:
        """One file of a release."""
        with tarfile.open(self.of(target).path) as tar:
            file = tar.extractfile(name)
            assert file is not None, "read_release takes plain files only"
            return file.read()

    def part(self, target: str, names: FrozenSet[str]) -> str:
        """An archive of some of a release's files; devices that lack the same share one."""
        key = (target, names)
        with self._lock:
            if key not in self._parts:
                release = self.of(target)
                path = os.path.join(self._folder.name, "{}.tar".format(len(self._parts)))
                with tarfile.open(release.path) as source, tarfile.open(path, "w") as part:
                    for entry in source:
                        if entry.name in names:
                            part.addfile(entry, source.extractfile(entry))
                self._parts[key] = path
            return self._parts[key]

    def close(self) -> None:
        """Remove the parts. Idempotent."""
        self._folder.cleanup()
        self._parts.clear()


@contextmanager
def at(fleet: Fleet, device: Device) -> Iterator[Any]:
    """A connection, and what the device is; its folder there goes when the work is done."""
    with fleet.connection(device) as connection:
        said = connection.run(_FACTS, _SHORT_S)
        pythons = [line.split("=")[1] for line in said.lines if line.startswith("python=")]
        facts = Facts(
            said.value("folder"),
            said.value("machine"),
            pythons,
            "sudo -n " if said.value("root") == "sudo" else "",
        )
        try:
            if not said.value("root"):
                raise Refused(_NO_ROOT)
            if not facts.folder:
                raise Refused("/var/tmp cannot be written to: {}".format(" ".join(said.lines)))
            yield connection, facts
        finally:
            _remove(connection, facts.folder)


def _remove(connection: Connection, folder: str) -> None:
    if not folder:
        return
    try:
        connection.run("rm -rf {}".format(shlex.quote(folder)), _SHORT_S)
    except ConnectionLost:
        pass  # the next connection to this device cleans up


def outcome_of(
    fleet: Fleet, device: Device, task: Callable[[Connection, Facts], Outcome]
) -> Outcome:
    """Run a task on a device; whatever happens becomes an outcome."""
    started = time.monotonic()
    sent = 0
    try:
        with at(fleet, device) as (connection, facts):
            try:
                outcome = task(connection, facts)
            finally:
                sent = connection.sent_bytes
    except Unreachable as error:
        outcome = Outcome(device.name, "unreachable", str(error))
    except (Refused, ReleaseError) as error:
        outcome = Outcome(device.name, "refused", str(error))
    except ConnectionLost as error:
        text = "connection lost ({}); the device keeps the old release or finishes the new one by itself: make status"
        outcome = Outcome(device.name, "lost", text.format(error))
    return outcome._replace(seconds=time.monotonic() - started, sent_bytes=sent)


def deploy(connection: Connection, facts: Facts, device: Device, releases: Releases) -> Outcome:
    """Send what is missing, have it activated; the device decides whether it stays."""
    target = device.target or _target_of(facts)
    release = releases.of(target)
    folder = facts.folder
    connection.put(releases.text(target, "activate.sh"), folder + "/activate.sh")
    connection.put(release.manifest, folder + "/manifest")
    connection.put(releases.text(target, archive.CARD), folder + "/release")
    said = _script(connection, facts, "missing {0}/manifest {0}/release".format(folder), device)
    if said.status:
        return Outcome(device.name, "refused", _last(said), said.lines)
    names = frozenset(said.lines) & frozenset(release.sums) | {archive.MANIFEST, archive.CARD}
    connection.put(releases.part(target, names), folder + "/part.tar")
    command = "install {}/part.tar".format(folder)
    if device.settings:
        connection.put(
            configuration(releases.text(target, "config/edge-app.yaml"), device),
            folder + "/edge-app.yaml",
        )
        command += " {}/edge-app.yaml".format(folder)
    return _judged(device, _script(connection, facts, command, device))


def _target_of(facts: Facts) -> str:
    target = find_target(facts.machine, list(facts.pythons))
    if target is None:
        known = ", ".join("{} ({})".format(name, kind.system) for name, kind in TARGETS.items())
        text = "no release is made for {} with Python {}; there are {}"
        raise Refused(text.format(facts.machine, "/".join(facts.pythons) or "none", known))
    return target.name


def configuration(default: bytes, device: Device) -> bytes:
    """The default configuration with this device's own settings in it, as YAML."""
    import yaml

    tree = yaml.safe_load(default.decode("utf-8"))
    for path, value in device.settings.items():
        section, key = path.split(".")
        tree.setdefault(section, {})[key] = value
    head = "# Settings of edge-app on {}. All there are, with their defaults:\n# {}\n".format(
        device.name, "/opt/edge-app/current/venv/bin/python -m edge_app config"
    )
    return (head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)).encode("utf-8")


def _script(connection: Connection, facts: Facts, command: str, device: Device) -> Said:
    """Run the device's script as root."""
    limits = "HEALTH_S={:.0f} START_S={:.0f} RATE_HZ={:g}".format(
        device.health_s, device.start_s, device.rate_hz
    )
    line = "{}env {} sh {}/activate.sh {}".format(facts.sudo, limits, facts.folder, command)
    return connection.run(line, _LONGEST_S)


def _last(said: Said) -> str:
    return said.lines[-1] if said.lines else "it said nothing"


def _judged(device: Device, said: Said, done: str = "deployed") -> Outcome:
    """What the script's exit status, its facts and its last words mean."""
    text, release = _last(said), said.value("release")
    if said.status == 0:
        kind = "unchanged" if text.startswith("UNCHANGED") else done
        note = "waits for its camera" if text.endswith("waits for its camera") else ""
        return Outcome(device.name, kind, note, (), release, float(said.value("rate") or 0))
    back = "ROLLED BACK to " in text and said.status == 1
    kind = {2: "refused", _BUSY: "busy"}.get(said.status, "rolled back" if back else "failed")
    return Outcome(device.name, kind, text, said.lines, release)


def rollback(connection: Connection, facts: Facts, device: Device, name: str) -> Outcome:
    """To the release before, or to a named one."""
    connection.put(_own_script(), facts.folder + "/activate.sh")
    said = _script(
        connection, facts, "rollback {}".format(shlex.quote(name)) if name else "rollback", device
    )
    return _judged(device, said, "rolled back by hand")


def status(connection: Connection, facts: Facts, device: Device) -> Outcome:
    """What runs there, and how."""
    connection.put(_own_script(), facts.folder + "/activate.sh")
    said = _script(connection, facts, "status", device)
    words = [said.value("state") or "no service", said.value("status")]
    words += (
        ["{} restarts".format(said.value("restarts"))]
        if said.value("restarts") not in ("", "0")
        else []
    )
    words += ["a new configuration lies beside the old one"] if said.value("new_config") else []
    words += ["a deploy is at work"] if said.value("busy") else []
    words.append("{} MB free".format(said.value("free_mb")))
    # Until its first frame a service is activating: the camera is waited for, or an engine is being built.
    kinds = {"active": "answered", "activating": "waiting"}
    kind = kinds.get(said.value("state"), "failed")
    return Outcome(
        device.name,
        kind,
        ", ".join(word for word in words if word),
        (),
        said.value("release") or "none",
    )


def logs(connection: Connection, facts: Facts, device: Device, lines: int) -> Outcome:
    """The last lines of the service's log."""
    connection.put(_own_script(), facts.folder + "/activate.sh")
    said = _script(connection, facts, "logs {}".format(lines), device)
    return Outcome(device.name, "failed" if said.status else "answered", "", said.lines)


def provision(connection: Connection, facts: Facts, device: Device) -> Outcome:
    """Make a machine a device: packages, groups, swap, power mode, limits. What is done is not done again."""
    with open(os.path.join(ROOT, "deploy", "provision.sh"), "rb") as file:
        connection.put(file.read(), facts.folder + "/provision.sh")
    said = connection.run("{}sh {}/provision.sh".format(facts.sudo, facts.folder), _LONGEST_S)
    kind = (
        "failed"
        if said.status
        else "unchanged" if _last(said).startswith("UNCHANGED") else "provisioned"
    )
    return Outcome(device.name, kind, _last(said), said.lines)


def _own_script() -> bytes:
    with open(os.path.join(ROOT, "deploy", "activate.sh"), "rb") as file:
        return file.read()


def failed_lines(outcomes: Sequence[Outcome]) -> List[str]:
    """What the devices said that did not do as asked."""
    lines: List[str] = []
    for one in outcomes:
        if one.kind in ("failed", "rolled back", "refused") and one.log:
            lines.append("{}:".format(one.device))
            lines += ["  " + line for line in one.log[-20:]]
    return lines
