"""``python3 -m edge_app``."""

import sys

from edge_app.cli import main

sys.exit(main())
