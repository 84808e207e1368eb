"""Confidence intervals for test metrics: binomial ones, and the bootstrap, by independent unit.

A unit is a group of images that belong together, or one image. No interval has width zero: where
the bootstrap cannot see a spread, the exact binomial bound stands in, and `method` says so.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainccinv, betaincinv, expit, logit, ndtri, stdtrit

from upcycle.task import Integers, Reals

Flags = NDArray[np.bool_]
Scale = Literal["logit", "log"]
Statistic = Callable[[Reals], Reals]

LEVEL = 0.95
ROUNDING = 1e-9
"""A relative spread below this is arithmetic, not information."""

_CHUNK = 250_000
"""Weights of resampled images held at once (2 MB: more is slower, as it leaves the processor's cache)."""


@dataclass(frozen=True)
class Interval:
    """A range from `low` to `high`, and the name of the method that gave it."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference, second minus first, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """The distance from the value to the farther end."""
        return max(self.high - self.value, self.value - self.low)


def wilson(successes: float, n: float, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22).

    `n` may be fractional: an effective number of trials. ValueError unless 0 <= successes <= n, n > 0.
    """
    _check_counts(successes, n)
    z2 = _z(level) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    # at 0 and n successes the end is exactly 0 or 1; rounding must not say otherwise
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high, "wilson")


def clopper_pearson(successes: float, n: float, *, level: float = LEVEL) -> Interval:
    """The exact binomial interval (Clopper & Pearson 1934, Biometrika 26); 0 to 1 when n is 0."""
    if n == 0:
        return Interval(0.0, 1.0, "exact")
    _check_counts(successes, n)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betainccinv(successes + 1, n - successes, tail))
    return Interval(low, high, "exact")


def _z(level: float) -> float:
    """The two-sided standard normal quantile."""
    return -float(ndtri((1 - level) / 2))


def _student(freedom: int, level: float) -> float:
    """The two-sided quantile of Student's t."""
    return -float(stdtrit(freedom, (1 - level) / 2))


def _check_counts(successes: float, n: float) -> None:
    if not (n > 0 and 0 <= successes <= n):
        raise ValueError(f"{successes} successes of {n} trials")


