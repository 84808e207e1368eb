"""The head phase: a linear classifier on frozen features, trained with one-cycle at many strengths at once.

All strengths of L2 regularisation learn side by side as one batched product; the one with the lowest
held-out loss is the probe. Fine-tuning starts from it, and has to beat it.
"""

from collections.abc import Iterator
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

CHUNK = 4096
"""Images whose features are in memory at once."""

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """The images of `features` [N, D], a memory map perhaps, at `positions` [n], with their `labels` [n]."""

    features: Features
    positions: Positions
    labels: Labels

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, chosen: npt.NDArray[np.bool_]) -> "Split":
        """The images marked in `chosen` [n]."""
        return Split(self.features, self.positions[chosen], self.labels[chosen])

    def chunks(self) -> Iterator[Tensor]:
        """Features of all images in order, some at a time."""
        for start in range(0, len(self), CHUNK):
            yield torch.from_numpy(self.features[self.positions[start : start + CHUNK]])


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
    """One split with the scale of its features; labels [n] as a tensor."""

    split: Split
    mean: Tensor
    std: Tensor
    labels: Tensor

    def inputs(self, chosen: Tensor) -> Tensor:
        """Scaled features of the chosen images."""
        return (torch.from_numpy(self.split.features[self.split.positions[chosen.numpy()]]) - self.mean) / self.std

    def parts(self) -> Iterator[Tensor]:
        """All images in order, some at a time."""
        everything = torch.arange(len(self.split))
        return (everything[start : start + CHUNK] for start in range(0, len(everything), CHUNK))


@dataclass(frozen=True)
class _Kind:
    """One way to train: how features are scaled, and the peak rate."""

    scaling: str
    lr_max: float


KINDS = tuple(_Kind(scaling, lr_max) for scaling in ("common", "each") for lr_max in HEAD_RATES)
FEW = 200
"""With fewer validation images than this, held-out folds of the training images help to choose."""
FOLDS = 4


def train_probe(train: Split, val: Split, *, phase: Phase, objective: Objective, seed: int) -> Probe:
    """The linear head on the features of `train` with the lowest held-out loss, with a row an epoch.

    Beside the strengths two scalings compete: all features by one number, which keeps their geometry
    and wins with few images, and each feature by its own deviation, which can win with many; and
    two peak rates. Held out are the validation images and, where they are few, each fold of the
    training images in turn: the best of sixty candidates on thirty images is mostly luck.
    """
    losses = {kind: _held_out(kind, train, val, phase, objective, seed) for kind in KINDS}
    kind, at = min(
        ((kind, at) for kind in KINDS for at in range(len(STRENGTHS))), key=lambda one: losses[one[0]][one[1]]
    )
    scale = _scale(kind, train)
    learn, check = _side(train, scale), _side(val, scale)
    rows: list[Row] = []
    trained = _train(learn, kind, (STRENGTHS[at],), phase=phase, objective=objective, seed=seed)
    for epoch, (weight, bias) in enumerate(trained, 1):
        rows.append(_row(_peaked(phase, kind), epoch, (learn, check), (weight[:1], bias[:1])))
    mean, std = scale
    scaled = weight[0].T / std
    shifted = bias[0, 0] - (scaled * mean).sum(dim=1)
    return Probe(scaled.contiguous(), shifted, STRENGTHS[at], kind.scaling, kind.lr_max, tuple(rows))


def _held_out(kind: _Kind, train: Split, val: Split, phase: Phase, objective: Objective, seed: int) -> list[float]:
    """The mean loss of each strength on images it was not trained on."""
    parts = [(train, val)]
    if len(val) < FEW:
        parts += _folds(train, seed)
    sums, images = torch.zeros(len(STRENGTHS)), 0
    for learned, held in parts:
        scale = _scale(kind, learned)
        learn, check = (_side(part, scale) for part in (learned, held))
        *_, head = _train(learn, kind, STRENGTHS, phase=phase, objective=objective, seed=seed)
        for part in check.parts():
            sums += _losses(check, part, *head, Objective(objective.outputs)) * len(part)
        images += len(held)
    return (sums / images).tolist()


def _folds(train: Split, seed: int) -> list[tuple[Split, Split]]:
    """The training images, each fold held out once; classes keep their shares."""
    labels = train.labels
    generator = torch.Generator().manual_seed(seed_for(seed, "probe folds"))
    order = torch.randperm(len(labels), generator=generator).numpy()
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[by_class] = np.arange(len(labels)) % FOLDS
    parts = []
    for number in range(FOLDS):
        rest, held = fold != number, fold == number
        if held.any() and len(np.unique(labels[rest])) == len(np.unique(labels)):
            parts.append((train.at(rest), train.at(held)))
    return parts


def _scale(kind: _Kind, train: Split) -> tuple[Tensor, Tensor]:
    """What is subtracted from each feature, and what it is then divided by."""
    mean = sum(part.double().sum(dim=0) for part in train.chunks()) / len(train)
    variance = sum((part.double() - mean).square().sum(dim=0) for part in train.chunks()) / len(train)
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    std = variance.sqrt()
    common = variance.mean().sqrt().expand_as(std)
    return mean.float(), (common if kind.scaling == "common" else std).float() + 1e-6


def _peaked(phase: Phase, kind: _Kind) -> Phase:
    """The phase at this kind's peak rate."""
    assert isinstance(phase.schedule, OneCycle)
    return replace(phase, schedule=replace(phase.schedule, lr_max=kind.lr_max))


def _train(
    learn: _Side, kind: _Kind, strengths: tuple[float, ...], *, phase: Phase, objective: Objective, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Train every strength side by side with one-cycle Adam; yields weights and biases after each epoch."""
    phase = _peaked(phase, kind)
    penalty = torch.tensor(strengths, dtype=torch.float32)
    weight = torch.zeros(len(strengths), learn.split.features.shape[1], objective.outputs, requires_grad=True)
    bias = torch.zeros(len(strengths), 1, objective.outputs, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], fused=True)
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
        yield weight.detach(), bias.detach()


def _side(split: Split, scale: tuple[Tensor, Tensor]) -> _Side:
    mean, std = scale
    return _Side(split, mean, std, torch.from_numpy(split.labels.astype(np.int64)))


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
    logits = _logits(side.inputs(chosen), weight, bias)
    targets = one_hot(side.labels[chosen], objective.outputs)
    repeated = targets.expand(len(logits), *targets.shape).flatten(0, 1)
    return objective.losses(logits.flatten(0, 1), repeated).view(len(logits), -1).mean(dim=1)


def _all_logits(side: _Side, head: tuple[Tensor, Tensor]) -> Tensor:
    """Logits [n, outputs] of every image by one head."""
    return torch.cat([_logits(side.inputs(part), *head)[0] for part in side.parts()])


def _row(phase: Phase, epoch: int, sides: tuple[_Side, _Side], head: tuple[Tensor, Tensor]) -> Row:
    """One epoch's row of one head."""
    step = phase.first_step + epoch * phase.steps_per_epoch
    rate = phase.rate(step - 1)
    fit, held = (score(_all_logits(side, head), side.labels) for side in sides)
    return Row(
        phase=phase.name,
        epoch=epoch,
        step=step,
        lr=rate.lr,
        momentum=rate.momentum,
        loss=fit.loss,
        accuracy=fit.accuracy,
        val_loss=held.loss,
        val_accuracy=held.accuracy,
        val_f1_macro=held.f1_macro,
    )
