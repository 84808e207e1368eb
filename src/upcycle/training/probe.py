"""The probe: a linear head on the frozen network's features, by regularized logistic regression.

It takes seconds, and fine-tuning has to beat it. The strength of the penalty is chosen on held-out images, once for
each of three scalings of the features; the probe is the mean of the three heads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.data.splits import Splits
from upcycle.device import seed_for
from upcycle.history import ProbeResult
from upcycle.task import Task
from upcycle.training.loss import Loss, score, targets_of

STRENGTHS = tuple(float(10.0**power) for power in np.arange(2.0, -5.5, -0.5))
"""Penalties tried, from strong to weak: half of each times the squared weights is added to the mean loss."""
SCALINGS = ("common", "between", "each")
PATIENCE = 2
"""The path ends once no scaling has got better at so many strengths."""
_FEW = 200
"""With fewer validation images than this, held-out folds of the training images help to choose."""
_FOLDS = 4
LOOSE, TIGHT = 1e-4, 1e-7
"""How far, in nats, a training loss may be from the lowest: along the path, and at its end."""

_CHUNK = 4096
"""Images whose features are read at once."""
_MOST_BYTES = 2**30
"""Of features, of weights and of logits that are held at once, each: more of them are taken in parts."""
_COPIES = 6
"""Tensors of the logits' size that a loss holds."""

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
_Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """The images of `features` [N, D], a memory map perhaps, at `positions` [n], with their `labels` [n].

    `groups` [n], where known, has equal numbers for images that must stay on one side.
    """

    features: Features
    positions: _Positions
    labels: Labels
    groups: Labels | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def chunks(self) -> Iterator[Tensor]:
        """Features of all images in order, some at a time."""
        for start in range(0, len(self), _CHUNK):
            yield torch.from_numpy(self.features[self.positions[start : start + _CHUNK]])


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear head for raw features: `weight` [outputs, D], `bias` [outputs], and how it was found."""

    weight: Tensor
    bias: Tensor
    result: ProbeResult


@dataclass(frozen=True, eq=False)
class Head:
    """The head of one scaling: `weight` [D, outputs] and `bias` [outputs] for raw features, and its held-out loss."""

    scaling: str
    strength: float
    loss: float
    weight: Tensor
    bias: Tensor


def train_probe(
    train: Split,
    val: Split,
    *,
    loss: Loss,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """The mean of the best heads of three scalings of the features.

    No scaling is always right, and a few held-out images cannot tell which one is. `progress` gets the number of
    strengths that are done, and of all.
    """
    heads = best_heads(train, val, loss=loss, seed=seed, progress=progress)
    weight = torch.stack([one.weight for one in heads]).mean(dim=0)
    bias = torch.stack([one.bias for one in heads]).mean(dim=0)
    logits = torch.cat([some @ weight + bias for some in val.chunks()])
    scores = score(logits, torch.from_numpy(val.labels.astype(np.int64)), loss.task)
    strengths = {one.scaling: one.strength for one in heads}
    result = ProbeResult(strengths, scores.loss, scores.accuracy, scores.f1_macro)
    return Probe(weight.T.contiguous(), bias, result)


def best_heads(
    train: Split,
    val: Split,
    *,
    loss: Loss,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Head, ...]:
    """For each scaling the head, of all strengths, with the lowest held-out loss.

    Features are divided by one number, which keeps their geometry and wins with few images; by each one's own
    deviation, which can win with many; or by the geometric mean of both. Held out are the validation images and,
    where they are few, each fold of the training images in turn: the best of many heads on thirty images is mostly
    luck.
    """
    mean, divisors = _scales(train)
    learned = torch.ones(len(train), 1, dtype=torch.bool)  # by all, then by all without a fold
    if len(val) < _FEW:
        learned = torch.cat([learned, *_without_folds(train, seed)], dim=1)
    learn, check = _Side(train, mean), _Side(val, mean)
    heads = _Heads(learn, learned.repeat_interleave(len(SCALINGS), dim=1), divisors, loss)
    whole = slice(len(SCALINGS))  # the heads that learn from all training images
    points = heads.start()
    best, losses = points[whole].clone(), torch.empty(0, len(SCALINGS))
    for number, strength in enumerate(STRENGTHS, 1):
        points = heads.fit(points, torch.full((len(points),), strength), LOOSE)
        sums = heads.losses(learn, points, ~heads.learned).view(-1, len(SCALINGS)).sum(dim=0)
        sums += heads.part(whole).losses(check, points[whole])
        losses = torch.cat([losses, sums[None] / (len(val) + int((~learned).sum()))])
        better = losses.argmin(dim=0) == number - 1
        best[better] = points[whole][better]
        if bool((losses.argmin(dim=0) < number - PATIENCE).all()):
            break
        if progress is not None:
            progress(number, len(STRENGTHS))
    lowest, at = losses.min(dim=0)
    strengths = [STRENGTHS[place] for place in at.tolist()]
    weights, biases = _raw(heads.part(whole).fit(best, torch.tensor(strengths), TIGHT), divisors)
    biases = biases - torch.einsum("d,hdk->hk", mean, weights)
    if progress is not None:
        progress(len(STRENGTHS), len(STRENGTHS))
    return tuple(map(Head, SCALINGS, strengths, lowest.tolist(), weights, biases))


def out_of_fold(
    features: Features,
    labels: Labels,
    task: Task,
    folds: Sequence[Splits],
    *,
    groups: Labels,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Probabilities [n, K] of every class, each image's from the probe of the fold that tests it.

    `features` [n, D] are those of the frozen network. `folds` keep the images of `groups` [n] on one side, so no probe
    has learned an image's label from its copy.
    """
    found = np.full((len(labels), len(task.classes)), np.nan)
    for number, fold in enumerate(folds, 1):
        train, val = (Split(features, side, labels[side], groups[side]) for side in (fold.train, fold.val))
        probe = train_probe(train, val, loss=Loss(task), seed=seed)
        held = Split(features, fold.test, labels[fold.test])
        logits = torch.cat([some @ probe.weight.T + probe.bias for some in held.chunks()])
        found[fold.test] = task.probabilities(logits.numpy())
        if progress is not None:
            progress(number, len(folds))
    return found


