"""The loss of each image, the class that logits predict and the scores of a row: what `upcycle.task` has, in torch.

A loss is any function of (logits [B, outputs], targets as `Task.targets` has them) that gives one loss per image, [B].
A custom one gets one column per class instead, whatever their number.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from upcycle.errors import ConfigError, shown
from upcycle.task import Task, parse_class_weights

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Loss:
    """The cross-entropy of a task in nats, with class weights and label smoothing.

    `weights` [K] multiply each image's loss by its class's weight (None: all 1); `smoothing` is the
    probability taken from the target and spread evenly over all classes (arXiv 1512.00567).
    """

    task: Task
    weights: Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each image [B], its class's weight included."""
        targets = targets.float()
        smooth = targets * (1 - self.smoothing) + self.smoothing / len(self.task.classes)
        losses = _LOSSES[self.task.loss](logits.float(), smooth)
        if self.weights is None:
            return losses
        return losses * _LOSS_WEIGHTS[self.task.loss](self.weights, targets)


def _binary(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")


def _softmax(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * functional.log_softmax(logits, dim=1)).sum(dim=1)


def _of_two(weights: Tensor, targets: Tensor) -> Tensor:
    return weights[0] * (1 - targets) + weights[1] * targets


_LOSSES: dict[str, LossFunction] = {"binary-cross-entropy": _binary, "cross-entropy": _softmax}
_LOSS_WEIGHTS: dict[str, LossFunction] = {
    "binary-cross-entropy": _of_two,
    "cross-entropy": lambda weights, targets: targets @ weights,
}
_PREDICTED: dict[str, Callable[[Tensor], Tensor]] = {
    "binary": lambda logits: (logits[:, 0] > 0).long(),
    "multiclass": lambda logits: logits.argmax(dim=1),
}


@dataclass(frozen=True, eq=False)
class CustomLoss:
    """A custom loss: `function(logits, targets)`, both [B, K], gives one loss per image, [B].

    Of two classes, the logits are those of a softmax that gives the same probabilities as the one output.
    """

    task: Task
    function: LossFunction

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each image [B]; ConfigError, in one line, for anything else."""
        images = len(logits)
        losses = self.function(*_COLUMNS[self.task.kind](logits.float(), targets.float()))
        if not isinstance(losses, Tensor):
            raise ConfigError(f"the loss returned a {type(losses).__name__}: return a tensor with one loss per image")
        if losses.shape != (images,):
            shape, advice = tuple(losses.shape), "" if losses.ndim else " (reduction='none' in torch's losses)"
            raise ConfigError(f"the loss has shape {shape}: return one loss per image, ({images},){advice}")
        if logits.requires_grad and not losses.requires_grad:
            raise ConfigError("the loss does not depend on the logits: compute it with torch, without detach or numpy")
        return losses.float()


_COLUMNS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "binary": lambda logits, targets: (
        torch.cat([torch.zeros_like(logits), logits], dim=1),
        torch.stack([1 - targets, targets], dim=1),
    ),
    "multiclass": lambda logits, targets: (logits, targets),
}


def guessing_loss(loss: LossFunction, task: Task, device: torch.device | str) -> float:
    """The mean loss of guessing: of a custom one, that of equal logits, and infinite where that is not positive."""
    if not isinstance(loss, CustomLoss):
        return task.guessing
    labels = torch.arange(len(task.classes))
    with torch.no_grad():
        logits = torch.zeros(len(labels), task.outputs, device=device)
        value = float(loss(logits, targets_of(task, labels).to(device)).mean())
    return value if 0 < value < math.inf else math.inf


def predicted_classes(task: Task, logits: Tensor) -> Tensor:
    """The most probable class of each image [B], on the device of the logits; as `Task.predictions`."""
    return _PREDICTED[task.kind](logits)


def targets_of(task: Task, labels: Tensor) -> Tensor:
    """The targets of labels [B], which are on the CPU."""
    return torch.from_numpy(task.targets(labels.numpy()))


def class_weights(text: str, labels: npt.NDArray[np.int32], classes: tuple[str, ...]) -> npt.NDArray[np.float64] | None:
    """The weight of each class, scaled so that the mean over the training images is 1.

    "balanced": inversely proportional to the class's number of training images (King and Zeng 2001,
    as scikit-learn). ConfigError when a list has not one weight a class, or names are not those of the classes.
    """
    choice = parse_class_weights(text)
    if choice == "none":
        return None
    counts = np.bincount(labels, minlength=len(classes)).astype(np.float64)
    if choice == "balanced":
        weights = 1.0 / np.maximum(counts, 1)
    elif isinstance(choice, dict):
        _check_names(choice, classes)
        weights = np.asarray([choice[name] for name in classes], dtype=np.float64)
    else:
        if len(choice) != len(classes):
            named = ", ".join(classes)
            raise ConfigError(f"class_weights names {len(choice)} weights for {len(classes)} classes ({named})")
        weights = np.asarray(choice, dtype=np.float64)
    scaled: npt.NDArray[np.float64] = weights * counts.sum() / (weights * counts).sum()
    return scaled


def _check_names(weights: Mapping[str, float], classes: tuple[str, ...]) -> None:
    """ConfigError that lists the classes without a weight and the weights without a class."""
    missing = [name for name in classes if name not in weights]
    unknown = [name for name in weights if name not in classes]
    said = [f"no weight for {_names(missing)}"] if missing else []
    if unknown:
        near = [difflib.get_close_matches(name, missing or classes, n=1) for name in unknown]
        hint = next((f" (did you mean {shown(found[0])!r}?)" for found in near if found), "")
        said.append(f"no class is called {_names(unknown)}{hint}")
    if said:
        raise ConfigError(f"class_weights: {'; '.join(said)}. Name each of the classes {_names(classes)}")


def _names(names: Sequence[str]) -> str:
    """Up to 20 names, and how many more there are."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(repr(shown(name)) for name in names[:20]) + more


def weighted_loss(
    text: str,
    labels: npt.NDArray[np.int32],
    task: Task,
    *,
    smoothing: float,
    device: torch.device | str,
) -> Loss:
    """The loss for these training labels, with the class weights that `text` names."""
    weights = class_weights(text, labels, task.classes)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    return Loss(task, tensor, smoothing)


# ---------------------------------------------------------------- what a row shows


@dataclass(frozen=True)
class Scores:
    """Mean log loss (neither weighted nor smoothed), accuracy, macro F1 over the classes that occur; both in 0..1."""

    loss: float
    accuracy: float
    f1_macro: float


def score(logits: Tensor, labels: Tensor, task: Task) -> Scores:
    """Scores of logits [n, outputs] against labels [n], both on the CPU."""
    classes = len(task.classes)
    loss = Loss(task)(logits, targets_of(task, labels)).mean().item()
    predicted = predicted_classes(task, logits)
    table = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).double()
    right = table.diagonal()
    support_and_claims = table.sum(dim=0) + table.sum(dim=1)
    f1 = 2 * right / support_and_claims.clamp(min=1)
    occurring = (support_and_claims > 0).sum()
    return Scores(loss, (right.sum() / len(labels)).item(), (f1.sum() / occurring).item())
