"""The doctor and its archive on a device: the real program as a real service under real systemd."""

import base64
import io
import json
import tarfile
import time

import pytest
from box.boxes import Box, base_tree, require_boxes
from box.release import needs_layer, program_layer

TOKEN = "0123-a-token-that-nobody-may-see"
SETTINGS = """
camera: {{source: "test://", width_px: 320, height_px: 240, rate_hz: 10}}
detector: {{model: /opt/edge-app/current/engines/ssd_mobilenet_v2.onnx, threads: 1}}
display: {{kind: web}}
web: {{token: "{}"}}
""".format(TOKEN)
CHECK = (
    "/opt/edge-app/current/venv/bin/python -m edge_app check --config /etc/edge-app/edge-app.yaml "
)
PATIENCE_S = 90.0  # for a machine that does a lot besides


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A box whose service runs."""
    require_boxes()
    tree = base_tree()
    program = program_layer(tmp_path_factory.mktemp("program"), tree)
    with Box("check", 45, tree, layers=[program, needs_layer(tree)]) as machine:
        machine.write("/etc/edge-app/edge-app.yaml", SETTINGS, mode="640")
        machine.run(
            "useradd --system --home-dir /var/lib/edge-app --shell /usr/sbin/nologin -G video edge-app"
            " && chown root:edge-app /etc/edge-app/edge-app.yaml && systemctl daemon-reload"
        )
        machine.run("systemctl enable --now edge-app", timeout_s=PATIENCE_S)
        yield machine


def check(box, command=CHECK):
    """Exit status and findings by name."""
    done = box.run(command + "--json", timeout_s=PATIENCE_S, check=False)
    tree = json.loads(done.stdout)
    return done.returncode, {one["name"]: one for one in tree["findings"]}


def test_a_service_that_runs_is_found_well_and_not_disturbed(box):
    before = box.run("systemctl show edge-app -p MainPID,NRestarts").stdout
    status, found = check(box)
    failed = [one for one in found.values() if one["state"] == "failure"]
    assert status == 0 and not failed, failed
    assert found["service"]["state"] == "ok" and "active (running)" in found["service"]["seen"]
    assert "edge-app.service, PID" in found["web port"]["seen"]
    assert found["disk for state"]["state"] == "ok"
    assert found["settings"]["state"] == "ok"
    assert box.run("systemctl show edge-app -p MainPID,NRestarts").stdout == before


def test_the_archive_of_a_running_service(box, tmp_path):
    box.run("logger -t edge-app token={}".format(TOKEN))
    box.run(CHECK + "--bundle ~/support.tar.gz", timeout_s=PATIENCE_S)
    packed = box.run("base64 ~/support.tar.gz").stdout
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
        files = {
            one.name.split("/")[1]: archive.extractfile(one).read().decode() for one in archive
        }
    for name, text in files.items():
        assert TOKEN not in text, name
    assert "Started edge-app" in files["service.log"] or "live view" in files["service.log"]
    assert "ActiveState=active" in files["service.txt"]
    assert json.loads(files["status.json"])
    assert "edge_app" in files["metrics.txt"]


def test_without_the_services_settings_it_says_where_they_are(box):
    _, found = check(box, CHECK.split(" --config")[0] + " ")
    assert found["settings"]["fix"] == [CHECK.strip()]


def test_a_wrong_setting_that_has_ended_the_service(box):
    box.run("cp /etc/edge-app/edge-app.yaml /run/right.yaml")
    box.write("/etc/edge-app/edge-app.yaml", "camera: {source: nosuch://x}\n", mode="640")
    box.run("chown root:edge-app /etc/edge-app/edge-app.yaml; systemctl restart edge-app || true")
    deadline = time.monotonic() + PATIENCE_S
    while box.run("systemctl is-active edge-app", check=False).stdout.strip() != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    status, found = check(box, CHECK.replace("/etc/edge-app/edge-app.yaml", "/run/right.yaml"))
    assert status == 1 and found["service"]["state"] == "failure"
    assert "78: a wrong setting" in found["service"]["seen"]
