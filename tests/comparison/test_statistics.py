import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from tests.comparison.arms import answers, simulate
from upcycle.comparison.statistics import (
    Arm,
    Estimate,
    Score,
    difference,
    holm,
    images_needed,
    retrained,
    scored,
    sign_flip,
)

P = st.floats(0, 1, allow_nan=False)


def arm(right: list[list[int]], units: list[int] | None = None) -> Arm:
    """Models that get the images marked 1 right, two classes in turn."""
    hits = np.array(right, dtype=bool)
    labels = np.arange(hits.shape[1]) % 2
    return Arm(labels, np.where(hits, labels, 1 - labels), np.array(units or range(hits.shape[1])), 2)


def two(first: list[list[int]], second: list[list[int]]) -> Estimate:
    return difference(scored(arm(first)), scored(arm(second)), "accuracy")


def same_seeds(count: int) -> list[tuple[int, int]]:
    return [(at, at) for at in range(count)]


def half(made: Estimate | None) -> float:
    assert made is not None
    return (made.high - made.low) / 2


# ------------------------------------------------------------------------------------- scores


def test_scores_are_the_means_over_seeds_of_accuracy_and_macro_f1() -> None:
    made = scored(arm([[1, 1, 1, 0], [1, 1, 0, 0]]), n_boot=10)
    np.testing.assert_allclose([[0.75, 0.7333333], [0.5, 0.5]], made.values, atol=1e-6)
    assert (0.625, pytest.approx(0.1767767)) == (made.mean("accuracy"), made.deviation("accuracy"))


def test_one_seed_has_no_deviation() -> None:
    assert scored(arm([[1, 0]]), n_boot=10).deviation("accuracy") is None


def test_arms_scored_with_one_seed_share_their_resamples() -> None:
    made = scored(arm([[1, 0] * 20])), scored(arm([[1, 0] * 20]))
    np.testing.assert_array_equal(made[0].replicates, made[1].replicates)


# --------------------------------------------------------------------------------- question (a)


def test_models_that_answer_alike_still_have_an_interval() -> None:
    made = two([[1] * 98 + [0, 0]], [[1] * 98 + [0, 0]])
    assert made.value == 0
    assert pytest.approx((-0.0275, 0.0275), abs=1e-4) == (made.low, made.high)


def test_without_ties_between_seeds_it_is_bonett_and_prices_interval() -> None:
    """30 images only the second gets right and 10 only the first, of 400: the closed form."""
    made = two([[0] * 30 + [1] * 370], [[1] * 30 + [0] * 10 + [1] * 360])
    error = math.sqrt((30 + 10 + 2) / 402**2 - (20 / 402) ** 2 / 402)
    assert made.value == pytest.approx(0.05)
    assert half(made) == pytest.approx(t.isf(0.025, 399) * error, rel=0.05)


def test_a_few_images_cannot_give_more_than_a_whole_difference() -> None:
    made = two([[0, 0, 0]], [[1, 1, 1]])
    assert (1.0, 1.0) == (made.value, made.high)
    assert made.low < 1


