"""The support archive: what is in it, and that no secret is, wherever it was planted."""

import base64
import http.server
import os
import stat
import tarfile
import threading

import pytest
from trees import loaded

from edge_app.appliance import bundle, doctor
from edge_app.appliance.finding import warning
from edge_app.errors import DisplayError

TOKEN = "tok3n-of-the-page"
CAMERA = "p%40ss word&9".replace(" ", "")  # as it stands in the URI
PLAIN = "p@ssword&9"
STREAM = 'str"eam-pass'
BROKER = "br0ker-pass"
OTHER = "somebody-elses"
SECRETS = (TOKEN, CAMERA, PLAIN, STREAM, BROKER, OTHER)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "mqtt.password").write_text(BROKER + "\n")
    return loaded(
        "camera.source=rtsp://admin:{}@10.9.8.7/live".format(CAMERA),
        "web.token={}".format(TOKEN),
        "rtsp.password='{}'".format(STREAM),
        "events.mqtt=mqtts://10.9.8.7/faces",
        "events.mqtt_password_file={}".format(tmp_path / "mqtt.password"),
        "web.port=1",
    )


@pytest.fixture
def talkative(tmp_path, monkeypatch):
    """Logs that hold every secret in every form we can think of."""
    basic = base64.b64encode("admin:{}".format(PLAIN).encode()).decode()
    lines = [
        "1 tegra-vi opened rtsp://admin:{}@10.9.8.7/live".format(CAMERA),
        "2 imx219 plain {} {}".format(PLAIN, BROKER),
        "3 thermal GET /api/status?token={} HTTP/1.1".format(TOKEN),
        "4 usb 1-1 Authorization: Basic {}".format(basic),
        "5 oom password={} user-pw={} x?pass={}".format(OTHER, OTHER, OTHER),
        '6 mmc {{"password": "{}", "Token" : "{}"}}'.format(OTHER, OTHER),
        "7 ext4 http://bob:{}@elsewhere/x".format(OTHER),
        "8 nvgpu " + STREAM.replace('"', '\\"'),
        "9 nvgpu harmless line",
    ]
    script = "#!/bin/sh\ncat <<'END'\n{}\nEND\n".format("\n".join(lines))
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("journalctl", "dmesg", "systemctl"):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("GST_PLUGIN_PATH", "/x?password=" + OTHER)
    problem = warning("camera", "rtsp://admin:{}@10.9.8.7 is gone".format(CAMERA), "ping " + PLAIN)
    topic = doctor.Topic("quick", (lambda loaded, machine: [problem],))
    monkeypatch.setattr(doctor, "TOPICS", (topic,))
    return basic


def unpacked(path):
    with tarfile.open(str(path)) as archive:
        return {one.name: archive.extractfile(one).read().decode() for one in archive.getmembers()}


def test_no_secret_is_in_the_archive(tmp_path, settings, talkative):
    path = tmp_path / "out.tar.gz"
    bundle.write(str(path), settings)
    files = unpacked(path)
    assert len(files) >= 8
    for name, text in files.items():
        for secret in SECRETS + (talkative, STREAM.replace('"', '\\"')):
            assert secret not in text, (name, secret)
    assert "9 nvgpu harmless line" in files["edge-app-support/kernel.log"]
    assert "10.9.8.7/live" in files["edge-app-support/settings.yaml"]
    assert "token: ***" in files["edge-app-support/settings.yaml"]


def test_only_its_owner_may_read_it_and_it_says_what_is_in_it(
    tmp_path, settings, talkative, caplog
):
    caplog.set_level("INFO")
    path = tmp_path / "out.tar.gz"
    bundle.write(str(path), settings)
    assert stat.S_IMODE(os.stat(str(path)).st_mode) == 0o600
    files = unpacked(path)
    listed = files["edge-app-support/README.txt"]
    for name in files:
        assert name.split("/")[1] == "README.txt" or name.split("/")[1] in listed
    assert "left out: status.json: http://127.0.0.1:1/api/status: no program of ours" in listed
    assert "doctor.json" in caplog.text and "before you send it" in caplog.text
    assert os.listdir(str(tmp_path / "bin")) and not list(tmp_path.glob("*.tmp"))


def test_metrics_and_status_of_the_running_page_are_asked_for_with_the_token(tmp_path, talkative):
    asked = []

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"faces 3, token=" + TOKEN.encode())

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = "web.port={}".format(server.server_address[1])
        bundle.write(str(tmp_path / "out.tar.gz"), loaded(port, "web.token=" + TOKEN))
        server.shutdown()
        thread.join()
    assert asked == [("/api/status", "Bearer " + TOKEN), ("/metrics", "Bearer " + TOKEN)]
    files = unpacked(tmp_path / "out.tar.gz")
    assert files["edge-app-support/metrics.txt"] == "faces 3, token=***"


def test_a_folder_that_is_not_there(tmp_path, talkative):
    with pytest.raises(DisplayError, match="cannot be written to .*No such file"):
        bundle.write(str(tmp_path / "nowhere" / "out.tar.gz"), loaded())


def test_an_archive_that_cannot_take_its_place_leaves_nothing(tmp_path, talkative):
    (tmp_path / "out.tar.gz").mkdir()
    before = sorted(os.listdir(str(tmp_path)))
    with pytest.raises(DisplayError, match="cannot be written to .*Is a directory"):
        bundle.write(str(tmp_path / "out.tar.gz"), loaded())
    assert sorted(os.listdir(str(tmp_path))) == before


def test_every_setting_that_sounds_like_a_secret_is_hidden():
    assert bundle.is_secret("web.token") and bundle.is_secret("rtsp.password")
    assert bundle.is_secret("cloud.api_key") and not bundle.is_secret("events.mqtt_user")
    assert not bundle.is_secret("events.mqtt_password_file")
    text = bundle.Secrets(loaded("web.token=abc")).scrub("abc and abcd")
    assert text == "*** and ***d"
