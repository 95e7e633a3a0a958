"""What a check of the doctor found: how bad it is, what was seen, what to paste against it."""

from typing import NamedTuple

OK, WARNING, FAILURE, NOT_NEEDED = "ok", "warning", "failure", "not needed"
STATES = (NOT_NEEDED, OK, WARNING, FAILURE)  # worst last


class Finding(NamedTuple):
    """One line of the doctor's table.

    A failure keeps the program from doing what its settings say; a warning lets it run, but worse, or
    only for as long as nothing else happens.
    """

    name: str  # of what was looked at
    state: str  # one of STATES
    seen: str
    fix: str = ""  # commands to paste, one a line


def ok(name: str, seen: str) -> Finding:
    """Nothing to do."""
    return Finding(name, OK, seen)


def warning(name: str, seen: str, fix: str) -> Finding:
    """It works, but."""
    return Finding(name, WARNING, seen, fix)


def failure(name: str, seen: str, fix: str) -> Finding:
    """It cannot work."""
    return Finding(name, FAILURE, seen, fix)


def not_needed(name: str, why: str) -> Finding:
    """Of no concern on this machine or with these settings."""
    return Finding(name, NOT_NEEDED, why)
