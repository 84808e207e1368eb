"""The three numbers a row shows for a split: loss, accuracy, macro F1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from upcycle.task import Task
from upcycle.training.loss import Loss, predicted_classes, targets_of


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
