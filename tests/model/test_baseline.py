"""The simple CNN: three blocks, any size, learns."""

import pytest
import torch

from upcycle.model.baseline import SimpleCnn


@pytest.mark.parametrize(("size", "outputs"), [(32, 1), (128, 3), (224, 5)])
def test_any_size_gives_logits(size: int, outputs: int) -> None:
    assert (2, outputs) == tuple(SimpleCnn(outputs)(torch.zeros(2, 3, size, size)).shape)


def test_its_layers_are_the_documented_ones() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in SimpleCnn(1).named_parameters() if "weight" in name}
    expected = {
        "blocks.0.weight": (32, 3, 3, 3),
        "blocks.3.weight": (64, 32, 3, 3),
        "blocks.6.weight": (128, 64, 3, 3),
        "dense.weight": (128, 2048),
        "head.weight": (1, 128),
    }
    assert expected == shapes
