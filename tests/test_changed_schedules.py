"""Schedules that were changed under way: written-out values, continuity, and all kinds as JSON."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upcycle.changed_schedules import KINDS, Cooldown, Replanned, Scaled, by_epoch, from_dict, to_dict
from upcycle.errors import ConfigError
from upcycle.schedules import Constant, CustomSchedule, OneCycle, RampSustainDecay, Rate, Step


def test_a_scaled_schedule_is_another_one_until_it_begins() -> None:
    plain = OneCycle(1.0, 10)
    slower = Scaled(Scaled(plain, 3, 0.5), 6, 0.5)
    factors = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert [factor * plain(step).lr for step, factor in enumerate(factors)] == [slower(step).lr for step in range(10)]
    assert [plain(step).momentum for step in range(10)] == [slower(step).momentum for step in range(10)]


def test_a_schedule_made_of_others_is_read_back_from_json() -> None:
    schedule = Cooldown(Replanned(Scaled(RampSustainDecay(), 3, 0.5), 6, 10, 8), 7, 3)
    assert schedule == from_dict(json.loads(json.dumps(to_dict(schedule))))


def test_a_schedule_laid_on_fewer_steps_goes_on_from_where_it_is() -> None:
    plain = OneCycle(1.0, 9, pct_start=1 / 9, div_final=5.0, anneal="linear")
    assert [plain(step).lr for step in range(9)] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    shorter = Replanned(plain, 4, 9, 7)
    assert [shorter(step).lr for step in range(8)] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2, 0.2])
    longer = Replanned(plain, 4, 9, 13)
    assert [longer(step).lr for step in range(3, 14)] == pytest.approx(
        [0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.2]
    )
    assert Replanned(plain, 4, 9, 5)(4) == plain(8), "one update that is left has the lowest rate"


@given(st.integers(4, 200), st.floats(0, 1), st.floats(0.1, 3), st.sampled_from(["cos", "linear"]))
def test_a_new_plan_never_jumps_up(steps: int, at: float, factor: float, anneal: str) -> None:
    plain = OneCycle(1.0, steps, anneal=anneal)  # type: ignore[arg-type]
    begin = min(steps - 1, math.ceil(plain.peak + at * (steps - plain.peak)))
    after = begin + max(1, round((steps - begin) * factor))
    changed = Replanned(plain, begin, steps, after)
    assert changed(begin).lr <= plain(begin).lr
    largest = max(plain(step).lr for step in range(steps))
    assert all(changed(step).lr <= largest for step in range(after))
    falling = [changed(step).lr for step in range(begin, after)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(falling))


@pytest.mark.parametrize(
    ("shape", "rates"),
    [
        ("linear", [1, 1, 0.75, 0.5, 0.25, 0.25, 0.25]),
        ("1-sqrt", [1, 1, 0.5, 0.292893219, 0.133974596, 0.133974596, 0.133974596]),
        ("cos", [1, 1, 0.853553391, 0.5, 0.146446609, 0.146446609, 0.146446609]),
    ],
)
def test_a_cooldown_falls_from_the_last_rate(shape: str, rates: list[float]) -> None:
    falling = Cooldown(Constant(1.0), 2, 3, shape)  # type: ignore[arg-type]
    assert [falling(step).lr for step in range(7)] == pytest.approx(rates)
    assert {falling(step).momentum for step in range(7)} == {0.9}


def test_a_schedule_that_is_changed_between_epochs_alone_is_by_epoch() -> None:
    assert by_epoch(Scaled(Step(0.1), 3, 0.5))
    assert not by_epoch(Replanned(RampSustainDecay(), 3, 30, 20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scaled(Constant(0.1), -1, 0.5), "begin = -1 is out of range"),
        (lambda: Scaled(Constant(0.1), 1, float("nan")), "factor = nan is out of range"),
        (lambda: Replanned(Constant(0.1), 5, 9, 5), "after = 5 is out of range: use 6 or more"),
        (lambda: Cooldown(Constant(0.1), 5, 0), "steps = 0 is out of range"),
        (lambda: Cooldown(Constant(0.1), 5, 3, "steep"), "shape 'steep' is none of cos, linear, 1-sqrt"),
        (lambda: from_dict({"kind": "cosine"}), "unknown schedule 'cosine': choose one of constant"),
        (lambda: from_dict({"kind": "constant", "rate": 1}), "unknown key of schedule constant"),
    ],
)
def test_a_value_out_of_range_is_named(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        make()  # type: ignore[operator]


def test_every_kind_has_its_own_name() -> None:
    own = ["constant", "cooldown", "one-cycle", "ramp-sustain-decay", "replanned", "scaled", "step"]
    assert [*own, "warmup-stable-decay"] == sorted(KINDS)


def test_a_custom_schedule_is_asked_for_whole_steps_when_it_is_laid_on_others() -> None:
    rates = [Rate(lr, 0.9) for lr in (1.0, 0.8, 0.6, 0.4, 0.2)]
    longer = Replanned(CustomSchedule(lambda step: rates[step]), 1, 5, 8)
    assert [longer(step).lr for step in range(9)] == pytest.approx([1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2])
