"""The head phase: a linear classifier on frozen features, trained with one-cycle at many strengths at once.

All strengths of L2 regularisation learn side by side as one batched product; the one with the lowest
held-out loss is the probe. Fine-tuning starts from it, and has to beat it.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.device import seed_for
from upcycle.history import Row
from upcycle.recipes import HEAD_BATCH, HEAD_RATES, Phase
from upcycle.schedules import OneCycle
from upcycle.task import Task
from upcycle.training.loss import Loss, targets_of
from upcycle.training.scores import score

STRENGTHS = tuple(10.0**power for power in np.arange(-5.0, 2.5, 0.5))
"""Penalties tried: half of each times the squared weights is added to the mean loss."""

CHUNK = 4096
"""Images whose features are in memory at once."""
MOST_BYTES = 2**30
"""Of weights, and of logits, of the heads that are trained at once: of hundreds of classes there is room for a part."""
COPIES = 6
"""Tensors of the weights' size that an update holds, or of the logits' size that a loss does (measured)."""

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """The images of `features` [N, D], a memory map perhaps, at `positions` [n], with their `labels` [n].

    `tied` [n], where it is known, has equal numbers for images that must stay on one side, as those of one group.
    """

    features: Features
    positions: Positions
    labels: Labels
    tied: Labels | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, chosen: npt.NDArray[np.bool_]) -> "Split":
        """The images marked in `chosen` [n]."""
        tied = self.tied[chosen] if self.tied is not None else None
        return Split(self.features, self.positions[chosen], self.labels[chosen], tied)

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
    """One split whose features are centred by `mean` [D], `held` [n, D] where they are few; labels [n] as a tensor."""

    split: Split
    mean: Tensor
    labels: Tensor
    held: Tensor | None

    def inputs(self, chosen: Tensor) -> Tensor:
        """Centred features of the chosen images."""
        if self.held is not None:
            return self.held[chosen]
        return torch.from_numpy(self.split.features[self.split.positions[chosen.numpy()]]) - self.mean

    def parts(self) -> Iterator[Tensor]:
        """All images in order, some at a time."""
        everything = torch.arange(len(self.split))
        return (everything[start : start + CHUNK] for start in range(0, len(everything), CHUNK))


@dataclass(frozen=True)
class _Candidate:
    """One way to train: the peak rate, how features are scaled, and the strength of L2."""

    lr_max: float
    scaling: str
    strength: float


CANDIDATES = tuple(
    _Candidate(lr_max, scaling, strength)
    for lr_max in HEAD_RATES
    for scaling in ("common", "each")
    for strength in STRENGTHS
)
FEW = 200
"""With fewer validation images than this, held-out folds of the training images help to choose."""
FOLDS = 4

Heads = tuple[Tensor, Tensor]
"""Weights [heads, D, outputs] for centred features, and biases [heads, 1, outputs]."""


def train_probe(
    train: Split,
    val: Split,
    *,
    phase: Phase,
    loss: Loss,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """The linear head on the features of `train` with the lowest held-out loss, with a row an epoch.

    Beside the strengths two scalings compete: all features by one number, which keeps their geometry
    and wins with few images, and each feature by its own deviation, which can win with many; and
    two peak rates. Held out are the validation images and, where they are few, each fold of the
    training images in turn: the best of sixty candidates on thirty images is mostly luck. `progress` is told of
    updates.
    """
    parts = [(train, val), *(_folds(train, seed) if len(val) < FEW else [])]
    together = _together(train.features.shape[1], loss.task.outputs)
    updates = phase.epochs * phase.steps_per_epoch
    count = itertools.count(1)
    total = updates * (len(parts) * len(together) + 1)

    def made() -> None:
        if progress is not None:
            progress(next(count), total)

    losses = _held_out(parts, together, phase, loss, seed, made)
    best = CANDIDATES[min(range(len(CANDIDATES)), key=losses.__getitem__)]
    scale = _scale(train)
    learn, check = _side(train, scale), _side(val, scale)
    rows: list[Row] = []
    trained = _train(learn, (best,), scale, phase=phase, loss=loss, seed=seed, made=made)
    for epoch, (weight, bias) in enumerate(trained, 1):
        rows.append(_row(_peaked(phase, best.lr_max), epoch, (learn, check), (weight, bias), loss.task))
    folded = weight[0].T.contiguous()
    shifted = bias[0, 0] - folded @ scale.mean
    return Probe(folded, shifted, best.strength, best.scaling, best.lr_max, tuple(rows))


def _together(width: int, outputs: int) -> list[tuple[_Candidate, ...]]:
    """The candidates in parts whose weights have room in memory at once; nearly always all of them."""
    most = max(1, MOST_BYTES // (4 * COPIES * width * outputs))
    return [CANDIDATES[start : start + most] for start in range(0, len(CANDIDATES), most)]


def _held_out(
    parts: Sequence[tuple[Split, Split]],
    together: Sequence[tuple[_Candidate, ...]],
    phase: Phase,
    loss: Loss,
    seed: int,
    made: Callable[[], None],
) -> list[float]:
    """The mean loss of each candidate on images it was not trained on."""
    sums, images = torch.zeros(len(CANDIDATES)), 0
    for learned, held in parts:
        scale = _scale(learned)
        learn, check = (_side(part, scale) for part in (learned, held))
        found = []
        for some in together:
            *_, heads = _train(learn, some, scale, phase=phase, loss=loss, seed=seed, made=made)
            rows = max(1, MOST_BYTES // (4 * COPIES * len(some) * loss.task.outputs))
            losses = torch.zeros(len(some))
            for piece in itertools.chain.from_iterable(torch.split(part, rows) for part in check.parts()):
                losses += _losses(check, piece, heads, Loss(loss.task)) * len(piece)
            found.append(losses)
        sums += torch.cat(found)
        images += len(held)
    return (sums / images).tolist()


def _folds(train: Split, seed: int) -> list[tuple[Split, Split]]:
    """The training images, each fold held out once; classes keep their shares, and tied images stay together."""
    labels = train.labels
    generator = torch.Generator().manual_seed(seed_for(seed, "probe folds"))
    order = torch.randperm(len(labels), generator=generator).numpy()
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    tied = train.tied[by_class] if train.tied is not None else np.arange(len(labels))
    _, first, unit = np.unique(tied, return_index=True, return_inverse=True)
    fold[by_class] = np.argsort(np.argsort(first))[unit] % FOLDS  # dealt in the order they are met
    parts = []
    for number in range(FOLDS):
        rest, held = fold != number, fold == number
        if held.any() and len(np.unique(labels[rest])) == len(np.unique(labels)):
            parts.append((train.at(rest), train.at(held)))
    return parts


@dataclass(frozen=True, eq=False)
class _Scale:
    """Mean [D] and standard deviation [D] of each feature, and the one deviation [] of them all."""

    mean: Tensor
    each: Tensor
    common: Tensor

    def divisors(self, candidates: tuple[_Candidate, ...]) -> Tensor:
        """What each candidate divides centred features by, [heads, D, 1]."""
        kinds = {"each": self.each, "common": self.common.expand_as(self.each)}
        return torch.stack([kinds[candidate.scaling] for candidate in candidates])[:, :, None]


def _scale(train: Split) -> _Scale:
    mean = sum(part.double().sum(dim=0) for part in train.chunks()) / len(train)
    variance = sum((part.double() - mean).square().sum(dim=0) for part in train.chunks()) / len(train)
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    return _Scale(mean.float(), variance.sqrt().float() + 1e-6, variance.mean().sqrt().float() + 1e-6)


def _peaked(phase: Phase, lr_max: float) -> Phase:
    """The phase at another peak rate."""
    assert isinstance(phase.schedule, OneCycle)
    return replace(phase, schedule=replace(phase.schedule, lr_max=lr_max))


def _train(
    learn: _Side,
    candidates: tuple[_Candidate, ...],
    scale: _Scale,
    *,
    phase: Phase,
    loss: Loss,
    seed: int,
    made: Callable[[], None],
) -> Iterator[Heads]:
    """Train all candidates, those of one peak rate next to each other, with one-cycle Adam; yields heads by epoch.

    Their weights are for scaled features. Dividing the weights instead lets all share one product.
    """
    divisors = scale.divisors(candidates)
    width, outputs = learn.split.features.shape[1], loss.task.outputs
    parameters, groups = [], []
    for lr_max in dict.fromkeys(candidate.lr_max for candidate in candidates):
        penalty = torch.tensor([one.strength for one in candidates if one.lr_max == lr_max])[:, None, None]
        pair = [torch.zeros(len(penalty), size, outputs, requires_grad=True) for size in (width, 1)]
        parameters.append(pair)
        groups.append({"params": pair, "phase": _peaked(phase, lr_max), "penalty": penalty})
    optimizer = torch.optim.Adam(groups, fused=True)
    step = 0
    for epoch in range(1, phase.epochs + 1):
        for chosen in _epoch_batches(len(learn.labels), phase.steps_per_epoch, seed_for(seed, "head", epoch)):
            for group in optimizer.param_groups:
                rate = group["phase"].rate(phase.first_step + step)
                group["lr"], group["betas"] = rate.lr, (rate.momentum, 0.99)
            weight, bias = (torch.cat(some) for some in zip(*parameters, strict=True))
            losses = _losses(learn, chosen, (weight / divisors, bias), loss)
            optimizer.zero_grad()
            losses.sum().backward()  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                decayed = group["params"][0]
                decayed.grad.addcmul_(group["penalty"], decayed.detach())
            optimizer.step()
            step += 1
            made()
        with torch.no_grad():
            weight, bias = (torch.cat(some) for some in zip(*parameters, strict=True))
        yield weight / divisors, bias


def _side(split: Split, scale: _Scale) -> _Side:
    held = next(split.chunks()) - scale.mean if len(split) <= CHUNK else None
    return _Side(split, scale.mean, torch.from_numpy(split.labels.astype(np.int64)), held)


def _epoch_batches(images: int, steps: int, seed: int) -> list[Tensor]:
    """`steps` batches out of as many shuffled passes as they need."""
    generator = torch.Generator().manual_seed(seed)
    size = min(HEAD_BATCH, images)
    passes = -(-steps * size // images)
    order = torch.cat([torch.randperm(images, generator=generator) for _ in range(passes)])
    return [order[at * size : (at + 1) * size] for at in range(steps)]


def _logits(inputs: Tensor, heads: Heads) -> Tensor:
    """[heads, n, outputs], as one wide product."""
    weight, bias = heads
    count, width, outputs = weight.shape
    wide = inputs @ weight.permute(1, 0, 2).reshape(width, count * outputs)
    return wide.view(len(inputs), count, outputs).permute(1, 0, 2) + bias


def _losses(side: _Side, chosen: Tensor, heads: Heads, loss: Loss) -> Tensor:
    """The mean loss of each head on the chosen images, [heads]."""
    logits = _logits(side.inputs(chosen), heads)
    targets = targets_of(loss.task, side.labels[chosen])
    repeated = targets.expand(len(logits), *targets.shape).flatten(0, 1)
    return loss(logits.flatten(0, 1), repeated).view(len(logits), -1).mean(dim=1)


def _all_logits(side: _Side, head: Heads) -> Tensor:
    """Logits [n, outputs] of every image by one head."""
    return torch.cat([_logits(side.inputs(part), head)[0] for part in side.parts()])


def _row(phase: Phase, epoch: int, sides: tuple[_Side, _Side], head: Heads, task: Task) -> Row:
    """One epoch's row of one head."""
    step = phase.first_step + epoch * phase.steps_per_epoch
    rate = phase.rate(step - 1)
    fit, held = (score(_all_logits(side, head), side.labels, task) for side in sides)
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
