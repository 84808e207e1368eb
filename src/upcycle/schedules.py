"""Learning-rate schedules as frozen values: `schedule(step) -> Rate(lr, momentum)`.

Steps are optimizer updates counted from 0; the caller says which step it is, so there is nothing to
save and nothing to resume. A step past the end keeps the last rate. Standard library only.

The one-cycle policy is Leslie Smith's (arXiv 1506.01186, 1708.07120, 1803.09820); warm-up, sustain and a short decay
are of Zhai et al. (arXiv 2106.04560) and Haegele et al. (arXiv 2405.18392, which has the 1-sqrt shape).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

from upcycle.errors import ConfigError


class Rate(NamedTuple):
    """What the optimizer uses for one update: the learning rate and the momentum (Adam's beta1)."""

    lr: float
    momentum: float


class Schedule(Protocol):
    """Anything that tells the rate of a step and can be written down as plain values."""

    kind: ClassVar[str]

    def __call__(self, step: int) -> Rate:
        """The rate of update `step`, counted from 0."""
        ...


ScheduleName = Literal["one-cycle", "ramp-sustain-decay", "warmup-stable-decay", "cosine", "linear", "step", "constant"]
Shape = Literal["linear", "cos", "1-sqrt"]
"""How a rate falls: evenly, as half a cosine, or fast at first."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _rates(**rates: float) -> None:
    for name, rate in rates.items():
        _require(
            math.isfinite(rate) and rate >= 0,
            f"{name} = {rate} is not a learning rate: use a finite number, 0 or more",
        )


def _momenta(momenta: Iterable[float]) -> None:
    for momentum in momenta:
        _require(0 <= momentum < 1, f"momentum {momentum} is out of range: use 0 or more and less than 1")


def _steps(name: str, value: int, least: int) -> None:
    _require(isinstance(value, int) and value >= least, f"{name} = {value} is out of range: use {least} or more")


def _step(step: int) -> int:
    _require(step >= 0, f"step {step} is negative: steps are counted from 0")
    return step


def _linear(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


def _one_minus_sqrt(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 - math.sqrt(fraction))


_ANNEAL = {"cos": _cosine, "linear": _linear}
FALL = {**_ANNEAL, "1-sqrt": _one_minus_sqrt}
"""(start, end, fraction) to the value between, by shape."""


def _check_shape(shape: str) -> None:
    _require(shape in FALL, f"shape {shape!r} is none of {', '.join(FALL)}")


def _fraction(name: str, value: float) -> None:
    _require(0 <= value <= 1, f"{name} = {value} is out of range: use 0 to 1")


def _length(total_steps: int | None) -> int:
    if total_steps is None:
        raise ConfigError("total_steps is left out: give the number of updates, or pass the schedule to train")
    return total_steps


def _part(total: int, fraction: float) -> int:
    """The updates that are a fraction of all, rounded up as transformers does it, but for what floats lose."""
    return math.ceil(round(total * fraction, 6))


@dataclass(frozen=True)
class Constant:
    """The same rate at every step."""

    kind: ClassVar[str] = "constant"
    lr: float
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _rates(lr=self.lr)
        _momenta([self.momentum])

    def __call__(self, step: int) -> Rate:
        """The one rate."""
        _step(step)
        return Rate(self.lr, self.momentum)


@dataclass(frozen=True)
class RampSustainDecay:
    """Linear ramp, plateau, exponential decay, by epoch: Martin Gorner's form of the one-cycle policy.

    Counting epochs from 0, one epoch being `steps_per_epoch` steps (left out: those of the run, or 1):
    ramp-up `lr_start + (lr_max - lr_start) / rampup * epoch` while `epoch < rampup`, then `lr_max` for
    `sustain` epochs, then `lr_min + (lr_max - lr_min) * decay ** (epoch - rampup - sustain)`.
    """

    kind: ClassVar[str] = "ramp-sustain-decay"
    lr_start: float = 1e-5
    lr_max: float = 1e-4
    lr_min: float = 1e-5
    rampup: int = 5
    sustain: int = 0
    decay: float = 0.8
    steps_per_epoch: int | None = None
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _rates(lr_start=self.lr_start, lr_max=self.lr_max, lr_min=self.lr_min)
        _momenta([self.momentum])
        _steps("rampup", self.rampup, 0)
        _steps("sustain", self.sustain, 0)
        _steps("steps_per_epoch", self._steps_per_epoch, 1)
        _fraction("decay", self.decay)

    def __call__(self, step: int) -> Rate:
        """The rate of the epoch that `step` belongs to."""
        return Rate(self._lr(int(_step(step)) // self._steps_per_epoch), self.momentum)

    @property
    def _steps_per_epoch(self) -> int:
        return 1 if self.steps_per_epoch is None else self.steps_per_epoch

    def _lr(self, epoch: int) -> float:
        if epoch < self.rampup:
            return self.lr_start + (self.lr_max - self.lr_start) / self.rampup * epoch
        if epoch < self.rampup + self.sustain:
            return self.lr_max
        return self.lr_min + (self.lr_max - self.lr_min) * self.decay ** (epoch - self.rampup - self.sustain)


@dataclass(frozen=True)
class OneCycle:
    """Up from `lr_max / div` to `lr_max` and down to `lr_max / div_final`, the momentum mirrored.

    The rise takes `pct_start` of `total_steps` (left out: the whole run); `anneal` is "cos" or "linear"; `moms` are the
    momentum at the start, the peak and the end. With `three_phase` the rate falls to where it began in as many updates
    as it rose, and then to its end at the last momentum. Names and meanings are fastai's; where torch's OneCycleLR is
    defined the values agree with it (its `final_div_factor` divides the first rate, ours the peak).
    A run too short to rise starts at its peak.
    """

    kind: ClassVar[str] = "one-cycle"
    lr_max: float
    total_steps: int | None = None
    pct_start: float = 0.25
    div: float = 25.0
    div_final: float = 1e4
    anneal: Literal["cos", "linear"] = "cos"
    moms: tuple[float, float, float] = (0.95, 0.85, 0.95)
    three_phase: bool = False

    def __post_init__(self) -> None:
        _rates(lr_max=self.lr_max)
        if self.total_steps is not None:
            _steps("total_steps", self.total_steps, 1)
        _fraction("pct_start", self.pct_start)
        for name in ("div", "div_final"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 1, f"{name} = {value} is out of range: use 1 or more")
        _require(self.anneal in _ANNEAL, f"anneal {self.anneal!r} is neither cos nor linear")
        _require(len(self.moms) == 3, f"moms = {self.moms} must name three: start, peak and end")
        _require(
            not self.three_phase or self.pct_start <= 0.5,
            f"three_phase rises and falls for pct_start = {self.pct_start} of the run each: use 0.5 or less",
        )
        _momenta(self.moms)

    @property
    def peak(self) -> float:
        """The step of the highest rate; a fraction when the peak falls between two steps."""
        return max(0.0, self.pct_start * _length(self.total_steps) - 1)

    def __call__(self, step: int) -> Rate:
        """The rate on the way up, on the way down, or past the end the last one."""
        anneal, last, peak = _ANNEAL[self.anneal], _length(self.total_steps) - 1, self.peak
        low, end = self.lr_max / self.div, self.lr_max / self.div_final
        first, middle, final = self.moms
        at = min(_step(step), last)
        if at <= peak:
            up = at / peak if peak > 0 else 1.0
            return Rate(anneal(low, self.lr_max, up), anneal(first, middle, up))
        if not self.three_phase:
            down = (at - peak) / (last - peak)
            return Rate(anneal(self.lr_max, end, down), anneal(middle, final, down))
        back = 2 * self.pct_start * (last + 1) - 2
        if at <= back:
            down = (at - peak) / (back - peak)
            return Rate(anneal(self.lr_max, low, down), anneal(middle, final, down))
        back = max(back, peak)
        return Rate(anneal(low if back > peak else self.lr_max, end, (at - back) / (last - back)), final)


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up to `lr_max`, as long as possible there, then a decay: a trapezoid.

    The warm-up takes `warmup` of `total_steps` (left out: the whole run), from `start` times `lr_max`. The decay takes
    the last `cooldown` of them, or with None all after the warm-up, down to `end` times `lr_max`, by `shape`. With
    cooldown = None this is the cosine, or linear, decay with warm-up. Names and steps are those of transformers'
    `get_wsd_schedule`: update 0 has the first rate, and the end is reached one step past the last update.
    """

    kind: ClassVar[str] = "warmup-stable-decay"
    lr_max: float
    total_steps: int | None = None
    warmup: float = 0.05
    cooldown: float | None = 0.2
    shape: Shape = "1-sqrt"
    start: float = 0.0
    end: float = 0.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _rates(lr_max=self.lr_max)
        if self.total_steps is not None:
            _steps("total_steps", self.total_steps, 1)
        for name in ("warmup", "cooldown", "start", "end"):
            _fraction(name, getattr(self, name) or 0.0)
        parts = self.warmup + (self.cooldown or 0.0)
        _require(parts <= 1 + 1e-9, f"warmup and cooldown are {parts:g} of the run together: use 1 or less")
        _check_shape(self.shape)
        _momenta([self.momentum])

    def __call__(self, step: int) -> Rate:
        """The rate on the way up, at the top, on the way down, or past the end the last one."""
        total = _length(self.total_steps)
        up = min(total, _part(total, self.warmup))
        down = total - up if self.cooldown is None else min(total - up, _part(total, self.cooldown))
        at = min(_step(step), total)
        if at < up:
            return Rate(self.lr_max * _linear(self.start, 1.0, at / up), self.momentum)
        if at <= total - down:
            return Rate(self.lr_max, self.momentum)
        return Rate(self.lr_max * FALL[self.shape](1.0, self.end, (at - total + down) / down), self.momentum)


@dataclass(frozen=True)
class Step:
    """The rate times `gamma` every `step_size` epochs, of `steps_per_epoch` steps each: torch's StepLR."""

    kind: ClassVar[str] = "step"
    lr_max: float
    step_size: int = 1
    gamma: float = 0.1
    steps_per_epoch: int | None = None
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _rates(lr_max=self.lr_max)
        _steps("step_size", self.step_size, 1)
        _fraction("gamma", self.gamma)
        if self.steps_per_epoch is not None:
            _steps("steps_per_epoch", self.steps_per_epoch, 1)
        _momenta([self.momentum])

    def __call__(self, step: int) -> Rate:
        """The rate of the epoch that `step` belongs to."""
        epoch = int(_step(step)) // (self.steps_per_epoch or 1)
        return Rate(self.lr_max * self.gamma ** (epoch // self.step_size), self.momentum)


@dataclass(frozen=True)
class CustomSchedule:
    """A custom schedule: any function, or value with a `__call__`, that gives the `Rate` of a step."""

    kind: ClassVar[str] = "custom"
    function: Callable[[int], Rate]

    def __call__(self, step: int) -> Rate:
        """Its rate; of a place between two steps, as a replanned run asks for, what lies between theirs.

        ConfigError for what is none.
        """
        whole = int(step)
        rate = self._of(whole)
        if whole == step:
            return rate
        after = self._of(whole + 1)
        return Rate(*(_linear(here, there, step - whole) for here, there in zip(rate, after, strict=True)))

    def _of(self, step: int) -> Rate:
        given = self.function(step)
        _require(
            isinstance(given, tuple) and len(given) == 2 and all(isinstance(value, int | float) for value in given),
            f"the schedule gave {given!r} for step {step}: return Rate(lr, momentum)",
        )
        rate = Rate(*map(float, given))
        _rates(lr=rate.lr)
        _momenta([rate.momentum])
        return rate
