"""The head phase: a linear classifier on frozen features, trained with one-cycle at many strengths at once.

All strengths of L2 regularisation learn side by side as one batched product; the one with the lowest
validation loss is the probe. Fine-tuning starts from it, and has to beat it.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.device import seed_for
from upcycle.history import Row
from upcycle.recipes import HEAD_BATCH, HEAD_RATES, Phase
from upcycle.schedules import OneCycle
from upcycle.training.objective import Objective, one_hot
from upcycle.training.scores import score

STRENGTHS = tuple(10.0**power for power in np.arange(-5.0, 2.5, 0.5))
"""Penalties tried: half of each times the squared weights is added to the mean loss."""

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear head: `weight` [outputs, D], `bias` [outputs], and how it was found."""

    weight: Tensor
    bias: Tensor
    strength: float
    scaling: str
    lr_max: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class _Side:
    """One split's scaled features [n, D], labels and targets."""

    inputs: Tensor
    labels: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class _Fitted:
    """All strengths of one scaling and one peak rate after the last epoch; `rows[epoch][strength]`."""

    scaling: str
    lr_max: float
    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    rows: list[list[Row]]


def train_probe(
    train: tuple[Features, Labels], val: tuple[Features, Labels], *, phase: Phase, objective: Objective, seed: int
) -> Probe:
    """The best linear head on `train` features [n, D] by the loss on `val`, with a row an epoch.

    Beside the strengths two scalings compete: all features by one number, which keeps their geometry
    and wins with few images, and each feature by its own deviation, which can win with many; and
    two peak rates. The rows are those of the winner.
    """
    features = torch.from_numpy(train[0])
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    scales = {"common": std.square().mean().sqrt().expand_as(std), "each": std}
    fitted = [
        _fit((scaling, lr_max), train, val, (mean, scale + 1e-6), phase=phase, objective=objective, seed=seed)
        for scaling, scale in scales.items()
        for lr_max in HEAD_RATES
    ]
    choices = [(one, at) for one in fitted for at in range(len(STRENGTHS))]
    chosen, at = min(choices, key=lambda choice: choice[0].rows[-1][choice[1]].val_loss)
    scaled = chosen.weight[at].T / chosen.std
    shifted = chosen.bias[at, 0] - (scaled * chosen.mean).sum(dim=1)
    rows = tuple(table[at] for table in chosen.rows)
    return Probe(scaled.contiguous(), shifted, STRENGTHS[at], chosen.scaling, chosen.lr_max, rows)


def _fit(
    kind: tuple[str, float],
    train: tuple[Features, Labels],
    val: tuple[Features, Labels],
    scale: tuple[Tensor, Tensor],
    *,
    phase: Phase,
    objective: Objective,
    seed: int,
) -> _Fitted:
    """Train every strength side by side with one-cycle Adam; `kind` is the scaling and the peak rate."""
    assert isinstance(phase.schedule, OneCycle)
    phase = replace(phase, schedule=replace(phase.schedule, lr_max=kind[1]))
    outputs = objective.outputs
    learn, check = _side(*train, *scale, outputs), _side(*val, *scale, outputs)
    penalty = torch.tensor(STRENGTHS, dtype=torch.float32)
    weight = torch.zeros(len(STRENGTHS), learn.inputs.shape[1], outputs, requires_grad=True)
    bias = torch.zeros(len(STRENGTHS), 1, outputs, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], fused=True)
    rows: list[list[Row]] = []
    step = 0
    for epoch in range(1, phase.epochs + 1):
        for chosen in _epoch_batches(len(learn.labels), phase.steps_per_epoch, seed_for(seed, "head", epoch)):
            rate = phase.rate(phase.first_step + step)
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = rate.lr, (rate.momentum, 0.99)
            losses = _losses(learn, chosen, weight, bias, objective)
            optimizer.zero_grad()
            (losses + penalty / 2 * weight.pow(2).sum(dim=(1, 2))).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        rows.append(_rows(phase, epoch, step, (learn, check), (weight, bias)))
    return _Fitted(*kind, weight.detach(), bias.detach(), *scale, rows)


def _side(features: Features, labels: Labels, mean: Tensor, std: Tensor, outputs: int) -> _Side:
    classes = torch.from_numpy(labels.astype(np.int64))
    return _Side((torch.from_numpy(features) - mean) / std, classes, one_hot(classes, outputs))


def _epoch_batches(images: int, steps: int, seed: int) -> list[Tensor]:
    """`steps` batches out of as many shuffled passes as they need."""
    generator = torch.Generator().manual_seed(seed)
    size = min(HEAD_BATCH, images)
    passes = -(-steps * size // images)
    order = torch.cat([torch.randperm(images, generator=generator) for _ in range(passes)])
    return [order[at * size : (at + 1) * size] for at in range(steps)]


def _logits(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[strengths, n, outputs], as one wide product."""
    strengths, width, outputs = weight.shape
    wide = inputs @ weight.permute(1, 0, 2).reshape(width, strengths * outputs)
    return wide.view(len(inputs), strengths, outputs).permute(1, 0, 2) + bias


def _losses(side: _Side, chosen: Tensor, weight: Tensor, bias: Tensor, objective: Objective) -> Tensor:
    """The mean loss of each strength on the chosen images, [strengths]."""
    logits = _logits(side.inputs[chosen], weight, bias)
    targets = side.targets[chosen]
    repeated = targets.expand(len(logits), *targets.shape).flatten(0, 1)
    return objective.losses(logits.flatten(0, 1), repeated).view(len(logits), -1).mean(dim=1)


@torch.no_grad()
def _rows(phase: Phase, epoch: int, step: int, sides: tuple[_Side, _Side], head: tuple[Tensor, Tensor]) -> list[Row]:
    """A row for each strength."""
    rate = phase.rate(phase.first_step + step - 1)
    learn, check = (_logits(side.inputs, *head) for side in sides)
    rows: list[Row] = []
    for strength in range(len(STRENGTHS)):
        fit, held = score(learn[strength], sides[0].labels), score(check[strength], sides[1].labels)
        rows.append(
            Row(
                phase=phase.name,
                epoch=epoch,
                step=phase.first_step + step,
                lr=rate.lr,
                momentum=rate.momentum,
                loss=fit.loss,
                accuracy=fit.accuracy,
                val_loss=held.loss,
                val_accuracy=held.accuracy,
                val_f1_macro=held.f1_macro,
            )
        )
    return rows
