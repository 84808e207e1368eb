"""How much memory fine-tuning takes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from upcycle.data.preprocessing import Preprocessing
from upcycle.device import Hardware, autocast
from upcycle.jobs.finetune import MARGIN, activations, fixed, largest_micro_batch
from upcycle.model.network import ModelSpec, create
from upcycle.task import Task

NETWORK = ModelSpec("test_resnet", Task.of(("a", "b")), Preprocessing(size=64), "test", "")


# ---------------------------------------------------------------- memory


def machine(precision: str) -> Hardware:
    return Hardware("cpu", precision, 1, 1, "a processor", (), None, 8.0)  # type: ignore[arg-type]


def really_kept(model: nn.Module, images: Tensor, here: Hardware) -> int:
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(here):
        outputs = model(images)
    assert outputs.requires_grad
    return sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_whole_batch_keeps_is_estimated_to_a_hundredth_from_one_and_two_images(precision: str) -> None:
    model, here = create(NETWORK).train(), machine(precision)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, needed = largest_micro_batch(model, here, batch=8, size=64, free=0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    images = torch.zeros(8, 3, 64, 64).to(memory_format=torch.channels_last)
    assert (needed - fixed(model)) / MARGIN == pytest.approx(really_kept(model, images, here), rel=0.01)
    assert model.training


def test_as_many_halvings_as_it_takes_fit() -> None:
    model, here = create(NETWORK).train(), machine("fp32")
    whole = activations(model, here, images=32, size=64)
    free = fixed(model) + 1.1 * whole
    batches = [
        largest_micro_batch(model, here, batch=32, size=64, free=fixed(model) + share * 1.1 * whole)[0]
        for share in (1.01, 0.6, 0.3, 0.0)
    ]
    assert [32, 16, 8, 0] == batches
    assert free == pytest.approx(largest_micro_batch(model, here, batch=32, size=64, free=free - 1)[1], rel=1e-6)


def test_a_moving_average_takes_the_trained_parameters_twice_more() -> None:
    model = create(NETWORK)
    next(model.body.parameters()).requires_grad_(False)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert 8 * trained == fixed(model, averaged=True) - fixed(model)


@pytest.mark.parametrize("free", [np.inf, np.nan, 1e12])
def test_where_there_is_plenty_or_nothing_is_known_nothing_is_looked_at(free: float) -> None:
    class Untouchable(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError

    assert (32, 0) == largest_micro_batch(Untouchable(), machine("fp32"), batch=32, size=224, free=free)
