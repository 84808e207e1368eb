import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from upcycle.evaluation import intervals
from upcycle.evaluation.intervals import (
    Interval,
    bootstrap,
    clopper_pearson,
    clusters,
    combined_mean,
    distinguishable,
    exact_mean,
    from_replicates,
    proportion,
    resamples,
    wilson,
)

COUNTS = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def close(interval, low, high, method):
    np.testing.assert_allclose([interval.low, interval.high], [low, high], rtol=0, atol=5e-5)
    assert method == interval.method


# ------------------------------------------------------------------------------ binomial


@pytest.mark.parametrize(("interval", "method"), [(wilson, "wilson"), (clopper_pearson, "exact")])
@settings(deadline=None, max_examples=100)
@given(counts=COUNTS, level=st.sampled_from([0.68, 0.95, 0.99]))
def test_binomial_intervals_are_scipys_and_never_of_zero_width(interval, method, counts, level):
    made = interval(*counts, level=level)
    expected = binomtest(*counts).proportion_ci(level, method=method)
    np.testing.assert_allclose([made.low, made.high], [expected.low, expected.high], rtol=1e-7, atol=1e-12)
    assert 0 <= made.low < made.high <= 1


def test_the_exact_interval_of_no_errors_in_160_starts_at_977_thousandths():
    close(clopper_pearson(160, 160), 0.97721, 1.0, "exact")


def test_wilson_of_152_in_160():
    close(wilson(152, 160), 0.90445, 0.97445, "wilson")


def test_no_trials_leave_everything_possible():
    assert Interval(0.0, 1.0, "exact") == clopper_pearson(0, 0)


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2), (0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="successes of"):
        wilson(*counts)


@pytest.mark.parametrize("n", [20, 160, 1000])
def test_wilson_covers_the_truth_95_times_in_100(n):
    # not simulated: the chance of every outcome is known
    rates, outcomes = np.linspace(0.02, 0.98, 193), np.arange(n + 1)
    made = [wilson(k, n) for k in outcomes]
    low, high = np.array([i.low for i in made]), np.array([i.high for i in made])
    covered = (low <= rates[:, None]) & (rates[:, None] <= high)
    coverage = (binom.pmf(outcomes, n, rates[:, None]) * covered).sum(axis=1)
    assert 0.945 < coverage.mean() < 0.957
    assert coverage.min() > 0.88


# ------------------------------------------------------------------------------ units


def test_a_unit_is_a_group_or_else_identical_files_or_else_the_image():
    groups = ("anna", "", "", "anna", "", "")
    hashes = ("h1", "h2", "h3", "h4", "h2", "")
    assert [0, 1, 2, 0, 1, 3] == clusters(groups, hashes).tolist()


def test_images_without_group_and_hash_are_units_of_their_own():
    assert [0, 1, 2] == clusters(("", "", ""), ("", "", "")).tolist()


def test_resamples_draw_whole_units_as_often_as_there_are_units():
    units = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(resamples(units, n_boot=500, seed=0)))
    assert (500, 6) == weights.shape
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3:] == weights[:, 3:4]).all()
    assert {3.0} == set(weights[:, [0, 2, 3]].sum(axis=1))


def test_large_samples_are_resampled_in_parts():
    parts = list(resamples(np.arange(20_000), n_boot=30, seed=0))
    assert [12, 12, 6] == [len(part) for part in parts]


def test_the_size_of_the_parts_changes_nothing(monkeypatch):
    units = np.arange(1001)
    together = np.concatenate(list(resamples(units, n_boot=50, seed=3)))
    monkeypatch.setattr(intervals, "_CHUNK", 7000)
    assert (np.concatenate(list(resamples(units, n_boot=50, seed=3))) == together).all()


def test_the_same_seed_gives_the_same_replicates():
    values, units = np.array([0.0, 1.0, 5.0, 2.0]), np.arange(4)
    first, again, other = (
        bootstrap(lambda weights: (weights @ values)[:, None], units, n_boot=20, seed=seed) for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def mean_interval(values, units, seed=0, n_boot=400):
    draws = bootstrap(
        lambda weights: (weights @ values / weights.sum(axis=1))[:, None], units, n_boot=n_boot, seed=seed
    )
    count = int(units.max()) + 1
    return from_replicates(float(values.mean()), draws[:, 0], units=count, scale="log")


def test_the_bootstrap_error_of_a_mean_is_the_textbooks():
    values = np.random.default_rng(0).gamma(4, size=200)
    made = mean_interval(values, np.arange(200), n_boot=4000)
    reach = 1.97196 * values.std(ddof=1) / np.sqrt(200) / values.mean()
    np.testing.assert_allclose(np.log(made.high / values.mean()), reach, rtol=0.03)
    np.testing.assert_allclose(np.log(values.mean() / made.low), reach, rtol=0.03)


def grouped_coverage(units_known):
    """How often the interval holds the mean of grouped values, 40 groups of 5 with a common part."""
    generator, hits, runs = np.random.default_rng(3), 0, 400
    groups = np.repeat(np.arange(40), 5)
    for run in range(runs):
        values = generator.gamma(2, size=40)[groups] + generator.gamma(2, size=200)
        made = mean_interval(values, groups if units_known else np.arange(200), seed=run, n_boot=300)
        hits += made.low <= 4 <= made.high
    return hits / runs


def test_the_bootstrap_by_group_covers_the_truth_95_times_in_100():
    assert 0.92 < grouped_coverage(units_known=True) < 0.98


def test_the_bootstrap_that_ignores_groups_covers_too_little():
    assert grouped_coverage(units_known=False) < 0.87


@pytest.mark.parametrize(
    ("value", "draws", "units", "scale"),
    [
        (1.0, [1.0, 1.0, 1.0], 10, "logit"),
        (0.5, [0.5, 0.5, 0.5], 10, "logit"),
        (0.5, [0.4, 0.6, 0.5], 1, "logit"),
        (0.5, [np.nan, np.nan, 0.5], 10, "logit"),
        (0.0, [0.0, 0.0, 0.1], 10, "log"),
    ],
)
def test_replicates_without_spread_give_no_interval(value, draws, units, scale):
    assert from_replicates(value, np.array(draws), units=units, scale=scale) is None


def test_a_share_near_one_gets_an_interval_that_stays_below_one():
    made = from_replicates(0.99, np.array([0.98, 0.99, 1.0, np.nan]), units=101, scale="logit")
    # expit(logit(0.99) -+ 1.98397 x 0.01 sqrt(101 / 100) / (0.99 x 0.01))
    close(made, 0.92961, 0.99865, "bootstrap")


# ------------------------------------------------------------------------------ proportions of units

OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 6)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=200)
@given(OUTCOMES)
def test_a_proportion_never_has_zero_width_whatever_the_groups(rows):
    hits, trials, names = (np.array(column) for column in zip(*rows, strict=True))
    units = np.unique(names, return_inverse=True)[1]
    made = proportion(hits & trials, trials, units)
    assert 0 <= made.low < made.high <= 1


