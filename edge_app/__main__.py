"""``python3 -m edge_app``."""

import sys

from edge_app.appliance.preflight import grounded


def main() -> int:
    """Run the command line, which needs NumPy; where that does not load, ``check`` still says so."""
    if grounded(sys.argv[1:]):
        return 1
    from edge_app.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
