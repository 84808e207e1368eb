"""What tells two recipes apart on the same test images. Two questions, two answers, never mixed.

(a) *These trained models on new images*: the seeds stay as they are, images are resampled in pairs.
(b) *The recipe, trained again*: seeds vary as well, and their variance has to be estimated from them.

An `Arm` is what the models of one recipe, one a seed, answered on n test images. Images that belong
together (a group, identical files) form one unit; units are taken to be independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, t

from upcycle.evaluation.intervals import LEVEL, bootstrap
from upcycle.evaluation.metrics import averages

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]
Metric = Literal["accuracy", "f1_macro"]

METRICS: tuple[Metric, ...] = ("accuracy", "f1_macro")
FEWEST_SEEDS = 5
"""Below this the variance between seeds is little more than a guess: question (b) is not answered."""
FEWEST_UNITS = 6
"""With fewer independent images no exact paired test can reach 5 %: 2 / 2**5 is 0.06."""
N_BOOT = 2000
LARGEST_TEST = 2_000_000_000
"""Additions that the exact sign-flip test may take; beyond, sums are normal enough."""


@dataclass(frozen=True, eq=False)
class Arm:
    """Answers of S trained models of one recipe: `labels` [n], `predicted` [S, n], `units` [n] numbered from 0."""

    labels: Integers
    predicted: Integers
    units: Integers
    classes: int

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which images each model got right, [S, n]."""
        return np.asarray(self.predicted == self.labels)

    @property
    def independent(self) -> int:
        """How many units there are."""
        return int(self.units.max()) + 1


@dataclass(frozen=True, eq=False)
class Scored:
    """Accuracy and macro F1 of each model of an arm, [S, 2], and the same in resamples of the units, [b, S, 2].

    `classes` counts the classes of the test images, `rarest` the units of the one with fewest.
    """

    values: Reals
    replicates: Reals
    classes: int
    rarest: int

    def mean(self, metric: Metric) -> float:
        """The mean over seeds."""
        return float(self.values[:, METRICS.index(metric)].mean())

    def deviation(self, metric: Metric) -> float | None:
        """The standard deviation over seeds; None with one."""
        return float(self.values[:, METRICS.index(metric)].std(ddof=1)) if len(self.values) > 1 else None

    def of(self, metric: Metric) -> tuple[Reals, Reals]:
        """Values [S] and replicates [b, S] of one metric."""
        at = METRICS.index(metric)
        return self.values[:, at], self.replicates[:, :, at]


def scored(arm: Arm, *, n_boot: int = N_BOOT, seed: int = 0) -> Scored:
    """The scores of `arm`. Arms on the same images, scored with the same seed, share their resamples."""
    parts = [averages(arm.labels, one, arm.classes) for one in arm.predicted]
    right = arm.correct.astype(np.float64)

    def statistic(weights: Reals) -> Reals:
        accuracy = weights @ right.T / weights.sum(axis=1, keepdims=True)
        f1 = np.stack([part(weights)[:, 2] for part in parts], axis=1)
        return np.hstack([accuracy, f1])

    def shaped(scores: Reals) -> Reals:
        return np.asarray(scores.reshape(len(scores), len(METRICS), -1).transpose(0, 2, 1))

    draws = bootstrap(statistic, arm.units, n_boot=n_boot, seed=seed)
    counts = [len(np.unique(arm.units[arm.labels == label])) for label in np.unique(arm.labels)]
    return Scored(shaped(statistic(np.ones((1, len(arm.labels)))))[0], shaped(draws), len(counts), min(counts))


@dataclass(frozen=True)
class Difference:
    """Second minus first, its interval, and the standard error the interval is made from."""

    value: float
    low: float
    high: float
    standard_error: float


