"""Each framework's example, and the same without upcycle beside it, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapters.loops import LOOPS
from upcycle.schedules import OneCycle

ROOT = Path(__file__).resolve().parents[2]


def output_of(name: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, str(ROOT / "docs" / "examples" / f"{name}.py")]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize("framework", LOOPS)
def test_an_example_runs_with_upcycle_and_without(framework: str, tmp_path: Path) -> None:
    for package in LOOPS[framework][1]:
        pytest.importorskip(package)
    ours, plain = (output_of(f"one_cycle_{framework}{name}", tmp_path) for name in ("", "_plain"))
    if framework in ("pytorch", "lightning"):  # whose own one-cycle can say the same
        rates = [f"{OneCycle(0.1, 20)(step).lr:.3e}" for step in range(20)]
        assert rates == re.findall(r"^\d\.\d{3}e-\d\d$", ours, re.MULTILINE)
        assert rates == re.findall(r"^\d\.\d{3}e-\d\d$", plain, re.MULTILINE)
