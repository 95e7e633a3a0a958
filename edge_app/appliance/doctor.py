"""Everything that people have been stopped by, looked at before they are: ``edge-app check``.

A check is a function that looks at one thing and returns findings. It opens no camera, binds no port,
writes nothing, and what may crash or hang it leaves to a child process.
"""

import getpass
import json
import os
import shutil
import sys
import textwrap
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from edge_app import __version__
from edge_app.appliance import (
    checks_camera,
    checks_gpu,
    checks_machine,
    checks_program,
    checks_service,
)
from edge_app.appliance.finding import FAILURE, NOT_NEEDED, OK, STATES, WARNING, Finding, warning
from edge_app.appliance.machine import Machine
from edge_app.config import LoadedSettings

Check = Callable[[LoadedSettings, Machine], List[Finding]]

LIMIT_S = 240.0  # for one check: four children that hang, and some
_LABELS = {OK: "ok", NOT_NEEDED: "unneeded", WARNING: "WARNING", FAILURE: "FAILURE"}
_INDENT = " " * 10


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
    Topic("display", (checks_service.screen, checks_service.web, checks_service.rtsp)),
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
    """What a check finds; one that fails or hangs is a finding too."""
    found: List[List[Finding]] = []
    name = one.__name__.replace("_", " ")

    def run() -> None:
        try:
            found.append(one(loaded, machine))
        except Exception as error:  # a check must not keep us from the others
            text = "this check failed itself: {}: {}".format(type(error).__name__, error)
            found.append([warning(name, text, checks_program.program("check --json"))])

    thread = threading.Thread(target=run, name="check", daemon=True)  # it may hang in a dead disk
    thread.start()
    thread.join(limit_s)
    if found:
        return found[0]
    text = "no answer within {:g} s: a disk, a network or a driver hangs".format(limit_s)
    return [warning(name, text, "sudo dmesg | tail -30")]


def as_dict(findings: Sequence[Finding]) -> Dict[str, Any]:
    """For ``--json`` and the support archive."""
    return {
        "version": __version__,
        "user": _user(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "counts": {state: _count(findings, state) for state in STATES},
        "findings": [dict(finding._asdict(), fix=finding.fix.splitlines()) for finding in findings],
    }


def _count(findings: Sequence[Finding], state: str) -> int:
    return sum(finding.state == state for finding in findings)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def table(findings: Sequence[Finding], width: int) -> str:
    """For a person: what is fine in one line each, then what is not, the worst last, with its cure.

    Args:
        width: of the terminal, in characters; commands are never broken.
    """
    width = max(60, width)
    lines = ["edge-app {} as {}".format(__version__, _user()), ""]
    fine = [(one.name, one.seen) for one in findings if one.state == OK]
    column = max([len(name) for name, _ in fine] or [0])
    lines += [_row(OK, name.ljust(column + 1), seen, width) for name, seen in fine]
    reasons: Dict[str, List[str]] = {}
    for one in findings:
        if one.state == NOT_NEEDED:
            reasons.setdefault(one.seen, []).append(one.name)
    lines += [""] if reasons else []
    lines += [
        _row(NOT_NEEDED, ", ".join(names) + ":", seen, width) for seen, names in reasons.items()
    ]
    for state in (WARNING, FAILURE):
        for one in (finding for finding in findings if finding.state == state):
            lines += ["", _row(state, one.name + ":", one.seen, width)]
            lines += ["{}    {}".format(_INDENT, line) for line in one.fix.splitlines()]
    return "\n".join(lines + ["", _verdict(findings)])


def _row(state: str, name: str, seen: str, width: int) -> str:
    head = "{:<10}{} ".format(_LABELS[state], name)
    return textwrap.fill(
        seen,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head) if state == OK else _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict(findings: Sequence[Finding]) -> str:
    """The last line: how bad it is, and where to begin."""
    failures = [finding for finding in findings if finding.state == FAILURE]
    warnings = _count(findings, WARNING)
    if not failures and not warnings:
        return "Everything that is needed here is fine."
    counted = "{} failure{}, {} warning{}.".format(
        len(failures) or "No",
        "" if len(failures) == 1 else "s",
        warnings or "no",
        "" if warnings == 1 else "s",
    )
    if not failures:
        return counted + " The program will run. The indented lines are the cures, to paste."
    return "{} Begin with {}. The indented lines are the cures, to paste.".format(
        counted, failures[0].name
    )


def _progress(topic: str) -> None:
    """A word that the next one overwrites."""
    sys.stderr.write("\r\033[K" + ("looking at the {} ...".format(topic) if topic else ""))
    sys.stderr.flush()


def _silent(topic: str) -> None:
    pass
