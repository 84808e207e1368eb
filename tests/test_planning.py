"""The plan of a run and what changes it."""

import json
import math
from typing import Any

import pytest

from upcycle.changed_schedules import from_dict
from upcycle.changes import MicroBatch, Replan, Retry, changes_from_dicts, changes_to_dicts
from upcycle.errors import RunError
from upcycle.planning import Decision, Plan, adapted_rate, decide, orientation, phases
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


# ---------------------------------------------------------------- what the probe decides


def decided(share: float, *, error: float = 0.0, steps: int = 47, **options: Any) -> Decision:
    """The decision after a probe with this part of the loss of guessing, of four classes on 150 images."""
    loss = share * math.log(4)
    return decide(resolve(options), loss=loss, error=error, images=150, classes=4, steps_per_epoch=steps)


def test_a_near_task_is_fine_tuned_shortly_in_its_upper_half() -> None:
    found = decided(0.09)
    assert (False, 3, "auto", pytest.approx(0.09)) == (found.skip, found.epochs, found.freeze, found.share)
    assert (
        "near the pretrained features (validation loss 9 % of guessing): the upper half is fine-tuned, "
        "3 epochs of 47 updates"
    ) == found.reason


def test_a_far_task_is_fine_tuned_longer_in_all_layers() -> None:
    found = decided(0.2001)
    assert (False, 7, "none") == (found.skip, found.epochs, found.freeze)
    assert (
        "far from the pretrained features (validation loss 20 % of guessing): all layers are fine-tuned, "
        "7 epochs of 47 updates"
    ) == found.reason


@pytest.mark.parametrize(
    ("share", "steps", "options", "epochs"),
    [
        (0.1999, 7, {}, 8),
        (0.2001, 7, {}, 10),
        (0.1999, 15, {}, 5),
        (0.2001, 1000, {}, 3),
        (0.2001, 47, {"min_updates": 0}, 3),
        (0.2001, 47, {"epochs": 2}, 2),
        (0.1, 47, {"epochs": 30}, 30),
        (0.2001, 47, {"epochs": 2, "min_updates": 400}, 9),
    ],
)
def test_few_images_are_trained_for_more_epochs_within_limits(
    share: float, steps: int, options: dict[str, Any], epochs: int
) -> None:
    assert epochs == decided(share, steps=steps, **options).epochs


@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize("freeze", ["none", "layer2"])
def test_layers_that_are_named_are_frozen_near_and_far(share: float, freeze: str) -> None:
    assert freeze == decided(share, freeze=freeze).freeze


@pytest.mark.parametrize(
    ("share", "errors", "options", "skip"),
    [
        (0.05, 0.126, {}, True),  # a quarter of the loss is less than two standard errors
        (0.05, 0.124, {}, False),
        (0.05, math.inf, {}, True),
        (0.1999, 1.0, {}, True),
        (0.05, 1.0, {"fine_tune": "always"}, False),
        (0.05, 1.0, {"epochs": 3}, False),
    ],
)
def test_fine_tuning_is_skipped_where_a_likely_gain_is_lost_in_chance(
    share: float, errors: float, options: dict[str, Any], skip: bool
) -> None:
    found = decided(share, error=errors * share * math.log(4), **options)
    assert (skip, 0 if skip else 3) == (found.skip, found.epochs)


def test_a_skip_says_why() -> None:
    assert (
        "fine-tuning is skipped: near the pretrained features (validation loss 5 % of guessing), and 150 validation "
        "images cannot show a gain: a quarter of the loss is 0.017, its standard error 0.01"
    ) == decided(0.05, error=0.01).reason


def test_a_run_that_never_fine_tunes_has_no_phase() -> None:
    assert () == phases(resolve({"fine_tune": "never"}), 1000)
    assert 1 == len(phases(resolve({"fine_tune": "never", "probe": False}), 1000))


def test_all_layers_are_trained_at_a_lower_peak() -> None:
    upper, whole = (adapted_rate(1e-3, 0.2, 2, whole=whole) for whole in (False, True))
    assert whole == pytest.approx(0.35 * upper)


def test_far_tasks_are_fine_tuned_whatever_the_validation_images_show() -> None:
    assert (True, False) == (decided(0.1999, error=9.0).skip, decided(0.2001, error=9.0).skip)


@pytest.mark.parametrize(
    ("difference", "error", "free"), [(0.0, 0.01, True), (0.0, 0.03, False), (0.05, 0.001, False), (-0.5, 0.01, True)]
)
def test_orientation_means_nothing_where_turning_surely_costs_little(
    difference: float, error: float, free: bool
) -> None:
    found, said = orientation(difference, error, 2)
    assert free == found
    assert said.startswith("orientation means nothing" if free else "orientation is taken to matter")


def test_a_long_run_may_be_replanned_thousands_of_times() -> None:
    changes = tuple(Replan(step, 6000 + step % 2, "the machine wavers") for step in range(3000))
    plan = Plan(phases(resolve({"epochs": 600}), 320), changes)
    (phase,) = json.loads(json.dumps(plan.to_dict()))["phases"]
    assert [6001, 6001] == [phase["updates"], plan.last.steps]
    assert from_dict(phase["schedule"]) is not None
    assert plan.last.rate(6000).lr == pytest.approx(plan.phases[-1].rate(5999).lr)