def difference(first: Scored, second: Scored, metric: Metric, *, units: int, level: float = LEVEL) -> Difference:
    """Question (a): the mean of `second` minus the mean of `first`, with its interval over new images.

    The standard error comes from a paired bootstrap: both arms are scored on the same resamples of
    whole units (Efron & Tibshirani 1993, chapter 10), resampling G units showing (G - 1) / G of the
    variance. As where models hardly disagree no resample can show how they might, two made-up units
    are counted in, one that only the first gets right and one that only the second does (Bonett &
    Price 2012, J. Educ. Behav. Stat. 37): no interval has width zero. Student's quantile for the
    units. For macro F1 the made-up units are of the rarest class, where one answer moves it most. The
    trained models are given: nothing here says how other seeds would do.
    """
    (one, ones), (two, twos) = first.of(metric), second.of(metric)
    value = float(two.mean() - one.mean())
    error = math.sqrt(_image_variance(twos.mean(axis=1) - ones.mean(axis=1), units) + _unseen(first, metric, units))
    return _around(value, error, df=max(units - 1, 1), level=level)


def _image_variance(replicates: Reals, units: int) -> float:
    """The variance of a statistic over samples of images, from its bootstrap replicates [b]."""
    return float(np.nanvar(replicates, ddof=1)) * units / max(units - 1, 1)


def _unseen(made: Scored, metric: Metric, units: int) -> float:
    """What one made-up unit for each side adds to the variance of a mean difference."""
    if metric == "accuracy":
        return 2 / (units + 2) ** 2
    return 2 / (made.classes * (made.rarest + 2)) ** 2


def _around(value: float, error: float, *, df: int, level: float) -> Difference:
    half = float(t.isf((1 - level) / 2, df)) * error
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), error)


@dataclass(frozen=True)
class Again:
    """Question (b): what the recipe's gain would be with other seeds on other images.

    `interval` and `df` are None where that cannot be answered; the deviations are those of the mean
    difference that come from the images and from the seeds, None with a single seed.
    """

    value: float
    seeds: int
    interval: tuple[float, float] | None = None
    df: int | None = None
    image_deviation: float | None = None
    seed_deviation: float | None = None

    @property
    def reason(self) -> str:
        """Why there is no answer; "" where there is one."""
        if self.interval is not None:
            return ""
        return f"{self.seeds} seed{'' if self.seeds == 1 else 's'} in common; {FEWEST_SEEDS} or more are needed"


def again(first: Scored, second: Scored, metric: Metric, *, units: int, level: float = LEVEL) -> Again:
    """Question (b), from the S models of both arms that have the same seeds, in the same order.

    The mean difference over S seeds and one test set varies with the images (their component, by
    the paired bootstrap) and with the seeds. The variance of the S differences over S holds the seeds'
    component and the interaction of seeds with images; what the interaction contributes is already in
    the images' component, is estimated from how much one seed's difference varies over images more
    than the mean's does, and is taken off. The interval is Student's with the seeds' S - 1 degrees of
    freedom, as the seeds' component is the one that is poorly known (Searle, Casella & McCulloch 1992,
    Variance Components, chapter 4); where the images' component is the larger it is wider than need
    be. Assumes that seeds are exchangeable and the split of the images is given: another split is not
    among the things that vary.
    """
    (one, ones), (two, twos) = first.of(metric), second.of(metric)
    seeds = min(len(one), len(two))
    gains, replicates = two[:seeds] - one[:seeds], twos[:, :seeds] - ones[:, :seeds]
    value = float(gains.mean())
    if seeds < 2:
        return Again(value, seeds)
    images = _image_variance(replicates.mean(axis=1), units)
    single = float(np.mean([_image_variance(column, units) for column in replicates.T]))
    interaction = max(single - images, 0.0) / (seeds - 1)
    between = max(float(gains.var(ddof=1)) / seeds - interaction, 0.0)
    known = Again(value, seeds, image_deviation=math.sqrt(images), seed_deviation=math.sqrt(between))
    if seeds < FEWEST_SEEDS:
        return known
    made = _around(value, math.sqrt(images + _unseen(first, metric, units) + between), df=seeds - 1, level=level)
    return replace(known, interval=(made.low, made.high), df=seeds - 1)


