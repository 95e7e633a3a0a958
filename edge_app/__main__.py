"""``python3 -m edge_app``, and the entry of the script ``edge-app``."""

import signal
import sys


def main() -> int:
    """Run the command line, which needs NumPy; where that does not load, ``check`` still says so.

    Ctrl-C is answered from here on, also while modules are loaded: 130 and no traceback.
    """
    try:
        from edge_app.appliance.preflight import grounded

        if grounded(sys.argv[1:]):
            return 1
        from edge_app.cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
