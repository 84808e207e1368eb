"""The plan of a run and what changes it."""

import json

import pytest

from upcycle.errors import RunError
from upcycle.planning import MicroBatch, Plan, Retry, changes_from_dicts, changes_to_dicts, phases
from upcycle.recipes import resolve

CHANGES = (Retry(410, 0.5, "exploded"), MicroBatch(405, 4, "memory"), Retry(420, 0.5, "exploded"))


def test_the_last_phase_has_the_rates_that_retries_left_of_it() -> None:
    plan = Plan(phases(resolve({"epochs": 3}), 320), CHANGES)
    plain = plan.phases[-1]
    factors = [plan.last.rate(step).lr / plain.rate(step).lr for step in (409, 410, 419, 420)]
    assert [1.0, 0.5, 0.5, 0.25] == factors
    written = plan.to_dict()["phases"]
    assert isinstance(written, list)
    assert [phase.to_dict() for phase in plan.phases[:-1]] == written[:-1]
    assert plan.last.to_dict() == written[-1]
    assert {"phases": []} == Plan().to_dict()


def test_changes_are_read_back_in_order() -> None:
    assert CHANGES == changes_from_dicts(json.loads(json.dumps(changes_to_dicts(CHANGES))))
    plan = Plan(changes=CHANGES)
    assert (2, 1) == (len(plan.retries), len(plan.micro_batches))


@pytest.mark.parametrize("row", [{"event": "other"}, {}, {"event": "retry", "step": "x"}, []])
def test_anything_else_is_refused(row: object) -> None:
    with pytest.raises(RunError, match="a change of the plan cannot be read"):
        changes_from_dicts([row])  # type: ignore[list-item]


@pytest.mark.parametrize(("retries", "step", "holds"), [(2, 900, True), (1, 420, True), (1, 421, False)])
def test_a_state_belongs_to_the_plan_it_was_made_under_or_from_before_the_last_retry(
    retries: int, step: int, holds: bool
) -> None:
    assert holds == Plan(changes=CHANGES).holds(retries=retries, step=step)
    assert Plan().holds(retries=0, step=step)
