"""Events over MQTT, to a real broker that goes away, refuses, and comes back."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from needs import require
from ports import free_port
from waiting import until

from edge_app.appliance import mqtt as module
from edge_app.appliance.events import Events
from edge_app.appliance.mqtt import Address, MqttOutbox, parse_address
from edge_app.appliance.status import Status
from edge_app.config import EventsSettings
from edge_app.errors import ConfigError
from edge_app.playback import SceneCamera

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Broker:
    """A mosquitto of the test's own; ``lines`` go into its configuration."""

    def __init__(self, folder, lines=("allow_anonymous true",)):
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        first = ["user root"] if os.geteuid() == 0 else []  # else it cannot read the test's files
        first.append("listener {} 127.0.0.1".format(self.port))
        self.config.write_text("\n".join(first + list(lines)))
        self.process = None

    def start(self):
        command = [MOSQUITTO, "-c", str(self.config)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self.answers)

    def answers(self):
        assert self.process.poll() is None, "mosquitto has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Relay:
    """Stands between one client after the other and a broker, as a router does; loses what it is told to.

    Attributes:
        is_mute: what the broker says does not come through.
    """

    def __init__(self, broker):
        self.is_mute = False
        self._pairs = []  # (the client's, the broker's side)
        self._forgotten = None
        self._broker = broker.port
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(5)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                pair = client, socket.create_connection(("127.0.0.1", self._broker))
                self._pairs.append(pair)
                for way in (pair, pair[::-1]):
                    threading.Thread(target=self._pass_on, args=way, daemon=True).start()

    def _pass_on(self, source, target):
        with suppress(OSError):
            for data in iter(lambda: source.recv(4096), b""):
                while self.is_mute and target is not self._pairs[-1][1]:
                    time.sleep(0.005)
                target.sendall(data)
        if source is not self._forgotten:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def forget(self):
        """Cut the client off and tell the broker nothing; returns its side."""
        client, broker = self._pairs[-1]
        self._forgotten = client
        client.shutdown(socket.SHUT_RDWR)
        return broker

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.is_mute = False
        self._listener.close()
        for connection in sum(self._pairs, ()):
            connection.close()


@pytest.fixture
def make_broker(tmp_path):
    require(MOSQUITTO, "mosquitto (apt install mosquitto)")
    pytest.importorskip("paho.mqtt.client")
    made = []

    def make(*lines):
        broker = Broker(tmp_path, lines) if lines else Broker(tmp_path)
        broker.start()
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.end()


class Listener:
    """Another client of the broker: what it was told, by topic."""

    def __init__(self, port, topic="#"):
        from paho.mqtt import client as paho

        self.heard, self.retained, self.ready = [], {}, threading.Event()
        versions = getattr(paho, "CallbackAPIVersion", None)
        self.client = paho.Client(versions.VERSION2) if versions else paho.Client()
        self.client.on_message = self._hear
        self.client.on_connect = lambda client, *rest: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *rest: self.ready.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(10.0)

    def _hear(self, client, userdata, message):
        self.heard.append((message.topic, message.payload.decode()))
        if message.retain:
            self.retained[message.topic] = message.payload.decode()

    def told(self, topic):
        return [text for one, text in self.heard if one == topic]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.client.disconnect()
        self.client.loop_stop()


