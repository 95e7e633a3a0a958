"""Command lines that cure something, as they must be typed for this installation."""

import os
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def setup_command(package: str) -> str:
    """What installs a missing Python package: of a checkout ``make setup``, else pip."""
    if os.path.exists(os.path.join(PROJECT, "Makefile")):
        return "make -C {} setup".format(PROJECT)
    return "{} -m pip install {}".format(sys.executable, package)


def program(arguments: str) -> str:
    """A command line of this program that can be pasted anywhere."""
    beside = os.path.join(os.path.dirname(sys.executable), "edge-app")
    name = beside if os.path.exists(beside) else "{} -m edge_app".format(sys.executable)
    return "{} {}".format(name, arguments)
