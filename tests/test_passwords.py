"""No password is told: not by a camera's name, an error, a setting, the page, events, statistics, a log."""

import json
import re
import signal

import pytest
from models import make_bright
from test_cli import stop

from edge_app.appliance import bundle, checks_camera, doctor
from edge_app.appliance.machine import Machine
from edge_app.camera import open_camera
from edge_app.cli import main
from edge_app.config import CameraSettings, Given, resolve
from edge_app.errors import CameraError, StageError
from edge_app.nvidia.jetson import JetsonCamera
from edge_app.passwords import hide, logins

URIS = [
    ("rtsp://me:{}@host/x", "geheim"),
    ("rtsp://me:{}@host/x", "a@b"),
    ("rtsp://me:{}@cam/stream", "pa/ss"),
    ("rtsp://me:{}@cam/stream", "p@s/s?1#2"),
    ("rtsp://:{}@cam/stream", "geheim"),
    ("mqtt://me:{}@broker/faces", "geheim"),
    ("https://{}@github.com/x", "ghp_geheim"),
    ("http://h/x,rtsp://me:{}@h", "geheim"),
    ("rtsp://cam/s?user=a&psw={}", "geheim"),
    ("rtsp://host/user=admin&password={}&channel=1", "geheim"),
    ("rtsp://host/live?usr=a&PWD={}", "geheim"),
    ("rtsp://cam/s?loginuse=a&loginpas={}&x=1", "geheim"),
    ("rtsp://cam/s?user=a&pass={}&channel=1", "ge,he;im"),
    ("http://cam/video?token={}", "geheim"),
    ("gst://rtspsrc location=rtsp://h/s user-id=u user-pw={} ! decodebin", "geheim"),
    ("gst://rtspsrc location=rtsp://me:{}@h/s ! decodebin", "geheim"),
    ("gst://rtspsrc location=rtsp://h/s proxy-pw={} ! decodebin", "geheim"),
    ('gst://rtspsrc user-pw="{}" location=rtsp://h/s', "mein geheim"),
    ("gst://rtspsrc user-pw = '{}' location=rtsp://h/s", "mein geheim"),
    ('gst://rtspsrc user-pw=(string)"{}" location=rtsp://h/s', 'mein \\" geheim'),
    ("gst://rtspsrc user-pw={} location=rtsp://h/s", "mein\\ geheim"),
    ("gst://srtsrc uri=srt://h:1 passphrase={}", "geheim"),
    ('{{"password": "{}", "x" : 1}}', "geheim"),
    ('{{"source": "gst://rtspsrc user-pw=\\"{}\\" latency=1"}}', "mein geheim"),
    ('log line cut off: password="{}', "geheim"),
]


@pytest.mark.parametrize("form, password", URIS)
def test_a_password_is_hidden_and_nothing_else(form, password):
    text = form.format(password)
    hidden = hide(text)
    assert hidden == form.format("***")
    assert hide(hidden) == hidden
    for part in re.split(r"\W+", password):
        assert len(part) < 4 or part not in hidden


def test_a_header_is_hidden_to_its_end():
    assert hide("a\nx Authorization: Basic bWU6Z2V=\nb") == "a\nx Authorization: ***\nb"


@pytest.mark.parametrize("form, password", [one for one in URIS if "ghp" not in one[1]])
def test_it_is_found_as_well(form, password):
    assert password in [login.password for login in logins(form.format(password))]


@pytest.mark.parametrize("part", ["://a:", "://a@", "://a/", "pw=", "password='\\\"", "token \t"])
def test_a_megabyte_made_to_take_for_ever_takes_a_moment(part):
    text = part * (1000000 // len(part))
    assert len(hide(text)) < 4 * len(text) and logins(text) is not None


def test_whose_it_is_is_told_by_a_uri():
    assert logins("a rtsp://me:geheim@h/s b") == [("me", "geheim")]


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://10.0.0.7:554/live",
        "v4l2:///dev/video0",
        "test://?faces=6&seconds=0&live=1",
        "gst://videotestsrc ! video/x-raw, width=64 ! x264enc bitrate=500",
        "Check the address, the user and password, and the network (`ffplay` or `vlc` it).",
        "events.mqtt_password_file: /etc/edge-app/mqtt.password: Permission denied",
        "mail me@example.org, or see http://127.0.0.1:8080/",
    ],
)
def test_what_holds_none_stays_as_it_is(text):
    assert hide(text) == text and logins(text) == []