def outbox_for(broker, status, **more):
    values = dict(
        {"mqtt": "mqtt://127.0.0.1:{}/door/faces".format(broker.port), "buffer": 100}, **more
    )
    return MqttOutbox(EventsSettings(**values), status)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Attempts follow each other more quickly than they do in earnest."""
    monkeypatch.setattr(module, "_BACK_OFF_S", (0.02, 0.1))


@pytest.mark.parametrize(
    "url, address",
    [
        ("mqtt://broker/door/faces", Address("broker", 1883, False, "door/faces")),
        ("mqtts://broker.local:9999/a%20b/", Address("broker.local", 9999, True, "a b")),
        ("mqtts://[::1]", Address("::1", 8883, True, "edge-app/" + socket.gethostname())),
    ],
)
def test_addresses(url, address):
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url, complaint",
    [
        ("broker", "expected mqtt://HOST:1883/TOPIC"),
        ("http://broker/x", "expected mqtt://"),
        ("mqtt:///x", "expected mqtt://"),
        ("mqtt://broker:port/x", "events.mqtt"),
        ("mqtt://broker:99999/x", "events.mqtt"),
        ("mqtt://broker/a/+/b", "must not contain"),
        ("mqtt://broker/a/%23", "must not contain"),
        ("mqtt://broker/a?b=c", "expected mqtt://"),
        ("mqtt://user:secret@broker/x", "events.mqtt_password_file"),
    ],
)
def test_addresses_that_are_none(url, complaint):
    with pytest.raises(ConfigError, match=complaint) as raised:
        parse_address(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_password_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    values = {"mqtt": "mqtt://127.0.0.1", "mqtt_user": "door", "mqtt_password_file": str(path)}
    with pytest.raises(ConfigError, match="events.mqtt_password_file"):
        camera = SceneCamera("test://", (640, 360), 0, 30.0, live=True)
        with Events(EventsSettings(**values), Status(), camera):
            pass


def test_a_password_without_a_user():
    values = {"mqtt": "mqtt://127.0.0.1", "mqtt_password_file": "/dev/null"}
    with pytest.raises(ConfigError, match="needs events.mqtt_user"):
        MqttOutbox(EventsSettings(**values), Status()).open()


def test_a_certificate_that_is_none(tmp_path):
    pytest.importorskip("paho.mqtt.client")
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        values = {"mqtt": "mqtts://127.0.0.1", "mqtt_ca_file": str(tmp_path / name)}
        with pytest.raises(ConfigError, match="events.mqtt_ca_file"):
            MqttOutbox(EventsSettings(**values), Status()).open()


def test_a_certificate_that_is_away_for_a_while(make_broker, certificate):
    path, key = certificate("localhost")
    broker = make_broker(
        "allow_anonymous true", "certfile {}".format(path), "keyfile {}".format(key)
    )
    aside, status = path.with_name("aside.pem"), Status()
    values = {"mqtt": "mqtts://localhost:{}/x".format(broker.port), "mqtt_ca_file": str(path)}
    outbox = MqttOutbox(EventsSettings(**values), status)
    outbox.open()
    outbox.send("one")
    until(lambda: outbox.is_empty)
    path.rename(aside)
    for content in (None, "no certificate"):  # gone, and just being written
        if content is not None:
            path.write_text(content)
        broker.end()
        until(lambda: "events.mqtt_ca_file: {}".format(path) in outbox.trouble)
    outbox.send("two")
    aside.rename(path)
    broker.start()
    until(lambda: outbox.is_empty)
    outbox.close()
    assert status.snapshot().dropped == {}
    assert status.snapshot().notes[-1].text.startswith("connected to the MQTT broker")


def test_lines_arrive_in_order_and_a_retained_message_says_whether_we_run(make_broker):
    broker, status = make_broker(), Status()
    with Listener(broker.port) as listener:
        outbox = outbox_for(broker, status)
        outbox.open()
        lines = [str(number) for number in range(90)]
        for line in lines:
            outbox.send(line)
        until(lambda: listener.told("door/faces") == lines)
        until(lambda: outbox.is_empty)
        with Listener(broker.port, "door/faces/status") as late:
            until(lambda: late.retained == {"door/faces/status": "online"})
        outbox.send("last")
        outbox.close()
        outbox.close()
        until(lambda: listener.told("door/faces/status") == ["online", "offline"])
        assert listener.told("door/faces")[-1] == "last"
    with Listener(broker.port, "door/faces/status") as late:
        until(lambda: late.retained == {"door/faces/status": "offline"})
    assert status.snapshot().dropped == {}
    assert [note.text for note in status.snapshot().notes] == [
        "connected to the MQTT broker 127.0.0.1:{}".format(broker.port)
    ]


def test_the_last_will_of_a_program_that_was_killed(make_broker):
    broker = make_broker()
    code = (
        "import sys, time; from edge_app.appliance.mqtt import *\n"
        "outbox = MqttOutbox(EventsSettings(mqtt=sys.argv[1]), Status()); outbox.open()\n"
        "time.sleep(60)\n"
    )
    url = "mqtt://127.0.0.1:{}/door/faces".format(broker.port)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with Listener(broker.port) as listener:
        process = subprocess.Popen([sys.executable, "-c", code, url], cwd=root)
        try:
            until(lambda: listener.told("door/faces/status") == ["online"])
        finally:
            process.kill()
            process.wait()
        until(lambda: listener.told("door/faces/status") == ["online", "offline"])


def test_the_end_of_a_lost_connection_is_not_taken_for_ours(make_broker):
    """The broker finds out late that the first one is gone, and the second one has begun long since."""
    broker = make_broker()
    with Relay(broker) as relay, Listener(broker.port) as listener:
        outbox = outbox_for(relay, Status())
        outbox.open()
        until(lambda: listener.told("door/faces/status") == ["online"])
        lost = relay.forget()
        until(lambda: listener.told("door/faces/status").count("online") == 2)
        until(lambda: is_shut(lost))  # the broker knows by now
        outbox.send("marker")
        until(lambda: listener.told("door/faces") == ["marker"])
        with Listener(broker.port, "door/faces/status") as late:
            until(lambda: late.retained)
            assert late.retained == {"door/faces/status": "online"}
        outbox.close()


def is_shut(connection):
    """Whether the other side has closed it; another thread reads what it says."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != 1  # TCP_ESTABLISHED


