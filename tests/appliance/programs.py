"""What a program that has run for a while knows of itself."""

import time

from prometheus_client.parser import text_string_to_metric_families

from edge_app.appliance.sensors import Reading
from edge_app.appliance.status import Status
from edge_app.meter import Meter

HOT = Reading(
    0.0, {"CPU-therm": 71.5, "GPU-therm": 64.0}, 71.5, 0.63, 0.4, ("thermal: CPU held back",),
    2, "0 MAXN", 4.87, 7.5, "hot: 10 frames a second"
)  # fmt: skip


def samples(text):
    """{(name, label values): value}"""
    return {
        (one.name,) + tuple(sorted(one.labels.values())): one.value
        for family in text_string_to_metric_families(text.decode("utf-8"))
        for one in family.samples
    }


def used():
    """A program that has shown three pictures, on a board with sensors."""
    status, meter = Status(), Meter()
    status.measured(HOT)
    status.restarted("camera")
    status.restarted("camera")
    status.dropped("heat", 9)
    status.waiting("events", "the broker")
    now = time.monotonic()
    for event, number in (("camera", 8), ("detect", 5), ("display", 3)):
        for index in range(number):
            meter.tick(event, now - 1.0 + index * 0.1)
    meter.add("network", 0.25)
    return status, meter
