import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from upcycle.errors import UpcycleError
from upcycle.evaluation.intervals import clopper_pearson, wilson
from upcycle.evaluation.metrics import measure, paired_log_loss, simplest_of, standard_error
from upcycle.evaluation.results import Predictions

AVERAGES = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "log_loss", "roc_auc")


def predictions(labels, logits, *, groups=None, hashes=None, k=2):
    n = len(labels)
    return Predictions(
        tuple("abcdefgh"[:k]),
        tuple(f"{i}.jpg" for i in range(n)),
        hashes or ("",) * n,
        groups or ("",) * n,
        np.array(labels),
        np.array(logits, np.float32).reshape(n, 1 if k == 2 else k),
    )


def answering(labels, predicted, *, k=2, groups=None):
    """Predictions that name `predicted`, surely."""
    logits = 8.0 * np.array(predicted) - 4 if k == 2 else 6 * np.eye(k)[predicted]
    return predictions(labels, logits, k=k, groups=groups)


@st.composite
def any_predictions(draw):
    k, n = draw(st.integers(2, 5)), draw(st.integers(1, 30))
    labels = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    outputs = 1 if k == 2 else k
    # few different logits, so that ties occur
    values = st.sampled_from([-30.0, -2.0, -0.5, 0.0, 0.25, 3.0, 40.0])
    logits = draw(st.lists(values, min_size=n * outputs, max_size=n * outputs))
    names = draw(st.sampled_from([("",), ("",), ("x", "y", "z"), ("x", "")]))
    groups = tuple(names[i % len(names)] for i in range(n))
    return predictions(labels, logits, groups=groups, k=k)


def every_metric(evaluation):
    for name in AVERAGES:
        if getattr(evaluation, name) is not None:
            yield name, getattr(evaluation, name)
    for label, part in evaluation.per_class.items():
        yield from ((f"{name} of {label}", getattr(part, name)) for name in ("precision", "recall", "f1"))


# ------------------------------------------------------------------------------ values


@settings(deadline=None, max_examples=150)
@given(any_predictions())
def test_every_value_is_scikit_learns(made):
    labels, predicted, k = made.labels, made.predicted(), len(made.classes)
    got = measure(made, n_boot=2)
    each = sk.precision_recall_fscore_support(labels, predicted, labels=range(k), zero_division=0)
    macro = sk.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "precision_macro": macro[0],
        "recall_macro": macro[1],
        "f1_macro": macro[2],
        "log_loss": made.log_losses().mean(),
    }
    if k == 2 and len(set(labels)) == 2:
        expected["roc_auc"] = sk.roc_auc_score(labels, made.logits[:, 0])
    for i, label in enumerate(made.classes):
        names = (f"{name} of {label}" for name in ("precision", "recall", "f1"))
        expected |= dict(zip(names, (column[i] for column in each[:3]), strict=True))
    values = {name: metric.value for name, metric in every_metric(got)}
    assert expected == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert each[3].tolist() == [part.support for part in got.per_class.values()]
    assert sk.confusion_matrix(labels, predicted, labels=range(k)).tolist() == [*map(list, got.confusion)]


def test_a_class_never_predicted_has_precision_zero_without_a_warning():
    got = measure(answering([0, 0, 1], [0, 0, 0])).per_class["b"]
    assert (0.0, 0.0, 0.0, 1) == (got.precision.value, got.recall.value, got.f1.value, got.support)


def test_there_is_no_roc_auc_with_three_classes_or_one_of_two_missing():
    assert measure(answering([0, 1, 2], [0, 1, 2], k=3)).roc_auc is None
    assert measure(answering([0, 0, 0], [0, 1, 0])).roc_auc is None


# ------------------------------------------------------------------------------ intervals


@settings(deadline=None, max_examples=150)
@given(any_predictions())
def test_every_interval_holds_its_value_and_has_a_width(made):
    for name, metric in every_metric(measure(made, n_boot=40)):
        highest = math.inf if name == "log_loss" else 1
        assert 0 <= metric.low <= metric.value <= metric.high <= highest, (name, metric)
        assert metric.low < metric.high < math.inf, (name, metric)


def test_without_errors_the_exact_bound_of_all_images_stands_in():
    half = [0] * 80 + [1] * 80
    got = measure(answering(half, half))
    bound = clopper_pearson(160, 160)
    for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro"):
        metric = getattr(got, name)
        assert (1.0, pytest.approx(bound.low), 1.0, "exact") == (
            metric.value,
            metric.low,
            metric.high,
            metric.method,
        )


def test_a_perfect_ranking_is_bounded_by_as_many_pairs_as_the_smaller_class_has():
    got = measure(predictions([0] * 50 + [1] * 20, np.arange(70))).roc_auc
    assert (1.0, clopper_pearson(20, 20).low, 1.0, "exact") == (got.value, got.low, got.high, got.method)


def test_a_single_image_of_a_class_has_the_widest_interval():
    got = measure(answering([0] * 20 + [1], [0] * 20 + [1])).per_class["b"].recall
    assert (0.025, 1.0, "exact") == (pytest.approx(got.low), got.high, got.method)