def test_two_programs_of_one_machine_leave_each_other_alone(make_broker):
    broker, statuses = make_broker(), (Status(), Status())
    outboxes = [
        MqttOutbox(EventsSettings(mqtt="mqtt://127.0.0.1:{}/{}".format(broker.port, topic)), status)
        for topic, status in zip(("door", "yard"), statuses)
    ]
    with Listener(broker.port) as listener:
        for outbox in outboxes:
            outbox.open()
        for number in range(20):
            for outbox in outboxes:
                outbox.send(str(number))
        for topic in ("door", "yard"):
            until(lambda: len(listener.told(topic)) >= 20)
            assert listener.told(topic) == [str(number) for number in range(20)]
            assert listener.told(topic + "/status") == ["online"]
        for outbox in outboxes:
            outbox.close()
    assert [len(status.snapshot().notes) for status in statuses] == [1, 1], "connected, once each"


def test_the_name_for_the_broker_is_that_of_this_machine_and_topic():
    names = [module.client_name(topic) for topic in ("door", "door", "yard", "x" * 1000)]
    assert names[0] == names[1] and len(set(names)) == 3
    assert all(name.isalnum() and len(name) <= 23 for name in names), "MQTT 3.1.1, section 3.1.3.1"


def test_a_broker_that_was_killed_and_comes_back(make_broker):
    broker, status = make_broker(), Status()
    outbox = outbox_for(broker, status)
    outbox.open()
    outbox.send("before")
    until(lambda: outbox.is_empty)
    broker.end()
    until(lambda: any("is gone" in n.text or "reached" in n.text for n in status.snapshot().notes))
    for number in range(50):
        outbox.send(str(number))
    broker.start()
    with Listener(broker.port) as listener:
        until(lambda: outbox.is_empty)
        outbox.send("after")
        until(lambda: "after" in listener.told("door/faces"))
    outbox.close()
    assert status.snapshot().dropped == {}
    assert status.snapshot().notes[-1].text.startswith("connected to the MQTT broker")


