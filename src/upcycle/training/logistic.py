"""Heads by L2-regularized logistic regression, for several scalings and folds side by side.

With at most half as many images as features, a head is sought in the space that the images span, where the best one
lies. The images' coordinates there, from the Cholesky factor of their Gram matrix, keep lengths and angles in fewer
numbers.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upcycle.training.loss import Loss, targets_of
from upcycle.training.rows import CHUNK, Labels, Split

STRENGTHS = tuple(float(10.0**power) for power in (2.0 - half / 2 for half in range(15)))
"""Penalties tried, from strong to weak: half of each times the squared weights is added to the mean loss."""
PATIENCE = 1
"""The path ends after so many strengths in a row that improve no scaling."""
LOOSE, TIGHT = 3e-4, 1e-6
"""How far, in nats, a training loss may be from the lowest: along the path, and at its end."""

_MOST_BYTES = 2**30
"""Of features, of weights and of logits held in memory, each; more are computed in parts."""
_COPIES = 6
"""Tensors of the logits' size that a loss holds."""
_JITTER = 1e-6
"""Added to the Gram matrix's diagonal, as a part of its mean, so that copies of an image do not make it singular."""


@dataclass(frozen=True, eq=False)
class Head:
    """The head of one scaling: `weight` [D, outputs] and `bias` [outputs] for raw features, and its held-out loss."""

    scaling: str
    strength: float
    loss: float
    weight: Tensor
    bias: Tensor


def best_heads(
    train: Split,
    val: Split,
    *,
    scalings: dict[str, Tensor],
    mean: Tensor,
    learned: Tensor,
    loss: Loss,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Head, ...]:
    """For each scaling, the head with the lowest held-out loss of all strengths.

    Features are centered by `mean` [D] and divided by a scaling's divisors [D]. `learned` [n, F] marks the training
    images of F heads: the first learns from all, each other one from all but a fold. Held out are the validation images
    and each head's fold.
    """
    divisors = torch.stack(list(scalings.values()))
    learn = _images(train, mean, divisors)
    check = learn.others(val)
    heads = _Heads(learn, learned, loss)
    points = heads.start()
    best, losses = points[:, 0].clone(), torch.empty(0, len(divisors))
    for number, strength in enumerate(STRENGTHS, 1):
        points = heads.fit(points, torch.full((len(divisors),), strength), LOOSE)
        sums = heads.losses(learn, points, ~learned).sum(dim=1)
        sums += heads.losses(check, points[:, :1]).sum(dim=1)
        losses = torch.cat([losses, sums[None] / (len(val) + int((~learned).sum()))])
        better = losses.argmin(dim=0) == number - 1
        best[better] = points[better, 0]
        if bool((losses.argmin(dim=0) < number - PATIENCE).all()):
            break
        if progress is not None:
            progress(number, len(STRENGTHS))
    lowest, at = losses.min(dim=0)
    strengths = [STRENGTHS[place] for place in at.tolist()]
    alone = _Heads(learn, learned[:, :1], loss)
    weights, biases = _raw(learn, alone.fit(best[:, None], torch.tensor(strengths), TIGHT)[:, 0])
    if progress is not None:
        progress(len(STRENGTHS), len(STRENGTHS))
    return tuple(map(Head, scalings, strengths, lowest.tolist(), weights, biases))