def test_a_model_that_names_one_class_only_gets_intervals_from_each_class():
    got = measure(answering([0] * 30 + [1] * 20, [0] * 50))
    assert (0.5, "combined") == (got.recall_macro.value, got.recall_macro.method)
    # recalls of 1 [0.884, 1] and 0 [0, 0.168]
    assert (0.442, 0.584) == (round(got.recall_macro.low, 3), round(got.recall_macro.high, 3))


def test_a_model_without_any_hit_has_the_exact_bound_from_above():
    got = measure(answering([0] * 10 + [1] * 10, [1] * 10 + [0] * 10)).f1_macro
    assert (0.0, 0.0, pytest.approx(clopper_pearson(0, 20).high)) == (got.value, got.low, got.high)


def test_equal_costs_still_leave_room_for_an_unseen_kind_of_image():
    got = measure(answering([0] * 50 + [1] * 50, [0] * 50 + [1] * 50)).log_loss
    unseen, right, wrong = clopper_pearson(0, 100).high, math.log1p(math.exp(-4)), math.log1p(math.exp(4))
    expected = ((1 - unseen) * right, (1 - unseen) * right + unseen * wrong, "exact")
    assert (pytest.approx(expected[0]), pytest.approx(expected[1]), "exact") == (got.low, got.high, got.method)


def test_ordinary_results_get_wilson_for_shares_and_the_bootstrap_for_averages():
    got = measure(noisy(np.random.default_rng(0), n=160))
    methods = {name: metric.method for name, metric in every_metric(got)}
    averages = dict.fromkeys(AVERAGES[1:], "bootstrap")
    classes = {f"{name} of {label}": "wilson" for label in "ab" for name in ("precision", "recall", "f1")}
    assert {"accuracy": "wilson"} | averages | classes == methods
    right = round(got.accuracy.value * 160)
    assert (wilson(right, 160).low, wilson(right, 160).high) == (got.accuracy.low, got.accuracy.high)


def test_images_of_the_same_bytes_count_as_one():
    labels, answers = [0, 1] * 20, [0, 1] * 15 + [1, 1] * 5
    single = measure(answering(labels, answers))
    twice = answering(labels * 2, answers * 2)
    hashes = tuple(f"{i % 40}" for i in range(80))
    repeated = measure(predictions(twice.labels, twice.logits, hashes=hashes))
    unknown = measure(twice)
    widths = [e.f1_macro.high - e.f1_macro.low for e in (single, repeated, unknown)]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)
    assert widths[2] < 0.8 * widths[0]


def test_the_same_seed_gives_the_same_evaluation():
    made = noisy(np.random.default_rng(0), n=40)
    assert measure(made, seed=3).to_dict() == measure(made, seed=3).to_dict()
    assert measure(made, seed=3).f1_macro != measure(made, seed=4).f1_macro


def noisy(generator, *, n, grouped=False):
    """Two classes, logits normal around -+1.3; in groups of four a common part as large as each image's own."""
    groups = np.arange(n) // 4 if grouped else np.arange(n)
    labels = generator.integers(2, size=n)[groups]
    common = generator.normal(size=n)[groups] if grouped else 0
    logits = 1.3 * (2 * labels - 1) + generator.normal(size=n) + common
    return predictions(labels, logits, groups=tuple(map(str, groups)))


def coverage(name, truth, *, grouped, runs=300):
    generator = np.random.default_rng(11)
    made = [getattr(measure(noisy(generator, n=160, grouped=grouped), n_boot=300, seed=i), name) for i in range(runs)]
    return sum(metric.low <= truth <= metric.high for metric in made) / runs


# the chance that a normal with mean 1.3 and variance 1 (2 with the common part) is positive
@pytest.mark.parametrize(("grouped", "truth"), [(False, 0.903200), (True, 0.821014)])
def test_the_interval_of_macro_f1_covers_the_truth_95_times_in_100(grouped, truth):
    assert 0.92 < coverage("f1_macro", truth, grouped=grouped) < 0.985


# the chance that a normal with mean 2.6 and variance 2 (4 with the common part) is positive
@pytest.mark.parametrize(("grouped", "truth"), [(False, 0.967004), (True, 0.903200)])
def test_the_interval_of_roc_auc_covers_the_truth_95_times_in_100(grouped, truth):
    assert 0.91 < coverage("roc_auc", truth, grouped=grouped) < 0.985


# ------------------------------------------------------------------------------ the dictionary


def test_the_dictionary_has_the_layout_of_evaluation_json():
    got = measure(answering([0, 0, 1, 1], [0, 1, 1, 1])).to_dict()
    metric = ["value", "low", "high", "method"]
    assert [
        "n",
        "classes",
        *AVERAGES,
        "per_class",
        "confusion",
        "distinguishable_points",
        "resolution",
    ] == list(got)
    assert dict.fromkeys(AVERAGES, metric) == {name: list(got[name]) for name in AVERAGES}
    assert ["precision", "recall", "f1", "support"] == list(got["per_class"]["a"])
    assert (4, ["a", "b"], [[1, 1], [0, 2]]) == (got["n"], got["classes"], got["confusion"])
    assert got == json.loads(json.dumps(got, allow_nan=False))


