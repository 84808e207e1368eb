"""Decisions between the stages of a run."""

import pytest

from upcycle.jobs.stages import _armed_from
from upcycle.recipes import resolve


@pytest.mark.parametrize(
    ("recipe", "epoch", "armed"),
    [("classic", 9, 0), ("classic", 10, 10), ("classic", 11, 10), ("default", 9, 3), ("default", 10, 12)],
)
def test_patience_counts_from_the_last_restart(recipe: str, epoch: int, armed: int) -> None:
    config = resolve({"recipe": recipe, "epochs": 10, "more_epochs": [5], "patience": 5})
    assert armed == _armed_from(config, epoch)
