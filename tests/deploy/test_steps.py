"""What becomes of one device, as far as that is decided on the laptop; with devices: test_fleet_of_boxes.py."""

import contextlib
import threading
import time

import pytest
from conftest import ROOT  # noqa: F401  (puts the project on the path)

from deploy import archive, steps, wheels
from deploy.connection import Said
from deploy.inventory import Device
from deploy.waves import Plan, roll_out, table

FACTS = ["folder=/var/tmp/x", "machine=x86_64", "root=yes", "python=3.11"]


class Fleet:
    """Devices that answer who they are; ``pc`` has the only Python for which there is no release."""

    class Connection:
        sent_bytes = 0

        def run(self, line, timeout_s):
            return Said(0, FACTS)

    def map(self, task, devices):
        return [task(device) for device in devices]

    @contextlib.contextmanager
    def connection(self, device):
        yield self.Connection()


@pytest.mark.parametrize("error", [wheels.ReleaseError, archive.ArchiveError])
def test_a_release_that_cannot_be_built_costs_its_device_and_not_the_table(error):
    def find(target):
        raise error("pip download failed: no network")

    fleet, releases = Fleet(), steps.Releases(find)

    def one(device):
        def task(connection, facts):
            if device.name == "pc":
                return steps.deploy(connection, facts, device, releases)
            return steps.Outcome(device.name, "deployed")

        return steps.outcome_of(fleet, device, task)

    devices = [Device("nano-1"), Device("pc"), Device("nano-2")]
    outcomes = roll_out(devices, Plan(), lambda some: fleet.map(one, some), print)
    assert [(one.device, one.kind) for one in outcomes] == [
        ("nano-1", "deployed"),
        ("pc", "refused"),
        ("nano-2", "deployed"),
    ]
    assert "pip download failed: no network" in table(outcomes)


RAN = ["unpacking", "release=1.1.0", "rate=23.4"]
WORDS = {
    0: ("ROLLED BACK to 1.1.0, which looks at 23.4 frames a second", "rolled back by hand"),
    1: ("FAILED: 1.2.0: no frame; ROLLED BACK to 1.1.0, which looks at 23.4 ...", "rolled back"),
    2: ("REFUSED: 1.2.0 does not pass its rehearsal; 1.1.0 runs as before", "refused"),
    3: ("FAILED: 1.2.0: no frame; ROLLED BACK to 1.1.0, which is not healthy either", "failed"),
    75: ("another deploy is at work on this device", "busy"),
}


@pytest.mark.parametrize("status", sorted(WORDS))
def test_a_device_is_judged_by_status_facts_and_last_words(status):
    class Connection:
        def put(self, data, path):
            assert data.startswith(b"#!/bin/sh") and path == "/tmp/x/activate.sh"

        def run(self, line, timeout_s):
            return Said(status, (RAN if status in (0, 1, 3) else []) + [WORDS[status][0]])

    facts = steps.Facts("/tmp/x", "aarch64", ["3.6"], "")
    found = steps.rollback(Connection(), facts, Device("nano-1"), "")
    ran = status in (0, 1, 3)
    assert (found.kind, found.release) == (WORDS[status][1], "1.1.0" if ran else "")
    assert found.rate_hz == (23.4 if status == 0 else 0)
    assert found.text == (WORDS[status][0] if status else "")


@pytest.mark.parametrize(
    "state,kind",
    [("active", "answered"), ("activating", "waiting"), ("failed", "failed"), ("", "failed")],
)
def test_a_device_that_waits_for_its_camera_has_not_failed(state, kind):
    class Connection:
        def put(self, data, path):
            pass

        def run(self, line, timeout_s):
            return Said(0, ["state=" + state, "status=camera: waiting", "release=1.1.0", "free_mb=9"])

    found = steps.status(Connection(), steps.Facts("/tmp/x", "aarch64", ["3.6"], ""), Device("a"))
    assert (found.kind, found.release) == (kind, "1.1.0") and "camera: waiting" in found.text


def test_one_release_is_built_once_however_many_ask(monkeypatch):
    built = []

    def find(target):
        time.sleep(0.1)
        built.append(target)
        if target == "cp311-x86_64":
            raise wheels.ReleaseError("no network")
        return target + ".tar"

    monkeypatch.setattr(archive, "read_release", lambda path: "release of " + path)
    releases, seen = steps.Releases(find), []

    def ask(target):
        try:
            seen.append(releases.of(target))
        except wheels.ReleaseError as error:
            seen.append(str(error))

    targets = ["cp36-aarch64", "cp311-x86_64"] * 3
    threads = [threading.Thread(target=ask, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == ["cp311-x86_64", "cp36-aarch64"]
    assert sorted(set(seen)) == ["no network", "release of cp36-aarch64.tar"] and len(seen) == 6
