"""The picture as an RTSP stream, for recorders and players: a display like any other.

GStreamer's RTSP server runs on a thread with a main loop of its own. The main thread hands over a
picture when somebody watches and the encoder has taken the last one; it never waits. However many
viewers there are, a picture is encoded once; without a viewer it is not encoded at all.
"""

import logging
import threading
import time
from contextlib import suppress
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from edge_app.appliance.guard import Failures, Places, is_loopback
from edge_app.appliance.pace import Pace
from edge_app.config import RtspSettings
from edge_app.display import Display
from edge_app.errors import ConfigError, DisplayError
from edge_app.frames import Picture
from edge_app.gstreamer import PACKAGES, load_gstreamer

log = logging.getLogger(__name__)

PATH = "/faces"
_SERVER_PACKAGES = "gir1.2-gst-rtsp-server-1.0 " + PACKAGES
_KEYFRAME_S = 1.0  # a recorder can cut, and a new viewer sees something, at these distances
_TRY_S = 5.0  # how long an encoder may take to prove itself
_STOP_S = 1.0  # how long stopping may take
_FORGET_S = 2  # how often sessions of viewers that vanished are looked for
_SILENT_S = 5.0  # without a picture for so long, nobody new is let wait for one
_ROLE = "viewer"
_LIMIT = 50  # connections at once
_SHARE = 20  # of these for one network
_BACKLOG = 128  # connections that the kernel holds until we look

# How to make H.264 from raw video; the encoder is named "encoder". Of others than these nothing is
# known but their name: they run with their own defaults. A picture is one slice: FFmpeg's client
# takes each slice of x264's sliced threads for a picture, and fills the rest of it with a smear.
_ENCODERS = {
    "nvv4l2h264enc": (
        "nvvidconv ! video/x-raw(memory:NVMM), format=NV12 ! nvv4l2h264enc name=encoder "
        "bitrate={bits} iframeinterval={interval} idrinterval={interval} insert-sps-pps=true "
        "maxperf-enable=true"
    ),
    "x264enc": (
        "x264enc name=encoder tune=zerolatency speed-preset=ultrafast bitrate={kilobits} "
        "key-int-max={interval} threads=1 sliced-threads=false ! "
        "video/x-h264, profile=constrained-baseline"
    ),
    "openh264enc": (
        "openh264enc name=encoder bitrate={bits} rate-control=bitrate gop-size={interval} "
        "complexity=low"
    ),
}
_AUTO = ("nvv4l2h264enc", "x264enc", "openh264enc")


class _Source(NamedTuple):
    """The media that is being watched: where pictures go in."""

    appsrc: Any
    size_filter: Any
    encoder: Any


