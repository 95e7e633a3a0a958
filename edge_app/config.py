"""The settings tree: defaults here and nowhere else, a YAML file over them, the command line over that.

A wrong setting is one line: its key's path, what is wrong with it, what would be right. Nobody but
``cli`` reads files, arguments or the environment.
"""

import difflib
import io
import math
import os
import re
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from edge_app.errors import ConfigError

FLIPS = (
    "none",
    "counterclockwise",
    "rotate-180",
    "clockwise",
    "horizontal-flip",
    "upper-right-diagonal",
    "vertical-flip",
    "upper-left-diagonal",
)
SWITCH = ("auto", "always", "never")  # not on and off: YAML makes true and false of them
BACKENDS = ("auto", "onnxruntime", "tensorrt")
_LARGEST = 64 << 10  # characters of a file of settings
_LINES = 30  # of wrong settings, told at once
_LONG = 200  # characters of what is quoted in a message
_HUGE = 10**300  # no setting is
_PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class CameraSettings(NamedTuple):
    """Where frames come from."""

    source: str = "auto"  # URI; auto is csi://0 on a Jetson, else the first /dev/video*, else test://
    width_px: int = 1280
    height_px: int = 720
    rate_hz: float = 30.0
    flip: str = "none"  # nvvidconv's names
    timeout_s: float = 2.0  # without a frame for this long the camera counts as dead
    latency_ms: int = 200  # jitter buffer of RTSP


class DetectorSettings(NamedTuple):
    """What finds the faces."""

    model: str = os.path.join(_PROJECT, "engines", "ssd_mobilenet_v2.onnx")
    engines: str = ""  # folder for TensorRT engines; beside the model by default
    backend: str = "auto"
    threads: int = 0  # of the CPU back end; 0 takes every core
    nms_iou: float = 0.45
    max_candidates: int = 4096  # boxes over the threshold that enter suppression
    max_faces: int = 750


class FacesSettings(NamedTuple):
    """Which faces are shown."""

    show: float = 0.95  # a face appears at this score
    keep: float = 0.8  # and stays while it scores at least this
    memory_s: float = 0.3  # it may be missed for this long
    match_iou: float = 0.3  # overlap that makes two boxes the same face


class DisplaySettings(NamedTuple):
    """Where pictures go."""

    kind: str = "auto"  # window, web, file:PATH, none, auto, or several with commas
    figures: bool = True
    fullscreen: bool = False


