"""Can the picture be seen and the service run: screen, web page, port, systemd unit."""

import os
import re
import shutil
import socket
import ssl
from typing import Dict, List, Tuple

from edge_app.appliance.cures import program, setup_command
from edge_app.appliance.finding import Finding, failure, not_needed, ok, warning
from edge_app.appliance.guard import is_loopback
from edge_app.appliance.machine import CONFIG, SERVICE, SERVICE_USER, Machine
from edge_app.appliance.mqtt import parse_address
from edge_app.appliance.probe import ask, command
from edge_app.config import LoadedSettings
from edge_app.errors import ConfigError

_SYSTEMCTL_S = 10.0
_REACHED_S = 3.0  # by a broker in the network
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
    """The page: is what serves it installed, is its port free, and who may see it?"""
    kinds, settings = _kinds(loaded), loaded.settings.web
    if not {"web", "auto"} & set(kinds):
        return [not_needed("web page", "display.kind is {}".format(loaded.settings.display.kind))]
    probed = ask("version", ["aiohttp"])
    if not probed.facts:
        text = "aiohttp, which serves it, does not load: {}".format(probed.problem)
        return [failure("web page", text, setup_command("aiohttp"))]
    found = [ok("web page", "served by aiohttp {version}".format(**probed.facts))]
    metrics = ask("version", ["prometheus_client"])
    if not metrics.facts:
        text = "prometheus_client does not load, so /metrics stays empty: {}".format(
            metrics.problem
        )
        found.append(warning("metrics", text, setup_command("prometheus_client")))
    found += _access("web", settings.host, "token", settings.token)
    return found + [_port("web port", "web.port", settings.port, machine)]


def _access(section: str, host: str, name: str, secret: str) -> List[Finding]:
    """Beyond this machine only with a secret."""
    if is_loopback(host) or secret:
        return []
    setting = "{}.{}".format(section, name)
    text = "{}.host {} can be reached from elsewhere, so {} must be set".format(
        section, host, setting
    )
    return [failure(setting, text + "; this makes a good one", "openssl rand -hex 16")]


def rtsp(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """The stream for recorders: server, encoder, port, password."""
    settings = loaded.settings.rtsp
    targets = [
        kind.partition(":")[2] for kind in _kinds(loaded) if kind.partition(":")[0] == "rtsp"
    ]
    if not targets:
        return [
            not_needed("RTSP stream", "display.kind is {}".format(loaded.settings.display.kind))
        ]
    port, option = settings.port, "--set rtsp.port={}"
    if targets[0].isdigit():  # goes before the setting
        port = int(targets[0])
        others = [kind for kind in _kinds(loaded) if not kind.startswith("rtsp:")]
        option = "--display " + ",".join(others + ["rtsp:{}"])
    found = _access("rtsp", settings.host, "password", settings.password)
    found.append(_port("RTSP port", "rtsp.port", port, machine, option))
    probed = ask("recorder", [settings.encoder])
    if probed.facts:
        return found + [ok("RTSP stream", "server and encoder work")]
    packages = "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly"
    return found + [failure("RTSP stream", probed.problem, "sudo apt install " + packages)]


def events(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """The MQTT broker: is paho there, does the broker take a connection, can the password be read?"""
    settings = loaded.settings.events
    if not settings.mqtt:
        return [not_needed("MQTT", "events.mqtt is not set")]
    probed = ask("version", ["paho.mqtt.client"])
    if not probed.facts:
        text = "paho-mqtt does not load: {}".format(probed.problem)
        return [failure("MQTT", text, setup_command("paho-mqtt"))]
    try:
        address = parse_address(settings.mqtt)
        for setting, path in (
            ("events.mqtt_password_file", settings.mqtt_password_file),
            ("events.mqtt_ca_file", settings.mqtt_ca_file if address.is_encrypted else ""),
        ):
            problem, fix = _unreadable(path, machine) if path else ("", "")
            if problem:
                return [failure("MQTT", "{}: {} {}".format(setting, path, problem), fix)]
        if address.is_encrypted and settings.mqtt_ca_file:
            ssl.create_default_context(cafile=machine.path(settings.mqtt_ca_file))
        socket.create_connection((address.host, address.port), _REACHED_S).close()
    except ConfigError as error:
        return [failure("MQTT", str(error), program("config"))]
    except ssl.SSLError as error:
        text = "events.mqtt_ca_file: {} is no file of certificates in PEM form ({})".format(
            settings.mqtt_ca_file, error
        )
        return [failure("MQTT", text, "head -1 {}".format(settings.mqtt_ca_file))]
    except OSError as error:
        text = "the broker {}:{} cannot be reached ({}); events wait for it".format(
            address.host, address.port, error
        )
        return [warning("MQTT", text, "ping -c 3 {}".format(address.host))]
    return [ok("MQTT", "a broker answers at {}:{}".format(address.host, address.port))]


def _unreadable(path: str, machine: Machine) -> Tuple[str, str]:
    """Why the program may not read a file, and what to do; as root that is a question for the service."""
    if not machine.exists(path):
        return "is not there", "ls -ld {} {}".format(os.path.dirname(path), path)
    user = machine.users().get(SERVICE_USER) if _is_root() else None
    if user is None:
        may_read = os.access(machine.path(path), os.R_OK)
        return ("", "") if may_read else ("may not be read by us", "ls -l {}".format(path))
    if machine.allows(user, path, os.R_OK):
        return "", ""
    fix = "sudo chown root:{0} {1} && sudo chmod 640 {1}\nls -ld {2}"
    return (
        "is there, but the service's user {} may not read it".format(SERVICE_USER),
        fix.format(SERVICE_USER, path, os.path.dirname(path)),
    )


def _is_root() -> bool:
    return os.geteuid() == 0


def _port(name: str, setting: str, port: int, machine: Machine, option: str = "") -> Finding:
    """Nobody may listen there but our own service. Nothing is opened to find out.

    ``option`` gives another port; the setting by default.
    """
    other = "run " + (option or "--set " + setting + "={}")
    if port == 0:
        return not_needed(name, "{} is 0: any free one is taken".format(setting))
    inodes = machine.listeners(port)
    if not inodes:
        if port < 1024 and os.geteuid() != 0:
            text = "ports below 1024, as {}, are for root".format(port)
            return failure(name, text, program(other.format(port + 8000)))
        return ok(name, "{} is free".format(port))
    owners = machine.owners(inodes)
    if owners and all(owner.is_service for owner in owners):
        return ok(name, "{} is taken by {}, as it should be".format(port, owners[0]))
    running = [process for process in machine.processes() if process.is_service]
    if not owners and running:
        return ok(name, "{} is taken, it seems by {} (sudo shows it)".format(port, running[0]))
    who = ", ".join(str(owner) for owner in owners) or "another user's program (sudo shows which)"
    fix = program(other.format(port + 1))
    return failure(name, "{} is taken by {}".format(port, who), fix)


def service(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """The systemd unit: installed, running, and not for ever starting anew?"""
    if not any(machine.exists(os.path.join(folder, SERVICE)) for folder in _UNIT_FOLDERS):
        return [not_needed("service", "not installed here (make deploy HOST=... installs it)")]
    if not shutil.which("systemctl") or not machine.exists("run/systemd/system"):
        return [warning("service", "installed, but systemd does not run here", "ps -p 1")]
    if not machine.exists(CONFIG):
        text = "installed, but its settings {} are missing".format(machine.path(CONFIG))
        fix = "sudo install -D -m 640 -o root -g {} /dev/null {}"
        return [failure("service", text, fix.format(SERVICE_USER, machine.path(CONFIG)))]
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
