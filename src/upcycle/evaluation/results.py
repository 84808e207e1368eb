"""What a model said about labelled images, the CSV file that keeps it bit for bit, and the metrics made of it.

`Predictions` are one split's logits; `RunEvaluation` is everything that `evaluation.json` holds.
"""

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from upcycle.errors import RunError, UpcycleError
from upcycle.rundir import Number, read_value, replacing
from upcycle.task import Integers, Reals, Task

FILE = "evaluation.json"
FIXED = ("path", "label", "predicted", "sha256", "group")
LOGIT = "logit:"


def _frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[np.generic]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Predictions:
    """The logits of n labelled images, with where each image came from.

    `labels`: positions in `classes`, [n]. `logits`: float32, [n, outputs] of the task. `hashes` are sha256 hex
    digests of the files, `groups` names of what belongs together (a patient, a place); both are '' where unknown.
    Raises UpcycleError for no images or logits that are not finite, ValueError for shapes that do not fit.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    hashes: tuple[str, ...]
    groups: tuple[str, ...]
    labels: Integers
    logits: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("classes", "paths", "hashes", "groups"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "labels", _frozen(self.labels, np.int64))
        object.__setattr__(self, "logits", _frozen(self.logits, np.float32))
        if not self.paths:
            raise UpcycleError("no images to evaluate: the split is empty")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"needs two or more different classes, got {self.classes}")
        n, outputs = len(self.paths), self.task.outputs
        lengths = {len(self.hashes), len(self.groups), len(self.labels)}
        if lengths != {n} or self.logits.shape != (n, outputs):
            raise ValueError(f"{n} paths, but lengths {lengths} and logits of shape {self.logits.shape}")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise ValueError(f"labels must be 0 to {len(self.classes) - 1}")
        bad = np.flatnonzero(~np.isfinite(self.logits).all(axis=1))
        if len(bad):
            raise UpcycleError(
                f"the model's outputs are not finite for {len(bad)} of {n} images "
                f"(first: {self.paths[bad[0]]}): its weights are unusable, train again with a lower rate"
            )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def task(self) -> Task:
        """What the classifier was asked."""
        return Task.of(self.classes)

    def part(self, at: Integers) -> "Predictions":
        """Those of the images at some positions."""
        paths, hashes, groups = (tuple(one[place] for place in at) for one in (self.paths, self.hashes, self.groups))
        return Predictions(self.classes, paths, hashes, groups, self.labels[at], self.logits[at])

    def identities(self) -> list[tuple[str, str, int]]:
        """What each image is known by in any run: content (its path where unknown), class, number among copies."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        found = []
        for digest, path, label in zip(self.hashes, self.paths, self.labels, strict=True):
            what = (digest or path, self.classes[label])
            found.append((*what, counts[what]))
            counts[what] += 1
        return found

    def probabilities(self) -> Reals:
        """The probability of each class, float64 [n, K], rows summing to 1."""
        return self.task.probabilities(self.logits)

    def predicted(self) -> Integers:
        """The most probable class of each image, [n]; the first one where several are equal."""
        return self.task.predictions(self.logits)

    def mistakes(self) -> Integers:
        """Positions of the images whose predicted class is not their label, the most confident first."""
        probabilities, predicted = self.probabilities(), self.predicted()
        wrong = np.flatnonzero(predicted != self.labels)
        return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]

    def log_losses(self) -> Reals:
        """The negative log likelihood of each image's label in nats, float64 [n]; finite, never clipped."""
        return self.costs()[np.arange(len(self)), self.labels]

    def costs(self) -> Reals:
        """What each image would cost in nats if its label were each of the classes, float64 [n, K]."""
        return self.task.costs(self.logits)

    def save(self, path: Path) -> None:
        """Write a CSV: path, label, predicted, sha256, group, and a logit for each class, bit-exact.

        The logits are for a softmax over the classes: with two, the first is 0 and the second the
        model's one output. Raises StorageError; an earlier file stays whole.
        """
        predicted = self.predicted()
        with (
            replacing(path) as temporary,
            # surrogateescape: Linux file names are bytes, and need not be valid UTF-8
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            # text is always quoted, so that any character may be in a name; numbers never are
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow([*FIXED, *(LOGIT + name for name in self.classes)])
            for i, logits in enumerate(self.task.to_columns(self.logits)):
                names = self.classes[self.labels[i]], self.classes[predicted[i]]
                # a numpy float32 is written with the fewest digits that give the same bits again
                writer.writerow([self.paths[i], *names, self.hashes[i], self.groups[i], *logits])


def read_predictions(path: Path) -> Predictions:
    """Read what `Predictions.save` wrote; RunError when it is missing, damaged or another kind of file."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            classes = _classes(next(reader, []))
            return _from_rows(classes, reader)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: evaluate the run first, or name another split") from None
    except (OSError, ValueError, csv.Error, UpcycleError) as error:
        raise RunError(f"{path} cannot be read as predictions: {error}") from error


def _classes(header: list[str]) -> tuple[str, ...]:
    names = header[len(FIXED) :]
    if tuple(header[: len(FIXED)]) != FIXED or not all(name.startswith(LOGIT) for name in names):
        raise ValueError(f"its columns must be {','.join(FIXED)},{LOGIT}CLASS...")
    return tuple(name.removeprefix(LOGIT) for name in names)


def _from_rows(classes: tuple[str, ...], rows: Iterable[list[str]]) -> Predictions:
    position = {name: i for i, name in enumerate(classes)}
    paths, hashes, groups, labels, logits = [], [], [], [], []
    for row, number in zip(rows, itertools.count(1), strict=False):
        if len(row) != len(FIXED) + len(classes) or row[1] not in position:
            raise ValueError(f"image {number} has missing values or an unknown class")
        paths.append(row[0])
        labels.append(position[row[1]])
        hashes.append(row[3])
        groups.append(row[4])
        logits.append([np.float32(value) for value in row[len(FIXED) :]])
    columns = np.array(logits, dtype=np.float32).reshape(len(paths), len(classes))
    array = Task.of(classes).from_columns(columns)
    return Predictions(classes, tuple(paths), tuple(hashes), tuple(groups), np.array(labels, dtype=np.int64), array)


# ---------------------------------------------------------------- metrics


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


ModelName = Literal["probe", "finetune", "ema", "interpolated-0.75", "interpolated-0.5", "interpolated-0.25"]
"""The models that a run chooses from, the simplest first; a number is the fine-tuned weights' part of the mean."""
MODELS: Mapping[ModelName, str] = {
    "probe": "the probe",
    "finetune": "fine-tuning",
    "ema": "the moving average of the fine-tuned weights",
    "interpolated-0.75": "the mean of 75 % fine-tuned and 25 % probe weights",
    "interpolated-0.5": "the mean of 50 % fine-tuned and 50 % probe weights",
    "interpolated-0.25": "the mean of 25 % fine-tuned and 75 % probe weights",
}
"""The same in words."""
_ONE_UNIT = "validation images of a single unit cannot tell models apart"
"""Why a standard error is infinite, which JSON keeps as null."""


@dataclass(frozen=True)
class Candidate:
    """A model that could be kept: its validation loss, and the mean paired difference from the lowest one (nats)."""

    name: ModelName
    val_loss: Number
    mean_difference: Number
    standard_error: Number


@dataclass(frozen=True)
class Choice:
    """Which model a run keeps, and its candidates, the simplest first; () in runs of earlier versions.

    `mean_difference` is the mean paired difference of log losses, fine-tuned minus probe, in nats.
    """

    chosen: ModelName
    mean_difference: Number = math.nan
    standard_error: Number = math.nan
    candidates: tuple[Candidate, ...] = ()

    @property
    def reason(self) -> str:
        """The decision in words."""
        name, of = MODELS[self.chosen], {candidate.name: candidate for candidate in self.candidates}
        if self.chosen in of:
            best, kept = min(self.candidates, key=lambda one: one.val_loss), of[self.chosen]
            if best != kept:
                if not math.isfinite(kept.standard_error):
                    return (
                        f"{name} was chosen: the simplest model, as {_ONE_UNIT} (its loss minus the lowest, that of "
                        f"{MODELS[best.name]}: {kept.mean_difference:+.4f})"
                    )
                return (
                    f"{name} was chosen: the simplest model whose validation loss is within one standard error of the "
                    f"lowest, that of {MODELS[best.name]} ({kept.mean_difference:+.4f} ± {kept.standard_error:.4f} "
                    "per image)"
                )
            simpler = "" if self.chosen == self.candidates[0].name else ", each simpler model's more than one "
            return (
                f"{name} was chosen: its validation loss is the lowest{simpler and simpler + 'standard error higher'}"
            )
        if not math.isfinite(self.mean_difference + self.standard_error):
            return f"{name} was chosen on the validation images"
        return (
            f"{name} was chosen: the validation loss of fine-tuning minus that of the probe is "
            f"{self.mean_difference:+.4f} ± {self.standard_error:.4f} per image, "
            f"{'not better' if self.chosen == 'probe' else 'better'} by more than one standard error"
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        candidates = [asdict(candidate) for candidate in self.candidates]
        return {**asdict(self), "candidates": candidates, "reason": self.reason}


@dataclass(frozen=True)
class Views:
    """Whether the logits of an image and its mirror image are averaged, and how that changes the loss.

    `mean_difference` is the mean paired difference of the probe's log loss on validation images, with views minus
    without, in nats. `asked`: the option named the views.
    """

    views: str
    mean_difference: Number
    standard_error: Number
    asked: bool = False

    @property
    def chosen(self) -> str:
        """The views if asked for, or if the upper end of the one-sided 95 % interval is below 0; else "none"."""
        pays = self.mean_difference + 1.645 * self.standard_error < 0
        return self.views if self.asked or pays else "none"

    @property
    def reason(self) -> str:
        """The decision in words."""
        known = math.isfinite(self.standard_error)
        error = f" ± {self.standard_error:.4f} per image" if known else f" per image, and {_ONE_UNIT}"
        what = f"{self.mean_difference:+.4f}{error}"
        if self.asked:
            return f"an image and its mirror image are averaged: the validation loss changes by {what}"
        if self.chosen == "none" and not known:
            return f"no mirror images: with them the validation loss changes by {what}"
        if self.chosen == "none":
            return f"mirror images do not pay: with them the validation loss changes by {what}"
        return f"an image and its mirror image are averaged, as that pays: the validation loss changes by {what}"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "chosen": self.chosen, "reason": self.reason}


@dataclass(frozen=True)
class Calibration:
    """The temperature of the kept model's logits, and by split how far its probabilities are off.

    `before` and `after` are expected calibration errors, from 0 to 1, without and with it. A model whose probabilities
    are right shows about `chance` on as many images.
    """

    temperature: Number
    before: Mapping[str, Metric]
    after: Mapping[str, Metric]
    chance: Mapping[str, Number]


@dataclass(frozen=True)
class FoldScores:
    """The test F1 of each model of a cross-validation, their mean and standard deviation."""

    f1_macro: tuple[float, ...]
    mean: Number
    deviation: Number


@dataclass(frozen=True)
class RunEvaluation:
    """All of `evaluation.json`: an evaluation per name, and how the kept model was chosen.

    `test` and `val` are of the kept model; where it was `refit`, `val` is of the probe before it learned from those
    images. `probe_test` and `finetune_test` (or `..._val`) of the others.
    """

    named: Mapping[str, Evaluation]
    choice: Choice | None = None
    folds: FoldScores | None = None
    views: Views | None = None
    refit: bool = False
    calibration: Calibration | None = None

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
        if self.views is not None:
            values["views"] = self.views.to_dict()
        if self.refit:
            values["refit"] = True
        if self.calibration is not None:
            values["calibration"] = asdict(self.calibration)
        if self.folds is not None:
            values["folds"] = {**asdict(self.folds), "f1_macro": list(self.folds.f1_macro)}
        return values

    @classmethod
    def from_dict(cls, values: object) -> "RunEvaluation":
        """The inverse of `to_dict`; RunError for values that are no evaluation of a run."""
        if not isinstance(values, Mapping):
            raise RunError(f"{FILE} holds no evaluation")
        apart = {"choice", "folds", "views", "refit", "calibration"}
        named = {name: part for name, part in values.items() if name not in apart}
        return cls(
            named={name: Evaluation.from_dict(part) for name, part in named.items()},
            choice=read_value(Choice, values["choice"], FILE) if values.get("choice") else None,
            folds=read_value(FoldScores, values["folds"], FILE) if values.get("folds") else None,
            views=read_value(Views, values["views"], FILE) if values.get("views") else None,
            refit=values.get("refit") is True,
            calibration=read_value(Calibration, values["calibration"], FILE) if values.get("calibration") else None,
        )
