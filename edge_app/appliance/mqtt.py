"""Events to an MQTT broker: each at least once; kept, up to a bound, while it is away."""

import hashlib
import logging
import socket
import ssl
import struct
import time
from collections import OrderedDict
from typing import Any, NamedTuple, Optional
from urllib.parse import unquote, urlsplit

from edge_app.appliance.outbox import Outbox, seconds_left
from edge_app.appliance.status import Status
from edge_app.config import EventsSettings
from edge_app.errors import ConfigError, DisplayError

log = logging.getLogger(__name__)

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEPALIVE_S = 15  # a broker that is silent for longer than twice this is gone
_ANSWER_S = 10.0  # so long may it take to let us in
_LOOP_S = 0.1  # how soon an event leaves that came while nothing moved
_BACK_OFF_S = (1.0, 60.0)  # first and longest pause between two attempts
_IN_FLIGHT = 20  # events sent whose receipt has not come yet
_FAREWELL_S = 1.5  # for what is left when the program ends
_QOS = 1  # at least once
_MACHINE_ID = "/etc/machine-id"


class Address(NamedTuple):
    """Where events go."""

    host: str
    port: int
    is_encrypted: bool
    topic: str  # of events; TOPIC/status says "online" or "offline"


def parse_address(url: str) -> Address:
    """The parts of ``mqtt://HOST[:PORT][/TOPIC]`` or ``mqtts://...``.

    The topic is edge-app/HOSTNAME by default, the port MQTT's own.

    Raises:
        ConfigError: it is not of that form.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("events.mqtt: {}: {}.".format(url, error)) from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "events.mqtt: no user or password in the address, where lists of processes show them. "
            "Set events.mqtt_user, and events.mqtt_password_file to a file that holds the password."
        )
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            "events.mqtt: {!r} is not an address, expected mqtt://HOST:1883/TOPIC or, encrypted, "
            "mqtts://HOST:8883/TOPIC.".format(url)
        )
    topic = unquote(parts.path).strip("/") or "edge-app/{}".format(socket.gethostname())
    if any(sign in topic for sign in "+#\0"):
        raise ConfigError("events.mqtt: the topic {!r} must not contain + or #.".format(topic))
    return Address(parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "mqtts", topic)


def client_name(topic: str) -> str:
    """What a broker knows us by: the same at each connection, another for each machine and topic.

    A broker that has not noticed the end of the last connection ends it when the next one comes by that
    name, and tells its last will then, not after we have said that we are there. At most 23 letters and
    digits, which every broker takes (MQTT 3.1.1, section 3.1.3.1).
    """
    try:
        with open(_MACHINE_ID, encoding="ascii") as file:
            machine = file.read().strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    words = "\n".join((machine, socket.gethostname(), topic))  # copies of a card have the same machine-id
    return "edgeapp" + hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:16]


class MqttOutbox(Outbox):
    """Publishes lines with QoS 1, and whether this program runs as a retained message and last
    will.

    Every connection is a new session: what was not acknowledged is sent again on the next one, so
    that a line may arrive twice, but none is lost while the program runs and the buffer lasts.

    Args:
        settings: address, user, files, size of the buffer.
        status: told what is lost and how the broker is.
    """

    def __init__(self, settings: EventsSettings, status: Status) -> None:
        super().__init__("mqtt", settings.buffer, status)
        self.trouble = "not connected yet"
        self._settings = settings
        self._in_flight: "OrderedDict[int, str]" = OrderedDict()  # by message id of this connection
        self._answer: Optional[str] = None  # to the request to be let in; "" is yes

    def open(self) -> None:
        """Check the settings and start; the broker need not be there yet.

        Raises:
            ConfigError: the address or a file is not what it should be.
            DisplayError: paho-mqtt is not installed.
        """
        self._address = parse_address(self._settings.mqtt)
        self._name = "{}:{}".format(self._address.host, self._address.port)
        self._password = _read_password(self._settings)
        try:
            from paho.mqtt import client as paho
        except ImportError as error:
            raise DisplayError(
                "events.mqtt is set, but paho-mqtt is not installed: 'make setup', or "
                "pip install paho-mqtt."
            ) from error
        self._paho = paho
        self._client()
        if self._password and not self._address.is_encrypted:
            log.warning("the password for %s goes unencrypted; mqtts:// protects it", self._name)
        super().open()

    def deliver(self) -> None:
        """Connect, and again when the connection is lost, at growing distances."""
        shortest_s, longest_s = _BACK_OFF_S
        pause_s = shortest_s
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                self._attempt(self._client())
            except ConfigError as error:  # a file that was there when the program began
                self.tell(str(error), "")
            except OSError as error:
                if not self.stopping.is_set():  # else it was not the broker's fault
                    trouble = "the MQTT broker {} {}; events wait for it, {} at most"
                    self.tell(trouble.format(self._name, error, self._settings.buffer), "")
            if (
                time.monotonic() - started > longest_s
            ):  # it was well for long: this is a new trouble
                pause_s = shortest_s
            self.stopping.wait(pause_s)
            pause_s = min(2.0 * pause_s, longest_s)

    def _attempt(self, client: Any) -> None:
        """One connection, for as long as it lasts or the program runs.

        Raises:
            OSError: it was not to be had, or is lost.
        """
        is_told = False
        try:
            self._connect(client)
            self.tell("", "connected to the MQTT broker {}".format(self._name))
            is_told = self._exchange(client)
        finally:
            _hang_up(client, is_told)
            self.put_back(list(self._in_flight.values()))
            self._in_flight.clear()

    def _client(self) -> Any:
        """A client of either generation of paho's interface, not yet connected.

        Raises:
            ConfigError: the file of certificates is not what it should be.
        """
        paho, address = self._paho, self._address
        versions = getattr(paho, "CallbackAPIVersion", None)  # from 2.0 on
        generation = (versions.VERSION2,) if versions else ()
        client = paho.Client(*generation, client_id=client_name(address.topic))
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        if self._settings.mqtt_user:
            client.username_pw_set(self._settings.mqtt_user, self._password or None)
        if address.is_encrypted:
            try:
                client.tls_set(ca_certs=self._settings.mqtt_ca_file or None)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    "events.mqtt_ca_file: {}: {}; give a file of certificates in PEM form.".format(
                        self._settings.mqtt_ca_file, error
                    )
                ) from error
        client.will_set(address.topic + "/status", "offline", qos=_QOS, retain=True)
        return client

    def _on_connect(self, client: Any, userdata: Any, flags: Any, answer: Any, *more: Any) -> None:
        if isinstance(answer, int):  # paho 1: 0 is yes
            self._answer = self._paho.connack_string(answer) if answer else ""
        else:
            self._answer = str(answer) if answer.is_failure else ""

    def _on_publish(self, client: Any, userdata: Any, number: int, *more: Any) -> None:
        """The broker has message ``number``."""
        if self._in_flight.pop(number, None) is not None:
            self.arrived()

    def _connect(self, client: Any) -> None:
        """Connect and wait for the broker's answer.

        Raises:
            OSError: it cannot be reached, is not who it should be, or does not let us in.
        """
        self._answer = None
        try:
            client.connect(self._address.host, self._address.port, _KEEPALIVE_S)
        except (ssl.SSLError, ssl.CertificateError) as error:  # two unlike things before Python 3.7
            raise OSError("is not trusted ({})".format(error)) from error
        except (OSError, ValueError) as error:  # ValueError: no name of a machine
            text = getattr(error, "strerror", None) or error
            raise OSError("cannot be reached ({})".format(text)) from error
        deadline = time.monotonic() + _ANSWER_S
        while self._answer is None:
            is_open = self._is_open(client)
            is_over = self.stopping.is_set() or not seconds_left(deadline)
            if self._answer is None and (is_over or not is_open):
                raise OSError("does not answer")
        if self._answer:
            raise OSError(
                "refuses us ({}): check events.mqtt_user and events.mqtt_password_file".format(
                    self._answer
                )
            )

    def _exchange(self, client: Any) -> bool:
        """Publish until the program ends; whether the broker knows by then that it does.

        Raises:
            OSError: the connection is lost.
        """
        topic = self._address.topic
        client.publish(topic + "/status", "online", qos=_QOS, retain=True)
        while not self.stopping.is_set():
            self._publish(client)
            self._loop(client)
        deadline = time.monotonic() + _FAREWELL_S
        while seconds_left(deadline) and not self.is_empty:
            self._publish(client)
            self._loop(client)
        farewell = client.publish(topic + "/status", "offline", qos=_QOS, retain=True)
        while seconds_left(deadline) and not farewell.is_published():
            self._loop(client)
        return bool(farewell.is_published())

    def _publish(self, client: Any) -> None:
        while len(self._in_flight) < _IN_FLIGHT:
            line = self.take(0.0)
            if line is None:
                return
            # Noted before its receipt can come: this thread handles receipts, in loop().
            self._in_flight[client.publish(self._address.topic, line, qos=_QOS).mid] = line

    def _loop(self, client: Any) -> None:
        if not self._is_open(client):
            raise OSError("is gone")

    def _is_open(self, client: Any) -> bool:
        """Send and receive what there is; whether the connection is still there.

        Raises:
            OSError: the other side is no broker.
        """
        try:
            return int(client.loop(_LOOP_S)) == 0
        except (ValueError, IndexError, KeyError, struct.error) as error:  # paho 1 trips over them
            raise OSError("does not speak MQTT ({})".format(error)) from error


def _hang_up(client: Any, is_polite: bool) -> None:
    """Close the connection, whatever happens.

    After a polite end a broker forgets the last will: only when it has our own last word.
    """
    connection = client.socket()
    if connection is None:
        return
    if is_polite:
        client.disconnect()
    connection.close()


def _read_password(settings: EventsSettings) -> str:
    """The first line of the password file.

    Raises:
        ConfigError: it cannot be read, or there is nobody whose password it is.
    """
    path = settings.mqtt_password_file
    if not path:
        return ""
    if not settings.mqtt_user:
        raise ConfigError("events.mqtt_password_file: needs events.mqtt_user as well.")
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "events.mqtt_password_file: {}: {}; give a file that holds the password and nothing "
            "else.".format(path, getattr(error, "strerror", None) or error)
        ) from error
