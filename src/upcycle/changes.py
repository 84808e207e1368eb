"""What changes a plan. Each is written to plan.jsonl before it takes effect, from which a run can be repeated."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from upcycle.errors import RunError
from upcycle.rundir import read_value
from upcycle.schedules import Shape

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Retry:
    """The loss exploded: from the run's update `step` on the learning rate is multiplied by `factor`."""

    event: ClassVar[str] = "retry"
    step: Count
    factor: Amount
    reason: str


@dataclass(frozen=True)
class MicroBatch:
    """Memory was short: from the run's update `step` on at most `images` go through the network at a time."""

    event: ClassVar[str] = "micro-batch"
    step: Count
    images: Positive
    reason: str


@dataclass(frozen=True)
class Budget:
    """What fits into a deadline of so many `seconds`.

    `image_size` in pixels; `lean`: one view, no averaged weights, fewer images for the table of unlike ones; `freeze`:
    a value of the option, "" for what the probe decides; `steps`: updates of fine-tuning in all, 0 for the probe
    alone, None until the probe is trained.
    """

    event: ClassVar[str] = "deadline"
    seconds: Amount
    image_size: Positive
    lean: bool = False
    freeze: str = ""
    steps: Count | None = None
    reason: str = ""


@dataclass(frozen=True)
class Replan:
    """The machine was slower or faster than planned: from update `step` on the rest is laid on `steps` in all."""

    event: ClassVar[str] = "replan"
    step: Count
    steps: Positive
    reason: str


@dataclass(frozen=True)
class Ending:
    """Training ends before its time: from update `step` on the rate falls by `shape`, `steps` updates being all."""

    event: ClassVar[str] = "ending"
    step: Count
    steps: Positive
    shape: Shape
    reason: str


Change = Retry | MicroBatch | Budget | Replan | Ending
_KINDS: dict[str, type[Change]] = {kind.event: kind for kind in (Retry, MicroBatch, Budget, Replan, Ending)}
_UNREADABLE = "a change of the plan cannot be read"


def changes_to_dicts(changes: Iterable[Change]) -> list[dict[str, object]]:
    """Changes as plain values, one per line of a file."""
    return [{"event": change.event, **asdict(change)} for change in changes]


def changes_from_dicts(rows: Iterable[Mapping[str, Any]]) -> tuple[Change, ...]:
    """The inverse of `changes_to_dicts`; RunError for anything else."""
    try:
        return tuple(_change(row) for row in rows)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunError(f"{_UNREADABLE} ({type(error).__name__}: {error})") from None


def _change(row: Mapping[str, Any]) -> Change:
    kind = _KINDS.get(row["event"])
    if kind is None:
        raise ValueError(f"unknown event {row['event']!r}")
    values = {name: value for name, value in row.items() if name != "event"}
    change = read_value(kind, values, f"{_UNREADABLE}: {row['event']}")
    if isinstance(change, Replan | Ending) and change.steps < change.step:
        raise ValueError(f"{change.steps} updates in all are over before update {change.step}")
    return change
