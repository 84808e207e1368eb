"""What a run does: its phases with their schedules, and what changed them under way."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from upcycle.errors import RunError
from upcycle.recipes import Phase
from upcycle.schedules import Rate


@dataclass(frozen=True)
class Retry:
    """The loss exploded: from the run's update `step` on the learning rate is multiplied by `factor`."""

    event: ClassVar[str] = "retry"
    step: int
    factor: float
    reason: str


@dataclass(frozen=True)
class MicroBatch:
    """Memory was short: from the run's update `step` on at most `images` go through the network at a time."""

    event: ClassVar[str] = "micro-batch"
    step: int
    images: int
    reason: str


Change = Retry | MicroBatch


@dataclass(frozen=True)
class Plan:
    """The phases of a run as they were planned, and the changes of its last phase, in order."""

    phases: tuple[Phase, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def retries(self) -> tuple[Retry, ...]:
        """How the learning rate was lowered."""
        return tuple(change for change in self.changes if isinstance(change, Retry))

    @property
    def micro_batches(self) -> tuple[MicroBatch, ...]:
        """How batches were divided."""
        return tuple(change for change in self.changes if isinstance(change, MicroBatch))

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Learning rate and momentum of every update, the changes applied."""
        phases = (*self.phases[:-1], self.last) if self.phases else ()
        return tuple(phase.schedule(step) for phase in phases for step in range(phase.steps))

    @property
    def last(self) -> Phase:
        """The last phase, with the rates that the retries have left of it."""
        phase = self.phases[-1]
        for change in self.retries:
            phase = phase.slowed(change.step, change.factor)
        return phase

    def holds(self, *, retries: int, step: int) -> bool:
        """Whether a state made after so many retries at update `step` belongs to this plan.

        So it does when it was made under it, or before the update that the last retry starts from.
        """
        return retries == len(self.retries) or bool(self.retries and step <= self.retries[-1].step)

    def to_dict(self) -> dict[str, object]:
        """The phases as plain values for JSON, the changes applied."""
        return {"phases": [phase.to_dict() for phase in (*self.phases[:-1], *([self.last] if self.phases else []))]}


def changes_to_dicts(changes: Iterable[Change]) -> list[dict[str, object]]:
    """Changes as plain values, one per line of a file."""
    return [{"event": change.event, **asdict(change)} for change in changes]


def changes_from_dicts(rows: Iterable[Mapping[str, Any]]) -> tuple[Change, ...]:
    """The inverse of `changes_to_dicts`; RunError for anything else."""
    try:
        return tuple(_change(row) for row in rows)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunError(f"a change of the plan cannot be read ({type(error).__name__}: {error})") from None


def _change(row: Mapping[str, Any]) -> Change:
    if row["event"] == Retry.event:
        return Retry(int(row["step"]), float(row["factor"]), str(row["reason"]))
    if row["event"] == MicroBatch.event:
        return MicroBatch(int(row["step"]), int(row["images"]), str(row["reason"]))
    raise ValueError(f"unknown event {row['event']!r}")