class WebSettings(NamedTuple):
    """The live page."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0 takes a free one
    jpeg_quality: int = 80
    max_rate_hz: float = 30.0
    token: str = ""  # needed beyond loopback


class RecoverySettings(NamedTuple):
    """What happens when the camera or the network falls silent."""

    mode: str = "auto"  # always, never; auto where systemd has started the program
    give_up_s: float = 25.0  # a camera that was alive and is dead for so long ends the process
    detector_s: float = 10.0  # so long may the network take for one frame
    daemon_restarts: int = 6  # of nvargus-daemon, an hour at most


class PrivacySettings(NamedTuple):
    """Whether faces can be recognised in what is shown, streamed or written."""

    mode: str = "none"  # blur pixelates them
    score: float = 0.3  # what scores at least this is pixelated
    memory_s: float = 1.0  # and stays so for this long when the network misses it


class EventsSettings(NamedTuple):
    """Faces that appear and leave, told to others. Off by default."""

    file: str = ""  # of JSON lines; - is standard output
    max_file_mb: float = 10.0  # then it starts anew, and the last one stays as FILE.1
    mqtt: str = ""  # mqtt://host:1883/topic or mqtts://...
    mqtt_user: str = ""
    mqtt_password_file: str = ""
    mqtt_ca_file: str = ""  # of the broker's certificate; the system's own by default
    buffer: int = 1000  # events kept while the broker is away
    leave_s: float = 1.0  # a face is gone when it was not seen for this long


class PowerSettings(NamedTuple):
    """When the board is too hot or its supply too weak, fewer frames are looked at."""

    mode: str = "auto"  # always, never; auto where the board is a Jetson
    hot_c: float = 85.0  # from here on
    cool_c: float = 78.0  # until here
    slow_rate_hz: float = 10.0  # frames looked at in between


class RtspSettings(NamedTuple):
    """The stream for recorders (--display rtsp:)."""

    host: str = "127.0.0.1"
    port: int = 8554  # 0 takes a free one
    user: str = "edge-app"
    password: str = ""  # needed beyond loopback
    rate_hz: float = 30.0
    bitrate_kbps: int = 2000
    encoder: str = "auto"  # a GStreamer element; auto is the hardware's where there is one


class Settings(NamedTuple):
    """The whole tree."""

    camera: CameraSettings = CameraSettings()
    detector: DetectorSettings = DetectorSettings()
    faces: FacesSettings = FacesSettings()
    display: DisplaySettings = DisplaySettings()
    web: WebSettings = WebSettings()
    recovery: RecoverySettings = RecoverySettings()
    privacy: PrivacySettings = PrivacySettings()
    events: EventsSettings = EventsSettings()
    power: PowerSettings = PowerSettings()
    rtsp: RtspSettings = RtspSettings()


# Never shown: not by ``config``, not in a bundle.
SECRETS = ("web.token", "rtsp.password")


class Rule(NamedTuple):
    """What a value must satisfy besides its type, and how to say so."""

    holds: Callable[[Any], bool]
    text: str
    words: Sequence[str] = ()  # the possible ones, where they can be listed


def _between(low: float, high: float) -> Rule:
    return Rule(lambda value: low <= value <= high, "from {:g} to {:g}".format(low, high))


def _one_of(words: Sequence[str]) -> Rule:
    return Rule(lambda value: value in words, "one of {}".format(", ".join(words)), words)


_NOT_EMPTY = Rule(lambda value: bool(value.strip()), "a name, not an empty text")

_RULES: Dict[str, Rule] = {
    "camera.source": _NOT_EMPTY,
    "camera.width_px": _between(16, 8192),
    "camera.height_px": _between(16, 8192),
    "camera.rate_hz": _between(1, 240),
    "camera.flip": _one_of(FLIPS),
    "camera.timeout_s": _between(0.1, 600),
    "camera.latency_ms": _between(0, 10000),
    "detector.model": _NOT_EMPTY,
    "detector.backend": _one_of(BACKENDS),
    "detector.threads": _between(0, 64),
    "detector.nms_iou": _between(0, 1),
    "detector.max_candidates": _between(1, 100000),  # suppress of nms.cu has room for 196,608
    "detector.max_faces": _between(1, 10000),
    "faces.show": _between(0, 1),
    "faces.keep": _between(0, 1),
    "faces.memory_s": _between(0, 10),
    "faces.match_iou": _between(0.05, 0.95),
    "display.kind": _NOT_EMPTY,
    "web.host": _NOT_EMPTY,
    "web.port": _between(0, 65535),
    "web.jpeg_quality": _between(1, 100),
    "web.max_rate_hz": _between(0.1, 120),
    "recovery.mode": _one_of(SWITCH),
    "recovery.give_up_s": _between(1, 86400),
    "recovery.detector_s": _between(1, 3600),
    "recovery.daemon_restarts": _between(0, 60),
    "privacy.mode": _one_of(("none", "blur")),
    "privacy.score": _between(0.01, 1),
    "privacy.memory_s": _between(0, 10),
    "events.max_file_mb": _between(0.001, 10000),
    "events.buffer": _between(1, 100000),
    "events.leave_s": _between(0, 60),
    "power.mode": _one_of(SWITCH),
    "power.hot_c": _between(0, 150),
    "power.cool_c": _between(0, 150),
    "power.slow_rate_hz": _between(1, 240),
    "rtsp.host": _NOT_EMPTY,
    "rtsp.port": _between(0, 65535),
    "rtsp.user": _NOT_EMPTY,
    "rtsp.rate_hz": _between(1, 120),
    "rtsp.bitrate_kbps": _between(50, 100000),
    "rtsp.encoder": _NOT_EMPTY,
}


class Given(NamedTuple):
    """A value somebody set, and where."""

    path: str  # "camera.width_px"
    value: Any
    origin: str  # "edge-app.yaml, line 4" or "--threshold"


class LoadedSettings(NamedTuple):
    """Checked settings and where each of them came from; a path without an origin is a default."""

    settings: Settings
    origins: Dict[str, str]


def resolve(given: Sequence[Given]) -> LoadedSettings:
    """Lay what was given over the defaults, later over earlier.

    Raises:
        ConfigError: one line for every wrong setting.
    """
    problems: List[str] = []
    values: Dict[str, Any] = {}
    origins: Dict[str, str] = {}
    known = dict(flatten(Settings()))
    for item in given:
        try:
            values[item.path] = _checked(item, known)
            origins[item.path] = item.origin
        except ConfigError as error:
            problems.append(str(error))
    settings = _build(values)
    if "faces.keep" not in values:  # a lower show takes the default of keep down with it
        keep = min(settings.faces.keep, settings.faces.show)
        settings = settings._replace(faces=settings.faces._replace(keep=keep))
    if not problems and settings.faces.keep > settings.faces.show:
        problems.append(
            "faces.keep: {:g} is above faces.show ({:g}), so a face would vanish as soon as it appeared; "
            "set it to {:g} or lower.".format(
                settings.faces.keep, settings.faces.show, settings.faces.show
            )
        )
    if not problems and settings.power.cool_c >= settings.power.hot_c:
        problems.append(
            "power.cool_c: {:g} must be below power.hot_c ({:g}), or the rate would never rise "
            "again.".format(settings.power.cool_c, settings.power.hot_c)
        )
    if len(problems) > _LINES:
        problems[_LINES:] = ["and {} more.".format(len(problems) - _LINES)]
    if problems:
        raise ConfigError("\n".join(problems))
    return LoadedSettings(settings, origins)


def flatten(settings: Settings) -> Iterator[Tuple[str, Any]]:
    """Every setting as ``(path, value)``, in the order of the tree."""
    for section, fields in zip(Settings._fields, settings):
        for name, value in zip(fields._fields, fields):
            yield "{}.{}".format(section, name), value


def _build(values: Dict[str, Any]) -> Settings:
    settings = Settings()
    for path, value in values.items():
        section, name = path.split(".")
        changed = getattr(settings, section)._replace(**{name: value})
        settings = settings._replace(**{section: changed})
    return settings


def _checked(given: Given, known: Dict[str, Any]) -> Any:
    """The value in its setting's type."""
    where = "{} ({})".format(given.path, given.origin)
    if given.path not in known:
        raise ConfigError("{}: no such setting{}".format(where, _suggestion(given.path, known)))
    default = known[given.path]
    value = given.value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < _HUGE else math.inf
    shown = "" if given.path in SECRETS else _shown(value)
    if type(value) is not type(default):
        raise ConfigError(
            "{}: {}is {}, expected {} such as {!r}.".format(
                where, shown, _kind(value), _kind(default), default
            )
        )
    rule = _RULES.get(given.path)
    finite = not isinstance(value, float) or math.isfinite(value)
    if not finite or (rule and not rule.holds(value)):
        text = rule.text if rule else "a finite number"
        close = difflib.get_close_matches(shown.strip(" '"), rule.words if rule else (), n=1)
        hint = "; did you mean {}?".format(close[0]) if close else "."
        raise ConfigError("{}: {}is impossible, expected {}{}".format(where, shown, text, hint))
    return value


