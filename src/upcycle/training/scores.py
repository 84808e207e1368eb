"""The three numbers a row shows for a split: loss, accuracy, macro F1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from upcycle.training.objective import Objective, one_hot


@dataclass(frozen=True)
class Scores:
    """Mean log loss (neither weighted nor smoothed), accuracy, macro F1 over the classes that occur; both in 0..1."""

    loss: float
    accuracy: float
    f1_macro: float


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Scores of logits [n, 1] (sigmoid, threshold 0.5) or [n, K] against labels [n]."""
    outputs = logits.shape[1]
    classes = max(2, outputs)
    loss = Objective(outputs)(logits, one_hot(labels, outputs)).item()
    predicted = (logits[:, 0] > 0).long() if outputs == 1 else logits.argmax(dim=1)
    table = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes).double()
    right = table.diagonal()
    support_and_claims = table.sum(dim=0) + table.sum(dim=1)
    f1 = 2 * right / support_and_claims.clamp(min=1)
    occurring = (support_and_claims > 0).sum()
    return Scores(loss, (right.sum() / len(labels)).item(), (f1.sum() / occurring).item())
