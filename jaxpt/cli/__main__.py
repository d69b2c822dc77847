"""``python -m jaxpt.cli``: the command ``jaxpt``, also if jaxpt is not installed."""

import sys

from jaxpt.cli import main

sys.exit(main())
