"""Learning-rate schedules as frozen values: `schedule(step) -> Rate(lr, momentum)`.

Steps are optimizer updates counted from 0; the caller says which step it is, so there is nothing to
save and nothing to resume. A step past the end keeps the last rate. Standard library only.

The one-cycle policy is Leslie Smith's (arXiv 1506.01186, 1708.07120, 1803.09820).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

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


_ANNEAL = {"cos": _cosine, "linear": _linear}


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
        _require(0 <= self.decay <= 1, f"decay = {self.decay} is out of range: use 0 to 1")

    def __call__(self, step: int) -> Rate:
        """The rate of the epoch that `step` belongs to."""
        return Rate(self._lr(_step(step) // self._steps_per_epoch), self.momentum)

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
    momentum at the start, the peak and the end. Names and meanings are fastai's; where torch's OneCycleLR is
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

    def __post_init__(self) -> None:
        _rates(lr_max=self.lr_max)
        if self.total_steps is not None:
            _steps("total_steps", self.total_steps, 1)
        _require(0 <= self.pct_start <= 1, f"pct_start = {self.pct_start} is out of range: use 0 to 1")
        for name in ("div", "div_final"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 1, f"{name} = {value} is out of range: use 1 or more")
        _require(self.anneal in _ANNEAL, f"anneal {self.anneal!r} is neither cos nor linear")
        _require(len(self.moms) == 3, f"moms = {self.moms} must name three: start, peak and end")
        _momenta(self.moms)

    @property
    def peak(self) -> float:
        """The step of the highest rate; a fraction when the peak falls between two steps."""
        return max(0.0, self.pct_start * self._length - 1)

    @property
    def _length(self) -> int:
        if self.total_steps is None:
            raise ConfigError("total_steps is left out: give the number of updates, or pass the schedule to train")
        return self.total_steps

    def __call__(self, step: int) -> Rate:
        """The rate on the way up, on the way down, or past the end the last one."""
        anneal, last, peak = _ANNEAL[self.anneal], self._length - 1, self.peak
        first, middle, final = self.moms
        at = min(_step(step), last)
        if at <= peak:
            up = at / peak if peak > 0 else 1.0
            return Rate(anneal(self.lr_max / self.div, self.lr_max, up), anneal(first, middle, up))
        down = (at - peak) / (last - peak)
        return Rate(anneal(self.lr_max, self.lr_max / self.div_final, down), anneal(middle, final, down))


@dataclass(frozen=True)
class Scaled:
    """Another schedule, its learning rate times `factor` from step `begin` on."""

    kind: ClassVar[str] = "scaled"
    schedule: "Schedule"
    begin: int
    factor: float

    def __post_init__(self) -> None:
        _steps("begin", self.begin, 0)
        _rates(factor=self.factor)

    def __call__(self, step: int) -> Rate:
        """The other schedule's rate, or that times the factor."""
        rate = self.schedule(step)
        return rate if step < self.begin else Rate(rate.lr * self.factor, rate.momentum)


@dataclass(frozen=True)
class CustomSchedule:
    """A custom schedule: any function, or value with a `__call__`, that gives the `Rate` of a step."""

    kind: ClassVar[str] = "custom"
    function: Callable[[int], Rate]

    def __call__(self, step: int) -> Rate:
        """Its rate; ConfigError for what is none."""
        given = self.function(step)
        _require(
            isinstance(given, tuple) and len(given) == 2 and all(isinstance(value, int | float) for value in given),
            f"the schedule gave {given!r} for step {step}: return Rate(lr, momentum)",
        )
        rate = Rate(*map(float, given))
        _rates(lr=rate.lr)
        _momenta([rate.momentum])
        return rate


KINDS: dict[str, type[Any]] = {cls.kind: cls for cls in (Constant, RampSustainDecay, OneCycle, Scaled)}


def by_epoch(schedule: Schedule) -> bool:
    """Whether its rate changes between epochs alone."""
    return isinstance(schedule, RampSustainDecay) or (isinstance(schedule, Scaled) and by_epoch(schedule.schedule))


def over_run(schedule: Schedule, *, steps: int, steps_per_epoch: int) -> Schedule:
    """`schedule` with the lengths that it leaves out as those of a run."""
    if isinstance(schedule, OneCycle) and schedule.total_steps is None:
        return replace(schedule, total_steps=steps)
    if isinstance(schedule, RampSustainDecay) and schedule.steps_per_epoch is None:
        return replace(schedule, steps_per_epoch=steps_per_epoch)
    return schedule


def name_of(function: object) -> str:
    """The qualified name of a function, or of the class of a value."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """Plain values from which `from_dict` makes an equal schedule; the name alone of a custom one."""
    if isinstance(schedule, CustomSchedule):
        return {"kind": schedule.kind, "name": name_of(schedule.function)}
    if isinstance(schedule, Scaled):
        scaled = {"begin": schedule.begin, "factor": schedule.factor}
        return {"kind": schedule.kind, "schedule": to_dict(schedule.schedule), **scaled}
    return {"kind": schedule.kind, **asdict(schedule)}  # type: ignore[call-overload]


def from_dict(values: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_dict` wrote; ConfigError for an unknown kind or key."""
    plain = dict(values)
    kind = plain.pop("kind", None)
    _require(kind in KINDS, f"unknown schedule {kind!r}: choose one of {', '.join(KINDS)}")
    known = {field.name for field in fields(KINDS[kind])}
    _require(set(plain) <= known, f"unknown key of schedule {kind}: {sorted(set(plain) - known)}")
    if "moms" in plain:
        plain["moms"] = tuple(plain["moms"])
    if "schedule" in plain:
        plain["schedule"] = from_dict(plain["schedule"])
    schedule: Schedule = KINDS[kind](**plain)
    return schedule
