"""Can pictures come in: GStreamer, its elements, the camera's daemon, rights, who has the camera."""

import os
import re
import socket
from typing import Dict, List, Optional, Sequence, Set
from urllib.parse import urlsplit

from edge_app import launch
from edge_app.appliance.cures import program
from edge_app.appliance.finding import Finding, failure, not_needed, ok, warning
from edge_app.appliance.machine import SERVICE_USER, Machine, Process
from edge_app.appliance.probe import ask
from edge_app.camera import find_camera
from edge_app.config import LoadedSettings
from edge_app.gstreamer import PACKAGES
from edge_app.images import ENDINGS

_DAEMON = "nvargus-daemon"
_ARGUS_SOCKET = "/tmp/argus_socket"
_ARGUS_LIBRARY = "libnvargus"  # whoever uses a CSI camera has loaded it
_RESTART_DAEMON = "sudo systemctl restart nvargus-daemon"
_REACHED_S = 3.0
_RTSP_PORTS = {"rtsp": 554, "rtsps": 322}

_JETSON = "nvidia-l4t-gstreamer"
_BASE, _GOOD = "gstreamer1.0-plugins-base", "gstreamer1.0-plugins-good"
_BAD, _LIBAV = "gstreamer1.0-plugins-bad", "gstreamer1.0-libav"
_PACKAGES = {
    "nvarguscamerasrc": _JETSON,
    "nvvidconv": _JETSON,
    "nvv4l2decoder": _JETSON,
    "appsink": _BASE,
    "capsfilter": "libgstreamer1.0-0",
    "filesrc": "libgstreamer1.0-0",
    "decodebin": _BASE,
    "videoconvert": _BASE,
    "videoflip": _GOOD,
    "v4l2src": _GOOD,
    "rtspsrc": _GOOD,
    "jpegdec": _GOOD,
    "rtph264depay": _GOOD,
    "qtdemux": _GOOD,
    "h264parse": _BAD,
    "avdec_h264": _LIBAV,
}
_H264 = ("nvv4l2decoder", "avdec_h264", "openh264dec", "v4l2h264dec", "vah264dec", "omxh264dec")


def kind_of(source: str) -> str:
    """ "csi", "v4l2", "rtsp", "file", "test", "gst" or "jetson", of a source that is not auto."""
    scheme, separator, _ = source.partition("://")
    if source.startswith("jetson:"):
        return "jetson"
    if not separator:
        return "v4l2" if re.match(r"/dev/(video|v4l)", source) else "file"
    return "rtsp" if scheme == "rtsps" else scheme


def source_of(loaded: LoadedSettings, machine: Machine) -> str:
    """The source in force: what ``auto`` means on this machine."""
    source = loaded.settings.camera.source
    return find_camera(machine.root) if source == "auto" else source


def _device(source: str) -> str:
    return source.partition("://")[2] or source


