"""GStreamer's launch lines: from a kind of source to BGR frames at an appsink.

Everything here exists in GStreamer 1.14, the version of JetPack 4.
"""

import re
from fractions import Fraction
from typing import Any, Dict, NamedTuple

from edge_app.config import FLIPS, CameraSettings

FIRST_FRAME_S = 10.0  # that a camera may take, whatever timeout_s says of the later ones

# The eight names are those of nvvidconv's flip-method, in the order of its numbers. videoflip has
# its own; its older property "method" does nothing to files that carry an orientation (1.22.0).
_VIDEOFLIP_DIRECTIONS = (0, 3, 2, 1, 4, 7, 5, 6)
_LIVE_SINK = "appsink name=appsink drop=true max-buffers=1 sync=false"
_FILE_SINK = "appsink name=appsink drop=false max-buffers=2 sync=false"
_CSI_ADVICE = (
    "Check the camera's ribbon cable and that no other program uses it, then run "
    "`sudo systemctl restart nvargus-daemon`; `journalctl -u nvargus-daemon` says more."
)


class Launch(NamedTuple):
    """A pipeline and how to treat it."""

    text: str  # for gst_parse_launch; its appsink is named "appsink"
    properties: Dict[str, Any]  # of the element named "source"; kept out of the text: no quoting
    live: bool
    first_frame_s: float  # how long the first frame may take
    advice: str  # what to do when it fails


def csi(sensor: int, settings: CameraSettings) -> Launch:
    """A ribbon-cable camera of a Jetson, through Argus, which picks the sensor's mode by the caps."""
    text = (
        "nvarguscamerasrc sensor-id={} ! video/x-raw(memory:NVMM), width={}, height={}, "
        "format=NV12, framerate={} ! {} ! {}"
    ).format(
        sensor,
        settings.width_px,
        settings.height_px,
        _fraction(settings.rate_hz),
        _to_bgr(settings.flip, True),
        _LIVE_SINK,
    )
    return Launch(text, {}, True, FIRST_FRAME_S, _CSI_ADVICE)


def v4l2(device: str, settings: CameraSettings, jetson: bool) -> Launch:
    """A USB camera: raw or JPEG at the size asked for, else whatever it has."""
    wanted = "width={}, height={}, framerate={}".format(
        settings.width_px, settings.height_px, _fraction(settings.rate_hz)
    )
    text = (
        "v4l2src name=source ! capsfilter "
        'caps="video/x-raw, {0}; image/jpeg, {0}; video/x-raw; image/jpeg" ! decodebin ! {1} ! {2}'
    ).format(wanted, _to_bgr(settings.flip, jetson), _LIVE_SINK)
    advice = (
        "Is it used by another program (`fuser -v {}`)? Unplug it and plug it in again.".format(
            device
        )
    )
    return Launch(text, {"device": device}, True, FIRST_FRAME_S, advice)


def rtsp(uri: str, settings: CameraSettings, jetson: bool) -> Launch:
    """A network camera, over TCP; ``rtsps`` is encrypted."""
    text = (
        "rtspsrc name=source protocols=tcp drop-on-latency=true ! application/x-rtp, media=video ! "
        "decodebin ! {} ! {}"
    ).format(_to_bgr(settings.flip, jetson), _LIVE_SINK)
    advice = "Check the address, the user and password, and the network (`ffplay` or `vlc` it)."
    properties = {"location": uri, "latency": settings.latency_ms, "tcp-timeout": 5000000}
    return Launch(text, properties, True, FIRST_FRAME_S, advice)


def clip(path: str, settings: CameraSettings, jetson: bool) -> Launch:
    """A video file of any kind that the installed plugins can decode, upright as its camera noted.

    ``flip`` comes after that: what a person turns is the picture that a player shows.
    """
    number = FLIPS.index(settings.flip)
    turn = "videoflip video-direction=auto ! "
    if number:
        turn += "videoflip video-direction={} ! ".format(_VIDEOFLIP_DIRECTIONS[number])
    text = (
        'filesrc name=source ! decodebin caps="video/x-raw(ANY)" expose-all-streams=false ! '
        "{} ! {}{} ! {}"
    ).format(
        "nvvidconv ! video/x-raw, format=BGRx" if jetson else "videoconvert",
        turn,
        _to_bgr("none", False),
        _FILE_SINK,
    )
    advice = "Is it a complete video? `gst-discoverer-1.0` and `ffprobe` tell."
    return Launch(text, {"location": path}, False, FIRST_FRAME_S, advice)


def fragment(text: str, settings: CameraSettings) -> Launch:
    """Somebody's own line, up to raw video; counts as a live source."""
    line = "{} ! {} ! {}".format(text, _to_bgr(settings.flip, False), _LIVE_SINK)
    return Launch(line, {}, True, FIRST_FRAME_S, "Try the line with gst-launch-1.0.")


def missing_element(message: str) -> str:
    """What to install, from the parser's message about an element it does not know."""
    match = re.search(r'"([^"]+)"|“([^”]+)”', message)
    name = (match.group(1) or match.group(2)) if match else ""
    if name in ("nvarguscamerasrc", "nvvidconv"):
        return (
            "The element {} comes with a Jetson (package nvidia-l4t-gstreamer); on another "
            "machine use a source like v4l2:///dev/video0 or test://.".format(name)
        )
    if name in ("v4l2src", "rtspsrc", "videoflip"):
        return "Install it: sudo apt install gstreamer1.0-plugins-good"
    if name in ("decodebin", "videoconvert", "appsink"):
        return "Install it: sudo apt install gstreamer1.0-plugins-base"
    return "`gst-inspect-1.0` lists the elements installed here."


def _to_bgr(flip: str, jetson: bool) -> str:
    """nvvidconv cannot give BGR, so the last step is always on the CPU."""
    number = FLIPS.index(flip)
    if jetson:
        turn = "nvvidconv flip-method={} ! video/x-raw, format=BGRx ! ".format(number)
    elif number:
        turn = "videoconvert ! videoflip video-direction={} ! ".format(
            _VIDEOFLIP_DIRECTIONS[number]
        )
    else:
        turn = ""
    return turn + "videoconvert ! video/x-raw, format=BGR"


def _fraction(rate_hz: float) -> str:
    rate = Fraction(rate_hz).limit_denominator(1001)
    return "{}/{}".format(rate.numerator, rate.denominator)
