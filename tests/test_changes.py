"""What changes a plan, as lines of a file."""

import json

import pytest

from upcycle.changes import Budget, Change, Ending, MicroBatch, Replan, Retry, changes_from_dicts, changes_to_dicts
from upcycle.errors import RunError

EVERY: tuple[Change, ...] = (
    Budget(90.0, 160, lean=True, freeze="auto", steps=40, reason="20 s training"),
    MicroBatch(0, 8, "memory"),
    Replan(12, 30, "slow"),
    Retry(16, 0.5, "it exploded"),
    Ending(20, 24, "1-sqrt", "no better"),
)


def test_changes_survive_json() -> None:
    assert EVERY == changes_from_dicts(json.loads(json.dumps(changes_to_dicts(EVERY))))


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"event": "party"},
        {"event": "replan", "step": 3, "reason": ""},
        {"event": "replan", "step": 3, "steps": "many", "reason": ""},
        {"event": "ending", "step": 3, "steps": 4, "shape": "steep", "reason": ""},
        {"event": "deadline", "seconds": 90, "image_size": 2.5},
        {"event": "deadline", "seconds": 90, "image_size": 32, "steps": -5},
        {"event": "replan", "step": -4, "steps": 8, "reason": ""},
        {"event": "replan", "step": 0, "steps": 0, "reason": ""},
        {"event": "replan", "step": 4, "steps": 10**12, "reason": ""},
        {"event": "ending", "step": 8, "steps": 4, "shape": "cos", "reason": ""},
        {"event": "micro-batch", "step": 0, "images": -2, "reason": ""},
        {"event": "retry", "step": 3, "factor": float("nan"), "reason": ""},
        7,
    ],
)
def test_a_line_that_is_no_change_is_refused(row: object) -> None:
    with pytest.raises(RunError, match="a change of the plan cannot be read"):
        changes_from_dicts([row])  # type: ignore[list-item]
