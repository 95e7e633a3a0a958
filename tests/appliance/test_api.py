"""docs/api.md and what is really served are held to each other."""

import json
import os
import re

from pictures import picture
from programs import samples, used
from webclient import get, open_web

from edge_app.appliance.metrics import Metrics

DOCUMENT = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "api.md")
FREE_KEYS = ("steps_ms", "dropped", "waiting", "restarts", "power.temperatures_c")


def documented(heading):
    """The first column of the table under a heading."""
    with open(DOCUMENT, encoding="utf-8") as file:
        section = file.read().split("\n## " + heading + "\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def paths(value, path=""):
    """The fields of a JSON value, in the document's way of writing them."""
    if isinstance(value, dict):
        if path == "power":
            yield path
        for key, one in value.items():
            name = "*" if path in FREE_KEYS else key
            for found in paths(one, "{}.{}".format(path, name) if path else name):
                yield found
    elif isinstance(value, list):
        assert value, path + ": an empty list shows no fields"
        for one in value:
            for found in paths(one, path + "[]"):
                yield found
    else:
        yield path


def test_every_field_of_the_status_is_described_and_the_other_way_round():
    status, _ = used()
    with open_web(status) as display:
        display.show(picture())
        _, body = get(display.url + "/api/status")
    names = documented("/api/status")
    assert len(names) == len(set(names))
    assert sorted(set(paths(json.loads(body.decode())))) == sorted(names)


def test_every_field_is_there_from_the_start():
    with open_web() as display:
        _, early = get(display.url + "/api/status")
        display.show(picture())
        _, late = get(display.url + "/api/status")
    assert sorted(json.loads(early.decode())) == sorted(json.loads(late.decode()))


def test_every_metric_is_described_and_the_other_way_round():
    status, meter = used()
    with Metrics(status, meter) as metrics:
        metrics.show(picture())
        told = {key[0] for key in samples(metrics.render()) if key[0].startswith("edge_app_")}
    told = {re.sub(r"_(bucket|count|sum)$", "", name) for name in told}
    told -= {"edge_app_latency_seconds_created"}
    assert {name.split("{")[0] for name in documented("/metrics")} == told


def test_every_address_answers():
    status, meter = used()
    with Metrics(status, meter) as metrics, open_web(status, metrics) as display:
        display.show(picture())
        with open(DOCUMENT, encoding="utf-8") as file:
            table = file.read().split("\n## ")[0]
        addresses = re.findall(r"^\| `(/[^`]*)` \|", table, re.MULTILINE)
        assert len(addresses) == 7
        for address in addresses:
            if address != "/stream.mjpg":  # which never ends
                code, _ = get(display.url + address)
                assert code in (200, 503) and (code == 200 or address == "/snapshot.jpg")