def _without_folds(train: Split, seed: int) -> list[Tensor]:
    """Masks [n, 1] of the training images without one fold each; classes keep their shares, and groups stay whole."""
    labels = train.labels
    generator = torch.Generator().manual_seed(seed_for(seed, "probe folds"))
    order = torch.randperm(len(labels), generator=generator).numpy()
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    groups = train.groups[by_class] if train.groups is not None else np.arange(len(labels))
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    fold[by_class] = np.argsort(np.argsort(first))[group] % _FOLDS  # dealt in the order they are met
    masks = [fold != number for number in range(_FOLDS)]
    classes = len(np.unique(labels))
    return [
        torch.from_numpy(mask)[:, None] for mask in masks if not mask.all() and len(np.unique(labels[mask])) == classes
    ]


def _scales(train: Split) -> tuple[Tensor, Tensor]:
    """The mean [D] of each feature, and what each scaling divides features by, [scalings, D]."""
    mean = sum((part.double().sum(dim=0) for part in train.chunks()), torch.zeros(())) / len(train)
    squares = sum(((part.double() - mean).square().sum(dim=0) for part in train.chunks()), torch.zeros(()))
    each = (squares / len(train)).sqrt() + 1e-6
    common = (squares / len(train)).mean().sqrt() + 1e-6
    return mean.float(), torch.stack([common.expand_as(each), (common * each).sqrt(), each]).float()


# ---------------------------------------------------------------- heads side by side