class RtspDisplay(Display):
    """Serves ``rtsp://HOST:PORT/faces`` while it is open, over TCP.

    Beyond loopback only with a password, which is never sent as such (digest authentication); the
    picture itself is not encrypted. The size of the stream is that of the first picture a viewer
    gets, made even, as H.264 wants it; pictures of another size are scaled to fit, with black bars,
    so that a recording goes on.

    Args:
        settings: where to listen, who may watch, rate and encoder.
        target: what stands behind ``rtsp:``: a port, or nothing for that of the settings.

    Raises:
        ConfigError: on opening: no port, or a host beyond loopback without a password.
        DisplayError: on opening: something is not installed, the port is taken, no encoder works.
    """

    def __init__(self, settings: RtspSettings, target: str = "") -> None:
        super().__init__()
        self.encoded = 0  # pictures handed to the encoder since the start
        self.skipped = 0  # pictures that somebody watched and the encoder had no time for
        self._settings = settings
        self._target = target
        self._server: Optional[_Server] = None
        self._pace = Pace()
        self._keyframe_at = 0.0
        self._last_pts = -1
        self._fed: Optional[_Source] = None  # to which the times above belong
        self._size_wh = (0, 0)

    def __enter__(self) -> "RtspDisplay":
        settings = self._settings._replace(port=self._port())
        if not is_loopback(settings.host) and not settings.password:
            raise ConfigError(
                "rtsp.host: {} can be reached from elsewhere, so rtsp.password must be set (a long "
                "random text); or keep 127.0.0.1.".format(settings.host)
            )
        gst = _load()
        self._gst = gst
        self._server = _Server(gst, settings, _working_encoder(gst, settings))
        self._server.start()
        log.info("RTSP stream: %s", self.url)
        return self

    @property
    def url(self) -> str:
        """Where the stream is, with the port that was really taken; without the password."""
        assert self._server is not None, "used outside 'with'"
        host = self._settings.host
        name = "[{}]".format(host) if ":" in host else host
        return "rtsp://{}:{}{}".format(name, self._server.port, PATH)

    @property
    def viewers(self) -> int:
        """Connections at the moment, those that have not asked for the stream yet included."""
        return self._server.viewers if self._server is not None else 0

    def show(self, picture: Picture) -> None:
        """Hand a picture to the encoder, if somebody watches and it has taken the last one."""
        server = self._server
        assert server is not None, "used outside 'with'"
        server.shown_at = time.monotonic()
        source = server.source
        captured_at = picture.result.frame.captured_at
        if source is None or not self._is_playing(source):
            return
        if not self._pace.takes(captured_at, self._settings.rate_hz):
            return
        if source is not self._fed:
            self._begin(source, picture)
        if source.appsrc.get_property("current-level-bytes"):
            self.skipped += 1
            return
        self._feed(source, picture.pixels, captured_at)

    def close(self) -> None:
        """Cut off the viewers and stop, within a second. Idempotent."""
        server, self._server = self._server, None
        self._fed = None
        if server is not None:
            server.stop()

    def _port(self) -> int:
        if not self._target:
            return self._settings.port
        if not self._target.isdigit() or int(self._target) > 65535:
            raise ConfigError(
                "display.kind: rtsp:{} has no port; write rtsp: or, for instance, rtsp:8554".format(
                    self._target
                )
            )
        return int(self._target)

    def _is_playing(self, source: _Source) -> bool:
        """Whether its time has begun.

        Before, there is none to subtract, and a picture of the far future would be waited for.
        """
        return bool(source.appsrc.get_state(0)[1] == self._gst.State.PLAYING)

    def _begin(self, source: _Source, picture: Picture) -> None:
        """The first picture of newly watched media decides its size."""
        height, width = picture.pixels.shape[:2]
        even = (max(2, width + width % 2), max(2, height + height % 2))
        caps = "video/x-raw, width={}, height={}, pixel-aspect-ratio=1/1".format(*even)
        source.size_filter.set_property("caps", self._gst.Caps.from_string(caps))
        self._fed = source
        self._size_wh = (0, 0)
        self._last_pts = -1
        self._keyframe_at = time.monotonic()

    def _feed(self, source: _Source, pixels: np.ndarray, captured_at: float) -> None:
        height, width = pixels.shape[:2]
        if (width, height) != self._size_wh:
            self._size_wh = (width, height)
            source.appsrc.set_property("caps", self._caps(width, height))
        now = time.monotonic()
        if now - self._keyframe_at >= _KEYFRAME_S:
            self._keyframe_at = now
            source.encoder.send_event(self._keyframe_request())
        buffer = self._gst.Buffer.new_wrapped(_rows_of_four(pixels))
        buffer.pts = self._last_pts = self._pts(source, captured_at)
        if source.appsrc.emit("push-buffer", buffer) == self._gst.FlowReturn.OK:
            self.encoded += 1

    def _caps(self, width: int, height: int) -> Any:
        """The rate is a promise for the encoder's bits; the time stamps tell the real one."""
        text = (
            "video/x-raw, format=BGR, width={}, height={}, framerate={}/1, pixel-aspect-ratio=1/1"
        )
        return self._gst.Caps.from_string(
            text.format(width, height, max(1, int(round(self._settings.rate_hz))))
        )

    def _pts(self, source: _Source, captured_at: float) -> int:
        """The time of capture since the pipeline's start, in nanoseconds, later than the last one.

        Its clock is GStreamer's system clock, which counts as ``time.monotonic`` does.
        """
        since_start = int(captured_at * 1e9) - int(source.appsrc.get_base_time())
        return max(since_start, self._last_pts + 1000000, 0)

    def _keyframe_request(self) -> Any:
        """See "Force Key Unit" in GStreamer's design documents, "Keyframe Force"."""
        structure = self._gst.Structure.new_empty("GstForceKeyUnit")
        structure.set_value("all-headers", True)
        return self._gst.Event.new_custom(self._gst.EventType.CUSTOM_UPSTREAM, structure)


