"""In which order a fleet is deployed to, and when to stop: a canary, then waves."""

import math
from typing import Callable, Dict, List, NamedTuple, Sequence

from deploy.inventory import Device

# What became of a device. Only FAILURES say something about the release: a device that is down does not.
DONE = ("deployed", "unchanged", "rolled back by hand", "provisioned", "answered")
FAILURES = ("failed", "rolled back", "refused", "lost")


class Outcome(NamedTuple):
    """What became of one device."""

    device: str
    kind: str  # of DONE or FAILURES, or "unreachable", "busy", "not tried"
    text: str = ""  # one line
    log: Sequence[str] = ()  # what the device said, where that helps
    release: str = ""  # that runs there now
    rate_hz: float = 0.0
    seconds: float = 0.0
    sent_bytes: int = 0


class Plan(NamedTuple):
    """How careful to be."""

    canary: int = 1  # devices that go first, one after the other
    wave: str = ""  # "10%" of all, or a number; by default a tenth, ten at least
    max_fail: int = 0  # more failures than these end it


def wave_size(wave: str, total: int) -> int:
    """How many devices a wave has.

    Raises:
        ValueError: it is neither a share nor a number.
    """
    if not wave:
        return max(10, math.ceil(total / 10))
    share = wave.endswith("%")
    number = float(wave[:-1] if share else wave)
    if not number > 0 or math.isinf(number) or (share and number > 100):
        raise ValueError("WAVE={}: write a share such as 10% or a number of devices".format(wave))
    return max(1, math.ceil(total * number / 100) if share else int(number))


Deploy = Callable[[Sequence[Device]], List[Outcome]]


def roll_out(
    devices: Sequence[Device], plan: Plan, deploy: Deploy, tell: Callable[[str], None]
) -> List[Outcome]:
    """Deploy to the canaries, then wave by wave; stop when too many fail. Outcomes in the order of the devices.

    A canary that is down or busy proves nothing: the next device takes its place. One that fails ends it all.

    Args:
        deploy: to some devices at once.
        tell: is given a line before each step.
    """
    outcomes: Dict[str, Outcome] = {}
    rest = list(devices)
    proven = 0
    while rest and len(devices) > 1 and proven < plan.canary:
        device = rest.pop(0)
        tell("canary {}".format(device.name))
        outcome = outcomes[device.name] = deploy([device])[0]
        if outcome.kind in FAILURES:
            tell("the canary failed: stopped, {} devices not tried".format(len(rest)))
            return _in_order(devices, outcomes)
        proven += outcome.kind in DONE
    size = wave_size(plan.wave, len(devices))
    while rest:
        wave, rest = rest[:size], rest[size:]
        tell("{} devices{}".format(len(wave), ", {} after them".format(len(rest)) if rest else ""))
        outcomes.update((outcome.device, outcome) for outcome in deploy(wave))
        failed = sum(outcome.kind in FAILURES for outcome in outcomes.values())
        if rest and failed > plan.max_fail:
            tell(
                "{} failed, {} may: stopped, {} devices not tried".format(
                    failed, plan.max_fail, len(rest)
                )
            )
            break
    return _in_order(devices, outcomes)


def _in_order(devices: Sequence[Device], outcomes: Dict[str, Outcome]) -> List[Outcome]:
    return [outcomes.get(device.name) or Outcome(device.name, "not tried") for device in devices]


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a device, for people."""
    rows = [("device", "result", "release", "frames/s", "s", "MB sent", "")]
    for one in outcomes:
        rate = "{:.1f}".format(one.rate_hz) if one.rate_hz else ""
        sent = "{:.1f}".format(one.sent_bytes / 1e6) if one.sent_bytes else ""
        seconds = "{:.0f}".format(one.seconds) if one.seconds else ""
        rows.append((one.device, one.kind, one.release, rate, seconds, sent, one.text))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths)] + [row[-1]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