def test_what_was_sent_but_not_acknowledged_is_sent_again(make_broker, monkeypatch):
    """The broker stops in the middle: what it has taken but not acknowledged must not be lost."""
    broker, status = make_broker(), Status()
    outbox = outbox_for(broker, status)
    outbox.open()
    outbox.send("before")
    until(lambda: outbox.is_empty)
    broker.process.send_signal(signal.SIGSTOP)
    lines = [str(number) for number in range(60)]  # some leave, into the broker's socket
    for line in lines:
        outbox.send(line)
    until(lambda: len(outbox._in_flight) == module._IN_FLIGHT)
    door = threading.Event()  # nothing is sent before somebody listens
    connect = outbox._connect
    monkeypatch.setattr(outbox, "_connect", lambda client: door.wait() and connect(client))
    broker.end()
    broker.start()
    with Listener(broker.port) as listener:
        door.set()
        until(lambda: outbox.is_empty)
        outbox.send("after")
        until(lambda: "after" in listener.told("door/faces"))
        heard = listener.told("door/faces")
    outbox.close()
    assert status.snapshot().dropped == {}
    assert [line for line in heard if line in lines] == lines


def test_without_a_broker_the_newest_are_kept_and_the_rest_is_counted(make_broker):
    broker, status = make_broker(), Status()
    broker.end()
    outbox = outbox_for(broker, status)
    started = time.monotonic()
    outbox.open()
    for number in range(351):
        outbox.send(str(number))
    assert time.monotonic() - started < 15, "nothing here waits for the network"
    assert status.snapshot().dropped == {"events": 251}
    until(lambda: any("cannot be reached" in note.text for note in status.snapshot().notes))
    broker.start()
    until(lambda: outbox.is_empty)
    outbox.close()
    assert status.snapshot().dropped == {"events": 251}


def test_when_the_buffer_is_full_the_oldest_go():
    status = Status()
    outbox = MqttOutbox(EventsSettings(mqtt="mqtt://127.0.0.1", buffer=3), status)
    for number in range(5):
        outbox.send(str(number))
    assert [outbox.take(0.0) for _ in range(4)] == ["2", "3", "4", None]
    outbox.put_back(["2", "3"])  # of those under way only the last has arrived
    outbox.arrived()
    outbox.send("5")
    assert status.snapshot().dropped == {"events": 2}
    assert [outbox.take(0.0) for _ in range(3)] == ["2", "3", "5"]
    outbox.close()
    assert status.snapshot().dropped == {"events": 5}


def test_what_is_left_at_the_end_is_counted_and_ending_takes_its_time_at_most():
    status = Status()
    pytest.importorskip("paho.mqtt.client")
    with socket.socket() as deaf:  # accepts, by the kernel, and never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        url = "mqtt://127.0.0.1:{}/x".format(deaf.getsockname()[1])
        outbox = MqttOutbox(EventsSettings(mqtt=url), status)
        outbox.open()
        outbox.send("one")
        time.sleep(0.2)
        started = time.monotonic()
        outbox.close()
        assert time.monotonic() - started < 8
    assert status.snapshot().dropped == {"events": 1}
    assert "mqtt" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("waiting", [0, 1, 50])
def test_the_last_word_is_offline_though_the_broker_acknowledges_nothing(make_broker, waiting):
    """paho keeps a message back while twenty are unacknowledged; a polite end would cost the last will."""
    broker = make_broker()
    with Relay(broker) as relay, Listener(broker.port) as listener:
        outbox = outbox_for(relay, Status())
        outbox.open()
        until(lambda: outbox.trouble == "")
        until(lambda: listener.told("door/faces/status") == ["online"])
        relay.is_mute = True
        for number in range(waiting):
            outbox.send(str(number))
        outbox.close()
        until(lambda: listener.told("door/faces/status")[-1] == "offline")
        with Listener(broker.port, "door/faces/status") as late:
            until(lambda: late.retained == {"door/faces/status": "offline"})


def test_ending_in_the_middle_of_an_attempt_is_no_trouble_of_the_brokers():
    pytest.importorskip("paho.mqtt.client")
    status = Status()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        url = "mqtt://127.0.0.1:{}/x".format(deaf.getsockname()[1])
        outbox = MqttOutbox(EventsSettings(mqtt=url), status)
        outbox.open()
        with deaf.accept()[0] as connection:
            assert connection.recv(1)
            outbox.close()
    assert status.snapshot().notes == ()


