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
