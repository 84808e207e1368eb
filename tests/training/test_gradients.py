"""Gradients as one vector, added in a tree that does not depend on who adds."""

import numpy as np
import pytest
import torch

from upcycle.training.gradients import Tree, put, taken


def vectors(count: int) -> list[torch.Tensor]:
    random = np.random.default_rng(0)
    return [
        torch.from_numpy(random.normal(size=50).astype(np.float32) * 10.0 ** random.integers(-6, 6))
        for _ in range(count)
    ]


def total(parts: list[torch.Tensor]) -> torch.Tensor:
    tree = Tree()
    for part in parts:
        tree.add(part.clone())
    return tree.total


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_whoever_adds_neighbours_the_sum_has_the_same_bits(processes: int) -> None:
    parts = vectors(8)
    each = 8 // processes
    branches = [total(parts[start : start + each]) for start in range(0, 8, each)]
    while len(branches) > 1:  # as processes add in pairs
        branches = [a + b for a, b in zip(branches[::2], branches[1::2], strict=True)]
    assert torch.equal(total(parts), branches[0])


def test_a_sum_one_by_one_has_other_bits() -> None:
    """What a tree is for."""
    parts = vectors(8)
    one_by_one = parts[0].clone()
    for part in parts[1:]:
        one_by_one += part
    assert not torch.equal(total(parts), one_by_one)


def test_gradients_are_taken_and_put_back_in_the_layout_of_their_parameters() -> None:
    plain = torch.nn.Parameter(torch.ones(3))
    image = torch.nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
    unused = torch.nn.Parameter(torch.ones(2))
    (plain.sum() + (image * torch.arange(120.0).view(2, 3, 4, 5)).sum()).backward()
    expected = image.grad.clone()
    loss, right = put([plain, image, unused], taken([plain, image, unused], torch.tensor(1.5), 7))
    assert (1.5, 7) == (loss.item(), right.item())
    assert torch.equal(expected, image.grad)
    assert image.grad.stride() == image.stride()
    assert torch.equal(torch.zeros(2), unused.grad)