def clusters(groups: Sequence[str], hashes: Sequence[str]) -> Integers:
    """Number the independent units, [n], from 0: a group, else identical files, else the image itself."""
    names = [
        ("group", group) if group else ("hash", digest) if digest else ("image", i)
        for i, (group, digest) in enumerate(zip(groups, hashes, strict=True))
    ]
    numbers: dict[tuple[str, str | int], int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def proportion(hits: Flags, trials: Flags, units: Integers, *, level: float = LEVEL) -> Interval:
    """The interval of the fraction of the `trials` that are `hits`, each marking images, [n].

    Wilson's when each trial is its own unit; otherwise Wilson's with the effective sample size of
    the units, corrected for few of them (Korn & Graubard 1998, Survey Methodology 24). Exact when
    all trials hit or none does, each unit then counting once; 0 to 1 without trials.
    """
    n, k = int(trials.sum()), int(hits.sum())
    count = len(np.unique(units[trials]))
    if k in (0, n):
        return clopper_pearson(count if k else 0, count, level=level)
    if count == n:
        return wilson(k, n, level=level)
    misses = np.bincount(units, weights=hits - trials * (k / n))
    effective = _effective_size(k, n, spread=float(misses @ misses), count=count, level=level)
    return wilson(k / n * effective, effective, level=level)


def _effective_size(k: int, n: int, *, spread: float, count: int, level: float) -> float:
    """How many independent trials tell as much as n trials in `count` units; at least one, at most n."""
    if count == 1:
        return 1.0
    # p (1 - p) over the variance between units; units all alike have none
    size = min(n, k * (n - k) * (count - 1) / (count * spread)) if spread > 0 else n
    student = _student(count - 1, level)
    return max(1.0, size * (_z(level) / student) ** 2)


def exact_mean(counts: Sequence[int], *, level: float = LEVEL) -> Interval:
    """The exact interval of a mean of proportions, each of which was 1 in its own `counts` trials.

    Its low end is the smallest mean under which such a flawless sample still has a chance of
    (1 - level) / 2; by Lagrange's multipliers the rates are proportional to the counts, capped at 1.
    For equal counts it is Clopper and Pearson's.
    """
    n = np.asarray(counts, dtype=np.float64)
    if not len(n) or n.min() < 1:
        raise ValueError(f"counts {counts} must be positive")
    # imported here: this import takes longer than most calls, and a run that starts has no use for it
    from scipy.optimize import brentq

    chance = math.log((1 - level) / 2)
    logs = np.log(n)

    def excess(scale: float) -> float:
        return float(n @ np.minimum(0.0, scale + logs)) - chance

    # one below the scale that alone explains the sample, so that rounding cannot close the bracket
    scale = float(brentq(excess, chance / n.min() - logs.max() - 1, -logs.min()))
    return Interval(float(np.exp(np.minimum(0.0, scale + logs)).mean()), 1.0, "exact")


def combined_mean(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The interval of a mean of independent proportions from the interval of each.

    The method of variance estimates recovery (Zou & Donner 2008, Statistics in Medicine 27).
    """
    below = math.sqrt(sum((value - part.low) ** 2 for value, part in zip(values, intervals, strict=True)))
    above = math.sqrt(sum((part.high - value) ** 2 for value, part in zip(values, intervals, strict=True)))
    mean, count = sum(values) / len(values), len(values)
    return Interval(max(0.0, mean - below / count), min(1.0, mean + above / count), "combined")


def resamples(units: Integers, *, n_boot: int, seed: int) -> Iterator[Reals]:
    """Draw whole units with replacement, as often as there are units; yield image weights, [some, n]."""
    count, generator = int(units.max()) + 1, np.random.default_rng(seed)
    rows = max(1, min(n_boot, _CHUNK // max(count, len(units))))
    for start in range(0, n_boot, rows):
        size = min(rows, n_boot - start)
        draws = generator.integers(count, size=(size, count))
        draws += np.arange(size)[:, None] * count
        weights = np.bincount(draws.ravel(), minlength=size * count).reshape(size, count)
        yield weights[:, units].astype(np.float64)


def bootstrap(statistic: Statistic, units: Integers, *, n_boot: int = 2000, seed: int = 0) -> Reals:
    """Values of m statistics in resamples of whole units, [n_boot, m] (Davison & Hinkley 1997, section 3.8).

    `statistic` takes image weights [b, n] and gives [b, m], NaN where a resample leaves one undefined.
    """
    return np.concatenate([statistic(weights) for weights in resamples(units, n_boot=n_boot, seed=seed)])


def from_replicates(
    value: float, replicates: Reals, *, units: int, scale: Scale, level: float = LEVEL
) -> Interval | None:
    """The interval of `value` from its bootstrap standard error, on the scale where it is nearest normal.

    "logit" suits shares between 0 and 1, "log" costs above 0 (Davison & Hinkley 1997, section 5.2); Student's
    quantile for the number of units. Percentiles of the replicates themselves cover less:
    near 0 and 1 they keep the skew on the wrong side. None where the replicates show no spread.
    """
    finite = replicates[np.isfinite(replicates)]
    if units < 2 or len(finite) < 2 or not 0 < value < (1 if scale == "logit" else math.inf):
        return None
    # resampling G units shows (G - 1) / G of the variance
    error = float(finite.std(ddof=1)) * math.sqrt(units / (units - 1))
    if error <= ROUNDING * value:
        return None
    reach = _student(units - 1, level) * error / value
    if scale == "log":
        return Interval(value * math.exp(-reach), value * math.exp(reach), "bootstrap")
    low, high = expit(logit(value) + np.array([-1, 1]) * reach / (1 - value))
    return Interval(float(low), float(high), "bootstrap")


def distinguishable(n: int, *, discordance: float = 1 / 15, level: float = LEVEL) -> float:
    """The smallest accuracy difference, in points, that tells two models apart on the same n images.

    The test is McNemar's (1947, Psychometrika 12) for paired answers: an observed difference d is
    told from none when d > z sqrt((discordance - d^2) / n), where `discordance` is the fraction of
    images that exactly one of the models gets right. The default, one in fifteen, fits two models
    around 95 % accurate; 160 images then give 4 points. It is never less than what the exact test
    needs: at 5 %, six images that only the better model gets right.
    """
    if n < 1 or not 0 < discordance <= 1:
        raise ValueError(f"{n} images with discordance {discordance}")
    z = _z(level)
    fewest = math.ceil(math.log2(2 / (1 - level)))
    return 100 * min(1.0, max(fewest / n, z * math.sqrt(discordance / (n + z * z))))
