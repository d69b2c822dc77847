"""``python -m jaxpt.cli``: the command where jaxpt is not installed."""

import sys

from jaxpt.cli import main

sys.exit(main())