def test_a_proportion_of_single_images_is_wilsons():
    hits, trials = np.arange(10) < 7, np.arange(10) < 9
    assert wilson(7, 9) == proportion(hits, trials, np.arange(10))


def test_images_that_repeat_each_other_count_about_as_one():
    hits = np.repeat(np.arange(100) < 80, 5)
    made = proportion(hits, np.ones(500, bool), np.repeat(np.arange(100), 5))
    # 500 images in 100 units that agree within: (100 - 1) (1.95996 / 1.98422)^2 = 96.6 trials
    expected = wilson(0.8 * 96.5940, 96.5940)
    close(made, expected.low, expected.high, "wilson")


def test_a_flawless_sample_counts_each_group_once():
    made = proportion(np.ones(40, bool), np.ones(40, bool), np.repeat(np.arange(10), 4))
    assert clopper_pearson(10, 10) == made


def test_one_group_tells_as_much_as_one_image():
    made = proportion(np.arange(40) < 30, np.ones(40, bool), np.zeros(40, int))
    assert wilson(0.75, 1) == made


def test_the_proportion_by_group_covers_the_truth_95_times_in_100():
    generator, runs = np.random.default_rng(1), 1500
    groups = np.repeat(np.arange(40), 4)
    # Beta(4, 1) rates by group: the truth is 0.8, answers of a group correlate by 1 / 6
    rates = generator.beta(4, 1, size=(runs, 40))[:, groups]
    answers = generator.random((runs, 160)) < rates
    made = [proportion(row, np.ones(160, bool), groups) for row in answers]
    by_group = np.mean([i.low <= 0.8 <= i.high for i in made])
    ignoring = np.mean([i.low <= 0.8 <= i.high for i in map(wilson, answers.sum(axis=1), [160] * runs)])
    assert 0.935 < by_group < 0.97
    assert ignoring < 0.91


# ------------------------------------------------------------------------------ means of proportions


def test_equal_flawless_classes_have_the_bound_of_all_their_images():
    close(exact_mean([80, 80]), 0.97721, 1.0, "exact")


def test_a_small_flawless_class_lowers_the_bound_of_the_mean():
    close(exact_mean([158, 2]), 0.57906, 1.0, "exact")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 200), min_size=2, max_size=2))
def test_no_rates_that_explain_a_flawless_sample_have_a_smaller_mean(counts):
    low = exact_mean(counts).low
    first = np.linspace(0.001, 1, 2000)
    # the second class's smallest rate that keeps the chance of no errors at 2.5 %
    second = np.exp(np.minimum(1, (np.log(0.025) - counts[0] * np.log(first)) / counts[1]))
    grid = ((first + second) / 2)[second <= 1].min()
    assert low - 1e-9 <= grid <= low + 2e-3


@pytest.mark.parametrize("counts", [[], [3, 0]])
def test_a_mean_without_trials_is_refused(counts):
    with pytest.raises(ValueError, match="must be positive"):
        exact_mean(counts)


def test_the_interval_of_a_mean_of_one_is_its_own():
    close(combined_mean([0.8], [Interval(0.7, 0.85, "wilson")]), 0.7, 0.85, "combined")


def test_independent_parts_shrink_the_interval_of_their_mean():
    # sides of 0.3 and 0.4 join to 0.5, halved by the mean of two
    parts = [Interval(0.5, 1.0, "wilson"), Interval(0.2, 0.7, "wilson")]
    close(combined_mean([0.8, 0.6], parts), 0.45, 0.81180, "combined")


# ------------------------------------------------------------------------------ resolution


def test_160_images_tell_models_apart_from_four_points_on():
    assert 3.95 == round(distinguishable(160), 2)


@pytest.mark.parametrize(("n", "points"), [(1, 100.0), (6, 100.0), (12, 50.0), (60, 10.0)])
def test_few_images_need_six_that_only_the_better_model_gets_right(n, points):
    assert points == distinguishable(n)


@given(st.integers(1, 100_000), st.floats(0.01, 1))
def test_more_images_never_tell_less(n, discordance):
    more, fewer = (distinguishable(count, discordance=discordance) for count in (n + 1, n))
    assert 0 < more <= fewer <= 100


@pytest.mark.parametrize("arguments", [(0, 0.1), (10, 0.0), (10, 1.5)])
def test_impossible_samples_are_refused(arguments):
    with pytest.raises(ValueError, match="images with discordance"):
        distinguishable(arguments[0], discordance=arguments[1])
