"""The units and the settings of a device, as files."""

import pathlib
import re

import pytest
from unit_rules import OLD, complaints, parse

from edge_app import config
from edge_app.appliance.recovery import RESTART_FILE
from edge_app.errors import ConfigError

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
UNITS = sorted((PROJECT / "systemd").glob("*.*"))
UNITS = [path for path in UNITS if path.is_file()]
ADDITIONS = sorted((PROJECT / "systemd").glob("*.d/*.conf"))
SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600}


def values(path, name):
    return [one.value for one in parse(path.read_text()) if one.name == name]


def seconds(path, name):
    (value,) = values(path, name)
    number, unit = re.match(r"(\d+)(\w*)$", value).groups()
    return int(number) * SECONDS[unit]


SERVICE = PROJECT / "systemd/edge-app.service"


def test_there_are_units():
    names = {path.name for path in UNITS}
    assert names == {
        "edge-app.service",
        "edge-app-again.timer",
        "edge-app-camera.path",
        "edge-app-camera.service",
    }
    assert ADDITIONS


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_says_nothing_that_systemd_237_does_not_know(path):
    assert complaints(path.read_text()) == []


@pytest.mark.parametrize("path", ADDITIONS, ids=lambda path: path.name)
def test_an_addition_says_only_what_systemd_237_does_not_know(path):
    assert [one for one in parse(path.read_text()) if one.name in OLD[one.section]] == []


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("RestrictSUIDSGID=yes", "line 2: RestrictSUIDSGID= in [Service] is not known"),
        ("OOMPolicy=continue", "OOMPolicy= in [Service] is not known"),
        ("WatchdogSecs=3", "WatchdogSecs= in [Service] is not known"),
        ("StartLimitBurst=3", "StartLimitBurst= in [Service] is not known"),
        ("SystemCallFilter=@system-service", "@system-service is no group"),
        ("SystemCallFilter=~@mount \\\n  @pkey", "line 3: @pkey is no group"),
        (
            "StandardOutput=append:/var/log/edge-app",
            "StandardOutput=append:/var/log/edge-app is not",
        ),
        ("Type=exec", "Type=exec is not known"),
        ("Nice=-5", None),
        ("# ProtectClock=yes", None),
        ("SystemCallFilter=~@mount @swap", None),
        ("Type=notify", None),
    ],
)
def test_the_rules_find_what_is_too_new(line, complaint):
    found = complaints("[Service]\n" + line)
    assert len(found) == (complaint is not None)
    assert not found or complaint in found[0]


def test_the_watchdog_waits_until_the_program_itself_has_given_up():
    assert seconds(SERVICE, "WatchdogSec") >= config.RecoverySettings().give_up_s + 5


def test_a_camera_that_dies_again_and_again_is_no_crash_loop():
    """It was alive, was dead for give_up_s, and the program is started anew."""
    cycle_s = config.RecoverySettings().give_up_s + seconds(SERVICE, "RestartSec")
    (burst,) = values(SERVICE, "StartLimitBurst")
    assert seconds(SERVICE, "StartLimitIntervalSec") / cycle_s <= int(burst)


def test_the_path_unit_watches_what_the_program_writes():
    assert values(PROJECT / "systemd/edge-app-camera.path", "PathChanged") == [RESTART_FILE]


def test_the_settings_of_a_device_are_right_and_keep_the_page_at_home():
    path = PROJECT / "deploy/edge-app.yaml"
    settings = config.resolve(config.read_file(str(path))).settings
    assert settings.web.host == "127.0.0.1"
    assert settings.detector.model.startswith("/opt/edge-app/current/engines/")
    (state,) = values(SERVICE, "StateDirectory")
    assert settings.detector.engines.startswith("/var/lib/{}/".format(state))


def test_a_mistake_in_the_settings_is_found(tmp_path):
    text = (PROJECT / "deploy/edge-app.yaml").read_text().replace("source:", "sauce:")
    path = tmp_path / "edge-app.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="sauce"):
        config.resolve(config.read_file(str(path)))