LINE = "gst://rtspsrc location=rtsp://u:{}@h/s user-pw='{}' ! decodebin"


def test_a_camera_is_named_without_its_passwords():
    named = open_camera(CameraSettings(source=LINE.format("PW1", "PW 2"))).name
    assert named == LINE.format("***", "***")
    assert open_camera(CameraSettings(source="rtsp://u:PW1@h/s")).name == "rtsp://u:***@h/s"
    assert JetsonCamera("rtsp://u:PW1@h/s", CameraSettings()).name == "jetson:rtsp://u:***@h/s"


def test_an_error_is_told_without_them():
    error = CameraError('could not set property "location" to "rtsp://u:PW1@h/s"')
    assert str(StageError("camera", error)).endswith('"rtsp://u:***@h/s"')
    assert StageError("camera", error).exit_status == 69


def test_config_prints_none_of_them(capsys):
    source = 'gst://rtspsrc location=rtsp://u:PW1@h user-pw="PW 2" proxy-pw=PW3'
    assert main(["config", "--set", "camera.source=" + source]) == 0
    printed = capsys.readouterr().out
    assert "PW" not in printed and printed.count("***") == 3


@pytest.mark.parametrize("password", ["PW1", "PW/1"])
def test_the_doctor_and_the_archive_tell_none_of_them(password, capsys):
    loaded = resolve([Given("camera.source", "rtsp://u:{}@127.0.0.1:1/s".format(password), "--set")])
    (finding,) = doctor._bounded(checks_camera.presence, loaded, Machine())
    assert "rtsp://u:***@127.0.0.1" in finding.seen and "PW" not in finding.seen + finding.fix
    assert bundle.Secrets(loaded).scrub("seen: {} ".format(password)) == "seen: *** "
    line = resolve([Given("camera.source", LINE.format("PW1", "PW 2"), "--set")])
    assert bundle.Secrets(line).scrub("PW 2 of PW1") == "*** of ***"
    assert "PW" not in bundle._settings(line)


@pytest.mark.parametrize("recovery", ["never", "always"])
def test_a_run_tells_none_of_them(gstreamer, tmp_path, capsys, caplog, recovery):
    """Events, statistics and log of a run: a line with a picture in it, and names like passwords."""
    caplog.set_level("DEBUG")
    line = 'gst://videotestsrc is-live=true pattern=white name="user-pw=PW2" '
    line += '! video/x-raw,width=64,height=48 ! identity name="rtsp://u:PW1@h"'
    stats, events = tmp_path / "stats.json", tmp_path / "events.jsonl"
    arguments = ["run", "--source", line, "--display", "none", "--frames", "5", "--stats", str(stats)]
    arguments += ["--set", "detector.model=" + make_bright(tmp_path), "--verbose"]
    arguments += ["--set", "events.file={}".format(events), "--set", "recovery.mode=" + recovery]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    told = [json.loads(one)["source"] for one in events.read_text().splitlines()]
    assert told and all("user-pw=***" in one and "u:***@h" in one for one in told)
    for text in (stats.read_text(), events.read_text(), printed.out, printed.err, caplog.text):
        assert "PW1" not in text and "PW2" not in text
    assert "u:***@h" in stats.read_text()


def test_the_page_and_the_log_of_a_camera_that_is_away_tell_none(gstreamer, tmp_path):
    """As a service sees it: the camera does not answer, and its error is told everywhere."""
    line = 'gst://rtspsrc location=rtsp://u:PW1@127.0.0.1:1/s user-id=u user-pw="PW 2" ! decodebin'
    seen = []  # of /api/status

    def waits(page):
        seen.append(json.dumps(page))
        return "camera" in page.get("waiting", {})

    status, out, err = stop(
        signal.SIGTERM, waits, "--source", line, "--set", "recovery.mode=always",
        "--set", "detector.model=" + make_bright(tmp_path),
    )  # fmt: skip
    assert status == 0, err
    assert "u:***@127.0.0.1" in seen[-1]
    for text in (seen[-1], out, err):
        assert "PW" not in text
