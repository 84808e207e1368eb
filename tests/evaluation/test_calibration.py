"""The temperature, the bins and the calibration error, against models whose probabilities are known."""

import numpy as np
import pytest

from upcycle.evaluation.calibration import (
    bins,
    calibration_error,
    calibration_of,
    chance_error,
    fit_temperature,
    scaled,
)
from upcycle.evaluation.results import Predictions, RunEvaluation
from upcycle.task import Task

NAMES = ("a", "b", "c", "d")


def predicted(logits, labels, groups=None) -> Predictions:
    logits = np.asarray(logits, np.float32)
    n, classes = len(logits), NAMES[: max(2, logits.shape[1])]
    return Predictions(classes, tuple(map(str, range(n))), ("",) * n, groups or ("",) * n, labels, logits)


def drawn(n: int, *, times: float = 1.0, seed: int = 0, outputs: int = 3) -> Predictions:
    """Labels drawn by the probabilities of logits, which are then multiplied: their temperature is `times`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, outputs)).astype(np.float32)
    chances = Task.of(NAMES[: max(2, outputs)]).probabilities(logits)
    labels = (rng.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return predicted(times * logits, labels)


# ------------------------------------------------------------------------------ temperature


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("outputs", [1, 4])
def test_many_images_give_back_the_temperature_of_their_logits(times: float, outputs: int) -> None:
    assert times == pytest.approx(fit_temperature(drawn(8000, times=times, outputs=outputs)), rel=0.06)


def test_images_of_a_model_whose_probabilities_are_right_leave_the_temperature_one() -> None:
    assert [1.0] * 20 == [fit_temperature(drawn(40, seed=seed)) for seed in range(20)]


@pytest.mark.parametrize(("n", "expected"), [(4, 1.0), (40, 1.0), (400, 0.7456)])
def test_images_without_an_error_make_the_model_surer_only_if_they_are_many(n: int, expected: float) -> None:
    labels = np.arange(n) % 2
    assert expected == fit_temperature(predicted((8.0 * labels - 4)[:, None], labels))


def test_without_the_prior_they_would_make_it_as_sure_as_can_be() -> None:
    labels = np.arange(40) % 2
    assert 0.2 > fit_temperature(predicted((8.0 * labels - 4)[:, None], labels), prior=1e9)


def test_a_model_sure_of_nonsense_is_given_the_highest_temperature() -> None:
    rng = np.random.default_rng(0)
    assert 10.0 == fit_temperature(predicted(rng.normal(0, 500, (300, 3)), rng.integers(3, size=300)))


def test_images_of_one_group_count_as_one() -> None:
    made = drawn(300, times=3)
    grouped = predicted(made.logits, made.labels, groups=tuple(f"g{at % 6}" for at in range(300)))
    assert 1.0 == fit_temperature(grouped) < 2 < fit_temperature(made)


def test_beyond_ten_thousand_images_some_of_all_are_used() -> None:
    made = drawn(30_000, times=2)
    late = predicted(np.where(np.arange(30_000)[:, None] < 15_000, made.logits, made.logits / 2), made.labels)
    assert 1.2 < fit_temperature(late) < 1.8


def test_a_temperature_changes_no_answer_and_one_changes_no_bit() -> None:
    made = drawn(500)
    assert scaled(made, 1.0) is made
    softer = scaled(made, 2.5)
    assert (made.predicted() == softer.predicted()).all()
    assert softer.logits.dtype == np.float32
    assert np.array_equal(softer.logits, made.logits * np.float32(0.4))


# ------------------------------------------------------------------------------ bins and error


def sure(confidences, right) -> Predictions:
    """Two classes: the second is answered with these probabilities."""
    chances = np.asarray(confidences, np.float64)
    return predicted(np.log(chances / (1 - chances))[:, None], np.asarray(right, np.int64))


def test_the_error_is_the_mean_gap_of_bins_of_equal_size() -> None:
    made = sure([0.6] * 10 + [0.9] * 10, [1] * 8 + [0] * 2 + [1] * 9 + [0])
    low, high = bins(made)
    assert (10, 10) == (low.n, high.n)
    assert (0.6, 0.9) == pytest.approx((low.confidence, high.confidence))
    assert (0.8, 0.9) == (low.right.value, high.right.value)
    assert low.right.low < 0.8 < low.right.high
    found = calibration_error(made)
    assert 0.1 == pytest.approx(found.value)  # (0.2 + 0.0) / 2
    assert found.low < 0.1 < found.high


def test_fewer_than_twenty_images_are_one_bin_and_many_are_fifteen() -> None:
    assert [1, 2, 15] == [len(bins(drawn(n))) for n in (19, 20, 4000)]


def test_the_interval_of_the_error_is_by_group() -> None:
    once = drawn(40, times=4)
    made = predicted(once.logits.repeat(10, axis=0), once.labels.repeat(10))
    grouped = predicted(made.logits, made.labels, groups=tuple(f"g{at // 10}" for at in range(400)))
    alone, together = calibration_error(made), calibration_error(grouped)
    assert alone.value == together.value
    assert "bootstrap" == together.method
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_the_interval_holds_the_error_of_many_images() -> None:
    truth = calibration_error(drawn(60_000, times=3), n_boot=2).value
    made = [calibration_error(drawn(400, times=3, seed=seed)) for seed in range(40)]
    assert 33 < sum(one.low <= truth <= one.high for one in made)


def test_images_that_are_all_alike_have_no_interval_of_width_zero() -> None:
    found = calibration_error(sure([0.9] * 12, [1] * 12))
    assert ("exact", 0.0) == (found.method, found.low)
    assert 0.1 == pytest.approx(found.value)
    assert found.high > 0.3


def test_chance_alone_shows_what_a_model_with_right_probabilities_shows() -> None:
    made = [drawn(200, seed=seed) for seed in range(100)]
    assert np.mean([calibration_error(one).value for one in made]) == pytest.approx(chance_error(made[0]), rel=0.15)
    assert chance_error(drawn(20_000)) < 0.01 < chance_error(made[0])


def test_the_record_of_a_calibration_is_read_back() -> None:
    made = calibration_of({"val": drawn(100, times=3), "test": drawn(200, times=3, seed=1)}, 3.0)
    assert {"val", "test"} == made.before.keys() == made.after.keys() == made.chance.keys()
    assert made.after["test"].value < made.before["test"].value
    assert made == RunEvaluation.from_dict(RunEvaluation({}, calibration=made).to_dict()).calibration


def test_a_record_of_an_earlier_version_has_none() -> None:
    assert RunEvaluation.from_dict({}).calibration is None