def test_the_dictionary_leaves_roc_auc_out_where_it_is_undefined():
    assert "roc_auc" not in measure(answering([0, 1, 2], [0, 1, 2], k=3)).to_dict()


def right_on(share, n, **options):
    wrong = round(n * (1 - share))
    labels = [i % 2 for i in range(n)]
    return measure(
        answering(labels, [1 - labels[i] if i < wrong else labels[i] for i in range(n)], **options), n_boot=2
    )


def test_160_images_say_that_four_points_separate_models():
    got = right_on(0.95, 160)
    assert 4.0 == got.distinguishable_points
    assert "160 test images: models closer than about 4 points cannot be told apart" == got.resolution


def test_models_with_many_errors_are_harder_to_tell_apart():
    assert 9.4 == right_on(0.625, 160).distinguishable_points


def test_groups_count_for_what_can_be_told_apart():
    got = right_on(0.95, 160, groups=tuple(str(i // 4) for i in range(160)))
    assert "160 test images in 40 groups: models closer than about 15 points cannot be told apart" == got.resolution


def test_five_images_are_too_few():
    got = measure(answering([0, 1, 0, 1, 0], [0, 1, 0, 1, 0]), n_boot=2, split="val")
    assert (100.0, "5 val images: too few to tell any two models apart") == (
        got.distinguishable_points,
        got.resolution,
    )


# ------------------------------------------------------------------------------ pairs


def test_the_paired_difference_is_the_mean_of_the_images_with_its_standard_error():
    # losses of class 0 are log(1 + e^z): choose z so that they are 1, 2, 3 and 0.5
    a, b = (predictions([0] * 4, np.log(np.expm1(x))) for x in ([1, 2, 3, 2], [0.5, 0.5, 0.5, 0.5]))
    got = paired_log_loss(a, b)
    assert (1.5, math.sqrt(2 / 3) / 2, 4) == (
        pytest.approx(got.mean_difference, abs=1e-6),
        pytest.approx(got.standard_error, abs=1e-6),
        got.n,
    )


def test_the_standard_error_counts_groups_not_images():
    losses, groups = [1, 1, 3, 3], ("x", "x", "y", "y")
    a = predictions([0] * 4, np.log(np.expm1(losses)), groups=groups)
    b = predictions([0] * 4, np.log(np.expm1([0.5] * 4)), groups=groups)
    # two means, 0.5 and 2.5: a standard deviation of sqrt(2) over sqrt(2)
    assert 1.0 == pytest.approx(paired_log_loss(a, b).standard_error, abs=1e-6)


def test_one_image_leaves_the_standard_error_unknown():
    assert math.inf == paired_log_loss(predictions([0], [1]), predictions([0], [2])).standard_error


def test_different_images_cannot_be_paired():
    with pytest.raises(UpcycleError, match="cannot pair predictions of different images or labels"):
        paired_log_loss(predictions([0, 1], [0, 0]), predictions([1, 0], [0, 0]))


# ---------------------------------------------------------------- the choice between models


def losing(*losses):
    """Predictions of class a with these log losses."""
    return predictions([0] * len(losses), np.log(np.expm1(losses)))


def test_the_standard_error_of_a_mean_loss():
    assert math.sqrt(1 / 3) == pytest.approx(standard_error(losing(1, 1, 3, 3)), abs=1e-6)
    assert math.inf == standard_error(losing(1))


def test_a_simpler_model_within_one_standard_error_of_the_best_is_kept():
    models = {
        "probe": losing(1.5, 1.5, 1.5, 1.5),
        "finetune": losing(1.2, 0.9, 1.0, 1.0),
        "ema": losing(1.0, 1.0, 1.0, 1.0),
        "interpolated-0.5": losing(2.0, 2.0, 2.0, 2.0),
    }
    choice = simplest_of(models)
    assert "finetune" == choice.chosen
    assert list(models) == [one.name for one in choice.candidates]
    assert [0.5, 0.025, 0.0, 1.0] == pytest.approx([one.mean_difference for one in choice.candidates], abs=1e-6)
    assert [1.5, 1.025, 1.0, 2.0] == pytest.approx([one.val_loss for one in choice.candidates], abs=1e-6)
    assert 0.062915 == pytest.approx(choice.candidates[1].standard_error, abs=1e-5)
    assert -0.475 == pytest.approx(choice.mean_difference, abs=1e-6)


def test_a_model_in_between_must_win_by_more_than_one_standard_error():
    probe, tuned = losing(1.5, 1.4, 1.5, 1.4), losing(1.2, 1.1, 1.2, 1.1)
    better, alike = losing(1.0, 0.9, 1.0, 0.8), losing(1.0, 1.3, 1.2, 1.0)
    assert "interpolated-0.75" == simplest_of({"probe": probe, "finetune": tuned, "interpolated-0.75": better}).chosen
    assert "finetune" == simplest_of({"probe": probe, "finetune": tuned, "interpolated-0.75": alike}).chosen


def test_one_image_keeps_the_probe():
    assert "probe" == simplest_of({"probe": losing(2), "finetune": losing(1)}).chosen