def gstreamer(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """GStreamer for Python, and each element that the source is made of."""
    source = source_of(loaded, machine)
    kind = kind_of(source)
    if kind == "csi" and not machine.is_jetson:
        return [not_needed("GStreamer", "first the camera, see below")]
    if kind in ("test", "jetson") or (kind == "file" and _is_images(machine.path(source))):
        return [not_needed("GStreamer", "{} does without".format(source))]
    wanted = _elements(source, loaded, machine)
    probed = ask("gstreamer", sorted(wanted | set(_H264)))
    install = "sudo apt install " + PACKAGES
    if not probed.facts:
        text = "GStreamer for Python does not load: {}".format(probed.problem)
        if kind in ("v4l2", "file"):
            return [warning("GStreamer", text + "; OpenCV reads the source instead", install)]
        return [failure("GStreamer", text, install)]
    version = ok("GStreamer", "{version}".format(**probed.facts))
    return [version] + _missing(wanted, set(probed.facts["elements"]), kind)


def _elements(source: str, loaded: LoadedSettings, machine: Machine) -> Set[str]:
    """The elements that the source's launch line names, and what decodebin will want to find."""
    camera = loaded.settings.camera
    lines = {
        "csi": lambda: launch.csi(0, camera),
        "v4l2": lambda: launch.v4l2("", camera, machine.is_jetson),
        "rtsp": lambda: launch.rtsp("", camera, machine.is_jetson),
        "file": lambda: launch.clip("", camera, machine.is_jetson),
        "gst": lambda: launch.fragment(source.partition("://")[2], camera),
    }
    text = re.sub(r'"[^"]*"', "", lines[kind_of(source)]().text)
    named = {part.split()[0] for part in text.split("!") if part.split()}
    further = {"v4l2": {"jpegdec"}, "rtsp": {"rtph264depay", "h264parse"}, "file": {"qtdemux"}}
    return {name for name in named if "/" not in name} | further.get(kind_of(source), set())


def _missing(wanted: Set[str], there: Set[str], kind: str) -> List[Finding]:
    missing = sorted(wanted - there)
    packages = sorted({_PACKAGES[name] for name in missing if name in _PACKAGES})
    found = []
    if missing:
        fix = "sudo apt install {}".format(" ".join(packages)) if packages else "gst-inspect-1.0"
        if _JETSON in packages:
            fix = "rm -rf ~/.cache/gstreamer-1.0\nsudo apt install --reinstall " + " ".join(
                packages
            )
        text = "missing: {}, which the source needs".format(", ".join(missing))
        found.append(failure("GStreamer elements", text, fix))
    else:
        found.append(ok("GStreamer elements", "{} are there".format(", ".join(sorted(wanted)))))
    if kind in ("rtsp", "file") and not there & set(_H264):
        text = "none for H.264, which most network cameras and clips use"
        found.append(warning("GStreamer decoder", text, "sudo apt install " + _LIBAV))
    return found


def daemon(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """nvargus-daemon, through which every CSI camera of a Jetson goes."""
    source = source_of(loaded, machine)
    kind = kind_of(source)
    if kind != "csi" and not source.startswith("jetson:csi"):
        return [not_needed("CSI camera", "the source is {}".format(source))]
    if not machine.is_jetson:
        text = "{} is a Jetson's camera, and this is none; what there is: {}".format(
            source, find_camera(machine.root)
        )
        fix = program("run --source {}".format(find_camera(machine.root)))
        return [failure("CSI camera", text, fix)]
    daemons = [one for one in machine.processes() if one.name == _DAEMON]
    if not daemons:
        return [failure("CSI camera", "{} does not run".format(_DAEMON), _RESTART_DAEMON)]
    if daemons[0].state in "TtZX":
        text = "{} has process state {}: it hangs".format(daemons[0], daemons[0].state)
        return [failure("CSI camera", text, _RESTART_DAEMON)]
    if not any(re.match(r"video\d+$", name) for name in machine.names("dev")):
        text = (
            "{} runs, but the kernel has found no sensor (no /dev/video*). Power off and put the "
            "ribbon cable in again, its contacts towards the board's middle".format(_DAEMON)
        )
        return [failure("CSI camera", text, "dmesg | grep -iE 'imx|ov5|tegra-vi'\nsudo poweroff")]
    if not machine.exists(_ARGUS_SOCKET):
        text = "{} runs, but its socket {} is not there".format(_DAEMON, _ARGUS_SOCKET)
        return [failure("CSI camera", text, _RESTART_DAEMON)]
    return [ok("CSI camera", "{} runs, the kernel has found a sensor".format(daemons[0]))]


def presence(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Is the camera, the file or the network camera there at all?"""
    source = source_of(loaded, machine)
    kind = kind_of(source)
    if kind == "v4l2":
        return [_usb(_device(source), machine)]
    if kind == "rtsp":
        return [_reachable(source)]
    if kind == "file":
        return [_file(source.partition("file://")[2] or source, machine)]
    if kind == "test" and loaded.settings.camera.source == "auto":
        fix = "lsusb\nls -l /dev/video*"
        text = (
            "none found, so auto takes the generated scene. Plug one in; this lists what is there"
        )
        return [warning("camera", text, fix)]
    return []


def _usb(device: str, machine: Machine) -> Finding:
    there = [name for name in machine.names("dev") if re.match(r"video\d+$", name)]
    if not machine.exists(device):
        others = (
            "; there is /dev/" + ", /dev/".join(there)
            if there
            else ": plug the camera in. This lists what is there"
        )
        fix = program("run --source v4l2:///dev/" + there[0]) if there else "lsusb"
        return failure("camera", "there is no {}{}".format(device, others), fix)
    name = machine.read("sys/class/video4linux/{}/name".format(os.path.basename(device)))
    return ok("camera", "{}{}".format(device, ": " + name if name else ""))


def _reachable(source: str) -> Finding:
    """A plain connection and nothing else: a camera that is in use does not notice."""
    try:
        parts = urlsplit(source)
        host, port = parts.hostname or "", parts.port or _RTSP_PORTS[parts.scheme]
    except ValueError:  # whose words may be half of a password
        text = "{} is no address. In a password write / as %2F, @ as %40, # as %23".format(source)
        return failure("camera", text, program("run --source rtsp://USER:PASSWORD@HOST/PATH"))
    try:
        socket.create_connection((host, port), _REACHED_S).close()
    except OSError as error:
        text = "{} cannot be reached: {}".format(source, error)
        return failure("camera", text, "ping -c 3 {}".format(urlsplit(source).hostname))
    return ok("camera", "{}: {} answers at port {}".format(source, host, port))


def _is_images(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith(ENDINGS)


def _file(path: str, machine: Machine) -> Finding:
    full = path if not os.path.isabs(path) else machine.path(path)
    if not os.path.exists(full):
        return failure(
            "camera", "there is no {}".format(path), "ls -l {}".format(os.path.dirname(path) or ".")
        )
    if not os.access(full, os.R_OK):
        return failure("camera", "{} may not be read by us".format(path), "ls -l {}".format(path))
    if os.path.isfile(full) and os.path.getsize(full) == 0:
        return failure("camera", "{} is empty".format(path), "ls -l {}".format(path))
    return ok("camera", path)


def owner(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """Who has the camera open: a second program gets nothing, and each thinks that it is broken."""
    source = source_of(loaded, machine)
    kind = kind_of(source)
    if kind not in ("csi", "v4l2", "jetson"):
        return [not_needed("camera's owner", "the source is {}".format(source))]
    users = _users_of(machine, _device(source) if kind == "v4l2" else None)
    hidden = "" if os.geteuid() == 0 else " (other users' programs are seen as root only)"
    if not users:
        return [ok("camera's owner", "nobody uses it now" + hidden)]
    names = ", ".join(str(one) for one in users)
    if all(one.is_service for one in users):
        text = "{}: before you try the camera by hand: sudo systemctl stop edge-app".format(names)
        return [ok("camera's owner", text)]
    strangers = [one for one in users if not one.is_service]
    fix = "kill {}".format(" ".join(str(one.number) for one in strangers))
    return [warning("camera's owner", "in use by {}{}".format(names, hidden), fix)]


def _users_of(machine: Machine, device: Optional[str]) -> List[Process]:
    """Who has the device open; without one, who talks to Argus."""
    users = []
    real = os.path.realpath(machine.path(device)) if device else ""
    for process in machine.processes():
        if process.number == os.getpid() and machine.root == "/":
            continue
        if device:
            opened: Sequence[str] = machine.opened(process) or ()
            uses = device in opened or real in opened
        else:
            uses = process.name != _DAEMON and machine.maps(process, _ARGUS_LIBRARY)
        if uses:
            users.append(process)
    return users


def rights(loaded: LoadedSettings, machine: Machine) -> List[Finding]:
    """May we, and may the service's user, use the camera (and on a Jetson the GPU)?"""
    kind = kind_of(source_of(loaded, machine))
    if kind not in ("csi", "v4l2", "jetson") and not machine.is_jetson:
        return [not_needed("group video", "no camera and no Jetson's GPU to be opened")]
    number, members = machine.group("video")
    if number is None:
        return [not_needed("group video", "there is no such group here")]
    users = machine.users()
    found = [_own_rights(number, members, {user.number: user.name for user in users.values()})]
    service = users.get(SERVICE_USER)
    if service is not None:
        name = "group video of {}".format(SERVICE_USER)
        if service.name in members or service.group == number:
            found.append(ok(name, "the service's user is in it"))
        else:
            fix = "sudo usermod -aG video {0}\nsudo systemctl restart edge-app".format(SERVICE_USER)
            found.append(failure(name, "the service's user is not in it", fix))
    return found


def _own_rights(number: int, members: Sequence[str], names: Dict[int, str]) -> Finding:
    us = names.get(os.geteuid(), str(os.geteuid()))
    if os.geteuid() == 0:
        return ok("group video", "root needs none")
    if number in os.getgroups() or number == os.getegid():
        return ok("group video", "{} is in it".format(us))
    if us in members:
        return failure(
            "group video", "{} is in it, but only from the next login on".format(us), "newgrp video"
        )
    fix = "sudo usermod -aG video {}\nnewgrp video".format(us)
    return failure("group video", "{} is not in it and may not use cameras".format(us), fix)