def test_something_else_than_a_broker_on_the_port():
    """An HTTP server, noise, and noise after a polite yes: nothing arrives, and delivery goes on trying."""
    pytest.importorskip("paho.mqtt.client")
    random = np.random.RandomState(1)
    answers, status = [], Status()

    def serve(listener):
        while len(answers) < 40:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                noise = random.bytes(random.randint(1, 200))
                polite = b"\x20\x02\x00\x00"  # CONNACK
                kinds = (b"HTTP/1.1 400 Bad Request\r\n\r\n", noise, polite + noise, polite)
                answers.append(kinds[len(answers) % 4])
                connection.sendall(answers[-1])

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        url = "mqtt://127.0.0.1:{}/x".format(listener.getsockname()[1])
        outbox = MqttOutbox(EventsSettings(mqtt=url), status)
        outbox.open()
        outbox.send("one")
        server.join(30.0)
        assert len(answers) == 40 and outbox._thread.is_alive()
    outbox.close()
    assert status.snapshot().dropped == {"events": 1}


def password_lines(tmp_path):
    """A broker's configuration that lets in door with the password s3cret."""
    tool = shutil.which("mosquitto_passwd")
    require(tool, "mosquitto_passwd (apt install mosquitto)")
    path = tmp_path / "passwd"
    subprocess.check_call([tool, "-b", "-c", str(path), "door", "s3cret"])
    return "allow_anonymous false", "password_file {}".format(path)


def test_a_user_and_a_password(make_broker, tmp_path):
    broker, status = make_broker(*password_lines(tmp_path)), Status()
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    outbox = outbox_for(broker, status, mqtt_user="door", mqtt_password_file=str(secret))
    outbox.open()
    outbox.send("one")
    until(lambda: any("refuses us" in note.text for note in status.snapshot().notes))
    time.sleep(0.5)  # several more attempts
    outbox.close()
    assert len(status.snapshot().notes) == 1, "told once"
    assert "wrong" not in status.snapshot().notes[0].text
    assert "events.mqtt_password_file" in status.snapshot().notes[0].text
    assert status.snapshot().dropped == {"events": 1}
    secret.write_text("s3cret\n")
    status = Status()
    outbox = outbox_for(broker, status, mqtt_user="door", mqtt_password_file=str(secret))
    outbox.open()
    outbox.send("two")
    until(lambda: outbox.is_empty)
    outbox.close()
    assert status.snapshot().dropped == {}


@pytest.fixture
def certificate(tmp_path):
    """Function: a certificate for a name, signed by itself, and its key."""
    tool = shutil.which("openssl")
    require(tool, "openssl")

    def make(name):
        key, path = tmp_path / (name + ".key"), tmp_path / (name + ".pem")
        subject = ["-subj", "/CN=" + name, "-addext", "subjectAltName=DNS:" + name]
        command = [tool, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        files = ["-keyout", str(key), "-out", str(path)]
        subprocess.check_call(command + files + subject, stderr=subprocess.DEVNULL)
        return path, key

    return make


def test_encryption(make_broker, certificate, tmp_path):
    path, key = certificate("localhost")
    other, _ = certificate("elsewhere")
    broker = make_broker(
        "allow_anonymous true", "certfile {}".format(path), "keyfile {}".format(key)
    )
    url = "mqtts://{}:{}/door/faces"
    trusting, doubting, mistaken = Status(), Status(), Status()
    for host, ca_file, status in (
        ("localhost", path, trusting),
        ("localhost", other, doubting),
        ("127.0.0.1", path, mistaken),  # not the name in the certificate
    ):
        values = {"mqtt": url.format(host, broker.port), "mqtt_ca_file": str(ca_file)}
        outbox = MqttOutbox(EventsSettings(**values), status)
        outbox.open()
        outbox.send("one")
        until(lambda: status.snapshot().notes)
        if status is trusting:
            until(lambda: outbox.is_empty)
        outbox.close()
    assert trusting.snapshot().dropped == {}
    assert doubting.snapshot().dropped == {"events": 1}
    assert mistaken.snapshot().dropped == {"events": 1}
    for status in (doubting, mistaken):
        assert "is not trusted" in status.snapshot().notes[0].text, status.snapshot().notes
