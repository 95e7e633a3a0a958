"""Can the picture be seen and the service run: screen, web page, port, systemd unit."""

import os
import re
import shutil
from typing import Dict, List, Tuple

from edge_app.appliance.cures import program, setup_command
from edge_app.appliance.finding import Finding, failure, not_needed, ok, warning
from edge_app.appliance.machine import CONFIG, SERVICE, Machine
from edge_app.appliance.probe import ask, command
from edge_app.config import LoadedSettings

_SYSTEMCTL_S = 10.0
_UNIT_FOLDERS = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_PROPERTIES = "ActiveState,SubState,Result,NRestarts,ExecMainStatus,StatusText,UnitFileState"
_RESTARTS = 3  # of a service since it was started; more is no accident
_LOG = "journalctl -u edge-app -n 50 --no-pager"
_STATUSES = {
    "65": "a damaged model or card",
    "69": "the camera",
    "70": "the network or a fault of the program",
    "74": "a display or output file",
    "78": "a wrong setting",
}


def _kinds(loaded: LoadedSettings) -> List[str]:
    return [kind.strip() for kind in loaded.settings.display.kind.split(",") if kind.strip()]


def screen(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Is there a screen for the window, and are we let in?"""
    kinds = _kinds(loaded)
    if not {"window", "auto"} & set(kinds):
        return [not_needed("screen", "display.kind is {}".format(loaded.settings.display.kind))]
    is_open, seen, fix = _screen(machine)
    if is_open:
        return [ok("screen", seen)]
    if "window" in kinds:
        return [failure("screen", seen, fix)]
    page = "http://{}:{}".format(loaded.settings.web.host, loaded.settings.web.port)
    if fix and os.environ.get("DISPLAY"):
        return [warning("screen", "{}; the page {} is used instead".format(seen, page), fix)]
    return [ok("screen", "{}; the page {} is used instead".format(seen, page))]


def _screen(machine: Machine) -> Tuple[bool, str, str]:
    """Whether a window can be opened, what was seen, and what to do if not."""
    wayland, display = os.environ.get("WAYLAND_DISPLAY"), os.environ.get("DISPLAY")
    if wayland:
        path = os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), wayland)
        if machine.exists(path):
            return True, "Wayland, {}".format(wayland), ""
    if not display:
        names = machine.names("tmp/.X11-unix")
        for number in (":" + name[1:] for name in names if re.match(r"X\d+$", name)):
            if ask("screen", limit_s=10.0, environment=["DISPLAY=" + number]).facts.get("open"):
                text = "none for this shell, but there is one, {}".format(number)
                return False, text, "export DISPLAY={}".format(number)
        return (
            False,
            "none (neither DISPLAY nor WAYLAND_DISPLAY is set)",
            program("run --display web"),
        )
    probed = ask("screen", limit_s=10.0)
    if probed.facts.get("open"):
        return True, "X server {}".format(display), ""
    text = "the X server {} does not let us in ({})".format(display, probed.problem or "refused")
    return False, text, "export XAUTHORITY=$(ls /run/user/$(id -u)/gdm/Xauthority ~/.Xauthority)"


def web(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """The page: is what serves it installed, and is its port free?"""
    kinds, settings = _kinds(loaded), loaded.settings.web
    if not {"web", "auto"} & set(kinds):
        return [not_needed("web page", "display.kind is {}".format(loaded.settings.display.kind))]
    probed = ask("version", ["aiohttp"])
    if not probed.facts:
        text = "aiohttp, which serves it, does not load: {}".format(probed.problem)
        return [failure("web page", text, setup_command("aiohttp"))]
    found = [ok("web page", "aiohttp {version}".format(**probed.facts))]
    return found + [_port("web port", "web.port", settings.port, machine)]


def rtsp(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """The port of the stream for recorders."""
    if "rtsp" not in [kind.partition(":")[0] for kind in _kinds(loaded)]:
        return [not_needed("RTSP port", "display.kind is {}".format(loaded.settings.display.kind))]
    return [_port("RTSP port", "rtsp.port", loaded.settings.rtsp.port, machine)]


def _port(name: str, setting: str, port: int, machine: Machine) -> Finding:
    """Nobody may listen there but our own service. Nothing is opened to find out."""
    if port == 0:
        return not_needed(name, "{} is 0: any free one is taken".format(setting))
    inodes = machine.listeners(port)
    if not inodes:
        if port < 1024 and os.geteuid() != 0:
            text = "ports below 1024, as {}, are for root".format(port)
            return failure(name, text, program("run --set {}={}".format(setting, port + 8000)))
        return ok(name, "{} is free".format(port))
    owners = machine.owners(inodes)
    if owners and all(owner.is_service for owner in owners):
        return ok(name, "{} is taken by {}, as it should be".format(port, owners[0]))
    who = ", ".join(str(owner) for owner in owners) or "another user's program (sudo shows which)"
    fix = program("run --set {}={}".format(setting, port + 1))
    return failure(name, "{} is taken by {}".format(port, who), fix)


def service(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """The systemd unit: installed, running, and not for ever starting anew?"""
    if not any(machine.exists(os.path.join(folder, SERVICE)) for folder in _UNIT_FOLDERS):
        return [not_needed("service", "not installed here (make deploy HOST=... installs it)")]
    if not shutil.which("systemctl") or not machine.exists("run/systemd/system"):
        return [warning("service", "installed, but systemd does not run here", "ps -p 1")]
    if not machine.exists(CONFIG):
        text = "installed, but its settings {} are missing".format(machine.path(CONFIG))
        return [
            failure(
                "service", text, "sudo install -D -m 640 /dev/null {}".format(machine.path(CONFIG))
            )
        ]
    answer = command(["systemctl", "show", SERVICE, "--property=" + _PROPERTIES], _SYSTEMCTL_S)
    facts = dict(line.split("=", 1) for line in answer.text.splitlines() if "=" in line)
    if not facts:
        return [
            warning(
                "service", "systemctl says nothing: {}".format(answer.error), "systemctl status"
            )
        ]
    return [_judged(facts)]


def _judged(facts: Dict[str, str]) -> Finding:
    """What systemd's properties of our unit mean."""
    state, restarts = facts.get("ActiveState", ""), int(facts.get("NRestarts", "0") or 0)
    status = facts.get("ExecMainStatus", "0")
    seen = "{} ({})".format(state, facts.get("SubState", ""))
    cause = (
        ", last ended with status {}: {}".format(status, _STATUSES[status])
        if status in _STATUSES
        else ""
    )
    if facts.get("StatusText"):
        seen += ", " + facts["StatusText"]
    if state == "failed":
        text = "{}, result {}{}".format(seen, facts.get("Result", ""), cause)
        return failure("service", text, _LOG + "\nsudo systemctl restart edge-app")
    if restarts > _RESTARTS:
        text = "{}, started anew {} times{}".format(seen, restarts, cause)
        return warning("service", text, _LOG)
    if state == "inactive":
        return warning("service", "installed, not started", "sudo systemctl enable --now edge-app")
    if facts.get("UnitFileState") == "disabled":
        return warning(
            "service", seen + ", but not after a reboot", "sudo systemctl enable edge-app"
        )
    return ok("service", seen)