def _shown(value: Any) -> str:
    """A value as it is quoted in a message, with a space behind it; nothing for lists and sections."""
    if isinstance(value, (list, dict)):
        return ""
    text = "a huge number" if isinstance(value, int) and abs(value) >= _HUGE else repr(value)
    return (text if len(text) <= _LONG else text[:_LONG] + "...") + " "


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a section",
        type(None): "empty",
    }
    return names.get(type(value), type(value).__name__)


def _suggestion(path: str, known: Dict[str, Any]) -> str:
    """The setting that was probably meant: that name in another section, or a name spelled like it."""
    section, _, last = path.rpartition(".")
    elsewhere = [candidate for candidate in known if candidate.endswith("." + last)]
    if elsewhere:
        return "; did you mean {}?".format(elsewhere[0])
    names = [name.split(".")[1] for name in known if name.startswith(section + ".")]
    close = difflib.get_close_matches(last, names, n=1)
    if close:
        return "; did you mean {}.{}?".format(section, close[0])
    return "; 'edge-app config' lists them all."


def read_file(path: str) -> List[Given]:
    """The settings of a YAML file, with their lines.

    Raises:
        ConfigError: no such file, not YAML, not two levels deep, or a key given twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            "{}: {}. Give an existing file to --config.".format(path, error.strerror)
        ) from error
    except ValueError as error:  # UnicodeDecodeError among them
        raise ConfigError("{}: not a text file: {}.".format(path, error)) from error
    root = _parsed(text, path)
    given: List[Given] = []
    for section, node in _entries(path, "", root):
        for name, leaf in _entries(path, section, node):
            origin = "{}, line {}".format(path, leaf.start_mark.line + 1)
            given.append(Given("{}.{}".format(section, name), _plain(leaf, origin), origin))
    return given


def _entries(path: str, section: str, node: Optional[Any]) -> Iterator[Tuple[str, Any]]:
    """The keys and value nodes of a mapping node; an empty one has none."""
    import yaml

    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
        return
    name = section or "the file"
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            "{}: {} must hold 'key: value' lines ({}, line {}).".format(
                section or path, name, path, node.start_mark.line + 1
            )
        )
    seen: Dict[str, int] = {}
    for key, value in node.value:
        word, line = _word(key), key.start_mark.line + 1
        full = "{}.{}".format(section, word) if section else word
        if word in seen:
            raise ConfigError(
                "{}: given twice ({}, lines {} and {}); keep one.".format(
                    full, path, seen[word], line
                )
            )
        seen[word] = line
        if not section and word not in Settings._fields:
            known = dict(flatten(Settings()))
            close = difflib.get_close_matches(word, Settings._fields, n=1)
            hint = "; did you mean {}?".format(close[0]) if close else _suggestion(word, known)
            raise ConfigError(
                "{} ({}, line {}): no such section{}".format(word, path, line, hint)
            )
        yield word, value


def _word(key: Any) -> str:
    """A key as it is; one that is no name, as it would be quoted."""
    import yaml

    if not isinstance(key, yaml.ScalarNode):
        return "[...]"
    return str(key.value) if re.match(r"[\w.-]{1,40}$", key.value) else _shown(key.value).strip()


def _parsed(text: str, origin: str) -> Any:
    """The root node of a YAML text; ``None`` when it says nothing."""
    import yaml

    if len(text) > _LARGEST:
        raise ConfigError("{}: is far too large for settings.".format(origin))
    try:
        # A stream, because of a text yaml would quote lines, and a secret might be in them.
        return yaml.compose(io.StringIO(text), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(
            "{}: not valid YAML: {}".format(origin, " ".join(str(error).split()))
        ) from error
    except RecursionError:
        raise ConfigError("{}: is nested too deeply.".format(origin)) from None


def _plain(node: Any, origin: str) -> Any:
    """A YAML node as a Python value; a list or section as an empty one, since no setting is any."""
    import yaml

    if isinstance(node, yaml.CollectionNode):
        return {} if isinstance(node, yaml.MappingNode) else []
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except Exception as error:  # an explicit tag on what does not fit it: anything may be raised
        reason = " ".join(str(error).split())[:_LONG]
        raise ConfigError("{}: not a value: {}".format(origin, reason)) from error


def from_assignment(text: str) -> Given:
    """``section.key=value`` of the command line; the value is read as YAML would.

    But a text is taken as it stands unless it is quoted: ``display.kind=web,rtsp:`` is no section.

    Raises:
        ConfigError: it is not of that form.
    """
    path, equals, value = text.partition("=")
    path, plain = path.strip(), value.strip()
    if not equals or "." not in path:
        raise ConfigError(
            "--set {}: expected section.key=value, for instance --set camera.width_px=640.".format(
                text[:_LONG]
            )
        )
    wants_text = isinstance(dict(flatten(Settings())).get(path), str)
    if wants_text and plain.isprintable() and not plain.startswith(("'", '"')):
        return Given(path, plain, "--set")
    origin = "--set " + path
    node = _parsed(value, origin)
    if node is None:
        return Given(path, None if plain else "", "--set")
    return Given(path, _plain(node, origin), "--set")
