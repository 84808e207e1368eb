"""What a classifier is asked: how many outputs it has, its targets, how its logits are read, what its classes weigh.

The only place that knows that two classes take one output. No torch here: `upcycle.training.loss` has the
counterparts that need tensors.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, softmax

Logits = NDArray[np.float32]
Reals = NDArray[np.float64]
Integers = NDArray[np.int64]

WIDEST = 10.0
"""The highest temperature that logits are divided by, and the lowest's inverse."""
METRICS = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "log_loss")


@dataclass(frozen=True)
class Task(ABC):
    """One label per image out of two or more `classes`; ValueError for fewer."""

    classes: tuple[str, ...]
    kind: ClassVar[str]
    """The name in model.json."""
    loss: ClassVar[str]
    """The name of the loss it is trained with."""
    metrics: ClassVar[tuple[str, ...]] = METRICS
    """The names of the metrics that are defined for it."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"a classifier needs two or more classes, not {len(self.classes)}")

    @staticmethod
    def of(classes: Sequence[str]) -> "Task":
        """The task of telling these classes apart."""
        return Binary(tuple(classes)) if len(classes) == 2 else Multiclass(tuple(classes))

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Outputs of the network."""

    @property
    def guessing(self) -> float:
        """The loss of guessing, in nats."""
        return math.log(len(self.classes))

    @abstractmethod
    def targets(self, labels: NDArray[np.integer]) -> Logits:
        """What the network learns to give for these `labels` [n]: float32 in 0..1."""

    @abstractmethod
    def probabilities(self, logits: Logits) -> Reals:
        """The probability of each class, float64 [n, K], rows summing to 1."""

    @abstractmethod
    def predictions(self, logits: Logits) -> Integers:
        """The most probable class of each image, [n]; the first one where several are equal."""

    @abstractmethod
    def costs(self, logits: Logits) -> Reals:
        """The negative log likelihood of each class in nats, float64 [n, K]; finite, never clipped."""

    @abstractmethod
    def to_columns(self, logits: Logits) -> Logits:
        """One logit per class, [n, K], of a softmax that gives the same probabilities."""

    @abstractmethod
    def from_columns(self, columns: Logits) -> Logits:
        """The inverse of `to_columns`; ValueError for columns that no logits give."""

    def to_dict(self) -> dict[str, object]:
        """Plain values for model.json."""
        return {"task": self.kind, "classes": list(self.classes), "outputs": self.outputs}

    @staticmethod
    def from_dict(values: Mapping[str, object]) -> "Task":
        """The inverse of `to_dict`; runs of earlier versions name no task. ValueError for any other value."""
        classes = values["classes"]
        if not isinstance(classes, list | tuple):
            raise ValueError(f"classes must be a list, not {type(classes).__name__}")
        task = Task.of([str(name) for name in classes])
        if values.get("task", task.kind) != task.kind:
            raise ValueError(f"task {values['task']!r} with {len(classes)} classes is not one that this version knows")
        return task


@dataclass(frozen=True)
class Binary(Task):
    """Two classes and one sigmoid output; class 1 is the positive one. Targets are [n]."""

    kind = "binary"
    loss = "binary-cross-entropy"
    metrics = (*METRICS, "roc_auc")

    @property
    def outputs(self) -> int:
        """One sigmoid."""
        return 1

    def targets(self, labels: NDArray[np.integer]) -> Logits:
        """[n]: the probability of class 1."""
        return np.asarray(labels, dtype=np.float32)

    def probabilities(self, logits: Logits) -> Reals:
        """The probability of each class, float64 [n, 2]."""
        wide = logits.astype(np.float64)
        # expit of the negative, not 1 - p: small probabilities keep their digits
        return np.hstack([expit(-wide), expit(wide)])

    def predictions(self, logits: Logits) -> Integers:
        """Class 1 from a positive logit on, which is the threshold 0.5."""
        return (logits[:, 0] > 0).astype(np.int64)

    def costs(self, logits: Logits) -> Reals:
        """The negative log likelihood of each class in nats, float64 [n, 2]."""
        wide = logits.astype(np.float64)
        return np.logaddexp(0.0, np.hstack([wide, -wide]))

    def to_columns(self, logits: Logits) -> Logits:
        """A sigmoid output is a softmax whose first logit is 0."""
        return np.hstack([np.zeros_like(logits), logits])

    def from_columns(self, columns: Logits) -> Logits:
        """The second column; ValueError where the first is not 0."""
        if columns[:, 0].any():
            raise ValueError(f"the logits of {self.classes[0]} must be 0, as those of the first of two classes are")
        return columns[:, 1:]