class _Side:
    """Centered features of one split; held in memory where they are few."""

    def __init__(self, split: Split, mean: Tensor) -> None:
        self.split, self.mean = split, mean
        self.labels = torch.from_numpy(split.labels.astype(np.int64))
        few = 4 * len(split) * len(mean) <= _MOST_BYTES // 4
        self.held = torch.cat([part - mean for part in split.chunks()]) if few else None

    def parts(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """All images in order, at most `rows` at a time: where they are, and their features."""
        for start in range(0, len(self.split), rows):
            place = slice(start, min(start + rows, len(self.split)))
            if self.held is not None:
                yield place, self.held[place]
            else:
                yield place, torch.from_numpy(self.split.features[self.split.positions[place]]).sub_(self.mean)


@dataclass(frozen=True, eq=False)
class _Heads:
    """H heads that learn from the images of `side` that are marked in `learned` [n, H].

    `divisors` [S, D] scale the features of the heads in turn. A head is a point: its weights for scaled features
    [D, outputs] and its bias [outputs], flat.
    """

    side: _Side
    learned: Tensor
    divisors: Tensor
    loss: Loss

    def part(self, some: slice) -> "_Heads":
        """Some of the heads."""
        return _Heads(self.side, self.learned[:, some], self._scales(self.learned.shape[1])[some], self.loss)

    def _scales(self, heads: int) -> Tensor:
        return self.divisors.repeat(-(-heads // len(self.divisors)), 1)[:heads]

    def start(self) -> Tensor:
        """Points of nothing learned."""
        return torch.zeros(self.learned.shape[1], (self.divisors.shape[1] + 1) * self.loss.task.outputs)

    def fit(self, points: Tensor, strengths: Tensor, exact: float) -> Tensor:
        """The points where each head's loss is lowest, to within `exact` nats; as many at once as there is room for."""
        most = max(1, _MOST_BYTES // (4 * (2 * MEMORY + _COPIES) * points.shape[1]))
        found = []
        for start in range(0, len(points), most):
            some = slice(start, start + most)
            found.append(self.part(some)._fit(points[some], strengths[some], exact))
        return torch.cat(found)

    def _fit(self, points: Tensor, strengths: Tensor, exact: float) -> Tensor:
        divisors = self._scales(len(points))
        shares = self.learned.float() / self.learned.sum(dim=0)

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            weight, bias = _raw(points, divisors)
            losses = torch.zeros(len(points), dtype=torch.float64)
            weight_slopes, bias_slopes = torch.zeros_like(_wide(weight)), torch.zeros_like(bias)
            for place, inputs in self.side.parts(self._rows(len(points))):
                logits = _logits(inputs, weight, bias).requires_grad_()
                found = _losses(logits, self.side.labels[place], self.loss) * shares[place]
                (slopes,) = torch.autograd.grad(found.sum(), logits)
                losses += found.detach().sum(dim=0, dtype=torch.float64)
                weight_slopes.addmm_(inputs.T, slopes.flatten(1))
                bias_slopes += slopes.sum(dim=0)
            by_head = weight_slopes.view(-1, *bias.shape).transpose(0, 1) / divisors[:, :, None]
            scaled = points.clone()
            scaled.view(len(points), -1, bias.shape[1])[:, -1] = 0  # the bias has no penalty
            losses += strengths / 2 * scaled.square().sum(dim=1)
            slopes = torch.cat([by_head, bias_slopes[:, None]], dim=1).flatten(1) + strengths[:, None] * scaled
            return losses.float(), slopes

        first = 1 / (strengths + points.shape[1] / 2)
        small = (2 * strengths.clamp(1e-3, 0.1) * exact).sqrt()
        return minimize(evaluate, points, first=first, small=small)

    def _rows(self, heads: int) -> int:
        return min(_CHUNK, max(1, _MOST_BYTES // (4 * _COPIES * heads * self.loss.task.outputs)))

    def losses(self, side: _Side, points: Tensor, counted: Tensor | None = None) -> Tensor:
        """The sum of each head's losses, [H], neither weighted nor smoothed, on the images `counted` [n, H], or all."""
        weight, bias = _raw(points, self._scales(len(points)))
        sums = torch.zeros(len(points))
        for place, inputs in side.parts(self._rows(len(points))):
            found = _losses(_logits(inputs, weight, bias), side.labels[place], Loss(self.loss.task))
            sums += (found if counted is None else found * counted[place]).sum(dim=0)
        return sums


def _raw(points: Tensor, divisors: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [H, D, outputs] for centered features, and biases [H, outputs]."""
    width = divisors.shape[1]
    whole = points.view(len(points), width + 1, -1)
    return whole[:, :width] / divisors[:, :, None], whole[:, width]


def _wide(weight: Tensor) -> Tensor:
    """The weights of all heads beside each other, [D, H * outputs]."""
    return weight.transpose(0, 1).flatten(1)


def _logits(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[n, H, outputs], as one wide product."""
    return (inputs @ _wide(weight)).view(-1, *bias.shape) + bias


def _losses(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """The loss of each image by each head, [n, H]."""
    heads = logits.shape[1]
    targets = targets_of(loss.task, labels).repeat_interleave(heads, dim=0)
    return loss(logits.flatten(0, 1), targets).view(-1, heads)


# ---------------------------------------------------------------- L-BFGS

MEMORY = 10
"""Pairs of steps and changes of the gradient that are remembered."""
MOST_EVALUATIONS = 500
DECREASE, SLACK = 1e-4, 1e-6
"""A step is taken if the loss falls by this part of what its slope promises, up to this relative rounding error."""

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [H, P] -> losses [H] and gradients [H, P]."""


def minimize(evaluate: Evaluate, start: Tensor, *, first: Tensor, small: Tensor) -> Tensor:
    """The points [H, P] where the norm of each gradient is at most `small` [H], of independent convex problems.

    They are solved side by side, so that one evaluation serves all: Nocedal and Wright, "Numerical Optimization",
    algorithms 7.4 and 7.5, with steps that are halved until the loss falls.

    `first` [H] is the length of the first step, in gradients. A problem that is not solved after 500 evaluations stays
    where it is.
    """
    points, (losses, gradients) = start, evaluate(start)
    memory = _Memory(start, first)
    ways, lengths = memory.way(gradients), torch.ones_like(losses)
    for _ in range(MOST_EVALUATIONS - 1):
        unsolved = gradients.norm(dim=1) > small
        if not unsolved.any():
            break
        steps = lengths[:, None] * ways
        new_losses, new_gradients = evaluate(points + steps)
        promised = DECREASE * lengths * torch.linalg.vecdot(gradients, ways)
        taken = unsolved & (new_losses <= losses + promised + SLACK * losses.abs())
        memory.add(steps, new_gradients - gradients, taken)
        points = torch.where(taken[:, None], points + steps, points)
        gradients = torch.where(taken[:, None], new_gradients, gradients)
        losses = torch.where(taken, new_losses, losses)
        ways = memory.way(gradients)
        lengths = torch.where(taken, 1, lengths / 2)
    return points


class _Memory:
    """The last steps of each problem and how the gradient changed on them, [MEMORY, H, P], newest last."""

    def __init__(self, points: Tensor, first: Tensor) -> None:
        self._steps, self._changes = (points.new_zeros(MEMORY, *points.shape) for _ in range(2))
        self._first = first

    def add(self, steps: Tensor, changes: Tensor, taken: Tensor) -> None:
        """Remember a pair of each problem marked in `taken` [H] whose curvature is not lost in rounding."""
        curved = torch.linalg.vecdot(steps, changes) > 1e-10 * changes.square().sum(dim=1)
        useful = taken & curved
        for kept, new in ((self._steps, steps), (self._changes, changes)):
            kept[:, useful] = torch.cat([kept[1:, useful], new[None, useful]])

    def way(self, gradients: Tensor) -> Tensor:
        """The direction of the next step, [H, P]."""
        curved = torch.linalg.vecdot(self._steps, self._changes)
        found, shares = -gradients, []
        for at in reversed(range(MEMORY)):
            shares.append(_ratio(torch.linalg.vecdot(self._steps[at], found), curved[at]))
            found = found - shares[-1] * self._changes[at]
        newest = _ratio(curved[-1], self._changes[-1].square().sum(dim=1))
        found = found * torch.where(newest > 0, newest, self._first[:, None])
        for at in range(MEMORY):
            share = shares.pop() - _ratio(torch.linalg.vecdot(self._changes[at], found), curved[at])
            found = found + share * self._steps[at]
        return found


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """One [H] by the other, as a column [H, 1]; 0 where the other is 0, as of pairs that are not there yet."""
    return torch.where(other > 0, one / torch.where(other > 0, other, 1), 0)[:, None]
