"""The curve of a range test, and what its rules read off it, on losses that are written out."""

import json
import math
from typing import Any

import numpy as np
import pytest

from upcycle.errors import ConfigError, RunError
from upcycle.rundir import plain_json
from upcycle.training import rate_curve
from upcycle.training.rate_curve import LrFinding, Sweep, burst, found, minimum, smooth, steepest, suggestion, valley

RATES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
SWEEP = Sweep(1e-6, 1.0, 61, 3)
"""Ten updates per decade."""


def test_rates_rise_by_the_same_factor_from_the_first_to_the_last() -> None:
    assert pytest.approx([1e-4, 1e-3, 1e-2, 1e-1]) == Sweep(1e-4, 1e-1, 10).rates[::3]
    assert 100 == len(Sweep().rates)
    assert (1e-7, 1.0) == (Sweep().rates[0], pytest.approx(Sweep().rates[-1]))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"start_lr": 1.0, "end_lr": 0.1}, r"^start_lr = 1 is not below end_lr = 0.1: rates rise$"),
        ({"start_lr": 0.1, "end_lr": 0.1}, "is not below"),
        ({"start_lr": math.nan}, "^start_lr = nan is no rate: use a number above 0, at most 100$"),
        ({"start_lr": 0}, "^start_lr = 0 is no rate"),
        ({"end_lr": math.inf}, "^end_lr = inf is no rate"),
        ({"end_lr": "1"}, "^end_lr = '1' is no rate"),
        ({"num_updates": 9}, "^num_updates = 9 is out of range: use 10 to 100,000$"),
        ({"num_updates": 20.0}, "^num_updates = 20.0 is out of range"),
        ({"repeats": 0}, "^repeats = 0 is out of range: use 1 to 100$"),
    ],
)
def test_what_is_no_test_is_refused_in_one_line(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Sweep(**wrong)


def test_smoothing_looks_both_ways_and_keeps_a_constant() -> None:
    assert pytest.approx([2.0, 2.0, 2.0]) == smooth([2.0, 2.0, 2.0], 1.5)
    # weights 1, exp(-1/2), exp(-2) of places 0, 1 and 2 away
    near, far = math.exp(-0.5), math.exp(-2)
    expected = [far / (1 + near + far), near / (1 + 2 * near), 1 / (1 + near + far)]
    assert pytest.approx(expected) == smooth([0.0, 0.0, 1.0], 1.0)
    bump = np.zeros(41)
    bump[20] = 1.0
    assert 20 == smooth(bump, 3.0).argmax()  # a running mean would move it


def test_steepest_is_where_a_decade_costs_most_before_the_bottom() -> None:
    # falls per decade, between neighbors on both sides: 0, .05, .4, .45, -2, ...
    assert 1e-2 == steepest(RATES, np.array([1.0, 1.0, 0.9, 0.2, 0.0, 5.0]))
    assert 1e-5 == steepest(RATES, np.array([0.1, 0.5, 0.4, 0.3, 0.2, 0.2]))  # its lowest loss is the first


def test_minimum_is_a_tenth_of_the_rate_with_the_lowest_loss() -> None:
    assert 1e-2 == pytest.approx(minimum(RATES, np.array([1.0, 1.0, 0.9, 0.2, 0.0, 5.0])))


def test_valley_is_two_thirds_along_the_longest_fall() -> None:
    assert 1e-2 == valley(RATES, np.array([1.0, 0.8, 0.6, 0.4, 0.2, 5.0]))  # from 1e-4, 1e-1 its bottom
    # a bump does not end it: 1.0 0.9 0.7 0.5 falls past 0.95
    assert 1e-2 == valley(RATES, np.array([1.0, 0.9, 0.95, 0.7, 0.5, 9.0]))
    rates = [10.0**power for power in range(-12, 1)]
    slow = [1.0, 1 - 1e-9, 1 - 1e-8, 1 - 1e-7, 1 - 1e-6, 1 - 1e-5, 1 - 1e-4, 0.9, 0.7, 0.5, 0.3, 7.0, 9.0]
    assert 1e-3 == valley(rates, np.array(slow))  # from 1e-5 to 1e-2: how far below the test began does not matter


def test_a_suggestion_is_a_geometric_mean_with_student_s_interval() -> None:
    made = suggestion("valley", [1e-3, 1e-2, 1e-1])
    half = 4.302653 * math.log(10) / math.sqrt(3)
    assert pytest.approx((1e-2, 1e-2 * math.exp(-half), 1e-2 * math.exp(half)), rel=1e-5) == (
        made.lr,
        made.low,
        made.high,
    )
    alike = suggestion("valley", [1e-3] * 3, math.log(1.2))
    assert alike.high == pytest.approx(1e-3 * math.exp(4.302653 * math.log(1.2) / 6))  # sqrt(12) sqrt(3) is 6
    alone = suggestion("valley", [1e-3])
    assert 1e-3 == pytest.approx(alone.lr)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_a_repeat_ends_at_four_times_its_best_loss_and_where_it_is_not_finite() -> None:
    steady = [0.5] * 10
    assert not burst(steady, steady, width=0.3, guessing=0.7)
    assert not burst([*steady[:-1], 1.9], steady, width=0.3, guessing=0.7)
    assert burst([*steady[:-1], 2.1], steady, width=0.3, guessing=0.7)
    assert burst([*steady[:-1], math.nan], steady, width=0.3, guessing=0.7)
    low = [1e-4] * 10  # a best of 0.07 is counted
    assert not burst([*low[:-1], 0.25], low, width=0.3, guessing=0.7)
    assert burst([*low[:-1], 0.3], low, width=0.3, guessing=0.7)
    hard = [0.5] * 9 + [3.0]  # a hard batch, by the start's weights as well, is no explosion
    assert not burst(hard, hard, width=0.3, guessing=0.7)


def losses(fall: float, noise: float, *, seed: int = 0, spread: float = 0.0) -> tuple[list[Any], list[Any]]:
    """Three repeats that fall by so much from 1e-4 to 1e-2 and burst at 0.3, of batches that differ by 0.5."""
    random = np.random.default_rng(seed)
    powers = np.log10(SWEEP.rates)
    made, starts = [], []
    for repeat in range(SWEEP.repeats):
        hard = 1.0 + random.normal(0, 0.5, len(powers))
        place = powers + spread * (repeat - 1)
        updates = -fall * np.clip((place + 4) / 2, 0, 1) + np.where(place > -1, 2 * (place + 1) * 10, 0.0)
        made.append(
            (hard + updates + random.normal(0, noise, len(powers)) * (place > -4))[: int(0.9 * len(powers)) - repeat]
        )
        starts.append(hard[: int(0.9 * len(powers)) - repeat])
    return made, starts


def test_a_valley_is_found_though_batches_differ_more_than_it_is_deep() -> None:
    made = found(SWEEP, *losses(0.2, 0.01), fallback=3e-4, fallback_reason="that of the options")
    by = {one.rule: one.lr for one in made.suggestions}
    assert ["steepest", "valley", "minimum"] == list(by)
    assert 1e-3 < by["valley"] < 1e-2
    assert 1e-3 < by["minimum"] < 1e-2
    assert 1e-4 < by["steepest"] < 2e-2
    assert (rate_curve.RECOMMENDED, by[rate_curve.RECOMMENDED]) == (made.peak.rule, made.lr)
    assert f"{made.lr:.3g}, by the rule minimum (95 % interval " in made.peak.reason
    assert 52 == len(made.loss) == len(made.low)  # up to where the first repeat ended
    assert [54, 53, 52] == [len(one) for one in made.losses]
    assert all(low <= mean <= high for low, mean, high in zip(made.low, made.loss, made.high, strict=True))


def test_the_interval_is_that_between_repeats() -> None:
    apart = found(SWEEP, *losses(0.2, 0.001, spread=0.5), fallback=3e-4, fallback_reason="x")
    alike = found(SWEEP, *losses(0.2, 0.001), fallback=3e-4, fallback_reason="x")
    wide, narrow = (made.suggestions[2].high / made.suggestions[2].low for made in (apart, alike))
    assert wide > 10 > narrow


@pytest.mark.parametrize(
    ("fall", "noise"),
    [(0.0, 0.01), (0.0, 1e-12), (0.005, 1e-4), (0.1, 1.0)],
    ids=["noise alone", "exactly flat", "under a hundredth", "less than noise"],
)
def test_without_a_usable_valley_nothing_is_suggested(fall: float, noise: float) -> None:
    made = found(SWEEP, *losses(fall, noise), fallback=3e-4, fallback_reason="that of the options")
    assert () == made.suggestions
    assert (3e-4, "") == (made.lr, made.peak.rule)
    assert made.peak.reason.startswith("0.0003, that of the options, as there is no usable valley: the loss of ")


def test_noise_is_seldom_taken_for_a_valley() -> None:
    usable = [
        bool(found(SWEEP, *losses(0.0, 0.3, seed=seed), fallback=1e-3, fallback_reason="x").suggestions)
        for seed in range(200)
    ]
    assert sum(usable) <= 16  # one in twenty


def test_a_loss_that_explodes_at_once_suggests_nothing() -> None:
    made = found(SWEEP, [(0.5, 0.6), (), (0.5,)], [(0.5, 0.5), (), (0.5,)], fallback=3e-4, fallback_reason="x")
    assert ((), ()) == (made.suggestions, made.loss)
    assert made.peak.reason.endswith("no usable valley: the loss explodes after 0 updates: give a lower --start-lr")


def test_a_loss_that_still_falls_at_the_end_is_told() -> None:
    starts = [[1.0] * 61] * 3
    falling = [[1.0 - 0.01 * at for at in range(61)]] * 3
    made = found(SWEEP, falling, starts, fallback=3e-4, fallback_reason="x")
    assert made.peak.reason.endswith("; the loss still falls at the highest rate: give a higher --end-lr")


def test_another_rule_may_be_taken() -> None:
    made = found(SWEEP, *losses(0.2, 0.01), fallback=3e-4, fallback_reason="x", rule="minimum")
    assert ("minimum", made.suggestions[2].lr) == (made.peak.rule, made.lr)


def test_a_finding_is_read_back_as_it_was_written() -> None:
    made = found(SWEEP, *losses(0.2, 0.01), fallback=3e-4, fallback_reason="x")
    assert made == LrFinding.from_dict(json.loads(plain_json(made.to_dict())))
    with pytest.raises(RunError, match=r"^find_lr\.json is damaged at 'peak'"):
        LrFinding.from_dict({})