def widened(interval: Sequence[float], *, df: int, comparisons: int, level: float = LEVEL) -> tuple[float, float]:
    """A Student's interval as one of several `comparisons` (Bonferroni): all of them hold with chance `level`."""
    middle, half = (interval[0] + interval[1]) / 2, (interval[1] - interval[0]) / 2
    alone, among = (float(t.isf((1 - level) / 2 / count, df)) for count in (1, comparisons))
    return max(-1.0, middle - half * among / alone), min(1.0, middle + half * among / alone)


# ------------------------------------------------------------------------------------------ tests


@dataclass(frozen=True)
class Discordance:
    """Images that only the first or only the second of two models gets right, and McNemar's exact p."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Discordance:
    """The exact test of McNemar (1947, Psychometrika 12) on which images [n] two models get right.

    Two-sided binomial on the discordant images; assumes independent images. p is 1 without any.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_second, discordant).pvalue) if discordant else 1.0
    return Discordance(only_first, only_second, p)


def combined(ps: Sequence[float]) -> float:
    """One p from several of the same images: the smallest times their number, at most 1 (Bonferroni).

    Valid whatever their dependence; it asks whether any of the pairs differs. A single p is itself.
    """
    return min(1.0, len(ps) * min(ps))


def sign_flip(first: Arm, second: Arm) -> float:
    """Two-sided p of no difference in seed-averaged correctness, by units.

    Under the null each unit's difference is as likely to have the other sign (Fisher 1935; Pitman
    1937). Exact where both arms have as many models: the chances of all sums of signs are counted out.
    With other numbers of models the null's signs are not quite fair: with one model against twenty of few
    images more than one in twenty equal recipes is rejected (docs/comparison.md has simulated figures).
    For one model each and independent images it is McNemar's exact test. Where counting would take too
    long, the sum's normal limit.
    """
    one, two = len(first.predicted), len(second.predicted)
    common = math.lcm(one, two)
    scores = second.correct.sum(axis=0) * (common // two) - first.correct.sum(axis=0) * (common // one)
    sums = np.rint(np.bincount(first.units, weights=scores)).astype(np.int64)
    sizes = np.abs(sums[sums != 0])
    if not len(sizes):
        return 1.0
    sizes, observed = sizes // np.gcd.reduce(sizes), abs(int(sums.sum())) // int(np.gcd.reduce(sizes))
    total = int(sizes.sum())
    if len(sizes) * total > LARGEST_TEST:
        return math.erfc(observed / math.sqrt(2 * float(sizes @ sizes)))
    return _tail(sizes, observed)


def _tail(sizes: Integers, observed: int) -> float:
    """The chance that a sum of `sizes` with fair signs is at least `observed` from zero."""
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)  # of the sums -total to total
    chances[total] = 1.0
    reach = 0
    for size in np.sort(sizes).tolist():
        reach += size
        low, high = total - reach, total + reach + 1
        known = chances[low:high].copy()
        shifted = np.zeros_like(known)
        shifted[size:] += known[:-size]
        shifted[:-size] += known[size:]
        chances[low:high] = shifted / 2
    return min(1.0, float(chances[: total - observed + 1].sum() + chances[total + observed :].sum()))


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979, Scand. J. Statist. 6).

    Controls the chance of any false claim in the family, whatever the dependence of the tests.
    """
    order = np.argsort(ps, kind="stable")
    scaled = np.asarray(ps, dtype=np.float64)[order] * np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in corrected]


def images_needed(made: Difference, goal: float, *, images: int, level: float = LEVEL) -> int | None:
    """Test images that would narrow the interval of `made` to plus or minus `goal`; None when it is as narrow.

    At the spread of the paired answers seen here and as many images in a group, in two digits, rounded up. It plans
    the next test set; it says nothing of the power of this one.
    """
    half = max(made.high - made.value, made.value - made.low)
    if half <= goal:
        return None
    wanted = images * (float(norm.isf((1 - level) / 2)) * made.standard_error / goal) ** 2
    if wanted <= images:  # few groups, whose interval is wider than a normal one
        wanted = images * (half / goal) ** 2
    scale = int(10 ** max(math.floor(math.log10(wanted)) - 1, 0))
    return max(images, math.ceil(wanted / scale) * scale)