@dataclass(frozen=True)
class Multiclass(Task):
    """A softmax with one output per class. Targets are [n, K], rows summing to 1."""

    kind = "multiclass"
    loss = "cross-entropy"

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self.classes)

    def targets(self, labels: NDArray[np.integer]) -> Logits:
        """[n, K]: 1 in the column of the label, else 0."""
        found = np.zeros((len(labels), len(self.classes)), dtype=np.float32)
        found[np.arange(len(labels)), labels] = 1
        return found

    def probabilities(self, logits: Logits) -> Reals:
        """The probability of each class, float64 [n, K]."""
        return np.asarray(softmax(logits.astype(np.float64), axis=1))

    def predictions(self, logits: Logits) -> Integers:
        """The class of the highest logit."""
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    def costs(self, logits: Logits) -> Reals:
        """The negative log likelihood of each class in nats, float64 [n, K]."""
        wide = logits.astype(np.float64)
        return np.asarray(logsumexp(wide, axis=1, keepdims=True) - wide)

    def to_columns(self, logits: Logits) -> Logits:
        """The logits as they are."""
        return logits

    def from_columns(self, columns: Logits) -> Logits:
        """The columns as they are."""
        return columns


# ---------------------------------------------------------------- class weights: a word, numbers, or by name


def class_weights_text(given: object) -> object:
    """Class weights in any form as the text that is recorded, equal for equal weights by name; else what was given.

    ValueError where text, a list or a mapping does not hold class weights.
    """
    if isinstance(given, Mapping):
        return _by_name(_checked_weights({str(name): weight for name, weight in given.items()}))
    text = ",".join(str(item) for item in given) if isinstance(given, list | tuple) else given
    if not isinstance(text, str):
        return text
    weights = parse_class_weights(text)
    return _by_name(weights) if isinstance(weights, dict) else text


def _by_name(weights: Mapping[str, float]) -> str:
    """NAME=WEIGHT,NAME=WEIGHT, or as JSON where a name would be split or cut by that."""
    plain = dict(sorted((name, int(weight) if weight.is_integer() else weight) for name, weight in weights.items()))
    if any("," in name or name != name.strip() or not name or name.startswith("{") for name in plain):
        return json.dumps(plain, ensure_ascii=False)
    return ",".join(f"{name}={weight!r}" for name, weight in plain.items())


def parse_class_weights(text: str) -> tuple[float, ...] | dict[str, float] | Literal["none", "balanced"]:
    """The weights that `text` names, in order of class or by name (`cat=1,dog=2.5`, or a JSON object).

    ValueError when it is neither a word nor positive numbers.
    """
    if text == "none" or text == "balanced":
        return text  # type: ignore[return-value]
    if text.startswith("{") or "=" in text:
        return _checked_weights(_named_weights(text))
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"class_weights {text!r} is neither none, balanced nor numbers like 1,2.5 or cat=1,dog=2.5"
        ) from None
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"class_weights {text!r} must be positive numbers")
    return weights


def _named_weights(text: str) -> dict[str, object]:
    """What stands behind each name; ValueError for a name that is there twice, or a part without one."""
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"class_weights {text!r} is no JSON object: {error}") from None
    else:
        parts = [part.rpartition("=") for part in text.split(",")]
        if not all(equals for _, equals, _ in parts):
            raise ValueError(f"class_weights {text!r} must name every class, as in cat=1,dog=2.5")
        pairs = [(name.strip(), weight) for name, _, weight in parts]
    names = [name for name, _ in pairs]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"class_weights names {twice[0]!r} twice")
    return dict(pairs)


def _checked_weights(weights: Mapping[str, Any]) -> dict[str, float]:
    """Weights by name as numbers; ValueError, with the name, for one that is no positive number."""
    if not weights:
        raise ValueError("class_weights names no class")
    checked = {}
    for name, given in weights.items():
        try:
            weight = math.nan if isinstance(given, bool) else float(given)
        except (OverflowError, TypeError, ValueError):
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {name!r} must be a positive number, not {given!r}")
        checked[name] = weight
    return checked
