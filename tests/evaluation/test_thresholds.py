"""What is asked in words, the rule that does it, and the promise: with how many images, and how often it breaks."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from upcycle.errors import ConfigError, DataError, RunError
from upcycle.evaluation import thresholds
from upcycle.evaluation.results import Predictions
from upcycle.evaluation.thresholds import Rule, Thresholds, Want, asked, fewest, measured, operating_point, promised

PETS = ("cats", "dogs")


def pets(probabilities, labels) -> Predictions:
    """Images with these probabilities of dogs."""
    chances, n = np.asarray(probabilities, np.float64), len(labels)
    logits = np.log(chances / (1 - chances))[:, None].astype(np.float32)
    return Predictions(PETS, tuple(map(str, range(n))), ("",) * n, ("",) * n, np.asarray(labels), logits)


def drawn(n: int, rng: np.random.Generator) -> Predictions:
    """Images whose probabilities are right, from even to sure."""
    chances = rng.beta(0.4, 0.4, n).clip(1e-4, 1 - 1e-4)
    return pets(chances, (rng.random(n) < chances).astype(np.int64))


# ------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"want": "precision>=0.95"}, Want("precision", 0.95)),
        ({"want": "precision=95%"}, Want("precision", 0.95)),
        ({"want": " precision >= 0.9:cats"}, Want("precision", 0.9, "cats")),
        ({"want": "recall>=0.9"}, Want("recall", 0.9, "dogs")),
        ({"want": "recall≥0.9:cats"}, Want("recall", 0.9, "cats")),
        ({"cost": "fn=10,fp=1"}, Want("cost", label="dogs", costs=(10.0, 1.0))),
        ({"cost": "fp=2, fn=0.5"}, Want("cost", label="dogs", costs=(0.5, 2.0))),
        ({"cost": "fn=1e3,fp=1"}, Want("cost", label="dogs", costs=(1000.0, 1.0))),
        ({"cost": {"fp": 1e-5, "fn": 2}}, Want("cost", label="dogs", costs=(2.0, 1e-5))),
        ({"abstain": "5%"}, Want("abstain", 0.05)),
        ({"abstain": 0.05}, Want("abstain", 0.05)),
    ],
)
def test_what_is_asked_in_words(words, expected) -> None:
    assert expected == asked(PETS, **{"want": None, "cost": None, "abstain": None, **words})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "say one thing: --want 'precision>=0.95', --cost"),
        ({"want": "precision>=0.9", "abstain": "5%"}, "say one thing"),
        ({"want": "precision"}, "write it as 'precision>=0.95' or 'recall>=0.9:CLASS', in quotes"),
        ({"want": "f1>=0.9"}, "write it as"),
        ({"want": "precision>=1"}, "want = '1': give a share between 0 and 1"),
        ({"want": "precision>=0.9.5"}, "want = '0.9.5': give a share"),
        ({"want": "precision>=0.9:birds"}, "the model has no class 'birds': it knows cats, dogs"),
        ({"abstain": "all"}, "abstain = 'all': give a share"),
        ({"cost": "fn=10"}, "cost = 'fn=10': give what a missed and a false positive cost, as in fn=10,fp=1"),
        ({"cost": "fn=0,fp=1"}, "cost = 'fn=0,fp=1': give"),
        *(
            ({"cost": cost}, "give what a missed and a false positive cost, as in fn=10,fp=1")
            for cost in (
                "fn=10x,fp=1",
                "fn=1.2.3,fp=1",
                "fn=10,fp=1,fn=2",
                "fn=10,fp=1,tp=0",
                "fn=10;fp=1",
                "fn=nan,fp=1",
                "fn=inf,fp=1",
                "fn=-1,fp=2",
                "",
                {"fn": 10},
                {"fn": 10, "fp": 1, "tp": 0},
                {"fn": "10,fp=5", "fp": 1},
                {"fn": None, "fp": 1},
                {"fn": 10**400, "fp": 1},
            )
        ),
    ],
)
def test_what_is_asked_wrongly_is_one_line(words, message) -> None:
    with pytest.raises(ConfigError, match=f"^{message}|{message}"):
        asked(PETS, **{"want": None, "cost": None, "abstain": None, **words})


def test_of_three_classes_a_recall_names_one_and_costs_are_refused() -> None:
    with pytest.raises(ConfigError, match="a recall is that of a class: write recall>=0.9:CLASS"):
        asked(("a", "b", "c"), want="recall>=0.9", cost=None, abstain=None)
    with pytest.raises(ConfigError, match="costs are of two classes, and the model knows 3"):
        asked(("a", "b", "c"), want=None, cost="fn=1,fp=1", abstain=None)


# ------------------------------------------------------------------------------ rules

ROWS = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.35, 0.45]])


@pytest.mark.parametrize(
    ("rule", "answers", "sure"),
    [
        (Rule(0.5), [0, 1, 2], [True, True, False]),
        (Rule(0.7, "b"), [0, 1, 2], [True, False, True]),
        (Rule(0.3, "b", claims=True), [1, 1, 1], [True, True, True]),
        (Rule(0.61, "b", claims=True), [0, 2, 2], [True, True, True]),
    ],
)
def test_a_rule_decides_what_is_answered_and_what_is_sure(rule, answers, sure) -> None:
    found = rule.decide(ROWS, ("a", "b", "c"))
    assert (answers, sure) == (found[0].tolist(), found[1].tolist())


def test_a_precision_answers_as_many_images_as_it_can() -> None:
    made = pets([0.99, 0.98, 0.97, 0.9, 0.8, 0.7], [1, 1, 1, 0, 1, 0])
    rule = operating_point(Want("precision", 0.8), made)
    assert Rule(pytest.approx(0.8), None) == rule
    assert [True] * 5 + [False] == rule.decide(made.probabilities(), PETS)[1].tolist()


def test_images_of_equal_probability_are_answered_together() -> None:
    made = pets([0.99, 0.9, 0.9, 0.9], [1, 1, 1, 0])
    assert pytest.approx(0.99) == operating_point(Want("precision", 0.9), made).threshold


def test_the_precision_of_a_class_is_that_of_its_answers() -> None:
    made = pets([0.9, 0.8, 0.7, 0.01, 0.02], [1, 1, 0, 1, 1])
    assert Rule(pytest.approx(0.8), "dogs") == operating_point(Want("precision", 0.9, "dogs"), made)


def test_a_recall_claims_no_more_than_it_must() -> None:
    made = pets([0.9, 0.6, 0.4, 0.2, 0.1, 0.3, 0.05], [1, 1, 1, 1, 1, 0, 0])
    assert Rule(pytest.approx(0.2), "dogs", claims=True) == operating_point(Want("recall", 0.8, "dogs"), made)


def test_costs_have_the_threshold_of_bayes() -> None:
    assert Rule(1 / 11, "dogs", claims=True) == operating_point(
        Want("cost", label="dogs", costs=(10, 1)), pets([0.5], [1])
    )


def test_a_share_without_an_answer_leaves_no_more_than_that_open() -> None:
    made = pets(np.linspace(0.51, 0.99, 40), [1] * 40)
    rule = operating_point(Want("abstain", 0.05), made)
    assert 2 == (~rule.decide(made.probabilities(), PETS)[1]).sum()


def test_a_precision_that_no_threshold_has_is_refused() -> None:
    with pytest.raises(DataError, match="no threshold gives a precision of at least 90 % on the 3 validation images"):
        operating_point(Want("precision", 0.9), pets([0.9, 0.8, 0.7], [0, 1, 0]))


def test_what_a_rule_does_is_measured_with_intervals() -> None:
    made = pets([0.9, 0.8, 0.7, 0.3, 0.1, 0.55], [1, 1, 0, 0, 0, 1])
    found = measured(Rule(0.6), Want("precision", 0.5), made)
    assert (5 / 6, 4 / 5) == pytest.approx((found["answers"].value, found["right"].value))
    assert found["right"].low < 0.8 < found["right"].high
    claimed = measured(Rule(0.6, "dogs", claims=True), Want("cost", label="dogs", costs=(10, 1)), made)
    assert (2 / 3, 2 / 3, 11 / 6) == pytest.approx(tuple(claimed[key].value for key in ("precision", "recall", "cost")))
    assert {"precision", "recall", "cost"} == claimed.keys()


# ------------------------------------------------------------------------------ the promise


@pytest.mark.parametrize(("value", "confidence", "n"), [(0.95, 0.9, 45), (0.99, 0.9, 230), (0.9, 0.95, 29)])
def test_the_fewest_images_are_those_that_could_do_it_without_an_error(value, confidence, n) -> None:
    assert n == fewest(Want("precision", value), confidence)
    assert binom.cdf(0, n, 1 - value) <= 1 - confidence < binom.cdf(0, n - 1, 1 - value)


def test_too_few_images_are_refused_with_the_number_that_is_needed() -> None:
    val, held = pets([0.9] * 50, [1] * 50), pets([0.9] * 44, [1] * 44)
    with pytest.raises(DataError, match="takes 45 images without an error, and 44 tell about it: give a larger --cal"):
        promised(Want("precision", 0.95), val, held, confidence=0.9)
    one_more = pets([0.9] * 45, [1] * 45)
    assert pytest.approx(0.9) == promised(Want("precision", 0.95), val, one_more, confidence=0.9).threshold


def test_a_promise_that_no_threshold_can_make_is_refused() -> None:
    val, held = pets([0.9] * 50, [1] * 50), pets([0.9] * 100, [1] * 90 + [0] * 10)
    with pytest.raises(
        DataError, match="no threshold can promise precision of at least 95 % at 90 % confidence on 100"
    ):
        promised(Want("precision", 0.95), val, held, confidence=0.9)


def test_the_first_threshold_that_fails_ends_the_search(monkeypatch) -> None:
    val = pets([0.95] * 60 + [0.8] * 60 + [0.6] * 60, [1] * 180)
    # the second step has errors that the third would make up for
    held = pets([0.95] * 60 + [0.8] * 60 + [0.6] * 200, [1] * 60 + [0] * 9 + [1] * 51 + [1] * 200)
    assert pytest.approx(0.95) == promised(Want("precision", 0.95), val, held, confidence=0.9).threshold


def test_a_recall_is_promised_of_the_images_of_its_class() -> None:
    rng = np.random.default_rng(3)
    val, held = drawn(400, rng), drawn(600, rng)
    rule = promised(Want("recall", 0.9, "dogs"), val, held, confidence=0.9)
    missed, there = held.probabilities()[:, 1] < rule.threshold, held.labels == 1
    assert rule.claims
    assert 0.05 < missed[there].mean() < 0.1
    assert binom.cdf((missed & there).sum(), there.sum(), 0.1) <= 0.1


@pytest.mark.parametrize("want", [Want("precision", 0.9), Want("precision", 0.9, "dogs"), Want("recall", 0.9, "dogs")])
def test_a_promise_is_broken_at_most_as_often_as_it_says(want) -> None:
    rng = np.random.default_rng(7)
    world = drawn(20_000, rng)
    broken, made = [], 0
    for _ in range(120):
        val, held = drawn(60, rng), drawn(200, rng)
        try:
            rule = promised(want, val, held, confidence=0.8)
        except DataError:
            continue
        made += 1
        found = measured_truth(rule, want, world)
        broken.append(found < want.value)
    assert made > 70
    assert sum(broken) <= binom.ppf(0.999, 120, 0.2)
    assert sum(broken) > 0  # at this confidence some are, else the rule is far too careful


def measured_truth(rule: Rule, want: Want, world: Predictions) -> float:
    answers, sure = rule.decide(world.probabilities(), PETS)
    if want.label is None:
        return float((answers == world.labels)[sure].mean())
    called = sure & (answers == 1)
    of = called if want.kind == "precision" else world.labels == 1
    return float((called & (world.labels == 1))[of].mean())


def test_validation_images_alone_fix_the_sequence() -> None:
    rng = np.random.default_rng(0)
    val = drawn(200, rng)
    found = thresholds._sequence(Want("precision", 0.9), val, 300, 0.9)
    assert (np.diff(found) < 0).all()
    assert set(found) <= set(val.probabilities().max(axis=1))


# ------------------------------------------------------------------------------ the record


def test_a_record_is_read_back_and_another_is_refused() -> None:
    made = Thresholds("precision of at least 90 %", Rule(0.8), "12 validation images", None, 6, None)
    assert made == Thresholds.from_dict(json.loads(json.dumps(made.to_dict())))
    with pytest.raises(RunError, match="thresholds.json is damaged at 'rule.threshold'"):
        Thresholds.from_dict({**made.to_dict(), "rule": {"threshold": "high"}})
