"""Schedules that were changed under way, and all schedules as plain values. Standard library only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from upcycle.errors import ConfigError
from upcycle.schedules import (
    FALL,
    Constant,
    CustomSchedule,
    OneCycle,
    RampSustainDecay,
    Rate,
    Schedule,
    Shape,
    Step,
    WarmupStableDecay,
)


def _counted(**counts: tuple[int, int]) -> None:
    for name, (count, least) in counts.items():
        if not (isinstance(count, int) and count >= least):
            raise ConfigError(f"{name} = {count} is out of range: use {least} or more")


@dataclass(frozen=True)
class Scaled:
    """Another schedule, its learning rate times `factor` from step `begin` on."""

    kind: ClassVar[str] = "scaled"
    schedule: Schedule
    begin: int
    factor: float

    def __post_init__(self) -> None:
        _counted(begin=(self.begin, 0))
        if not 0 <= self.factor < math.inf:
            raise ConfigError(f"factor = {self.factor} is out of range: use a finite number, 0 or more")

    def __call__(self, step: int) -> Rate:
        """The other schedule's rate, or that times the factor."""
        rate = self.schedule(step)
        return rate if step < self.begin else Rate(rate.lr * self.factor, rate.momentum)


@dataclass(frozen=True)
class Replanned:
    """Another schedule for `before` steps, whose part from step `begin` on is laid on steps up to `after` instead.

    The rate goes on from where it is, faster or slower, and the last step has the other one's last rate.
    """

    kind: ClassVar[str] = "replanned"
    schedule: Schedule
    begin: int
    before: int
    after: int

    def __post_init__(self) -> None:
        _counted(begin=(self.begin, 0), before=(self.before, self.begin + 1), after=(self.after, self.begin + 1))

    def __call__(self, step: int) -> Rate:
        """The other schedule's rate, of a place that may lie between two of its steps."""
        schedule: Schedule = self
        at: float = step
        while isinstance(schedule, Replanned):  # a long run is replanned more often than Python calls may be nested
            if at >= schedule.begin:
                last = schedule.after - 1 - schedule.begin
                done = min(1.0, (at - schedule.begin) / last) if last else 1.0
                at = schedule.begin + done * (schedule.before - 1 - schedule.begin)
            schedule = schedule.schedule
        return schedule(at)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Cooldown:
    """Another schedule up to step `begin`, then a fall of its rate there to nothing within `steps` steps by `shape`.

    Update `begin` has the first rate below it, and the update after the last one would have 0. The momentum stays.
    """

    kind: ClassVar[str] = "cooldown"
    schedule: Schedule
    begin: int
    steps: int
    shape: Shape = "1-sqrt"

    def __post_init__(self) -> None:
        _counted(begin=(self.begin, 0), steps=(self.steps, 1))
        if self.shape not in FALL:
            raise ConfigError(f"shape {self.shape!r} is none of {', '.join(FALL)}")

    def __call__(self, step: int) -> Rate:
        """The other schedule's rate, or one on the way down."""
        if step < self.begin:
            return self.schedule(step)
        rate = self.schedule(max(0, self.begin - 1))
        done = min(self.steps, step - self.begin + 1) / (self.steps + 1)
        return Rate(FALL[self.shape](rate.lr, 0.0, done), rate.momentum)


KINDS: dict[str, type[Any]] = {
    cls.kind: cls
    for cls in (Constant, RampSustainDecay, OneCycle, WarmupStableDecay, Step, Scaled, Replanned, Cooldown)
}


def by_epoch(schedule: Schedule) -> bool:
    """Whether its rate changes between epochs alone."""
    inner = isinstance(schedule, Scaled) and by_epoch(schedule.schedule)
    return inner or isinstance(schedule, RampSustainDecay | Step)


def over_run(schedule: Schedule, *, steps: int, steps_per_epoch: int) -> Schedule:
    """`schedule` with the lengths that it leaves out as those of a run."""
    if isinstance(schedule, OneCycle | WarmupStableDecay) and schedule.total_steps is None:
        return replace(schedule, total_steps=steps)
    if isinstance(schedule, RampSustainDecay | Step) and schedule.steps_per_epoch is None:
        return replace(schedule, steps_per_epoch=steps_per_epoch)
    return schedule


def qualified_name(function: object) -> str:
    """The qualified name of a function, or of the class of a value."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """Plain values from which `from_dict` makes an equal schedule; the name alone of a custom one.

    One that was replanned again and again is one value, with begin, before and after of each time in `laid`.
    """
    if isinstance(schedule, CustomSchedule):
        return {"kind": schedule.kind, "name": qualified_name(schedule.function)}
    if isinstance(schedule, Replanned):
        laid = []
        while isinstance(schedule, Replanned):
            laid.append([schedule.begin, schedule.before, schedule.after])
            schedule = schedule.schedule
        return {"kind": Replanned.kind, "schedule": to_dict(schedule), "laid": laid[::-1]}
    plain = {field.name: getattr(schedule, field.name) for field in fields(schedule)}  # type: ignore[arg-type]
    if "schedule" in plain:
        plain["schedule"] = to_dict(plain["schedule"])
    return {"kind": schedule.kind, **plain}


def from_dict(values: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_dict` wrote; ConfigError for an unknown kind or key."""
    plain = dict(values)
    kind = plain.pop("kind", None)
    if kind not in KINDS:
        raise ConfigError(f"unknown schedule {kind!r}: choose one of {', '.join(KINDS)}")
    known = {"schedule", "laid"} if kind == Replanned.kind else {field.name for field in fields(KINDS[kind])}
    unknown = set(plain) - known
    if unknown:
        raise ConfigError(f"unknown key of schedule {kind}: {sorted(unknown)}")
    if kind == Replanned.kind:
        schedule = from_dict(plain["schedule"])
        for begin, before, after in plain["laid"]:
            schedule = Replanned(schedule, begin, before, after)
        return schedule
    if "moms" in plain:
        plain["moms"] = tuple(plain["moms"])
    if "schedule" in plain:
        plain["schedule"] = from_dict(plain["schedule"])
    made: Schedule = KINDS[kind](**plain)
    return made
