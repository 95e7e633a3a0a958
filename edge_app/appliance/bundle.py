"""One archive for whoever helps: versions, the doctor's findings, logs, metrics, settings. No secrets.

What is put in goes through ``Secrets.scrub``, whatever it is: a password may stand in a log as well.
"""

import base64
import io
import json
import logging
import os
import platform
import re
import sys
import tarfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Callable, Dict, List, NamedTuple, Sequence
from urllib.parse import quote, unquote

from edge_app import __version__, config
from edge_app.appliance import doctor, report
from edge_app.appliance.machine import SERVICE, Machine
from edge_app.appliance.probe import command
from edge_app.config import LoadedSettings
from edge_app.errors import DisplayError
from edge_app.nvidia.cache import files_of
from edge_app.passwords import HIDDEN, hide, logins

log = logging.getLogger(__name__)

_LINES = 200  # of each log
_COMMAND_S = 20.0
_PAGE_S, _PAGE_BYTES = 3.0, 1 << 20  # how long the page may take, and how much it may say
_ADDRESSES = (("status.json", "/api/status"), ("metrics.txt", "/metrics"))  # of the page
_SECRET_NAME = re.compile(r"(token|password|passwd|secret|key)$")
_ENVIRONMENT = re.compile(
    r"^(OPENBLAS|OMP_|LD_|GST_|CUDA|PYTHON|DISPLAY|WAYLAND|XDG_RUNTIME|LANG|LC_)"
)
_PACKAGES = (
    "nvidia-l4t-*",
    "gstreamer1.0-*",
    "libgstreamer*",
    "libnvinfer*",
    "cuda-*",
    "python3-gi",
)
_KERNEL = re.compile(
    r"nvgpu|nvhost|tegra|argus|imx\d|ov\d{4}|uvcvideo|usb \d|mmc|ext4|i/o error|out of memory|oom"
    r"|killed process|thermal|throttl|over-?current|under-?voltage|oc alarm|segfault|illegal instr",
    re.IGNORECASE,
)


