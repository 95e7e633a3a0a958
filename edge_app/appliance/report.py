"""Findings as a table for a person and as a tree for a program."""

import getpass
import os
import textwrap
import time
from typing import Any, Dict, List, Sequence

from edge_app import __version__
from edge_app.appliance.finding import FAILURE, NOT_NEEDED, OK, STATES, WARNING, Finding

_LABELS = {OK: "ok", NOT_NEEDED: "unneeded", WARNING: "WARNING", FAILURE: "FAILURE"}
_INDENT = " " * 10


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
    lines = ["edge-app {} as {}".format(__version__, _user())]
    fine = [(one.name, one.seen) for one in findings if one.state == OK]
    column = max([len(name) for name, _ in fine] or [0])
    lines += [""] if fine else []
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
