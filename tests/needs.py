"""What a test needs of its machine.

A test whose tool is not installed says so loudly and is skipped; with ``EDGE_APP_CI=1`` it fails instead, so
that nothing is left out there by accident.
"""

import os
import re

import pytest


def require(is_there, what):
    """Go on when ``is_there``; else fail under EDGE_APP_CI=1 and skip elsewhere."""
    if is_there:
        return
    if os.environ.get("EDGE_APP_CI") == "1":
        pytest.fail("missing here: " + what)
    pytest.skip("NOT TESTED, missing here: " + what)


def opencv_has_windows():
    """Whether this OpenCV was built with Qt or GTK."""
    import cv2

    gui = re.search(r"^ *GUI: *(.*)$", cv2.getBuildInformation(), re.MULTILINE)
    return gui is None or gui.group(1).strip() not in ("", "NONE")
