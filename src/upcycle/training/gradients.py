"""The gradients of one update as one vector: of several shards or processes, added and put back.

Shards are added in pairs, then pairs of pairs: a tree that does not depend on how many processes share the work, so
that the sum has the same bits. Processes hold neighbouring shards, as many each, so what one has is a branch of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


def taken(parameters: Sequence[Tensor], loss: Tensor | float, right: Tensor | float) -> Tensor:
    """The gradients of all `parameters`, zero where there are none, with a loss and a number of right answers behind.

    The parameters are left without.
    """
    like = parameters[0]
    parts = [
        (torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1).to(torch.float32) for one in parameters
    ]
    for one in parameters:
        one.grad = None
    beside = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=like.device) for value in (loss, right)])
    return torch.cat([*parts, beside])


def put(parameters: Sequence[Tensor], vector: Tensor) -> tuple[Tensor, Tensor]:
    """Give the parameters the gradients of `vector`, each in its parameter's memory layout; loss and right answers."""
    *values, beside = torch.split(vector, [*(one.numel() for one in parameters), 2])
    for one, gradient in zip(parameters, values, strict=True):
        one.grad = torch.empty_like(one).copy_(gradient.view(one.shape))
    return beside[0], beside[1].round().long()


@dataclass
class Tree:
    """A sum of vectors in pairs, and pairs of pairs; what is added is changed."""

    branches: list[tuple[int, Tensor]] = field(default_factory=list)
    """Sums with the number of vectors in each, every number less than the one before."""

    def add(self, vector: Tensor) -> None:
        """Add the next one."""
        count = 1
        while self.branches and self.branches[-1][0] == count:
            earlier = self.branches.pop()[1]
            vector = earlier.add_(vector)
            count *= 2
        self.branches.append((count, vector))

    @property
    def total(self) -> Tensor:
        """The sum; the number of vectors is a power of two."""
        ((_, vector),) = self.branches
        return vector