class _Server:
    """GStreamer's RTSP server, its main loop and its thread. ``stop`` may be called from any
    thread.

    Attributes:
        source: where pictures go in while somebody watches; ``None`` else.
        failures: wrong passwords, by network.
        shown_at: when there was a picture last, or the server began; monotonic seconds.
    """

    def __init__(self, gst: Any, settings: RtspSettings, encoder: str) -> None:
        self.shown_at = time.monotonic()
        self.source: Optional[_Source] = None
        self.failures = Failures()
        self._clients = Places(_LIMIT, _SHARE)
        self.port = settings.port
        self._gst = gst
        self._settings = settings
        self._encoder = encoder
        self._thread = threading.Thread(target=self._run, name="rtsp", daemon=True)

    @property
    def viewers(self) -> int:
        """Connections at the moment."""
        return len(self._clients)

    def start(self) -> None:
        """Listen.

        Raises:
            DisplayError: the port is taken, or the address is not this machine's.
        """
        from gi.repository import Gio, GLib, GstRtspServer

        settings = self._settings
        server = GstRtspServer.RTSPServer()
        server.set_address(settings.host)
        server.set_service(str(settings.port))
        server.set_backlog(_BACKLOG)
        server.get_mount_points().add_factory(PATH, self._factory())
        if settings.password:
            server.set_auth(_auth(settings, self.failures))
        server.connect("client-connected", self._admit)
        try:
            listener = server.create_source(None)
        except GLib.Error as error:
            kinds = (Gio.IOErrorEnum.ADDRESS_IN_USE, Gio.IOErrorEnum.PERMISSION_DENIED)
            port_is_wrong = any(error.matches(Gio.io_error_quark(), kind) for kind in kinds)
            raise DisplayError(
                "the RTSP stream cannot listen on {}:{}: {}. {}".format(
                    settings.host,
                    settings.port,
                    error.message,
                    "Choose another port, for instance --display rtsp:{}.".format(settings.port + 1)
                    if port_is_wrong
                    else "Give an address of this machine to rtsp.host; `ip address` lists them.",
                )
            ) from error
        self.port = server.get_bound_port()
        self._server = server
        self._context = GLib.MainContext.new()
        self._loop = GLib.MainLoop.new(self._context, False)
        self._sources = [listener, GLib.timeout_source_new_seconds(_FORGET_S)]
        self._sources[1].set_callback(self._forget)
        for source in self._sources:
            source.attach(self._context)
        self._thread.start()

    def stop(self) -> None:
        """Cut off the viewers and end the thread, within a second. Idempotent."""
        from gi.repository import GLib

        if not self._thread.is_alive():
            return
        ending = GLib.idle_source_new()
        ending.set_callback(self._end)
        ending.attach(self._context)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            log.warning("the RTSP stream did not stop within %.0f s", _STOP_S)

    def _run(self) -> None:
        self._context.push_thread_default()
        try:
            self._loop.run()
        finally:
            self._context.pop_thread_default()

    def _end(self, *unused: Any) -> bool:
        """On the loop: no new viewers, and the old ones are cut off."""
        from gi.repository import GLib

        self.source = None
        while self._sources:  # with the last reference to it the listening socket is closed
            self._sources.pop().destroy()
        for client in self._connected():
            _cut_off(client)
        self._ends_at = time.monotonic() + _STOP_S / 2
        leaving = GLib.timeout_source_new(10)
        leaving.set_callback(self._leave)
        leaving.attach(self._context)
        return False

    def _leave(self, *unused: Any) -> bool:
        """On the loop: once the viewers' thread has let go of them, or does not in time, it ends."""
        from gi.repository import GstRtspServer

        if self._connected() and time.monotonic() < self._ends_at:
            return True
        remove = GstRtspServer.RTSPFilterResult.REMOVE
        self._server.get_session_pool().filter(lambda pool, session: remove)
        self._loop.quit()
        return False

    def _connected(self) -> List[Any]:
        """The server's clients, those that were cut off and have not noticed yet included."""
        from gi.repository import GstRtspServer

        found: List[Any] = []

        def keep(server: Any, client: Any) -> Any:
            found.append(client)
            return GstRtspServer.RTSPFilterResult.KEEP

        self._server.client_filter(keep)
        return found

    def _factory(self) -> Any:
        """One pipeline for all viewers, built for the first and taken down after the last."""
        from gi.repository import GstRtsp, GstRtspServer

        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(
            "( appsrc name=source is-live=true format=time block=false ! videoconvert ! "
            "videoscale add-borders=true ! capsfilter name=size ! videoconvert ! "
            "video/x-raw, format=I420 ! {} ! rtph264pay name=pay0 pt=96 config-interval=-1 )".format(
                _encoding(self._encoder, self._settings)
            )
        )
        factory.set_shared(True)
        factory.set_clock(self._gst.SystemClock.obtain())
        factory.set_protocols(GstRtsp.RTSPLowerTrans.TCP)  # nothing is lost, and one port to open
        if self._settings.password:
            permissions = GstRtspServer.RTSPPermissions()
            for permission in ("media.factory.access", "media.factory.construct"):
                permissions.add_permission_for_role(_ROLE, permission, True)
            factory.set_permissions(permissions)
        factory.connect("media-configure", self._opened)
        return factory

    def _opened(self, factory: Any, media: Any) -> None:
        """On the server's thread: the first viewer is there."""
        element = media.get_element()
        appsrc, size_filter, encoder = (
            element.get_by_name_recurse_up(name) for name in ("source", "size", "encoder")
        )
        opened = self.source = _Source(appsrc, size_filter, encoder)
        media.connect("unprepared", self._closed, opened)

    def _closed(self, media: Any, opened: _Source) -> None:
        """The last viewer has left; a next one may have come meanwhile."""
        if self.source is opened:
            self.source = None

    def _admit(self, server: Any, client: Any) -> None:
        """On the loop: somebody has connected, and is cut off if that is one too many."""
        if self._clients.take(hash(client), client.get_connection().get_ip() or ""):
            client.connect("closed", self._left)
            client.connect("pre-describe-request", self._judge)
        else:
            _cut_off(client)

    def _judge(self, client: Any, context: Any) -> Any:
        """On the viewers' thread, before the password is asked for: is there anything to be seen?

        Without a picture the server would wait 20 s for one, and everybody else for the server.
        """
        from gi.repository import GstRtsp

        is_silent = time.monotonic() - self.shown_at > _SILENT_S
        codes = GstRtsp.RTSPStatusCode
        return codes.SERVICE_UNAVAILABLE if is_silent else codes.OK

    def _left(self, client: Any) -> None:
        self._clients.leave(hash(client))

    def _forget(self, *unused: Any) -> bool:
        """End the sessions of viewers that vanished without a word."""
        self._server.get_session_pool().cleanup()
        return True


