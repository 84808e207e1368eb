"""What a learning-rate range test found: its curve, the rates that named rules read off it, and which one to take.

The test (Leslie Smith, arXiv 1506.01186, section 3.3) makes updates at rates that rise exponentially. Each batch is
scored twice, by the weights of that moment and by those the test started from: the difference is what the updates did,
free of how hard the batch is. A head that starts near its optimum changes the loss less than that varies. Needs no
torch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from upcycle.errors import ConfigError, counted
from upcycle.evaluation.intervals import LEVEL
from upcycle.rundir import Number, read_value

FILE = "find_lr.json"
RECOMMENDED = "minimum"
"""The rule whose rate is taken."""
WIDTH = 0.02
"""The standard deviation of the smoothing, as a part of all updates. It looks both ways, so it moves no feature of the
curve to higher rates, as a running mean does."""
BURST = 4.0
"""A repeat ends where its smoothed loss exceeds its best one so many times."""
LEAST_BEST = 0.1
"""The best loss counts as this part of guessing at least, lest a loss near 0 ends a repeat by chance."""
FALL, NOISE = 0.01, 3.0
"""A usable valley is as deep as this part of the loss at the start, and as so many standard errors of its bottom."""
BEGUN = 0.05
"""A valley starts where so much of its depth is reached: before, the rates are too low to do anything, however far down
the test began."""
LEAST_UPDATES, MOST_UPDATES, MOST_REPEATS = 10, 100_000, 100
_Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """How a range test goes: the first and the last rate, of the group that learns fastest, updates, and repeats.

    ConfigError for what makes no test.
    """

    start_lr: float = 1e-7
    end_lr: float = 1.0
    num_updates: int = 100
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("start_lr", "end_lr"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:  # NaN as well
                raise ConfigError(f"{name} = {value!r} is no rate: use a number above 0, at most 100")
        if not self.start_lr < self.end_lr:
            raise ConfigError(f"start_lr = {self.start_lr:g} is not below end_lr = {self.end_lr:g}: rates rise")
        for name, least, most in (("num_updates", LEAST_UPDATES, MOST_UPDATES), ("repeats", 1, MOST_REPEATS)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"{name} = {value!r} is out of range: use {least} to {most:,}")

    @property
    def rates(self) -> tuple[float, ...]:
        """The rate of each update.

        >>> [round(rate, 6) for rate in Sweep(1e-6, 1.0, 13).rates[::4]]
        [1e-06, 0.0001, 0.01, 1.0]
        """
        ratio, last = self.end_lr / self.start_lr, self.num_updates - 1
        return tuple(self.start_lr * ratio ** (update / last) for update in range(self.num_updates))

    @property
    def width(self) -> float:
        """The standard deviation of the smoothing, in updates."""
        return WIDTH * self.num_updates


@dataclass(frozen=True)
class Suggestion:
    """The rate that a rule reads off the curves: the geometric mean of those of the repeats, `picks`.

    `low` and `high` are its 95 % interval by Student's t for the logarithms; not known by one repeat.
    """

    rule: str
    lr: float
    low: Number
    high: Number
    picks: tuple[float, ...]


@dataclass(frozen=True)
class Peak:
    """The rate to take, the rule that gave it, "" where none could, and why, in a line."""

    lr: float
    rule: str
    reason: str


@dataclass(frozen=True)
class LrFinding:
    """What a learning-rate range test found.

    `peak`: the rate to take; `suggestions`: of each rule, none where there is no usable valley; `fallback`: the rate
    that is taken then. `losses`: of each repeat, the mean training loss of every update made, in nats, and `starts`
    that of the same batches by the weights that the test started from. `loss` is their smoothed curve over the first of
    `rates`, up to where a repeat ended: the mean over repeats of the difference, from the mean of `starts`; `low` and
    `high` are the lowest and the highest repeat.
    """

    peak: Peak
    suggestions: tuple[Suggestion, ...]
    fallback: float
    sweep: Sweep
    rates: tuple[float, ...]
    loss: tuple[Number, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    losses: tuple[tuple[Number, ...], ...]
    starts: tuple[tuple[Number, ...], ...]
    data: str = ""
    command: str = ""
    created: str = ""
    seconds: float = 0.0
    upcycle: str = ""

    @property
    def lr(self) -> float:
        """The rate to take."""
        return self.peak.lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> "LrFinding":
        """The inverse of `to_dict`; RunError for other values."""
        return read_value(cls, dict(values) if isinstance(values, Mapping) else {}, FILE)


def smooth(values: Sequence[float] | _Reals, width: float) -> _Reals:
    """The mean of the values around each, [n], weighted by a Gaussian of standard deviation `width`."""
    return np.asarray(_weights(len(values), width) @ np.asarray(values, np.float64))


def _weights(count: int, width: float) -> _Reals:
    places = np.arange(count)
    weights = np.exp(-(((places[:, None] - places) / width) ** 2) / 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def burst(losses: Sequence[float], starts: Sequence[float], *, width: float, guessing: float) -> bool:
    """Whether a repeat is over: its last loss is not finite, or smoothed it is `BURST` times its best."""
    if not math.isfinite(losses[-1]):
        return True
    made = float(np.mean(starts)) + smooth(np.subtract(losses, starts), width)
    return bool(made[-1] > BURST * max(float(made.min()), LEAST_BEST * guessing))


# ---------------------------------------------------------------- rules, of rates and a smoothed curve


def steepest(rates: Sequence[float], loss: _Reals) -> float:
    """Where the loss falls most per decade of the rate, before its lowest place."""
    bottom = int(loss.argmin())
    if bottom == 0:
        return float(rates[0])
    slope = np.gradient(loss, np.log(rates[: len(loss)]))
    return float(rates[int(slope[: bottom + 1].argmin())])


def minimum(rates: Sequence[float], loss: _Reals) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(rates[int(loss.argmin())]) / 10


def valley(rates: Sequence[float], loss: _Reals) -> float:
    """Two thirds along the valley, in the logarithm of the rate: along its longest run of falling losses.

    The run need not be of neighbors, so bumps do not end it: the longest decreasing subsequence, as in fastai's
    `valley`. It starts where a twentieth of the depth is reached.
    """
    bottom = int(loss.argmin())
    begun = np.flatnonzero(loss[0] - loss[: bottom + 1] >= BEGUN * (loss[0] - loss[bottom]))
    first, last = _longest_fall(loss[begun[0] : bottom + 1])
    return float(rates[int(begun[0]) + first + round((last - first) * 2 / 3)])


def _longest_fall(values: _Reals) -> tuple[int, int]:
    """The places where the longest decreasing subsequence starts and ends, the first of equally long ones."""
    lengths, starts = np.ones(len(values), np.int64), np.arange(len(values))
    for at in range(1, len(values)):
        higher = np.flatnonzero(values[:at] > values[at])
        if len(higher):
            before = higher[int(lengths[higher].argmax())]
            lengths[at], starts[at] = lengths[before] + 1, starts[before]
    last = int(lengths.argmax())
    return int(starts[last]), last


RULES: dict[str, Callable[[Sequence[float], _Reals], float]] = {
    "steepest": steepest,
    "valley": valley,
    "minimum": minimum,
}


def suggestion(rule: str, picks: Sequence[float], step: float = 0.0) -> Suggestion:
    """What a rule suggests by its pick of each repeat, of rates that are a `step` in the logarithm apart.

    Picks that agree are known no better than that lets them be.
    """
    logs = np.log(picks)
    mean, count = float(logs.mean()), len(logs)
    half = math.nan
    if count > 1:
        half = (
            float(stdtrit(count - 1, (1 + LEVEL) / 2))
            * max(float(logs.std(ddof=1)), step / math.sqrt(12))
            / math.sqrt(count)
        )
    low, high = (math.exp(mean + sign * half) for sign in (-1, 1))
    return Suggestion(rule, math.exp(mean), low, high, tuple(float(pick) for pick in picks))


# ---------------------------------------------------------------- the finding


def found(
    sweep: Sweep,
    losses: Sequence[Sequence[float]],
    starts: Sequence[Sequence[float]],
    *,
    fallback: float,
    fallback_reason: str,
    rule: str = RECOMMENDED,
) -> LrFinding:
    """What the `losses` of each repeat say, beside those of the same batches at the start.

    Where there is no usable valley the rate is `fallback`, for its reason.
    """
    shared = min(map(len, losses), default=0)
    if shared < LEAST_UPDATES / 2:
        why = f"the loss explodes after {counted(shared, 'update')}: give a lower --start-lr"
        return _finding(_instead(fallback, fallback_reason, why), (), fallback, sweep, losses, starts, np.empty((0, 0)))
    level = float(np.mean([np.mean(one) for one in starts]))
    apart = [np.subtract(one, start) for one, start in zip(losses, starts, strict=True)]
    curves = [level + smooth(one, sweep.width) for one in apart]
    together = np.stack([curve[:shared] for curve in curves])
    depth, noise = _depth(np.stack([one[:shared] for one in apart]), together, level, sweep.width)
    least = max(FALL * level, NOISE * noise)
    suggestions: tuple[Suggestion, ...] = ()
    if depth > least:
        step = math.log(sweep.rates[1] / sweep.rates[0])
        suggestions = tuple(
            suggestion(name, [rule_of(sweep.rates, curve) for curve in curves], step) for name, rule_of in RULES.items()
        )
        peak = _picked(next(one for one in suggestions if one.rule == rule), together.mean(axis=0), sweep)
    else:
        why = f"the loss of {level:.3g} falls by {max(depth, 0.0):.2g}, and {least:.2g} or more would be plain"
        peak = _instead(fallback, fallback_reason, why)
    return _finding(peak, suggestions, fallback, sweep, losses, starts, together)


def _instead(fallback: float, fallback_reason: str, why: str) -> Peak:
    return Peak(fallback, "", f"{fallback:.3g}, {fallback_reason}, as there is no usable valley: {why}")


def _finding(
    peak: Peak,
    suggestions: tuple[Suggestion, ...],
    fallback: float,
    sweep: Sweep,
    losses: Sequence[Sequence[float]],
    starts: Sequence[Sequence[float]],
    curves: _Reals,
) -> LrFinding:
    drawn = [getattr(curves, name)(axis=0) for name in ("mean", "min", "max")] if len(curves) else [curves] * 3
    loss, low, high = (tuple(float(value) for value in one) for one in drawn)
    made, before = (tuple(tuple(map(float, one)) for one in kind) for kind in (losses, starts))
    return LrFinding(peak, suggestions, fallback, sweep, sweep.rates, loss, low, high, made, before)


def _picked(taken: Suggestion, loss: _Reals, sweep: Sweep) -> Peak:
    """The rate of a suggestion, and a line that says so."""
    over = f"95 % interval {taken.low:.2g} to {taken.high:.2g} over {len(taken.picks)} repeats"
    over = "one repeat, so no interval" if len(taken.picks) == 1 else over
    more = "; the loss still falls at the highest rate: give a higher --end-lr"
    falling = len(loss) == sweep.num_updates and int(loss.argmin()) == len(loss) - 1
    return Peak(taken.lr, taken.rule, f"{taken.lr:.3g}, by the rule {taken.rule} ({over}){more if falling else ''}")


def _depth(apart: _Reals, curves: _Reals, level: float, width: float) -> tuple[float, float]:
    """How far the mean of the smoothed `curves` [repeats, n] falls below its start, and the standard error there.

    That is the larger of two: by the scatter of updates around their curve, and between repeats.
    """
    repeats, count = curves.shape
    mean = curves.mean(axis=0)
    bottom = int(mean.argmin())
    weights = _weights(count, width)[bottom]
    squares = float(np.square(weights).sum())
    # a curve through its own points is nearer to them than the truth is
    seen = 1 - 2 * float(weights[bottom]) + squares
    scatter = float(weights @ np.square(apart - (curves - level)).mean(axis=0)) / seen
    of_updates = math.sqrt(scatter * squares / repeats)
    between = float(curves[:, bottom].std(ddof=1)) / math.sqrt(repeats) if repeats > 1 else 0.0
    return level - float(mean[bottom]), max(of_updates, between)
