"""From a URI to a source of frames."""

import logging
import os
import re
from typing import Callable, Dict, List
from urllib.parse import parse_qsl, unquote, urlsplit

from edge_app import images, launch
from edge_app.config import CameraSettings
from edge_app.errors import CameraError, ConfigError, ImageError
from edge_app.gstreamer import GStreamerCamera, load_gstreamer
from edge_app.playback import FolderCamera, SceneCamera
from edge_app.reader import ReaderCamera
from edge_app.source import Camera, is_utf_8

__all__ = [
    "KNOWN",
    "Camera",
    "CameraOpener",
    "find_camera",
    "is_jetson",
    "lasting_source",
    "open_camera",
    "usb_cameras",
]

log = logging.getLogger(__name__)

KNOWN = (
    "auto, csi://0, v4l2:///dev/video0, rtsp://..., rtsps://..., a video file, an image, "
    "a folder of images, test://?faces=6&seconds=0&live=1, gst://LAUNCH LINE"
)
_DEFAULT_FACES = 6
_GIF_ADVICE = "Make a clip of it: `ffmpeg -i FILE.gif clip.mp4`."
_LINKS = ("dev/v4l/by-id", "dev/v4l/by-path")  # udev's: by maker and serial number, by socket


def open_camera(settings: CameraSettings) -> Camera:
    """The source that ``settings.source`` names; nothing is opened before ``with``.

    Raises:
        ConfigError: the URI is not one of ``KNOWN``.
        CameraError: the device does not exist or may not be used.
        ImageError: the file does not exist or is empty.
    """
    jetson = is_jetson()
    uri = find_camera() if settings.source == "auto" else settings.source
    if settings.source == "auto":
        log.info("camera: %s", uri)
    settings = settings._replace(source=uri)
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _device(uri, settings, jetson) if _is_device(uri) else _file(uri, settings, jetson)
    makers: Dict[str, Callable[[], Camera]] = {
        "csi": lambda: _csi(rest, settings),
        "v4l2": lambda: _device(rest, settings, jetson),
        "rtsp": lambda: _network(uri, settings, jetson),
        "rtsps": lambda: _network(uri, settings, jetson),
        "file": lambda: _file(unquote(rest), settings, jetson),
        "test": lambda: _scene(uri, settings),
        "gst": lambda: GStreamerCamera(uri, launch.fragment(rest, settings), settings.timeout_s),
    }
    if scheme not in makers:
        raise ConfigError(
            "camera.source: unknown kind {}:// in {}; known are {}".format(scheme, uri, KNOWN)
        )
    return makers[scheme]()


class CameraOpener:
    """Makes the camera of the settings, time and again; a USB camera by its name, not its number.

    The kernel gives a camera that was pulled and put back another number as long as somebody still
    holds on to the old one, so what was ``/dev/video0`` the first time is found by udev's link later.

    Args:
        settings: as for ``open_camera``, which says what a call raises.
    """

    def __init__(self, settings: CameraSettings) -> None:
        self._settings = settings

    def __call__(self) -> Camera:
        source = self._settings.source
        camera = open_camera(self._settings)
        lasting = lasting_source(source)
        if lasting != source:
            log.info("camera: %s is %s from now on, which stays when its number changes", source, lasting)
            self._settings = self._settings._replace(source=lasting)
        return camera


def lasting_source(source: str, root: str = "/") -> str:
    """``v4l2:///dev/videoN`` by the link that udev made for that camera; what has none as it is."""
    node = re.match(r"v4l2:///(dev/video\d+)$", source)
    if node:
        path = os.path.realpath(os.path.join(root, node.group(1)))
        for folder in _LINKS:
            for name in sorted(_names(os.path.join(root, folder))):
                if os.path.realpath(os.path.join(root, folder, name)) == path:
                    return "v4l2:///{}/{}".format(folder, name)
    return source


def is_jetson(root: str = "/") -> bool:
    """Whether this machine is a Jetson, by the files that NVIDIA's L4T puts on it."""
    if os.path.exists(os.path.join(root, "etc/nv_tegra_release")):
        return True
    try:
        with open(os.path.join(root, "proc/device-tree/compatible"), "rb") as file:
            return b"nvidia,tegra" in file.read()
    except OSError:
        return False


def find_camera(root: str = "/") -> str:
    """What ``auto`` means here: the CSI camera of a Jetson, else the first USB one, else a scene."""
    if is_jetson(root):
        return "csi://0"
    devices = _devices(root)
    return "v4l2://{}".format(devices[0]) if devices else "test://"


