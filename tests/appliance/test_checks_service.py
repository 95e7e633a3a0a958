"""Screen, page, ports, unit."""

import os
import shutil
import socket
import ssl
import sys

import pytest
from trees import library, loaded, machine

from edge_app.appliance import checks_service
from edge_app.appliance.finding import FAILURE, NOT_NEEDED, OK, WARNING
from edge_app.appliance.machine import Machine

UNIT = {"etc/systemd/system/edge-app.service": "", "run/systemd/system/x": ""}
CONFIG = {"etc/edge-app/edge-app.yaml": ""}


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_without_a_screen_the_page_is_used(tmp_path, no_screen):
    here = machine(tmp_path)
    found = only(checks_service.screen(loaded(), here))
    assert found.state == OK and "http://127.0.0.1:8080 is used instead" in found.seen
    assert only(checks_service.screen(loaded("display.kind=window"), here)).state == FAILURE
    assert only(checks_service.screen(loaded("display.kind=web"), here)).state == NOT_NEEDED


def test_a_screen_that_is_there(tmp_path, screen):
    found = only(checks_service.screen(loaded("display.kind=window"), machine(tmp_path)))
    assert found.state == OK and screen.display in found.seen


def test_a_screen_that_only_the_shell_does_not_know(tmp_path, screen, monkeypatch):
    monkeypatch.delenv("DISPLAY")
    here = machine(
        tmp_path, {"tmp/.X11-unix/X" + screen.display[1:]: "", "tmp/.X11-unix/X9999": ""}
    )
    found = only(checks_service.screen(loaded("display.kind=window"), here))
    assert found.fix == "export DISPLAY=" + screen.display


def test_a_screen_that_does_not_let_us_in(tmp_path, monkeypatch, no_screen):
    monkeypatch.setenv("DISPLAY", ":9999")
    found = only(checks_service.screen(loaded(), machine(tmp_path)))
    assert found.state == WARNING and "does not let us in" in found.seen
    assert "XAUTHORITY" in found.fix


def test_a_port_somebody_else_has_by_the_real_proc():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        taken = checks_service._port("web port", "web.port", port, Machine("/"))
    free = checks_service._port("web port", "web.port", port, Machine("/"))
    assert taken.state == FAILURE and "PID" in taken.seen
    assert taken.fix.endswith("run --set web.port={}".format(port + 1))
    assert free.state == OK


@pytest.mark.parametrize(
    "kind, cure",
    [
        ("rtsp:", "run --set rtsp.port={}"),
        ("rtsp:{}", "run --display rtsp:{}"),
        ("web,rtsp:{}", "run --display web,rtsp:{}"),
    ],
)
def test_another_port_for_the_stream_is_proposed_where_it_was_given(gstreamer, kind, cure):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        here = loaded(
            "display.kind='{}'".format(kind.format(port)), "rtsp.port={}".format(port)
        )
        found = [one for one in checks_service.rtsp(here, Machine("/")) if one.name == "RTSP port"]
    assert only(found).state == FAILURE
    assert found[0].fix.endswith(cure.format(port + 1))


def test_a_port_that_our_own_service_has(tmp_path):
    table = "  sl  local_address\n   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1"
    tree = {
        "proc/net/tcp": table,
        "proc/5/stat": "5 (python) S 1",
        "proc/5/cgroup": "0::/system.slice/edge-app.service",
        "proc/5/fd/x": "",
    }
    here = machine(tmp_path, tree)
    (tmp_path / "proc/5/fd/3").symlink_to("socket:[4711]")
    found = checks_service._port("web port", "web.port", 8080, here)
    assert found.state == OK and "edge-app.service" in found.seen
    assert checks_service._port("web port", "web.port", 0, here).state == NOT_NEEDED
    assert here.is_ours(8080) and not here.is_ours(8081)
    (tmp_path / "proc/5/fd/3").unlink()  # as for anybody but root
    found = checks_service._port("web port", "web.port", 8080, here)
    assert found.state == OK and "it seems by python (edge-app.service, PID 5)" in found.seen
    assert here.is_ours(8080)
    (tmp_path / "proc/5/cgroup").write_text("0::/user.slice")
    assert not here.is_ours(8080)
    found = checks_service._port("web port", "web.port", 8080, here)
    assert found.state == FAILURE and "another user's program" in found.seen


