"""Before the doctor: NumPy, without which not even the doctor can be loaded.

On a Nano, numpy 1.19.5 ends the process that imports it. This module needs nothing but Python.
"""

import json
import os
import sys
from typing import Sequence

from edge_app.appliance import report
from edge_app.appliance.cures import PROJECT, setup_command
from edge_app.appliance.finding import FAILURE, Finding, failure, ok
from edge_app.appliance.probe import Probed, ask

_ARMV8 = "OPENBLAS_CORETYPE=ARMV8"


def grounded(arguments: Sequence[str]) -> bool:
    """Whether ``check`` must end here, its only finding printed: NumPy does not load.

    Args:
        arguments: of the command line, without the program's name.
    """
    if list(arguments[:1]) != ["check"]:
        return False
    finding = look_at_numpy()
    if finding.state != FAILURE:
        return False
    as_json = "--json" in arguments
    print(
        json.dumps(report.as_dict([finding]), indent=1) if as_json else report.table([finding], 100)
    )
    return True


def look_at_numpy() -> Finding:
    """Does it load and multiply?"""
    probed = ask("numpy")
    if probed.facts:
        return ok("numpy", "{version} ({path})".format(**probed.facts))
    if probed.crashed and ask("numpy", environment=[_ARMV8]).facts:
        text = (
            "loading it ends the process ({}): its OpenBLAS takes this processor for another one. "
            "Say which it is, for this shell and for all that start after a reboot".format(
                probed.problem
            )
        )
        fix = "export {0}\necho {0} | sudo tee -a /etc/environment".format(_ARMV8)
        return failure("numpy", text, fix)
    environment = os.path.join(PROJECT, ".venv")
    is_other = os.path.exists(environment) and os.path.abspath(sys.prefix) != environment
    if is_other and not probed.crashed:
        text = "does not load in {} ({}); the program's own Python is another one".format(
            sys.executable, probed.problem
        )
        return failure("numpy", text, os.path.join(environment, "bin", "edge-app") + " check")
    return failure("numpy", "does not load: " + probed.problem, _fix(probed))


def _fix(probed: Probed) -> str:
    if probed.crashed:
        return "{} -m pip install --force-reinstall 'numpy<1.19.5'".format(sys.executable)
    return setup_command("numpy")
