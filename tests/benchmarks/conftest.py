"""The benchmarks are scripts beside each other: tests import them as they import one another."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "peers")]  # last, as some have names of packages
