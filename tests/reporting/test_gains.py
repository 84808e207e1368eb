import pytest

from upcycle.reporting.gains import (
    chance,
    duration,
    epochs_words,
    gain,
    gain_words,
    interval,
    once_words,
    parameters_words,
    points,
    seeds_words,
    step_to,
    time_words,
    verdict,
)

RUNG = {"seconds": 62.0, "tuning_seconds": 0.0, "runs": [{}], "seeds": [0, 1, 2], "failed": []}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0214, "+2.1"), (-0.003, "−0.3"), (0.0001, "0.0"), (-0.0001, "0.0"), (None, "–")]
)
def test_differences_are_points_with_their_sign(share: float | None, expected: str) -> None:
    assert expected == points(share)


def test_an_interval_names_both_its_ends() -> None:
    assert ["−0.2 to +1.0", "–"] == [interval([-0.002, 0.01]), interval(None)]


@pytest.mark.parametrize(
    ("p", "expected"), [(0.37, "0.37"), (0.0213, "0.021"), (0.00213, "0.0021"), (1e-12, "< 0.0001"), (None, "–")]
)
def test_chances_have_as_many_digits_as_say_something(p: float | None, expected: str) -> None:
    assert expected == chance(p)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gain", "+2.1 points, real"),
        ("loss", "+2.1 points, real"),
        ("unclear", "+2.1 points, not distinguishable"),
        ("same", "+2.1 points, no difference that matters"),
        ("too-small", "+2.1 points, too few test images"),
        ("new kind", "+2.1 points, not compared"),
    ],
)
def test_a_gain_says_whether_it_is_real(kind: str, expected: str) -> None:
    assert expected == gain_words({"f1_difference": {"value": 0.021}, "verdict": kind})


def test_verdicts_differ_in_their_marks() -> None:
    kinds = ("gain", "loss", "same", "unclear", "too-small", "none")
    assert len(kinds) == len({verdict({"verdict": kind}).mark for kind in kinds})


def test_a_rung_without_a_step_has_no_gain() -> None:
    assert (None, "", None) == (step_to({"pairs": []}, "a"), gain_words(None), gain({"f1_difference": None}))


def test_the_step_to_a_rung_is_the_pair_that_ends_there() -> None:
    pairs = [{"second": "b", "kinds": ["first"]}, {"second": "b", "kinds": ["step", "best"], "first": "a"}]
    assert pairs[1] == step_to({"pairs": pairs}, "b")


def test_tuning_counts_to_the_cost_and_is_named() -> None:
    tuned = RUNG | {"tuning_seconds": 3600.0}
    assert (3662.0, "1 min 2 s + 1 h 0 min tuning") == (duration(tuned), time_words(tuned))


def test_a_time_that_lacks_a_part_is_a_lower_bound() -> None:
    assert "≥ 1 min 2 s" == once_words(RUNG | {"runs": [{"seconds_complete": True}, {"seconds_complete": False}]})


def test_a_rung_without_a_time_has_no_cost() -> None:
    assert (None, "–") == (duration(RUNG | {"seconds": None}), time_words(RUNG | {"seconds": None}))


def test_epochs_have_a_decimal_where_seeds_differ() -> None:
    assert ["3", "14.3", "–"] == [epochs_words({"epochs": number}) for number in (3.0, 14.333, None)]


def test_parameters_are_told_in_three_digits() -> None:
    expected = ["2,049", "356 k", "23.5 M", "1.2 G", "–"]
    assert expected == [parameters_words(number) for number in (2049, 355_649, 23_510_081, 1_200_000_000, None)]


def test_failed_seeds_are_counted_beside_the_others() -> None:
    assert "2 seeds, 1 failed" == seeds_words(RUNG | {"seeds": [0, 1], "failed": [{"seed": 2}]})


@pytest.mark.parametrize(
    ("number", "said"), [(9_999, "9,999"), (999_499, "999 k"), (999_600, "1 M"), (999_600_000, "1 G")]
)
def test_a_number_that_rounds_up_takes_the_next_unit(number: int, said: str) -> None:
    assert said == parameters_words(number)
