"""How much memory training takes, estimated from passes of one and of two images."""

import torch
from torch import Tensor, nn

from upcycle.device import Hardware, autocast

GENEROUS = 8192
"""Bytes per pixel that no network of 25 million parameters keeps for its backward pass (ResNet-50: 860 in bf16)."""
MARGIN = 1.1
SCRATCH = 300 * 2**20
"""What libraries take beside the tensors."""


def activations(model: nn.Module, machine: Hardware, *, images: int, size: int) -> int:
    """Bytes that a pass of [images, 3, size, size] keeps for its backward pass, parameters left out.

    Computed in evaluation mode, so that no statistics change and no random numbers are drawn.
    """
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    training = model.training
    model.eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(machine):
        outputs = model(torch.zeros(images, 3, size, size).to(memory_format=torch.channels_last))
    model.train(training)
    del outputs
    return sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in own)


def fixed(model: nn.Module) -> int:
    """Bytes of gradients and Adam's moments, and of the copies that writing a checkpoint makes."""
    everything = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return 4 * (3 * trained) + 4 * (everything + 2 * trained) + SCRATCH


def largest_micro_batch(model: nn.Module, machine: Hardware, *, batch: int, size: int, free: float) -> tuple[int, int]:
    """The most images, `batch` or a half of it and so on, that fit into `free` bytes, 0 if not one does; and the
    bytes that the whole batch takes.
    """
    roomy = GENEROUS * max(1.0, sum(parameter.numel() for parameter in model.parameters()) / 25e6)
    if not free < roomy * batch * size**2 + fixed(model):
        return batch, 0  # plainly enough, and looking closer takes time
    one, two = (activations(model, machine, images=images, size=size) for images in (1, 2))

    def needed(images: int) -> float:
        return MARGIN * (one + (images - 1) * (two - one)) + fixed(model)

    images = batch
    while images and needed(images) > free:
        images //= 2
    return images, round(needed(batch))