def usb_cameras(root: str = "/") -> str:
    """The USB cameras that are there, in words: their nodes, and the names that survive a new number.

    The kernel gives a camera that is put back the lowest free number, which is another one while somebody
    still holds on to the old node. udev's links in /dev/v4l name the camera, or else its socket.
    """
    devices = _devices(root)
    if not devices:
        return ""
    for folder in _LINKS:
        found = sorted(_names(os.path.join(root, folder)))
        links = ["v4l2:///{}/{}".format(folder, name) for name in found if name.endswith("index0")]
        if links:
            text = "there are {}; a name that stays: {}"
            return text.format(", ".join(devices), ", ".join(links))
    return "there are " + ", ".join(devices)


def _devices(root: str) -> List[str]:
    names = _names(os.path.join(root, "dev"))
    numbers = sorted(int(name[5:]) for name in names if re.match(r"video\d+$", name))
    return ["/dev/video{}".format(number) for number in numbers]


def _names(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_device(path: str) -> bool:
    return bool(re.match(r"/dev/(video|v4l)", path))


def _csi(sensor: str, settings: CameraSettings) -> Camera:
    if not re.match(r"\d{1,2}$", sensor):
        raise ConfigError(
            "camera.source: {} has no sensor number; the first camera is csi://0".format(
                settings.source
            )
        )
    return GStreamerCamera(settings.source, launch.csi(int(sensor), settings), settings.timeout_s)


def _device(path: str, settings: CameraSettings, jetson: bool) -> Camera:
    if not path.startswith("/"):
        raise ConfigError(
            "camera.source: {} has no path of a device; the first camera is v4l2:///dev/video0, with "
            "three slashes".format(settings.source)
        )
    if not os.path.exists(path):
        there = usb_cameras() or "is the camera plugged in? (`lsusb`)"
        raise CameraError("{}: there is no {}; {}".format(settings.source, path, there))
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraError(
            "{}: permission denied. Join the group that may use cameras: "
            "`sudo usermod -aG video $USER`, then log in again.".format(settings.source)
        )
    return _pick(settings.source, launch.v4l2(path, settings, jetson), settings)


def _network(uri: str, settings: CameraSettings, jetson: bool) -> Camera:
    return GStreamerCamera(uri, launch.rtsp(uri, settings, jetson), settings.timeout_s)


def _file(path: str, settings: CameraSettings, jetson: bool) -> Camera:
    if not os.path.exists(path):
        raise ImageError(
            "camera.source: there is no file or folder {}; known sources are {}".format(path, KNOWN)
        )
    if os.path.isdir(path) or path.lower().endswith(images.ENDINGS):
        return FolderCamera(path, [path], settings.rate_hz)
    if os.path.getsize(path) == 0 and os.path.isfile(path):
        raise ImageError("{}: the file is empty; record it again".format(path))
    if not is_utf_8(path):
        raise ImageError(
            "{!r}: the name of a clip must be UTF-8; rename it, or give it another name with "
            "`ln -s`".format(path)
        )
    line = launch.clip(os.path.abspath(path), settings, jetson)
    if path.lower().endswith(".gif"):  # GStreamer's demuxer of them (libav's) gives no times and no end
        return ReaderCamera(path, line._replace(advice=_GIF_ADVICE), settings)
    return _pick(path, line, settings)


def _pick(name: str, line: launch.Launch, settings: CameraSettings) -> Camera:
    """GStreamer where it is installed, else OpenCV's reader."""
    try:
        load_gstreamer()
    except ImportError as error:
        log.info("%s: read by OpenCV, as GStreamer for Python is missing (%s)", name, error)
        return ReaderCamera(name, line, settings)
    return GStreamerCamera(name, line, settings.timeout_s)


def _scene(uri: str, settings: CameraSettings) -> Camera:
    given = dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))
    try:
        faces = int(given.pop("faces", _DEFAULT_FACES))
        seconds = float(given.pop("seconds", 0))
        live = {"0": False, "1": True}[given.pop("live", "1")]
        if given or not (0 <= faces <= 24 and 0 <= seconds <= 1e6):
            raise ValueError(given)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "camera.source: {} is not understood; write test://?faces=6&seconds=10&live=1 with "
            "faces from 0 to 24 and live 0 or 1".format(uri)
        ) from error
    size_wh = (settings.width_px, settings.height_px)
    return SceneCamera(uri, size_wh, faces, settings.rate_hz, live, seconds)