def test_images_of_one_group_count_once() -> None:
    right = [[0, 0, 0, 0, 1, 1, 1, 1] * 10]
    flipped = [[1 - hit for hit in right[0]]]
    single, grouped = (
        difference(scored(arm(right, units)), scored(arm(flipped, units)), "accuracy")
        for units in (list(range(80)), [at // 4 for at in range(80)])
    )
    assert half(grouped) > 1.8 * half(single)


# ---------------------------------------------------------------------------------- question (b)


def test_four_seeds_do_not_tell_whether_a_difference_holds_on_retraining() -> None:
    ours = scored(arm([[1, 0, 1, 1]] * 5), n_boot=50)
    assert retrained(ours, ours, "f1_macro", same_seeds(4)) is None
    assert retrained(ours, ours, "f1_macro", same_seeds(5)) is not None


def test_seeds_that_differ_widen_the_interval_of_the_recipe_and_not_of_the_models() -> None:
    random = np.random.default_rng(0)
    labels, hard = random.integers(0, 2, 1000), random.normal(0, 1, 1000)
    steady, varying = (
        [answers(random, 2 + random.normal(0, spread, 6), labels, hard) for _ in range(2)] for spread in (0, 0.8)
    )
    recipe, models = {}, {}
    for name, arms in (("steady", steady), ("varying", varying)):
        ones, twos = (scored(one) for one in arms)
        recipe[name] = half(retrained(ones, twos, "accuracy", same_seeds(6)))
        models[name] = half(difference(ones, twos, "accuracy"))
    assert recipe["varying"] > 2 * recipe["steady"]
    assert models["varying"] < 1.5 * models["steady"]


# ---------------------------------------------------------------------------------- simulations


@pytest.mark.parametrize(("images", "seeds", "spread"), [(150, 1, 0.0), (300, 3, 0.3), (300, 5, 1.0)])
def test_interval_a_covers_the_trained_models_difference_95_times_in_100(
    images: int, seeds: int, spread: float
) -> None:
    made = simulate(400, images=images, seeds=seeds, gap=0.4, hardness=1.5, spread=spread, asked=["trained"])
    assert 0.93 <= made.trained <= 0.99


@pytest.mark.parametrize(("seeds", "spread"), [(5, 0.5), (5, 1.0), (10, 0.5)])
def test_interval_b_covers_the_recipes_difference_95_times_in_100(seeds: int, spread: float) -> None:
    made = simulate(400, images=300, seeds=seeds, gap=0.4, hardness=1.5, spread=spread, asked=["retrained"])
    assert 0.93 <= made.retrained


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro"])
def test_of_equal_recipes_trained_again_interval_b_calls_one_in_twenty_different(metric: Score) -> None:
    asked = ["retrained"]
    made = simulate(400, images=300, seeds=5, gap=0.0, hardness=1.5, spread=0.5, metric=metric, asked=asked)
    assert 0.93 <= made.retrained


def test_interval_a_and_the_sign_flip_test_hold_where_images_come_in_groups() -> None:
    asked = ["trained", "rejected"]
    made = simulate(400, images=600, seeds=1, gap=0.0, hardness=1.5, spread=0.0, group=4, asked=asked)
    assert 0.93 <= made.trained <= 0.99
    assert made.rejected <= 0.068


def test_interval_b_covers_too_much_rather_than_too_little_where_seeds_do_not_matter() -> None:
    made = simulate(300, images=300, seeds=5, gap=0.4, hardness=1.5, spread=0.0, asked=["retrained"])
    assert made.retrained >= 0.97


def test_interval_a_does_not_cover_the_recipe_where_seeds_differ_so_the_two_questions_are_two() -> None:
    """What question (b) is for: the trained models' interval misses the recipe's difference far too often."""
    random = np.random.default_rng(4)
    missed = 0
    for _ in range(200):
        labels, hard = random.integers(0, 2, 600), random.normal(0, 1.5, 600)
        first, second = (answers(random, 2 + random.normal(0, 1, 3), labels, hard) for _ in range(2))
        made = difference(scored(first, n_boot=200), scored(second, n_boot=200), "accuracy")
        missed += not made.low <= 0 <= made.high
    assert missed / 200 > 0.3


def macro_f1(recall: float, specificity: float, share: float) -> float:
    """The macro F1 of a model with these rates of right answers, over all images, of which `share` are of class 1."""
    hits, misses, alarms = share * recall, share * (1 - recall), (1 - share) * (1 - specificity)
    rest = (1 - share) * specificity
    return (2 * hits / (2 * hits + misses + alarms) + 2 * rest / (2 * rest + misses + alarms)) / 2


@pytest.mark.parametrize(("rare", "images"), [(5, 1000), (20, 1000)])
def test_interval_a_of_f1_covers_with_a_rare_class_too(rare: int, images: int) -> None:
    random = np.random.default_rng(6)
    labels, units = (np.arange(images) < rare).astype(np.int64), np.arange(images)
    truth = macro_f1(0.95, 0.998, rare / images) - macro_f1(0.8, 0.998, rare / images)
    held = 0
    for _ in range(300):
        arms = []
        for recall in (0.8, 0.95):
            right = random.random(images) < np.where(labels == 1, recall, 0.998)
            arms.append(Arm(labels, np.where(right, labels, 1 - labels)[None], units, 2))
        ones, twos = (scored(one, n_boot=200) for one in arms)
        made = difference(ones, twos, "f1_macro")
        held += made.low <= truth <= made.high
    assert held / 300 >= 0.93


@pytest.mark.parametrize(("seeds", "images"), [(1, 100), (1, 1000), (3, 300)])
def test_of_equal_recipes_one_in_twenty_at_most_is_called_different(seeds: int, images: int) -> None:
    made = simulate(600, images=images, seeds=seeds, gap=0.0, hardness=1.5, spread=0.0, asked=["rejected"])
    assert made.rejected <= 0.068


@pytest.mark.parametrize(("images", "seeds"), [(300, (1, 5)), (1000, (1, 3))])
def test_of_equal_recipes_with_other_numbers_of_seeds_no_more_are(images: int, seeds: tuple[int, int]) -> None:
    random = np.random.default_rng(7)
    false = 0
    for _ in range(600):
        labels, hard = random.integers(0, 2, images), random.normal(0, 1.5, images)
        false += sign_flip(*(answers(random, np.full(count, 3.5), labels, hard) for count in seeds)) < 0.05
    assert false / 600 <= 0.068


def test_of_six_equal_variants_any_pair_is_called_significant_one_time_in_twenty_at_most() -> None:
    random = np.random.default_rng(5)
    false = 0
    for _ in range(300):
        labels, hard = random.integers(0, 2, 300), random.normal(0, 1.5, 300)
        arms = [answers(random, np.full(1, 2.0), labels, hard) for _ in range(6)]
        false += min(holm([sign_flip(*pair) for pair in combinations(arms, 2)])) < 0.05
    assert false / 300 <= 0.07


# ---------------------------------------------------------------------------------------- tests


@given(only_first=st.integers(0, 30), only_second=st.integers(0, 30))
def test_for_one_seed_and_independent_images_the_sign_flip_test_is_mcnemars(only_first: int, only_second: int) -> None:
    first = arm([[1] * only_first + [0] * only_second + [1] * 4])
    second = arm([[0] * only_first + [1] * only_second + [1] * 4])
    table = [[4, only_first], [only_second, 0]]
    expected = mcnemar(table, exact=True).pvalue if only_first + only_second else 1.0
    assert expected == pytest.approx(sign_flip(first, second))


def test_the_sign_flip_test_counts_out_every_sum_of_signs() -> None:
    """Differences of 2, 2 and 1 right answers: 2 of 8 sums of signs are at least 5 from zero."""
    first, second = arm([[0, 0, 0, 1], [0, 0, 1, 1]]), arm([[1, 1, 1, 1], [1, 1, 1, 1]])
    assert pytest.approx(0.25) == sign_flip(first, second)


def test_seeds_in_different_numbers_are_averaged_before_they_are_compared() -> None:
    first, second = arm([[0, 0, 1]]), arm([[1, 0, 1], [0, 1, 1], [1, 1, 1]])
    assert pytest.approx(0.5) == sign_flip(first, second)


def test_a_group_flips_its_sign_as_a_whole() -> None:
    first, second = arm([[0] * 6], [0, 0, 0, 1, 1, 1]), arm([[1] * 6], [0, 0, 0, 1, 1, 1])
    assert pytest.approx(0.5) == sign_flip(first, second)


def test_beyond_what_can_be_counted_the_normal_limit_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    first, second = (arm((random.random((3, 2000)) < share).astype(int).tolist()) for share in (0.9, 0.915))
    exact = sign_flip(first, second)
    monkeypatch.setattr("upcycle.comparison.statistics.LARGEST_TEST", 0)
    assert exact == pytest.approx(sign_flip(first, second), rel=0.1)


@settings(max_examples=20)
@given(ps=st.lists(P, min_size=1, max_size=12))
def test_holm_is_statsmodels(ps: list[float]) -> None:
    np.testing.assert_allclose(multipletests(ps, method="holm")[1], holm(ps), atol=1e-12)


# --------------------------------------------------------------------------------- images needed


def test_an_interval_as_narrow_as_wanted_needs_no_more_images() -> None:
    assert images_needed(two([[1] * 5000], [[1] * 5000]), 0.01, images=5000) is None


def test_four_times_narrower_needs_sixteen_times_the_images() -> None:
    made = two([[0] * 30 + [1] * 370], [[1] * 30 + [0] * 30 + [1] * 340])
    needed = [images_needed(made, goal, images=400) for goal in (0.02, 0.005)]
    assert 14 < needed[1] / needed[0] < 18
    assert [1600, 25000] == [needed[0] // 100 * 100, needed[1] // 1000 * 1000]
