"""Paired statistics on the same test images. Two questions, two answers, never mixed.

(a) *These trained models on new images*: the seeds stay as they are, images are resampled in pairs.
(b) *The recipe, retrained*: seeds vary as well, and their variance has to be estimated from them.

An `Arm` is what the models of one variant, one per seed, answered on n test images. Images that belong
together (a group, identical files) form one unit; units are taken to be independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from upcycle.evaluation.intervals import LEVEL, Estimate, Interval, bootstrap, from_replicates, proportion
from upcycle.evaluation.metrics import averages, macro_f1
from upcycle.task import Integers, Reals

Score = Literal["accuracy", "f1_macro"]

_SCORES: tuple[Score, ...] = ("accuracy", "f1_macro")
FEWEST_SEEDS = 5
"""With fewer the variance between seeds is little more than a guess: question (b) is not answered."""
FEWEST_UNITS = 6
"""With fewer independent images no exact paired test can reach 5 %: 2 / 2**5 is 0.06."""
N_BOOT = 2000
LARGEST_TEST = 2_000_000_000
"""Additions that the exact sign-flip test may take; beyond, sums are normal enough."""


@dataclass(frozen=True, eq=False)
class Arm:
    """Answers of S trained models of one variant: `labels` [n], `predicted` [S, n], `units` [n] numbered from 0."""

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
    """An arm with accuracy and macro F1 of each model, [S, 2], and the same in resamples of the units, [b, S, 2]."""

    arm: Arm
    values: Reals
    replicates: Reals

    def mean(self, score: Score) -> float:
        """The mean over seeds."""
        return float(self.of(score)[0].mean())

    def deviation(self, score: Score) -> float | None:
        """The standard deviation over seeds; None with one."""
        return float(self.of(score)[0].std(ddof=1)) if len(self.values) > 1 else None

    def of(self, score: Score) -> tuple[Reals, Reals]:
        """Values [S] and replicates [b, S] of one score."""
        at = _SCORES.index(score)
        return self.values[:, at], self.replicates[:, :, at]

    def interval(self, score: Score) -> Interval:
        """The 95 % interval of the seed-averaged score over new images, by the rule of a run's own report."""
        arm, value = self.arm, self.mean(score)
        if score == "accuracy":  # answers to one image are one unit
            hits = arm.correct.ravel()
            made = proportion(hits, np.ones(len(hits), np.bool_), np.tile(arm.units, len(arm.predicted)))
        else:
            replicates = self.of(score)[1].mean(axis=1)
            boot = from_replicates(value, replicates, units=arm.independent, scale="logit")
            made = macro_f1(value, arm.labels, arm.predicted, arm.units, boot)
        return Interval(min(made.low, value), max(made.high, value), made.method)


def scored(arm: Arm, *, n_boot: int = N_BOOT, seed: int = 0) -> Scored:
    """The scores of `arm`. Arms on the same images, scored with the same seed, share their resamples."""
    parts = [averages(arm.labels, one, arm.classes) for one in arm.predicted]
    right = arm.correct.astype(np.float64)

    def statistic(weights: Reals) -> Reals:
        accuracy = weights @ right.T / weights.sum(axis=1, keepdims=True)
        f1 = np.stack([part(weights)[:, 2] for part in parts], axis=1)
        return np.hstack([accuracy, f1])

    def shaped(scores: Reals) -> Reals:
        return np.asarray(scores.reshape(len(scores), len(_SCORES), -1).transpose(0, 2, 1))

    draws = bootstrap(statistic, arm.units, n_boot=n_boot, seed=seed)
    return Scored(arm, shaped(statistic(np.ones((1, len(arm.labels)))))[0], shaped(draws))


def difference(first: Scored, second: Scored, score: Score) -> Estimate:
    """Question (a): the mean of `second` minus the mean of `first`, with its interval over new images.

    The standard error comes from a paired bootstrap: both arms are scored on the same resamples of
    whole units (Efron & Tibshirani 1993, chapter 10). Where models hardly disagree no resample can show how they
    might, so two made-up units are counted in, one that only the first gets right and one that only the second does
    (Bonett & Price 2012, J. Educ. Behav. Stat. 37): no interval has width zero. For macro F1 they are of
    the rarest class, where one answer moves it most. Student's quantile for the units. The
    trained models are given: nothing here says how other seeds would do.
    """
    (one, ones), (two, twos) = first.of(score), second.of(score)
    variance = _image_variance(twos.mean(axis=1) - ones.mean(axis=1), first.arm, score)
    return _around(float(two.mean() - one.mean()), variance, df=max(first.arm.independent - 1, 1))


def retrained(first: Scored, second: Scored, score: Score, seeds: Sequence[tuple[int, int]]) -> Estimate | None:
    """Question (b): the difference with other seeds on other images; None with fewer than `FEWEST_SEEDS` pairs.

    `seeds` pairs positions in `first` and `second`. The variance is that of the images, as in `difference`, plus the
    variance of the paired differences over their number; Student's t with the pairs' degrees of freedom. Both hold how
    seeds and images interact, so the interval is rather too wide than too narrow. Another split of the images is not
    among the things that vary.
    """
    if len(seeds) < FEWEST_SEEDS:
        return None
    ours, theirs = (list(side) for side in zip(*seeds, strict=True))
    (one, ones), (two, twos) = first.of(score), second.of(score)
    gains = two[theirs] - one[ours]
    images = _image_variance(twos[:, theirs].mean(axis=1) - ones[:, ours].mean(axis=1), first.arm, score)
    return _around(float(gains.mean()), images + float(gains.var(ddof=1)) / len(seeds), df=len(seeds) - 1)


def _image_variance(replicates: Reals, arm: Arm, score: Score) -> float:
    """The variance of a mean difference over samples of images, from its replicates [b] and two made-up units."""
    units = arm.independent
    # resampling G units shows (G - 1) / G of the variance
    seen = float(np.nanvar(replicates, ddof=1)) * units / max(units - 1, 1)
    if score == "accuracy":
        return seen + 2 / (units + 2) ** 2
    counts = [len(np.unique(arm.units[arm.labels == label])) for label in np.unique(arm.labels)]
    return seen + 2 / (len(counts) * (min(counts) + 2)) ** 2


def _around(value: float, variance: float, *, df: int) -> Estimate:
    half = float(t.isf((1 - LEVEL) / 2, df)) * math.sqrt(variance)
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half))


def sign_flip(first: Arm, second: Arm) -> float:
    """Two-sided p of no difference in seed-averaged correctness, by units.

    Under the null each unit's difference is as likely to have the other sign (Fisher 1935; Pitman
    1937). Exact where both arms have as many models: the chances of all sums of signs are counted out.
    With other numbers of models the null's signs are not quite fair: with one model against twenty of few
    images more than one in twenty equal recipes is rejected (lab/coverage.md has simulated figures).
    For one model each and independent images it is McNemar's exact test (1947). Where counting would take too
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
        before = chances[low:high].copy()
        shifted = np.zeros_like(before)
        shifted[size:] += before[:-size]
        shifted[:-size] += before[size:]
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


def images_needed(made: Estimate, goal: float, *, images: int) -> int | None:
    """Test images that would narrow the interval of `made` to plus or minus `goal`; None when it is as narrow.

    At the disagreement seen here, in two digits, rounded up. It plans the next test set; it says nothing of the
    power of this one.
    """
    if made.half_width <= goal:
        return None
    wanted = images * (made.half_width / goal) ** 2
    scale = int(10 ** max(math.floor(math.log10(wanted)) - 1, 0))
    return max(images, math.ceil(wanted / scale) * scale)
