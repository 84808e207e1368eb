"""A run that was killed and gone on with is, byte for byte, the run that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OF_THE_PROBE = ("features", "probe")
"""Phases that `classic` does not have."""
ALL = ("decoding", "cache", "features", "probe", "step", "checkpoint", "record", "evaluation", "report")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed(recipe: str, phases: list[str], photos: Path, weights: Path, folder: Path) -> dict[str, int]:
    words = [sys.executable, "-m", "tests.endtoend.kills", photos, weights, folder, recipe, *phases]
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    print(done.stdout)
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_a_handful_of_kills_changes_no_byte(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    phases = ("features", "step", "checkpoint", "evaluation")
    counts = killed("default", [f"{phase}:1" for phase in phases], photos, tiny_weights, tmp_path / "kills")
    assert dict.fromkeys(phases, 1) == counts


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["default", "classic"])
def test_a_hundred_kills_of_each_recipe_change_no_byte(
    recipe: str, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    phases = [phase for phase in ALL if recipe == "default" or phase not in OF_THE_PROBE]
    counts = killed(recipe, [f"{phase}:12" for phase in phases], photos, tiny_weights, tmp_path / "kills")
    assert set(phases) == set(counts)
    assert all(count >= 10 for count in counts.values())
    assert sum(counts.values()) >= 100