def _cut_off(client: Any) -> None:
    """End a connection, from any thread.

    Not by ``client.close()``: the viewers' thread may just be reading, and would for ever from what is gone.
    It finds the end by itself.
    """
    from gi.repository import GLib

    with suppress(GLib.Error):  # not connected any more
        client.get_connection().get_read_socket().shutdown(True, True)


def _load() -> Any:
    """The Gst module, with the RTSP server's description there.

    Raises:
        DisplayError: one of them is not installed.
    """
    try:
        gst = load_gstreamer()
        import gi

        gi.require_version("GstRtsp", "1.0")
        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import GstRtsp, GstRtspServer  # noqa: F401
    except (ImportError, ValueError) as error:
        raise DisplayError(
            "GStreamer's RTSP server is missing ({}). Install it: sudo apt install {}".format(
                error, _SERVER_PACKAGES
            )
        ) from error
    return gst


def _auth(settings: RtspSettings, failures: Failures) -> Any:
    """Who may watch: the one user, by digest, so that the password itself is never sent.

    A network that has sent too many wrong ones is not even asked for a while.
    """
    from gi.repository import GstRtsp, GstRtspServer

    class Auth(GstRtspServer.RTSPAuth):
        """Called on the server's thread, for every request; without a token it is answered 401."""

        def do_authenticate(self, context: Any) -> bool:
            address, now = context.conn.get_ip() or "", time.monotonic()
            if failures.are_too_many(address, now):
                return True
            done = bool(GstRtspServer.RTSPAuth.do_authenticate(self, context))
            field = GstRtsp.RTSPHeaderField.AUTHORIZATION
            is_given = context.request.get_header(field, 0)[0] == GstRtsp.RTSPResult.OK
            if is_given and context.token is None:
                failures.add(address, now)
            return done

    auth = Auth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", _ROLE)
    auth.add_digest(settings.user, settings.password, token)
    return auth


