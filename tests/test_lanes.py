"""Lanes: every one runs, none talks into another, and one that fails is not overlooked."""

import os
import subprocess
import sys

LANES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lanes.py")
# Each of the first two waits for the other: they end only when they run side by side.
MAKEFILE = """
left: ## talks first
\t@echo left one; touch left.here; until [ -e right.here ]; do sleep 0.05; done; echo left two $(WORD)
right:
\t@echo right one; touch right.here; until [ -e left.here ]; do sleep 0.05; done; echo right two
wrong:
\t@echo wrong; exit 3
"""


def lanes(folder, *targets, flags=""):
    """(exit status, what was said) of some targets of MAKEFILE, two at once."""
    (folder / "Makefile").write_text(MAKEFILE)
    done = subprocess.run(
        [sys.executable, LANES] + list(targets),
        cwd=str(folder),
        env=dict(os.environ, LANES="2", MAKEFLAGS=flags),
        stdout=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_lanes_run_side_by_side_and_each_is_shown_whole(tmp_path):
    status, said = lanes(tmp_path, "left", "right", flags="WORD=given")
    assert status == 0
    assert "left one\nleft two given\n" in said and "right one\nright two\n" in said
    assert "left: talks first (see build/lanes/left.log)" in said
    assert said.count("left passed after") == said.count("right passed after") == 2


def test_a_lane_that_fails_lets_the_others_end_and_fails_all(tmp_path):
    status, said = lanes(tmp_path, "wrong", "left", "right")
    assert status == 1
    assert "wrong FAILED after" in said and "left passed" in said and "right passed" in said
