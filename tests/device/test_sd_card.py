"""From NVIDIA's image to a running service: image, flash, first boot with a power cut in it, a deploy with two.

The tests are one story, told in order on one card.
"""

import json
import subprocess
import time

import pytest
from factory import CARD_MB, SLOW, USER, next_release
from machine import SERIAL

FIRST_BOOT_S = 2700.0
FRAMES_S = 900.0
INSTALL = "tar -xOf {0}.tar activate.sh >activate.sh; sudo env {1} sh activate.sh install {0}.tar"
# Its own page, which is for itself only: the faces that are on the screen now.
FACES = """python3 -c "
import json, urllib.request
page = urllib.request.urlopen('http://127.0.0.1:8080/api/status', timeout=60)
faces = json.load(page)['faces']
print(faces)
raise SystemExit(not faces)" """
pytestmark = pytest.mark.slow


def show(device, name, unit="edge-app.service"):
    """A property of a unit."""
    command = "systemctl show --value -p {} {}".format(name, unit)
    return device.run(command).stdout.strip()


def test_the_power_is_cut_in_the_middle_of_the_first_boot(device, figures):
    device.boot()
    figures("power on to login of the new user, first boot", device.boot_s)
    waited = device.wait_for(
        "sudo test -e /opt/edge-app/releases/.partial/manifest", FIRST_BOOT_S, 1.0
    )
    figures("login to the release being unpacked", waited)
    time.sleep(5)
    device.cut()


def test_the_next_boot_goes_on_to_a_running_service(device, figures):
    device.boot()
    figures("power on to login, second boot", device.boot_s)
    started = time.monotonic()
    done = "! test -e /opt/edge-app/first-boot && ! systemctl is-active -q edge-app-first-boot && "
    device.wait_for(done + "systemctl is-active -q edge-app", FIRST_BOOT_S, 20.0)
    figures(
        "login to the first boot being done: service ready and watched", time.monotonic() - started
    )
    assert show(device, "NRestarts") == "0"
    log = device.run("sudo journalctl -b -u edge-app-first-boot --no-pager -o cat").stdout
    assert "DEPLOYED: test-1 looks at" in log and "first boot: done" in log


def test_the_device_is_a_cortex_a57_that_looks_at_frames(device):
    assert device.run("uname -m").stdout.strip() == "aarch64"
    assert "0xd07" in device.run("cat /proc/cpuinfo").stdout
    before = show(device, "WatchdogTimestampMonotonic")
    device.wait_for(
        "systemctl show -p StatusText edge-app | grep -E 'detect [0-9.]+ fps'", FRAMES_S, 1.0
    )
    print("\n" + show(device, "StatusText"))
    device.wait_for(
        "test $(systemctl show --value -p WatchdogTimestampMonotonic edge-app) -gt {}".format(
            before
        ),
        FRAMES_S,
    )


def test_the_device_finds_the_faces_of_the_clip(device):
    device.wait_for(FACES, FRAMES_S, 1.0)


def test_the_shipped_network_runs_there_too(device, figures):
    """On a picture, as a service it would be too slow here."""
    program = "cd /opt/edge-app/current && venv/bin/python -m edge_app detect --json --threshold 0.5"
    program += " --set detector.threads=1 --set detector.model=engines/ssd_mobilenet_v2.onnx "
    picture = "venv/lib/python3.11/site-packages/edge_app/data/astronaut.jpg"
    said = figures.timed("detect, one picture", device.run, program + picture, True, FRAMES_S)
    found = json.loads(said.stdout.splitlines()[-1])
    assert len(found["faces"]) == 1, said.stdout


def test_the_device_has_become_one_of_its_own(device):
    assert device.run("hostname").stdout.strip() == "edge-" + SERIAL
    assert device.run("cat /etc/hostname").stdout.strip() == "edge-" + SERIAL
    size_mb = int(device.run("df -m --output=size / | tail -1").stdout)
    assert size_mb > 0.9 * CARD_MB
    assert "/var/swap.edge-app" in device.run("cat /proc/swaps").stdout
    assert device.run("sudo whoami").stdout.strip() == "root"
    assert USER in device.run("id").stdout
    hashed = device.run("sudo getent shadow " + USER).stdout.split(":")[1]
    assert hashed == "*"
    assert (
        device.run("ls /etc/systemd/system/multi-user.target.wants").stdout.count("first-boot") == 0
    )


def test_nobody_logs_in_with_a_password(device):
    offered = subprocess.run(
        ["ssh", "-S", "none", "-o", "PubkeyAuthentication=no", "-o", "LogLevel=INFO"]
        + device.ssh("true")[1:],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert offered.returncode == 255
    assert "Permission denied (publickey)" in offered.stderr


@pytest.mark.parametrize("name, moment", [("test-2", "switched"), ("test-3", "unpacked")])
def test_a_power_cut_in_a_deploy_leaves_the_old_or_the_new_release(
    device, first_release, workshop, figures, name, moment
):
    """The power goes when ``current`` has just been turned to the new release, or while that is being unpacked."""
    before = device.run("readlink /opt/edge-app/current").stdout.strip()
    device.send(next_release(first_release, name, workshop), name + ".tar")
    signs = {
        "switched": "test $(readlink /opt/edge-app/current) = releases/" + name,
        "unpacked": "test -e /opt/edge-app/releases/.partial/systemd",
    }
    # It looks all the time and must not take the deploy's from it.
    watch = "renice -n 19 $$ >/dev/null; until {}; do sleep 0.02; done; echo NOW"
    watch = watch.format(signs[moment])
    install = INSTALL.format(name, SLOW)
    with subprocess.Popen(
        device.ssh("({{ {}; }} >install.log 2>&1 </dev/null &); {}".format(install, watch)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as watching:
        assert watching.stdout.readline() == b"NOW\n"
        device.cut()
    device.boot()
    figures("power on to login after a cut ({})".format(moment), device.boot_s)
    after = device.run("readlink /opt/edge-app/current").stdout.strip()
    print("\nbefore {}, after the cut {}".format(before, after))
    assert after in (before, "releases/" + name)
    whole = "cd /opt/edge-app/current && test -e complete && grep -v wheels/ manifest | sha256sum -c --quiet"
    assert device.run("sudo sh -c '{}'".format(whole)).stdout == ""
    waited = device.wait_for("systemctl is-active -q edge-app", FIRST_BOOT_S)
    figures("login to the service being ready", waited)


def test_the_deploy_that_was_cut_succeeds_when_it_is_repeated(device, figures):
    name = "test-3"
    started = time.monotonic()
    said = device.run(INSTALL.format(name, SLOW), timeout_s=FIRST_BOOT_S).stdout
    figures("a deploy, on the device", time.monotonic() - started)
    assert "DEPLOYED: test-3 looks at" in said
    device.shut_down()
