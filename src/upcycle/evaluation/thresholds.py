"""When a model answers: the threshold for a precision, a recall, a cost or a share of images it may leave open.

Chosen on validation images it is an operating point, as they chose the model as well. Images that chose nothing can
keep a promise: fixed-sequence testing of Learn then Test (Angelopoulos 2021, arXiv 2110.01052) with exact binomial
p-values. Its sequence of thresholds comes from the validation images, so that it is fixed before those are looked at.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy.special import bdtr

from upcycle.errors import ConfigError, DataError, counted, shown
from upcycle.evaluation.intervals import Flags, bootstrap, clusters, from_replicates
from upcycle.evaluation.metrics import share
from upcycle.evaluation.results import Metric, Predictions
from upcycle.rundir import read_value
from upcycle.task import Integers, Reals

FILE = "thresholds.json"
STEPS = 100
"""Thresholds, at most, that are tested one after the other."""
SAFE = 20
"""The first threshold that is tested is the first whose expected p-value is so many times below the level."""
_WANT = re.compile(r"(precision|recall)\s*(?:>=|=|≥)\s*([\d.]+\s*%?)(?::(.+))?", re.DOTALL)


# ---------------------------------------------------------------- what is asked


@dataclass(frozen=True)
class Want:
    """What is asked: a precision or recall of at least `value`, a share `value` of images left open, or costs.

    `label` is the class that is meant; with None all. `costs` are those of a missed and of a false `label`.
    """

    kind: Literal["precision", "recall", "cost", "abstain"]
    value: float = 0.0
    label: str | None = None
    costs: tuple[float, float] = (1.0, 1.0)

    def __str__(self) -> str:
        of = f" of {shown(self.label)}" if self.label is not None else ""
        if self.kind == "cost":
            return f"costs of {self.costs[0]:g} per missed {self.label} and {self.costs[1]:g} per false one"
        if self.kind == "abstain":
            return f"no answer for {100 * self.value:g} % of images"
        return f"{self.kind}{of} of at least {100 * self.value:g} %"


def asked(
    classes: Sequence[str],
    *,
    want: str | None,
    cost: str | Mapping[str, float] | None,
    abstain: str | float | None,
) -> Want:
    """The one thing that is asked in words, of a model with these classes; ConfigError for anything else.

    `precision>=0.95`, `precision>=95%:CLASS`, `recall>=0.9:CLASS`; `fn=10,fp=1`, or these by name; `5%`. Of two
    classes the second is the positive one, which a recall without a class and costs are about.
    """
    if sum(one is not None for one in (want, cost, abstain)) != 1:
        raise ConfigError("say one thing: --want 'precision>=0.95', --cost fn=10,fp=1 or --abstain 5%")
    if abstain is not None:
        return Want("abstain", _share(str(abstain), "abstain"))
    if cost is not None:
        costs = _costs(cost)
        if len(classes) != 2:
            raise ConfigError(f"costs are of two classes, and the model knows {len(classes)}: give --want or --abstain")
        return Want("cost", label=classes[1], costs=costs)
    found = _WANT.fullmatch(str(want).strip())
    if found is None:
        raise ConfigError(f"want = {want!r}: write it as 'precision>=0.95' or 'recall>=0.9:CLASS', in quotes")
    kind, label = found[1], found[3]
    if kind == "recall" and label is None:
        if len(classes) != 2:
            raise ConfigError(f"a recall is that of a class: write recall>={found[2]}:CLASS")
        label = classes[1]
    if label is not None and label not in classes:
        raise ConfigError(f"the model has no class {label!r}: it knows {', '.join(shown(name) for name in classes)}")
    return Want(kind, _share(found[2], "want"), label)  # type: ignore[arg-type]


def _costs(cost: str | Mapping[str, float]) -> tuple[float, float]:
    """What a missed and a false positive cost, each named once, in words or by name."""
    if isinstance(cost, Mapping):
        pairs = list(cost.items())
    else:
        words = [part.partition("=") for part in str(cost).split(",")]
        pairs = [(name.strip(), price) for name, _, price in words]  # type: ignore[misc]
    try:
        prices = {name: float(price) for name, price in pairs}
    except (OverflowError, TypeError, ValueError):
        prices = {}
    if (
        len(pairs) != 2
        or prices.keys() != {"fn", "fp"}
        or not min(prices.values()) > 0
        or not math.isfinite(sum(prices.values()))
    ):
        raise ConfigError(f"cost = {cost!r}: give what a missed and a false positive cost, as in fn=10,fp=1")
    return prices["fn"], prices["fp"]


def _share(text: str, name: str) -> float:
    """A share above 0 and below 1, as a number or in percent."""
    try:
        value = float(text.rstrip(" %")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ConfigError(f"{name} = {text!r}: give a share between 0 and 1, or between 0 % and 100 %")
    return value


# ---------------------------------------------------------------- the rule and what it comes to


@dataclass(frozen=True)
class Rule:
    """What an image is given. Without `label`: its most probable class, if that reaches `threshold`.

    With one: that is asked of answers `label` alone; or, where it `claims`, whatever reaches it is a `label`, nothing
    else is, and every image has an answer.
    """

    threshold: float
    label: str | None = None
    claims: bool = False

    def decide(self, probabilities: Reals, classes: Sequence[str]) -> tuple[Integers, Flags]:
        """The class of each image by its position, [n], and whether the model is sure; of `probabilities` [n, K]."""
        answers = probabilities.argmax(axis=1)
        if self.label is None:
            return answers, probabilities.max(axis=1) >= self.threshold
        at = classes.index(self.label)
        reached = probabilities[:, at] >= self.threshold
        if not self.claims:
            return answers, reached | (answers != at)
        others = probabilities.copy()
        others[:, at] = -1
        return np.where(reached, at, others.argmax(axis=1)), np.ones(len(answers), dtype=np.bool_)


@dataclass(frozen=True)
class Thresholds:
    """The rule of a run's predictions; what was asked, of which images it comes, and what it does on test images.

    `confidence` is that of the promise, None where there is none. `test` has shares with intervals by name: `answers`
    of all images and `right` of those answers; `precision` and `recall` of the rule's class; `cost` per image.
    """

    asked: str
    rule: Rule
    chosen_on: str
    confidence: float | None = None
    test_images: int = 0
    test: Mapping[str, Metric] | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> "Thresholds":
        """The inverse of `to_dict`; RunError for anything else."""
        return read_value(cls, values, FILE)


def measured(rule: Rule, want: Want, predictions: Predictions, *, seed: int = 0) -> dict[str, Metric]:
    """What the rule does on labeled images, each share with its interval, by group."""
    answers, sure = rule.decide(predictions.probabilities(), predictions.classes)
    labels, units = predictions.labels, clusters(predictions.groups, predictions.hashes)
    found = {}
    if not rule.claims:
        found["answers"] = share(sure, np.ones(len(labels), dtype=np.bool_), units)
        found["right"] = share(sure & (answers == labels), sure, units)
    if rule.label is not None:
        at = predictions.classes.index(rule.label)
        called = sure & (answers == at)
        found["precision"] = share(called & (labels == at), called, units)
        found["recall"] = share(called & (labels == at), labels == at, units)
    if want.kind == "cost":
        found["cost"] = _mean(cost_of(want, labels, answers == 1), units, seed)
    return found


def cost_of(want: Want, labels: Integers, claimed: Flags) -> Reals:
    """What each answer costs, [n], of two classes."""
    missed, false = want.costs
    return np.asarray(missed * ((labels == 1) & ~claimed) + false * ((labels == 0) & claimed))


def _mean(values: Reals, units: Integers, seed: int) -> Metric:
    draws = bootstrap(lambda w: (w @ values / w.sum(axis=1))[:, None], units, seed=seed)[:, 0]
    value = float(values.mean())
    made = from_replicates(value, draws, units=int(units.max()) + 1, scale="log")
    return Metric(value, made.low, made.high, made.method) if made else Metric(value, math.nan, math.nan, "unknown")


# ---------------------------------------------------------------- choosing


def operating_point(want: Want, predictions: Predictions) -> Rule:
    """The rule that answers most, or claims least, and does what is asked on these very images: no promise.

    DataError where none does.
    """
    if want.kind == "cost":  # Bayes: with probabilities that are right, no other costs less
        return Rule(want.costs[1] / sum(want.costs), want.label, claims=True)
    scores, counted_in, wrong = _counts(want, predictions)
    order = np.argsort(-scores[counted_in], kind="stable")
    ranked, errors = scores[counted_in][order], np.cumsum(wrong[counted_in][order])
    n = len(ranked)
    if not n:
        raise DataError(f"no validation image tells about {want}: none is of that class")
    if want.kind == "precision":
        whole = np.append(ranked[1:] != ranked[:-1], True)  # images of equal probability are answered together
        good = np.flatnonzero((errors <= (1 - want.value) * np.arange(1, n + 1) + 1e-9) & whole)
        if not len(good):
            raise DataError(f"no threshold gives a {want} on the {counted(n, 'validation image')} it is about")
        return Rule(float(ranked[good[-1]]), want.label)
    allowed = want.value if want.kind == "abstain" else 1 - want.value
    return Rule(float(ranked[n - 1 - min(int(allowed * n + 1e-9), n - 1)]), want.label, claims=want.kind == "recall")


def _counts(want: Want, predictions: Predictions) -> tuple[Reals, Flags, Flags]:
    """The score that the threshold is for, the images that count, and, for a precision, which of them are wrong."""
    probabilities, answers, labels = predictions.probabilities(), predictions.predicted(), predictions.labels
    if want.label is None:
        return probabilities.max(axis=1), np.ones(len(labels), dtype=np.bool_), answers != labels
    at = predictions.classes.index(want.label)
    return probabilities[:, at], (answers if want.kind == "precision" else labels) == at, labels != at


def fewest(want: Want, confidence: float) -> int:
    """How many images without an error a promise takes at least."""
    return math.ceil(math.log(1 - confidence) / math.log(want.value) - 1e-9)


def promised(want: Want, val: Predictions, held: Predictions, *, confidence: float) -> Rule:
    """The rule that does what is asked of images like `held`, with this confidence in the choice; DataError if none.

    `held` are images that chose nothing, of groups that count as one each: with several images of a group, give one
    of them. `val` orders the thresholds, from one that is likely to pass towards more answers, or fewer claims; the
    last one before the first that fails is taken, so that each is tested at the whole level.
    """
    scores, counts, wrong = _counts(want, held)
    n, needed = int(counts.sum()), fewest(want, confidence)
    if n < needed:
        raise DataError(
            f"a promise of {want} at {100 * confidence:g} % confidence takes {needed} images without an error, and "
            f"{n} tell about it: give a larger --calibration-fraction or more test images, ask for less, or leave the "
            "promise out"
        )
    last = None
    for threshold in _sequence(want, val, n, confidence):
        reached = counts & (scores >= threshold)
        failed, trials = (reached & wrong, reached) if want.kind == "precision" else (counts & ~reached, counts)
        if _p_value(failed.sum(), trials.sum(), want.value) > 1 - confidence:
            break
        last = threshold
    if last is None:
        raise DataError(
            f"no threshold can promise {want} at {100 * confidence:g} % confidence on {counted(n, 'image')}: ask for "
            "less, or leave the promise out"
        )
    return Rule(float(last), want.label, claims=want.kind == "recall")


def _p_value(failures: float, trials: float, value: float) -> float:
    """The chance of so few failures where their rate is 1 - `value`; 1 without trials."""
    return float(bdtr(failures, int(trials), 1 - value)) if trials else 1.0


def _sequence(want: Want, val: Predictions, n: int, confidence: float) -> Reals:
    """The thresholds to test, in order, from validation images alone; `n` images will tell."""
    scores, counts, wrong = _counts(want, val)
    own = np.sort(scores[counts])
    if not len(own):
        return np.zeros(1)
    most = min(1.0, 2 * (1 - want.value)) if want.kind == "recall" else 1.0  # beyond that none will pass
    places = np.unique(np.linspace(0, most * (len(own) - 1), STEPS).astype(np.int64))
    if want.kind == "recall":
        return np.concatenate([[0.0], own[places]])  # 0 claims every image and so misses none
    grid = own[places][::-1]
    reached = [counts & (scores >= threshold) for threshold in grid]
    trials = np.array([round(n * some.sum() / counts.sum()) for some in reached])
    rates = np.array([(some & wrong).sum() / some.sum() for some in reached])
    likely = np.array([_p_value(np.floor(k * r), k, want.value) for k, r in zip(trials, rates, strict=True)])
    good = np.flatnonzero(likely <= (1 - confidence) / SAFE)
    return grid[good[0] if len(good) else int(likely.argmin()) :]