def heads_at(
    train: Split, strengths: dict[str, float], *, scalings: dict[str, Tensor], mean: Tensor, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Weights [S, D, outputs] and biases [S, outputs], for raw features, of S scalings' heads at their strengths."""
    learn = _images(train, mean, torch.stack(list(scalings.values())))
    heads = _Heads(learn, torch.ones(len(train), 1, dtype=torch.bool), loss)
    wanted = torch.tensor([strengths[name] for name in scalings])
    return _raw(learn, heads.fit(heads.fit(heads.start(), 10 * wanted, LOOSE), wanted, TIGHT)[:, 0])


def _images(split: Split, mean: Tensor, divisors: Tensor) -> "_Wide | _Compact":
    """The images as their features or, where there are far fewer of them, among themselves."""
    compact = 2 * len(split) <= len(mean)
    return _Compact.of(split, mean, divisors) if compact else _Wide(split, mean, divisors)


def _raw(learn: "_Wide | _Compact", points: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [S, D, K] and biases [S, K] for raw features, of points [S, size + 1, K]."""
    weights, biases = learn.raw(points)
    return weights, biases - torch.einsum("d,hdk->hk", learn.mean, weights)


# ---------------------------------------------------------------- images as the heads see them


class _Wide:
    """Centered features of one split, scaled for each of S scalings; held in memory where they are few."""

    def __init__(self, split: Split, mean: Tensor, divisors: Tensor) -> None:
        self.split, self.mean, self.divisors = split, mean, divisors
        self.labels = _long(split.labels)
        self.size = len(mean)
        few = 4 * len(split) * len(mean) <= _MOST_BYTES // 4
        self.held = torch.cat([part - mean for part in split.chunks()]) if few else None

    def of_scalings(self, some: slice) -> "_Wide":
        """The same images by some of the scalings."""
        other = copy.copy(self)
        other.divisors = self.divisors[some]
        return other

    def others(self, split: Split) -> "_Wide":
        """Other images, scaled alike."""
        return _Wide(split, self.mean, self.divisors)

    def parts(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """All images in order, at most `rows` at a time: where they are, and their features [m, D]."""
        for start in range(0, len(self.split), rows):
            place = slice(start, min(start + rows, len(self.split)))
            if self.held is not None:
                yield place, self.held[place]
            else:
                yield place, torch.from_numpy(self.split.features[self.split.positions[place]]).sub_(self.mean)

    def times(self, part: Tensor, weights: Tensor) -> Tensor:
        """Features by weights [S, F, D, K] as one wide product: [S, m, F, K]."""
        scaled = weights / self.divisors[:, None, :, None]
        wide = scaled.permute(2, 0, 1, 3)
        return (part @ wide.flatten(1)).view(-1, *wide.shape[1:]).transpose(0, 1)

    def back(self, part: Tensor, slopes: Tensor) -> Tensor:
        """The derivatives by the weights, [S, F, D, K], given those by what `times` gave."""
        wide = slopes.transpose(0, 1)
        found = (part.T @ wide.flatten(1)).view(-1, *wide.shape[1:])
        return found.permute(1, 2, 0, 3) / self.divisors[:, None, :, None]

    def raw(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [S, D, K] for centered features, and biases [S, K], of points [S, D + 1, K]."""
        return points[:, :-1] / self.divisors[:, :, None], points[:, -1]


@dataclass(frozen=True, eq=False)
class _Compact:
    """The coordinates [S, n, r] of images in the space that r training images span, for each of S scalings."""

    coordinates: Tensor
    labels: Tensor
    train: Tensor
    """Centered features of the training images, [r, D]."""
    mean: Tensor
    divisors: Tensor
    factors: Tensor
    """Cholesky's, [S, r, r]."""

    @classmethod
    def of(cls, split: Split, mean: Tensor, divisors: Tensor) -> "_Compact":
        features = torch.cat([part - mean for part in split.chunks()])
        products = _products(features, features, divisors)
        diagonal = products.diagonal(dim1=1, dim2=2)
        diagonal += _JITTER * (1 + diagonal.mean(dim=1, keepdim=True))
        factors: Tensor = torch.linalg.cholesky(products)
        return cls(factors.float(), _long(split.labels), features, mean, divisors, factors)

    @property
    def size(self) -> int:
        """Coordinates of an image."""
        return self.coordinates.shape[2]

    def of_scalings(self, some: slice) -> "_Compact":
        """The same images by some of the scalings."""
        parts = {name: getattr(self, name)[some] for name in ("coordinates", "divisors", "factors")}
        return replace(self, **parts)

    def others(self, split: Split) -> "_Compact":
        """Other images by the same coordinates."""
        features = torch.cat([part - self.mean for part in split.chunks()])
        products = _products(self.train, features, self.divisors)
        solved = torch.linalg.solve_triangular(self.factors, products, upper=False)
        facts = (self.train, self.mean, self.divisors, self.factors)
        return _Compact(solved.transpose(1, 2).float().contiguous(), _long(split.labels), *facts)

    def parts(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """All images in order, at most `rows` at a time: where they are, and their coordinates [S, m, r]."""
        for start in range(0, len(self.labels), rows):
            place = slice(start, min(start + rows, len(self.labels)))
            yield place, self.coordinates[:, place]

    def times(self, part: Tensor, weights: Tensor) -> Tensor:
        """Coordinates by weights [S, F, r, K]: [S, m, F, K]."""
        scalings, folds, size, outputs = weights.shape
        wide = weights.transpose(1, 2).reshape(scalings, size, folds * outputs)
        return torch.bmm(part, wide).view(scalings, -1, folds, outputs)

    def back(self, part: Tensor, slopes: Tensor) -> Tensor:
        """The derivatives by the weights, [S, F, r, K], given those by what `times` gave."""
        scalings, _, folds, outputs = slopes.shape
        found = torch.bmm(part.transpose(1, 2), slopes.flatten(2))
        return found.view(scalings, -1, folds, outputs).transpose(1, 2)

    def raw(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [S, D, K] for centered features, and biases [S, K], of points [S, r + 1, K]."""
        upper = self.factors.transpose(1, 2)
        shares = torch.linalg.solve_triangular(upper, points[:, :-1].double(), upper=True).float()
        return (self.train.T @ shares) / self.divisors.square()[:, :, None], points[:, -1]


def _products(one: Tensor, other: Tensor, divisors: Tensor) -> Tensor:
    """The products of scaled features [n, D] and [m, D], [S, n, m] in float64."""
    return torch.stack([(one / by).double() @ (other / by).double().T for by in divisors])


def _long(labels: Labels) -> Tensor:
    return torch.from_numpy(labels).long()


# ---------------------------------------------------------------- heads side by side


@dataclass(frozen=True, eq=False)
class _Heads:
    """Heads for each of S scalings and F sets of images that learn, those of `side` marked in `learned` [n, F].

    A head is a point: its weights for scaled features [size, K] and its bias [K]; all of them [S, F, size + 1, K].
    """

    side: _Wide | _Compact
    learned: Tensor
    loss: Loss

    def start(self) -> Tensor:
        """Points of nothing learned."""
        shape = (len(self.side.divisors), self.learned.shape[1], self.side.size + 1, self.loss.task.outputs)
        return torch.zeros(shape)

    def fit(self, points: Tensor, strengths: Tensor, exact: float) -> Tensor:
        """The points where each head's loss is lowest, to within `exact` nats, by a strength of each scaling.

        As many of the sets that learn at once as there is room for.
        """
        room = max(1, _MOST_BYTES // (4 * (2 * MEMORY + _COPIES) * points[0, 0].numel()))  # for so many heads
        wide = min(len(points), room)
        tall = max(1, room // wide)
        rows = []
        for first in range(0, len(points), wide):
            some = slice(first, first + wide)
            part = _Heads(self.side.of_scalings(some), self.learned, self.loss)
            folds = [slice(start, start + tall) for start in range(0, points.shape[1], tall)]
            found = [part._fit(points[some, at], self.learned[:, at], strengths[some], exact) for at in folds]
            rows.append(torch.cat(found, dim=1))
        return torch.cat(rows)

    def _fit(self, points: Tensor, learned: Tensor, strengths: Tensor, exact: float) -> Tensor:
        shape = points.shape
        shares = learned.float() / learned.sum(dim=0)
        penalty = strengths.repeat_interleave(shape[1])

        def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
            points = flat.view(shape)
            losses = torch.zeros(shape[:2], dtype=torch.float64)
            by_point = torch.zeros(shape)
            for place, part in self.side.parts(self._rows(points)):
                logits = (self.side.times(part, points[:, :, :-1]) + points[:, None, :, -1]).requires_grad_()
                found = _losses(logits, self.side.labels[place], self.loss) * shares[place]
                (slopes,) = torch.autograd.grad(found.sum(), logits)
                losses += found.detach().sum(dim=1, dtype=torch.float64)
                by_point[:, :, :-1] += self.side.back(part, slopes)
                by_point[:, :, -1] += slopes.sum(dim=1)
            plain = points.clone()
            plain[:, :, -1] = 0  # the bias has no penalty
            scaled = plain.view(len(flat), -1)
            totals = losses.flatten() + penalty / 2 * scaled.square().sum(dim=1)
            return totals.float(), by_point.view(len(flat), -1) + penalty[:, None] * scaled

        first = 1 / (penalty + shape[2] * shape[3] / 2)
        small = (2 * penalty.clamp(1e-3, 0.1) * exact).sqrt()
        flat = points.reshape(shape[0] * shape[1], -1)
        return minimize(evaluate, flat, first=first, small=small).view(shape)

    def _rows(self, points: Tensor) -> int:
        logits = points.shape[0] * points.shape[1] * points.shape[3]
        return min(CHUNK, max(1, _MOST_BYTES // (4 * _COPIES * logits)))

    def losses(self, side: _Wide | _Compact, points: Tensor, counted: Tensor | None = None) -> Tensor:
        """The sum of each head's losses, [S, F], neither weighted nor smoothed, on images `counted` [n, F], or all."""
        sums = torch.zeros(points.shape[:2])
        for place, part in side.parts(self._rows(points)):
            logits = side.times(part, points[:, :, :-1]) + points[:, None, :, -1]
            found = _losses(logits, side.labels[place], Loss(self.loss.task))
            sums += (found if counted is None else found * counted[place]).sum(dim=1)
        return sums


def _losses(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """The loss of each image by each head, [S, m, F], of logits [S, m, F, K]."""
    targets = targets_of(loss.task, labels)
    column = targets.view(1, len(labels), 1, *targets.shape[1:])
    alike = column.expand(*logits.shape[:3], *targets.shape[1:])
    return loss(logits.flatten(0, 2), alike.flatten(0, 2)).view(logits.shape[:3])


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