def _encoding(encoder: str, settings: RtspSettings) -> str:
    """The part of the launch line that makes H.264."""
    return _ENCODERS.get(encoder, encoder + " name=encoder").format(
        bits=settings.bitrate_kbps * 1000,
        kilobits=settings.bitrate_kbps,
        interval=max(1, int(round(settings.rate_hz * _KEYFRAME_S))),
    )


def _working_encoder(gst: Any, settings: RtspSettings) -> str:
    """The first encoder that really encodes: an Orin Nano has the element but not the hardware.

    Raises:
        DisplayError: none does.
    """
    choices = _AUTO if settings.encoder == "auto" else (settings.encoder,)
    problems: List[str] = []
    for name in choices:
        problem = _try_encoder(gst, name, settings)
        if not problem:
            log.debug("RTSP: encoder %s", name)
            return name
        problems.append("{}: {}".format(name, problem))
    raise DisplayError(
        "rtsp.encoder: no H.264 encoder works here ({}). Install one: sudo apt install "
        "gstreamer1.0-plugins-ugly".format("; ".join(problems))
    )


def _try_encoder(gst: Any, name: str, settings: RtspSettings) -> str:
    """Encode a few pictures; what went wrong, or ``""``."""
    from gi.repository import GLib

    if gst.ElementFactory.find(name) is None:
        return "not installed"
    line = "videotestsrc num-buffers=3 ! video/x-raw, format=I420, width=320 ! {} ! fakesink"
    try:
        pipeline = gst.parse_launch(line.format(_encoding(name, settings)))
    except GLib.Error as error:
        return str(error.message)
    kinds = gst.MessageType
    answers: List[Tuple[Any, ...]] = []

    def run() -> None:
        """A driver may hang in either call; then this thread is left behind."""
        pipeline.set_state(gst.State.PLAYING)
        message = pipeline.get_bus().timed_pop_filtered(
            int(_TRY_S * gst.SECOND), kinds.ERROR | kinds.EOS
        )
        pipeline.set_state(gst.State.NULL)
        answers.append((message,))

    thread = threading.Thread(target=run, name="encoder trial", daemon=True)
    thread.start()
    thread.join(_TRY_S + 1.0)
    message = answers[0][0] if answers else None
    if message is None:
        return "does not answer"
    return str(message.parse_error()[0].message) if message.type == kinds.ERROR else ""


def _rows_of_four(pixels: np.ndarray) -> bytes:
    """The pixels (H, W, 3) as GStreamer wants them: each row padded to a multiple of four bytes."""
    height, width = pixels.shape[:2]
    padding = -3 * width % 4
    if not padding:
        return pixels.tobytes()
    padded = np.zeros((height, 3 * width + padding), np.uint8)
    padded[:, : 3 * width] = pixels.reshape(height, 3 * width)
    return padded.tobytes()
