"""Which devices there are, and what stands nearest to a host wins."""

import pytest

from deploy import steps
from deploy.inventory import InventoryError, devices_named, read_inventory

FLEET = """
defaults:
  user: nvidia
  rate_hz: 10
  settings: {camera.rate_hz: 30, privacy.mode: none}
groups:
  shop:
    hosts: [nano-1, nano-2]
    user: shop
    settings: {privacy.mode: blur}
  door:
    hosts: [nano-3]
hosts:
  nano-1: {address: 10.0.0.11, settings: {camera.source: "csi://1"}}
  nano-4:
"""


@pytest.fixture
def fleet(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return str(path)


def test_host_over_group_over_defaults(fleet):
    devices = {device.name: device for device in read_inventory(fleet)}
    assert sorted(devices) == ["nano-1", "nano-2", "nano-3", "nano-4"]
    first = devices["nano-1"]
    assert (first.address, first.user, first.rate_hz) == ("10.0.0.11", "shop", 10)
    settings = {"camera.rate_hz": 30, "privacy.mode": "blur", "camera.source": "csi://1"}
    assert first.settings == settings
    assert devices["nano-3"].user == "nvidia" and devices["nano-3"].address == "nano-3"
    assert devices["nano-4"].settings["privacy.mode"] == "none"


def test_a_group_is_its_hosts(fleet):
    assert [device.name for device in read_inventory(fleet, "shop")] == ["nano-1", "nano-2"]


def test_options_of_the_command_line_are_for_where_the_file_says_nothing(fleet):
    devices = read_inventory(fleet, "door", {"user": "me", "port": 2222})
    assert (devices[0].user, devices[0].port) == ("nvidia", 2222)


@pytest.mark.parametrize(
    "text, words",
    [
        ("hosts: {a: {adress: b}}", "adress: not known"),
        ("host: {}", "host: not known"),
        ("hosts: [a]", "must hold"),
        ("hosts: {a: {rate_hz: fast}}", "not a number"),
        ("hosts: {a: {settings: {camera: 1}}}", "section.key"),
        ("hosts: {", "fleet.yaml"),
        ("", "no hosts"),
    ],
)
def test_a_wrong_inventory_is_one_clear_line(tmp_path, text, words):
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(InventoryError) as error:
        read_inventory(str(path))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_group_or_file_is_named(fleet):
    with pytest.raises(InventoryError, match="no group attic; there are shop, door"):
        read_inventory(fleet, "attic")
    with pytest.raises(InventoryError, match="No such file"):
        read_inventory("/nowhere/fleet.yaml")


@pytest.mark.parametrize(
    "word, user, address, port",
    [
        ("nano-1", "", "nano-1", 0),
        ("me@nano-1:2222", "me", "nano-1", 2222),
        ("root@[fe80::1]:22", "root", "fe80::1", 22),
    ],
)
def test_hosts_by_name(word, user, address, port):
    device = devices_named([word, word])[0]
    assert (device.user, device.address, device.port) == (user, address, port)
    assert len(devices_named([word, word])) == 1


@pytest.mark.parametrize("word", ["-oProxyCommand=x", "a b", "nano:ssh", "@nano"])
def test_what_is_no_host_is_refused(word):
    with pytest.raises(InventoryError, match="not a host"):
        devices_named([word])


def test_settings_of_a_device_are_laid_over_the_default():
    import yaml

    device = devices_named(["nano-1"], {"settings": {"camera.source": "csi://1", "web.port": 80}})[
        0
    ]
    text = steps.configuration(b"camera:\n  source: auto  # as it is\n  rate_hz: 30.0\n", device)
    wanted = {"camera": {"source": "csi://1", "rate_hz": 30.0}, "web": {"port": 80}}
    assert yaml.safe_load(text.decode()) == wanted
