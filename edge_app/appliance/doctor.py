"""Everything that people have been stopped by, looked at before they are: ``edge-app check``.

A check is a function that looks at one thing and returns findings. It opens no camera, binds no port,
writes nothing, and what may crash or hang it leaves to a child process.
"""

import json
import shutil
import sys
import threading
from typing import Callable, List, NamedTuple, Sequence

from edge_app.appliance import (
    checks_camera,
    checks_gpu,
    checks_machine,
    checks_program,
    checks_service,
)
from edge_app.appliance.cures import program
from edge_app.appliance.finding import FAILURE, Finding, warning
from edge_app.appliance.machine import Machine
from edge_app.appliance.report import as_dict, table
from edge_app.config import LoadedSettings
from edge_app.passwords import hide

Check = Callable[[LoadedSettings, Machine], List[Finding]]

LIMIT_S = 240.0  # for one check: four children that hang, and some


class Topic(NamedTuple):
    """Checks that belong together; what a later topic needs comes in an earlier one."""

    name: str
    checks: Sequence[Check]


TOPICS = (
    Topic("machine", (checks_machine.system, checks_machine.clock, checks_machine.memory)),
    Topic(
        "program",
        (
            checks_program.settings,
            checks_program.python,
            checks_program.numpy,
            checks_program.opencv,
            checks_program.onnx_runtime,
            checks_program.together,
        ),
    ),
    Topic(
        "camera",
        (
            checks_camera.gstreamer,
            checks_camera.daemon,
            checks_camera.presence,
            checks_camera.rights,
            checks_camera.owner,
        ),
    ),
    Topic(
        "network",
        (
            checks_program.model,
            checks_program.network,
            checks_gpu.gpu,
            checks_gpu.tensorrt,
            checks_gpu.engine,
        ),
    ),
    Topic(
        "display",
        (checks_service.screen, checks_service.web, checks_service.rtsp, checks_service.events),
    ),
    Topic(
        "board",
        (
            checks_machine.power_mode,
            checks_machine.clocks,
            checks_machine.heat,
            checks_machine.supply,
            checks_machine.disk,
            checks_machine.logs,
        ),
    ),
    Topic("service", (checks_service.service,)),
)


def check(loaded: LoadedSettings, as_json: bool) -> int:
    """Run every check and print what was found.

    Args:
        as_json: as one JSON object instead of a table.

    Returns:
        The exit status: 0 when all is fine or there are only warnings, 1 when something has failed.
    """
    show = _progress if sys.stderr.isatty() and not as_json else _silent
    findings = run_checks(loaded, progress=show)
    show("")
    if as_json:
        print(json.dumps(as_dict(findings), indent=1))
    else:
        print(table(findings, shutil.get_terminal_size((100, 24)).columns))
    return int(any(finding.state == FAILURE for finding in findings))


def run_checks(
    loaded: LoadedSettings, root: str = "/", progress: Callable[[str], None] = lambda topic: None
) -> List[Finding]:
    """What every check finds, in the order of ``TOPICS``.

    Args:
        root: of the file system that is looked at.
        progress: is told the topic that comes next.
    """
    machine = Machine(root)
    findings: List[Finding] = []
    for topic in TOPICS:
        progress(topic.name)
        for one in topic.checks:
            findings += _bounded(one, loaded, machine)
    return findings


def _bounded(
    one: Check, loaded: LoadedSettings, machine: Machine, limit_s: float = LIMIT_S
) -> List[Finding]:
    """What a check finds, without passwords; one that fails or hangs is a finding too."""
    found: List[List[Finding]] = []
    name = one.__name__.replace("_", " ")

    def run() -> None:
        try:
            found.append(one(loaded, machine))
        except Exception as error:  # a check must not keep us from the others
            text = "this check failed itself: {}: {}".format(type(error).__name__, error)
            found.append([warning(name, text, program("check --json"))])

    thread = threading.Thread(target=run, name="check", daemon=True)  # it may hang in a dead disk
    thread.start()
    thread.join(limit_s)
    if found:
        return [finding._replace(seen=hide(finding.seen)) for finding in found[0]]
    text = "no answer within {:g} s: a disk, a network or a driver hangs".format(limit_s)
    return [warning(name, text, "sudo dmesg | tail -30")]


def _progress(topic: str) -> None:
    """A word that the next one overwrites."""
    sys.stderr.write("\r\033[K" + ("looking at the {} ...".format(topic) if topic else ""))
    sys.stderr.flush()


def _silent(topic: str) -> None:
    pass
