"""python -m upcycle."""

import sys

from upcycle.cli import run

sys.exit(run())
