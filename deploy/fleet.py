"""The laptop's command line for devices: deploy, status, rollback, logs, provision.

    python3 -m deploy.fleet deploy nano-1 nvidia@nano-2
    python3 -m deploy.fleet deploy --inventory fleet.yaml --canary 1 --wave 10% --max-fail 2

Ends with 0 when every device did as asked, else with 1 and their names.
"""

from gevent import monkey

monkey.patch_all()  # pyinfra's connections wait side by side; this must come before everything else

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from typing import Any, Callable, Dict, List, Optional, Sequence  # noqa: E402

from deploy import steps  # noqa: E402
from deploy.archive import ArchiveError  # noqa: E402
from deploy.connection import Fleet  # noqa: E402
from deploy.inventory import Device, InventoryError, devices_named, read_inventory  # noqa: E402
from deploy.release import build, release_name  # noqa: E402
from deploy.targets import TARGETS  # noqa: E402
from deploy.wheels import FOLDER, ReleaseError  # noqa: E402
from deploy.waves import DONE, Outcome, Plan, roll_out, table, wave_size  # noqa: E402


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run a command on devices; returns its exit status."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        devices = _devices(options)
        wave_size(options.wave, len(devices))
        outcomes = _COMMANDS[options.command](options, devices)
    except (InventoryError, ArchiveError, ReleaseError, ValueError) as error:
        print("{}: {}".format(options.command, error), file=sys.stderr)
        return 2
    for line in steps.failed_lines(outcomes):
        print(line)
    if options.command != "logs":
        print(table(outcomes))
    failed = [one.device for one in outcomes if one.kind not in DONE]
    if failed:
        print(
            "{}: not on {} of {}: {}".format(
                options.command, len(failed), len(outcomes), " ".join(failed)
            ),
            file=sys.stderr,
        )
    return 1 if failed else 0


def _devices(options: argparse.Namespace) -> List[Device]:
    names = ("user", "port", "key", "known_hosts", "health_s", "start_s", "rate_hz")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.inventory:
        devices = read_inventory(options.inventory, options.group, given)
        wanted = set(options.hosts)
        unknown = sorted(wanted - {device.name for device in devices})
        if unknown:
            raise InventoryError("{}: no host {}".format(options.inventory, unknown[0]))
        return [device for device in devices if not wanted or device.name in wanted]
    if not options.hosts:
        raise InventoryError('say which devices: HOSTS="nano-1 nano-2" or INVENTORY=fleet.yaml')
    return devices_named(options.hosts, given)


def _deploy(options: argparse.Namespace, devices: Sequence[Device]) -> List[Outcome]:
    releases = steps.Releases(_finder(options.release))
    fleet = Fleet(devices, options.parallel)

    def one(device: Device) -> Outcome:
        def task(connection: Any, facts: Any) -> Outcome:
            return steps.deploy(connection, facts, device, releases)

        return _told(steps.outcome_of(fleet, device, task))

    plan = Plan(options.canary, options.wave, options.max_fail)
    try:
        return roll_out(devices, plan, lambda some: fleet.map(one, some), _tell)
    finally:
        releases.close()


def _finder(release: str) -> Callable[[str], str]:
    """Where the archive of a target is: below a folder, built now, or the one that was named."""
    name = release_name() if not release else ""

    def find(target: str) -> str:
        if release:
            found = [release] if os.path.isfile(release) else []
            if os.path.isdir(release):
                found = [
                    os.path.join(release, file)
                    for file in sorted(os.listdir(release))
                    if file.endswith("-{}.tar".format(target))
                ]
            if len(found) != 1:
                raise ReleaseError(
                    "{}: {} releases for {}, one is needed".format(release, len(found), target)
                )
            return found[0]
        path = os.path.join(FOLDER, "edge-app-{}-{}.tar".format(name, target))
        if not os.path.exists(path):
            _tell("building {}".format(os.path.basename(path)))
            build(TARGETS[target], FOLDER, name)
        return path

    return find


def _each(
    options: argparse.Namespace, devices: Sequence[Device], step: Callable[..., Outcome], *more: Any
) -> List[Outcome]:
    fleet = Fleet(devices, options.parallel)

    def one(device: Device) -> Outcome:
        return steps.outcome_of(
            fleet, device, lambda connection, facts: step(connection, facts, device, *more)
        )

    return fleet.map(one, devices)


def _status(options: argparse.Namespace, devices: Sequence[Device]) -> List[Outcome]:
    return _each(options, devices, steps.status)


def _rollback(options: argparse.Namespace, devices: Sequence[Device]) -> List[Outcome]:
    return _each(options, devices, steps.rollback, options.to)


def _logs(options: argparse.Namespace, devices: Sequence[Device]) -> List[Outcome]:
    outcomes = _each(options, devices, steps.logs, options.lines)
    for one in outcomes:
        print("== {} {}".format(one.device, one.text))
        print("\n".join(one.log))
    return outcomes


def _provision(options: argparse.Namespace, devices: Sequence[Device]) -> List[Outcome]:
    return _each(options, devices, steps.provision)


_COMMANDS: Dict[str, Callable[..., List[Outcome]]] = {
    "deploy": _deploy,
    "status": _status,
    "rollback": _rollback,
    "logs": _logs,
    "provision": _provision,
}


def _tell(text: str) -> None:
    print("-- " + text, flush=True)


def _told(outcome: Outcome) -> Outcome:
    """One line as soon as a device is done, for whoever watches."""
    print("{}: {} {}".format(outcome.device, outcome.kind, outcome.text).rstrip(), flush=True)
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deploy.fleet", description="Bring releases of edge-app to devices."
    )
    parser.add_argument("command", choices=sorted(_COMMANDS))
    parser.add_argument(
        "hosts", nargs="*", metavar="HOST", help="name, user@name or user@name:port"
    )
    parser.add_argument("--inventory", metavar="FILE", help="YAML, see deploy/inventory.py")
    parser.add_argument("--group", default="", help="only this group of the inventory")
    parser.add_argument(
        "--release",
        default="",
        metavar="PATH",
        help="an archive or a folder of them; default: build one",
    )
    parser.add_argument(
        "--canary", type=int, default=1, help="devices that go first, one by one (default 1)"
    )
    parser.add_argument(
        "--wave",
        default="",
        help="share or number of devices at a time (default 10%%, ten at least)",
    )
    parser.add_argument(
        "--max-fail", type=int, default=0, help="go on while no more than these fail (default 0)"
    )
    parser.add_argument(
        "--parallel", type=int, default=32, help="connections at a time (default 32)"
    )
    parser.add_argument(
        "--to",
        default="",
        metavar="RELEASE",
        help="rollback: to this one (default: the one before)",
    )
    parser.add_argument("--lines", type=int, default=50, help="logs: so many")
    parser.add_argument("--user", help="of ssh, where the inventory says nothing; so are all below")
    parser.add_argument("--port", type=int)
    parser.add_argument("--key", metavar="FILE")
    parser.add_argument("--known-hosts", metavar="FILE")
    parser.add_argument(
        "--health-s", type=float, help="a new release is watched for so long (default 20)"
    )
    parser.add_argument(
        "--start-s", type=float, help="its first frame must come within (default 180)"
    )
    parser.add_argument(
        "--rate-hz", type=float, help="frames it must look at in a second (default 5)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
