"""What the commands of training have in common: an expected error is a line, not a traceback."""

import sys
from typing import Callable

from edge_app.errors import EdgeAppError


def run(name: str, main: Callable[[], None]) -> None:
    """Run a command; leave with an expected error's own exit status (see ``edge_app.errors``)."""
    try:
        main()
    except EdgeAppError as error:
        sys.stdout.flush()
        print("{}: {}".format(name, error), file=sys.stderr)
        sys.exit(error.exit_status)