def test_a_connection_that_is_over_does_not_take_a_port(tmp_path):
    table = "  sl  local_address\n   0: 0100007F:1F90 0100007F:9999 06 0:0 0:0 0 0 0 0 1"
    here = machine(tmp_path, {"proc/net/tcp": table})
    assert checks_service._port("web port", "web.port", 8080, here).state == OK


def test_without_aiohttp_there_is_no_page(tmp_path, monkeypatch):
    folder = library(tmp_path, "aiohttp", "raise ImportError('no aiohttp')")
    monkeypatch.setenv("PYTHONPATH", folder)
    found = only(checks_service.web(loaded("display.kind=web"), machine(tmp_path)))
    assert found.state == FAILURE and "no aiohttp" in found.seen
    assert (
        only(checks_service.web(loaded("display.kind=none"), machine(tmp_path))).state == NOT_NEEDED
    )


def test_a_page_for_others_needs_a_token(tmp_path):
    found = checks_service.web(loaded("display.kind=web", "web.host=0.0.0.0"), machine(tmp_path))
    assert [one.state for one in found if one.name == "web.token"] == [FAILURE]
    found = checks_service.web(
        loaded("display.kind=web", "web.host=0.0.0.0", "web.token=abc"), machine(tmp_path)
    )
    assert not [one for one in found if one.state == FAILURE or "abc" in str(one)]


def test_the_stream_for_recorders_is_opened_for_a_moment(tmp_path, gstreamer):
    assert only(checks_service.rtsp(loaded(), machine(tmp_path))).state == NOT_NEEDED
    found = checks_service.rtsp(loaded("display.kind='web,rtsp:'"), machine(tmp_path))
    assert [(one.name, one.state) for one in found] == [("RTSP port", OK), ("RTSP stream", OK)]
    assert "8554" in found[0].seen
    wrong = loaded("display.kind='rtsp:8600'", "rtsp.encoder=nosuchenc", "rtsp.host=0.0.0.0")
    found = checks_service.rtsp(wrong, machine(tmp_path))
    assert [one.state for one in found] == [FAILURE, OK, FAILURE]
    assert "8600" in found[1].seen and "no H.264 encoder works here" in found[2].seen


def test_the_broker_is_reached_or_not(tmp_path):
    assert only(checks_service.events(loaded(), machine(tmp_path))).state == NOT_NEEDED
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        broker = "events.mqtt=mqtt://127.0.0.1:{}/faces".format(server.getsockname()[1])
        assert only(checks_service.events(loaded(broker), machine(tmp_path))).state == OK
    found = only(checks_service.events(loaded(broker), machine(tmp_path)))
    assert found.state == WARNING and "events wait for it" in found.seen
    found = only(checks_service.events(loaded("events.mqtt=http://x"), machine(tmp_path)))
    assert found.state == FAILURE and "is not an address" in found.seen
    gone = "events.mqtt_password_file={}".format(tmp_path / "gone")
    found = only(checks_service.events(loaded(broker, gone), machine(tmp_path)))
    assert found.state == FAILURE and "mqtt_password_file" in found.seen


def files_of_mqtt(tmp_path, owner, mode):
    """A machine with a password file of such an owner, and a service; settings that name the file."""
    user = "edge-app:x:{0}:{0}::/:/bin/sh".format(os.geteuid() + owner)
    here = machine(tmp_path, {"etc/passwd": user, "etc/edge-app/password": "x"})
    (tmp_path / "etc/edge-app/password").chmod(mode)
    return here


