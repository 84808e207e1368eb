"""How much memory training takes, told from shapes before any of it is taken."""

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from upcycle.device import Machine, autocast

GENEROUS = 8192
"""Bytes a pixel that no network of 25 million parameters keeps for its backward pass (ResNet-50: 860 in bf16)."""
MARGIN = 1.1
SCRATCH = 300 * 2**20
"""What libraries take beside the tensors."""


def activations(model: nn.Module, machine: Machine, *, batch: int, size: int) -> int:
    """Bytes that a training pass of [batch, 3, size, size] keeps for its backward pass, parameters left out.

    The network runs on tensors that have shapes and no content, so nothing is computed and nothing changes.
    """
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(machine):
        images = torch.empty(batch, 3, size, size).to(memory_format=torch.channels_last)
        outputs = model(images)
    with torch.no_grad():  # a count of batches is a number, which even this mode counts up
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    bytes_of = (tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in own)
    del outputs
    return sum(bytes_of)


def fixed(model: nn.Module) -> int:
    """Bytes of gradients and Adam's moments, and of the copies that writing a state down makes."""
    everything = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return 4 * (3 * trained) + 4 * (everything + 2 * trained) + SCRATCH


def most_at_once(model: nn.Module, machine: Machine, *, batch: int, size: int, free: float) -> tuple[int, int]:
    """The most images, `batch` or a half of it and so on, that fit into `free` bytes, 0 if not one does; and the
    bytes that the whole batch takes.
    """
    roomy = GENEROUS * max(1.0, sum(parameter.numel() for parameter in model.parameters()) / 25e6)
    if not free < roomy * batch * size**2 + fixed(model):
        return batch, 0  # plain to see, and looking closer takes seconds
    try:
        whole, one = (activations(model, machine, batch=count, size=size) for count in (batch, 1))
    except Exception:  # a network that looks at its numbers cannot run on shapes: nothing is known of it
        return batch, 0
    an_image = (whole - one) / max(1, batch - 1)
    images = batch
    while images and MARGIN * (one + (images - 1) * an_image) + fixed(model) > free:
        images //= 2
    return images, round(MARGIN * whole + fixed(model))