class Secrets:
    """What must not leave this machine, and how it is taken out of a text.

    Args:
        loaded: the settings; values of tokens and passwords, and what stands in files of passwords.
    """

    def __init__(self, loaded: LoadedSettings) -> None:
        found = set()
        for path, value in config.flatten(loaded.settings):
            if not isinstance(value, str) or not value:
                continue
            if is_secret(path):
                found.add(value)
            elif "password_file" in path:
                found.update(_lines_of(value))
            for user, password in logins(value):
                found.update((password, unquote(password)))
                pair = "{}:{}".format(unquote(user), unquote(password))
                found.add(base64.b64encode(pair.encode("utf-8")).decode("ascii"))
        forms = {
            form
            for value in found
            for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])
        }
        self._values = sorted((form for form in forms if form), key=len, reverse=True)

    def scrub(self, text: str) -> str:
        """The text without them, and without what looks like one."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        return hide(text)


def is_secret(path: str) -> bool:
    """Whether a setting holds one, by the list of them or by its name."""
    return path in config.SECRETS or bool(_SECRET_NAME.search(path))


def _lines_of(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if line.strip()]
    except OSError:
        return []  # what we cannot read, no log of ours holds either


class Part(NamedTuple):
    """A file of the archive."""

    name: str
    text: str  # "" when there is none
    about: str  # what it is, or why there is none


def write(path: str, loaded: LoadedSettings, root: str = "/") -> None:
    """Collect everything and write the archive, whole or not at all; the log says what is in it.

    Args:
        path: of the archive, a .tar.gz.
        root: of the file system that is looked at.

    Raises:
        DisplayError: it cannot be written there.
    """
    log.info("collecting what a helper needs; this takes up to a minute")
    secrets = Secrets(loaded)
    parts = [part._replace(text=secrets.scrub(part.text)) for part in _collect(loaded, root)]
    parts.insert(0, _contents(parts))
    temporary = "{}.{}.tmp".format(path, os.getpid())
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(
            fileobj=file, mode="w:gz"
        ) as archive:
            for part in parts:
                if part.text:
                    _add(archive, part)
        os.replace(temporary, path)
    except OSError as error:
        raise DisplayError(
            "the support archive cannot be written to {}: {}. Give a folder that exists and is writable "
            "to --bundle.".format(path, error.strerror)
        ) from error
    finally:
        with suppress(OSError):  # where it was finished it has gone to its place
            os.remove(temporary)
    names = [part.name for part in parts if part.text]
    log.info("%s holds %s. Look through it before you send it.", path, ", ".join(names))


def _add(archive: tarfile.TarFile, part: Part) -> None:
    data = part.text.encode("utf-8", "replace")
    entry = tarfile.TarInfo("edge-app-support/" + part.name)
    entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o644
    archive.addfile(entry, io.BytesIO(data))


def _contents(parts: Sequence[Part]) -> Part:
    lines = [
        "Support archive of edge-app {}, made {}.".format(
            __version__, time.strftime("%Y-%m-%d %H:%M %z")
        ),
        "Passwords and tokens are replaced by {}. Host names, addresses and file names are not:".format(
            HIDDEN
        ),
        "look through it before you send it.",
        "",
    ]
    lines += ["{:<20}{}".format(part.name, part.about) for part in parts if part.text]
    missing = [part for part in parts if not part.text]
    lines += [""] + ["left out: {}: {}".format(part.name, part.about) for part in missing]
    return Part("README.txt", "\n".join(lines) + "\n", "this list")


def _collect(loaded: LoadedSettings, root: str) -> List[Part]:
    machine = Machine(root)
    findings = doctor.run_checks(loaded, root)
    parts = [
        Part(
            "doctor.json", json.dumps(report.as_dict(findings), indent=1), "edge-app check --json"
        ),
        Part("doctor.txt", report.table(findings, 100), "the same as a table"),
        Part("settings.yaml", _settings(loaded), "the settings in force, and where each is from"),
        Part("versions.json", json.dumps(_versions(machine), indent=1), "of the software here"),
        _said("python-packages.txt", [sys.executable, "-m", "pip", "freeze"]),
        _said("apt-packages.txt", ["dpkg-query", "-W"] + list(_PACKAGES)),
        _said("service.txt", ["systemctl", "show", SERVICE]),
        _said("service.log", _journal(SERVICE)),
        _said("camera-daemon.log", _journal("nvargus-daemon.service")),
        _said("kernel.log", ["dmesg", "--time-format", "iso"], _of_interest),
        _engine(loaded),
    ]
    is_ours = machine.is_ours(loaded.settings.web.port)
    return parts + [_page(loaded, name, address, is_ours) for name, address in _ADDRESSES]


def _journal(unit: str) -> List[str]:
    return ["journalctl", "-u", unit, "-n", str(_LINES), "--no-pager", "-o", "short-iso"]


def _of_interest(text: str) -> str:
    return "\n".join([line for line in text.splitlines() if _KERNEL.search(line)][-_LINES:])


def _said(name: str, line: Sequence[str], choose: Callable[[str], str] = lambda text: text) -> Part:
    """What a program says on its standard output."""
    answer = command(line, _COMMAND_S, ["LC_ALL=C"])
    text = choose(answer.text)
    if text.strip():
        return Part(name, text, " ".join(line))
    return Part(
        name, "", "{} says nothing ({})".format(line[0], " ".join(answer.error.split()) or "empty")
    )


def _settings(loaded: LoadedSettings) -> str:
    lines: List[str] = []
    section = ""
    for path, value in config.flatten(loaded.settings):
        if path.split(".")[0] != section:
            section = path.split(".")[0]
            lines.append("{}:".format(section))
        value = hide(value) if isinstance(value, str) else value
        shown = HIDDEN if value and is_secret(path) else json.dumps(value)
        line = "  {}: {}".format(path.split(".")[1], shown)
        lines.append("{:<48}# {}".format(line, loaded.origins.get(path, "default")))
    return "\n".join(lines) + "\n"


def _versions(machine: Machine) -> Dict[str, object]:
    return {
        "edge-app": __version__,
        "python": sys.version,
        "executable": sys.executable,
        "system": " ".join(platform.uname()[i] for i in (0, 2, 3, 4)),  # without the host's name
        "distribution": machine.read("etc/os-release").splitlines(),
        "l4t": machine.read("etc/nv_tegra_release").splitlines()[:1],
        "model": machine.read("proc/device-tree/model"),
        "uptime_s": machine.read("proc/uptime").split(" ")[0],
        "memory": machine.read("proc/meminfo").splitlines()[:5],
        "environment": {
            name: os.environ[name] for name in sorted(os.environ) if _ENVIRONMENT.match(name)
        },
    }


def _engine(loaded: LoadedSettings) -> Part:
    settings = loaded.settings.detector
    path = files_of(settings.model, settings.engines or None).record
    try:
        with open(path, encoding="utf-8") as file:
            return Part(
                "engine.json", file.read(), "what the engine was built for, and its comparison"
            )
    except (OSError, UnicodeDecodeError):
        return Part("engine.json", "", "no engine has been built ({} is not there)".format(path))


def _page(loaded: LoadedSettings, name: str, address: str, is_ours: bool) -> Part:
    """What the live page of a running program says; no stranger at its port gets our token."""
    web = loaded.settings.web
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(web.host, web.host)
    uri = "http://{}:{}{}".format("[{}]".format(host) if ":" in host else host, web.port, address)
    if not is_ours:
        return Part(name, "", "{}: no program of ours serves it".format(uri))
    request = urllib.request.Request(uri)
    if web.token:
        request.add_header("Authorization", "Bearer " + web.token)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PAGE_S) as answer:
            return Part(name, answer.read(_PAGE_BYTES).decode("utf-8", "replace"), uri)
    except (OSError, ValueError, urllib.error.URLError) as error:
        return Part(name, "", "{} does not answer ({})".format(uri, error))
