"""L-BFGS on many independent convex problems side by side, so that one evaluation serves them all.

Nocedal and Wright, "Numerical Optimization", algorithms 7.4 and 7.5, with steps that are halved until the loss falls.
"""

from collections.abc import Callable

import torch
from torch import Tensor

MEMORY = 10
"""Pairs of steps and changes of the gradient that are remembered."""
MOST_EVALUATIONS = 500
DECREASE, SLACK = 1e-4, 1e-6
"""A step is taken if the loss falls by this part of what its slope promises, up to this relative rounding error."""

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [H, P] -> losses [H] and gradients [H, P]."""


def minimize(evaluate: Evaluate, start: Tensor, *, first: Tensor, small: Tensor) -> Tensor:
    """The points [H, P] where the norm of each gradient is at most `small` [H].

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
