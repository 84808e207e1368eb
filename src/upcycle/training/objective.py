"""The training loss: binary cross-entropy for two classes, softmax cross-entropy for more."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from upcycle.class_weights import parse_class_weights
from upcycle.data.listing import shown
from upcycle.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Objective:
    """The mean loss of a batch.

    `weights` [K] multiply each image's loss by its class's weight (None: all 1); `smoothing` is the
    probability taken from the target and spread evenly over all classes (arXiv 1512.00567).
    """

    outputs: int
    weights: Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`logits` [B, outputs]; `targets` [B] in 0..1 for one output, else [B, K] rows that sum to 1."""
        return self.losses(logits, targets).mean()

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each image [B], its class's weight included."""
        logits = logits.float()
        targets = targets.float()
        if self.outputs == 1:
            smooth = targets * (1 - self.smoothing) + self.smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(logits[:, 0], smooth, reduction="none")
        else:
            smooth = targets * (1 - self.smoothing) + self.smoothing / self.outputs
            losses = -(smooth * functional.log_softmax(logits, dim=1)).sum(dim=1)
        if self.weights is None:
            return losses
        return losses * self._image_weights(targets)

    def _image_weights(self, targets: Tensor) -> Tensor:
        assert self.weights is not None
        if self.outputs == 1:
            return self.weights[0] * (1 - targets) + self.weights[1] * targets
        return targets @ self.weights


def one_hot(labels: Tensor, outputs: int) -> Tensor:
    """Targets of labels [n]: [n] in 0..1 for one output, else [n, outputs]."""
    return labels.float() if outputs == 1 else functional.one_hot(labels, outputs).float()


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


def objective(
    text: str,
    labels: npt.NDArray[np.int32],
    classes: tuple[str, ...],
    *,
    smoothing: float,
    device: torch.device | str,
) -> Objective:
    """The objective for these training labels."""
    weights = class_weights(text, labels, classes)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    return Objective(1 if len(classes) == 2 else len(classes), tensor, smoothing)
