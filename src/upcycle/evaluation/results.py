"""The results of a run as values: metrics with intervals, and everything that `evaluation.json` holds."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from upcycle.errors import RunError
from upcycle.rundir import Number, read_value

FILE = "evaluation.json"


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval, and the method that gave the interval."""

    value: Number
    low: Number
    high: Number
    method: str


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; `support` counts its images."""

    precision: Metric
    recall: Metric
    f1: Metric
    support: int


@dataclass(frozen=True)
class Evaluation:
    """Metrics over n images; `confusion` has one row per true class and one column per predicted class.

    `distinguishable_points` is the smallest difference in accuracy that a test on these images can show, in percentage
    points, and `resolution` the sentence that reports it.
    """

    n: int
    classes: tuple[str, ...]
    accuracy: Metric
    precision_macro: Metric
    recall_macro: Metric
    f1_macro: Metric
    log_loss: Metric
    roc_auc: Metric | None
    per_class: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    distinguishable_points: Number
    resolution: str

    @cached_property
    def correct(self) -> int:
        """How many images were given their own class."""
        return sum(row[at] for at, row in enumerate(self.confusion))

    @cached_property
    def occurring(self) -> frozenset[str]:
        """The classes that an image is of, or was taken for; the others have no scores."""
        claims = [sum(column) for column in zip(*self.confusion, strict=True)]
        rows = zip(self.classes, self.confusion, claims, strict=True)
        return frozenset(name for name, row, claimed in rows if sum(row) + claimed)

    def confusions(self) -> list[tuple[str, str, int]]:
        """True class, predicted class and count of every two classes that were confused, the most frequent first."""
        found = [
            (self.classes[at], self.classes[to], count)
            for at, row in enumerate(self.confusion)
            for to, count in enumerate(row)
            if at != to and count
        ]
        return sorted(found, key=lambda pair: -pair[2])

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `roc_auc` only where it is defined."""
        values = {**asdict(self), "classes": list(self.classes), "confusion": [list(row) for row in self.confusion]}
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: object) -> "Evaluation":
        """The inverse of `to_dict`, of earlier versions too; RunError for values that are no evaluation."""
        if isinstance(values, Mapping):  # `resolution` was called `says`
            values = {"roc_auc": None, "resolution": values.get("says", ""), **values}
        return read_value(cls, values, FILE)


@dataclass(frozen=True)
class Choice:
    """Which model a run keeps, and the paired difference of log losses (fine-tuned minus probe) that decided it."""

    chosen: Literal["finetune", "probe"]
    mean_difference: Number = math.nan
    standard_error: Number = math.nan

    @property
    def reason(self) -> str:
        """The decision in words."""
        name, answer = {"finetune": ("fine-tuning", "better"), "probe": ("the probe", "not better")}[self.chosen]
        if math.isnan(self.mean_difference + self.standard_error):
            return f"{name} was chosen on the validation images"
        return (
            f"{name} was chosen: the validation loss of fine-tuning minus that of the probe is "
            f"{self.mean_difference:+.4f} ± {self.standard_error:.4f} per image, "
            f"{answer} by more than one standard error"
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "reason": self.reason}


@dataclass(frozen=True)
class FoldScores:
    """The test F1 of each model of a cross-validation, their mean and standard deviation."""

    f1_macro: tuple[float, ...]
    mean: Number
    deviation: Number


@dataclass(frozen=True)
class RunEvaluation:
    """All of `evaluation.json`: an evaluation per name, and how the kept model was chosen.

    `test` and `val` are of the kept model, `probe_test` and `finetune_test` (or `..._val`) of the other one.
    """

    named: Mapping[str, Evaluation]
    choice: Choice | None = None
    folds: FoldScores | None = None

    def __getitem__(self, name: str) -> Evaluation:
        return self.named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    @property
    def test(self) -> Evaluation | None:
        """The kept model on the test images; None without a test set."""
        return self.named.get("test")

    @property
    def val(self) -> Evaluation | None:
        """The kept model on the validation images, which chose it."""
        return self.named.get("val")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        values: dict[str, object] = {name: evaluation.to_dict() for name, evaluation in self.named.items()}
        if self.choice is not None:
            values["choice"] = self.choice.to_dict()
        if self.folds is not None:
            values["folds"] = {**asdict(self.folds), "f1_macro": list(self.folds.f1_macro)}
        return values

    @classmethod
    def from_dict(cls, values: object) -> "RunEvaluation":
        """The inverse of `to_dict`; RunError for values that are no evaluation of a run."""
        if not isinstance(values, Mapping):
            raise RunError(f"{FILE} holds no evaluation")
        named = {name: part for name, part in values.items() if name not in {"choice", "folds"}}
        return cls(
            named={name: Evaluation.from_dict(part) for name, part in named.items()},
            choice=read_value(Choice, values["choice"], FILE) if values.get("choice") else None,
            folds=read_value(FoldScores, values["folds"], FILE) if values.get("folds") else None,
        )