@pytest.mark.parametrize(
    "owner, mode, folder, state",
    [
        (0, 0o600, 0o755, OK),
        (1, 0o600, 0o755, FAILURE),  # "root:root 600": root may, the service may not
        (1, 0o644, 0o755, OK),
        (1, 0o644, 0o700, FAILURE),
    ],
)
def test_the_password_must_be_readable_by_the_service(
    tmp_path, monkeypatch, owner, mode, folder, state
):
    here = files_of_mqtt(tmp_path, owner, mode)
    (tmp_path / "etc/edge-app").chmod(folder)
    monkeypatch.setattr(checks_service, "_is_root", lambda: True)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(10)
        broker = "events.mqtt=mqtt://127.0.0.1:{}/faces".format(server.getsockname()[1])
        file = "events.mqtt_password_file=/etc/edge-app/password"
        found = only(checks_service.events(loaded(broker, file), here))
        monkeypatch.setattr(checks_service, "_is_root", lambda: False)
        assert only(checks_service.events(loaded(broker, file), here)).state == OK, "we may"
    assert found.state == state, found
    if state == FAILURE:
        assert "mqtt_password_file" in found.seen and "edge-app may not read it" in found.seen
        assert found.fix.startswith("sudo chown root:edge-app /etc/edge-app/password")


def test_the_authority_of_the_broker_must_be_one(tmp_path):
    here = machine(tmp_path, {"etc/ca.pem": "no certificate"})
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(10)
        broker = "events.mqtt=mqtts://127.0.0.1:{}/faces".format(server.getsockname()[1])
        for name, words in (("/etc/ca.pem", "PEM"), ("/nowhere/ca.pem", "is not there")):
            file = "events.mqtt_ca_file={}".format(name)
            found = only(checks_service.events(loaded(broker, file), here))
            assert found.state == FAILURE, found
            assert "events.mqtt_ca_file: {}".format(name) in found.seen and words in found.seen
            plain = broker.replace("mqtts:", "mqtt:")
            assert only(checks_service.events(loaded(plain, file), here)).state == OK, "not used"
        whole = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
        if os.path.exists(whole):
            shutil.copy(whole, str(tmp_path / "etc/ca.pem"))
            found = only(checks_service.events(loaded(broker, "events.mqtt_ca_file=/etc/ca.pem"), here))
            assert found.state == OK


def test_a_service_that_is_not_installed_or_has_no_settings(tmp_path):
    assert only(checks_service.service(loaded(), machine(tmp_path))).state == NOT_NEEDED


@pytest.mark.parametrize(
    "facts, state, words",
    [
        ("ActiveState=active SubState=running StatusText=30_fps", OK, "active (running), 30_fps"),
        ("ActiveState=failed Result=exit-code ExecMainStatus=78", FAILURE, "78: a wrong setting"),
        (
            "ActiveState=active NRestarts=9 ExecMainStatus=69",
            WARNING,
            "9 times, last ended with status 69",
        ),
        ("ActiveState=inactive", WARNING, "not started"),
        ("ActiveState=active UnitFileState=disabled", WARNING, "not after a reboot"),
    ],
)
def test_what_systemd_says_of_it(tmp_path, monkeypatch, facts, state, words):
    tool = tmp_path / "bin" / "systemctl"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf '%s\\n' {}\n".format(facts))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    here = machine(tmp_path, UNIT)
    found = only(checks_service.service(loaded(), here))
    assert found.state == FAILURE and "its settings" in found.seen
    assert "install -D -m 640 -o root -g edge-app /dev/null" in found.fix, "it must read them"
    found = only(checks_service.service(loaded(), machine(tmp_path, CONFIG)))
    assert found.state == state and words in found.seen


def test_a_systemctl_that_hangs_costs_seconds_only(tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "systemctl"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexec {} -c 'import time; time.sleep(60)'\n".format(sys.executable))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.setattr(checks_service, "_SYSTEMCTL_S", 0.2)
    found = only(checks_service.service(loaded(), machine(tmp_path, UNIT, CONFIG)))
    assert found.state == WARNING and "no answer within 0.2 s" in found.seen
