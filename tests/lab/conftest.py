"""The laboratory is scripts beside each other: tests import them as they import one another."""

import sys
from pathlib import Path

LAB = Path(__file__).resolve().parents[2] / "lab"
sys.path += [str(LAB), str(LAB / "peers")]  # last, as some have names of packages
