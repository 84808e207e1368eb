"""Rows of what happened, one an epoch, and pure questions about them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

from upcycle.errors import ConfigError, RunError
from upcycle.rundir import Number, read_values

MONITORS = ("val_loss", "val_accuracy", "val_f1_macro")


@dataclass(frozen=True)
class Row:
    """One epoch. `epoch` counts from 1 within its phase, `step` over the whole run, at the epoch's end.

    `lr` and `momentum` are those of the epoch's last update; losses are means over images; accuracies
    and F1 lie in 0..1; `best` says that the monitored value was the best of its phase so far; `retries`
    counts how often the loss had exploded and the rate been lowered by then.
    """

    phase: str
    epoch: int
    step: int
    lr: Number
    momentum: Number
    loss: Number
    accuracy: Number
    val_loss: Number
    val_accuracy: Number
    val_f1_macro: Number
    best: bool = False
    retries: int = 0

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ProbeResult:
    """How the probe came out: the strength of L2 by scaling of the features, and its scores on validation images.

    The loss is a mean over images, in nats; accuracy and F1 lie in 0..1. It reads the last `stages` of the network;
    `losses` are ridge regression's on held-out images with the last stage, the last two, and so on.
    """

    strengths: Mapping[str, float]
    val_loss: float
    val_accuracy: float
    val_f1_macro: float
    stages: int = 1
    losses: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "strengths": dict(self.strengths), "losses": list(self.losses)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "ProbeResult":
        """The inverse of `to_dict`; RunError for values that lack a key or have one too many."""
        names = {field.name for field in fields(cls)}
        wrong = (names ^ values.keys()) - {"stages", "losses"}  # which are younger than some runs
        if wrong or not isinstance(values["strengths"], Mapping):
            raise RunError(f"a probe's result is damaged: it has the wrong keys: {sorted(wrong)}")
        losses = values.get("losses", ())
        return cls(**{**values, "losses": tuple(losses)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class History:
    """The rows of a run, in order."""

    rows: tuple[Row, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def adding(self, row: Row) -> "History":
        """A history with one row more."""
        return History((*self.rows, row))

    def of(self, phase: str) -> "History":
        """The rows of one phase."""
        return History(tuple(row for row in self.rows if row.phase == phase))

    def to_dicts(self) -> list[dict[str, object]]:
        """Rows as plain values."""
        return [row.to_dict() for row in self.rows]

    @classmethod
    def from_dicts(cls, rows: Iterable[Mapping[str, object]]) -> "History":
        """The inverse of `to_dicts`, without the head's; RunError for rows that lack a key or have one too many."""
        names = {field.name for field in fields(Row)}
        plain = without_head(rows)
        for row in plain:
            wrong = (names ^ row.keys()) - {"retries"}  # which is younger than some runs
            if wrong:
                raise RunError(f"history.jsonl is damaged: a row has the wrong keys: {sorted(wrong)}")
        return cls(read_values(Row, plain, "history.jsonl"))


def without_head(rows: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Rows of fine-tuning alone: earlier versions trained the probe by epochs, in a phase "head"."""
    return [row for row in rows if row.get("phase") != "head"]


def check_monitor(monitor: str) -> str:
    """`monitor` itself when it can be watched; ConfigError otherwise."""
    if monitor not in MONITORS:
        raise ConfigError(f"cannot monitor {monitor!r}: choose one of {', '.join(MONITORS)}")
    return monitor


def cost(row: Row, monitor: str) -> float:
    """The monitored value turned so that lower is better; a value that is not a number is the worst."""
    value = float(getattr(row, check_monitor(monitor)))
    if math.isnan(value):
        return math.inf
    return value if monitor == "val_loss" else -value


def best(history: History, monitor: str = "val_loss") -> Row | None:
    """The first row with the best monitored value."""
    return min(history.rows, key=lambda row: cost(row, monitor), default=None)


def is_best(history: History, row: Row, monitor: str = "val_loss") -> bool:
    """Whether `row` beats every row of `history`."""
    return all(cost(row, monitor) < cost(earlier, monitor) for earlier in history.rows)


def should_stop(
    history: History, *, patience: int | None, monitor: str = "val_loss", start_from_epoch: int = 0
) -> bool:
    """Whether `patience` epochs in a row brought nothing better than the best before them.

    Epochs up to `start_from_epoch` count neither for the run nor against it. As Keras's EarlyStopping:
    patience 5 stops at the fifth epoch without improvement.
    """
    top = best(History(tuple(row for row in history.rows if row.epoch > start_from_epoch)), monitor)
    return patience is not None and top is not None and history.rows[-1].epoch - top.epoch >= patience
