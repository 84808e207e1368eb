"""BatchNorm computed inside the convolution before it.

In evaluation mode BatchNorm is a scale and a shift of each channel, so a convolution with scaled weights and
a bias gives the same (Jacob et al., 2018, arXiv 1712.05877, section 3.2) without a pass over the activations of
its own, forward or backward. Weights, scales and shifts stay parameters: gradients flow through the product.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn


class FoldedConv2d(nn.Conv2d):
    """A convolution that computes the BatchNorm after it, where that is in evaluation mode.

    Made by `fold` of an existing layer, whose parameters it keeps under their names.
    """

    norm: tuple[nn.BatchNorm2d]
    """In a tuple, so that it is no part of this layer: its parameters stay where they were."""
    product: tuple[Tensor, ...] | None
    """Weight and bias as they were at the first of several passes; empty before it, None where each pass makes them."""

    def forward(self, images: Tensor) -> Tensor:
        """What convolution and BatchNorm give; the convolution alone where BatchNorm learns its statistics."""
        (norm,) = self.norm
        if norm.training:
            return super().forward(images)
        weight, bias = self.product or scaled(self, norm)
        if self.product == ():
            kind = images.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
            weight, bias = self.product = weight.to(dtype), bias.to(dtype)  # as autocast would at each pass
        return nn.functional.conv2d(images, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class FoldedNorm2d(nn.BatchNorm2d):
    """A BatchNorm that the convolution before it computes, in evaluation mode."""

    def forward(self, images: Tensor) -> Tensor:
        """The images as they are, or normalized by their own statistics."""
        return super().forward(images) if self.training else images


class FoldedNormAct2d(BatchNormAct2d):
    """The same with an activation."""

    def forward(self, images: Tensor) -> Tensor:
        """The activation, of what the convolution gave or of images normalized by their own statistics."""
        return super().forward(images) if self.training else self.act(self.drop(images))  # type: ignore[no-any-return,no-untyped-call]


def fold(model: nn.Module) -> None:
    """Make each convolution of `model` compute the BatchNorm that alone reads its output, for good.

    Names, parameters and statistics stay as they are; they may change later, and are used as they are at each pass.
    A BatchNorm in training mode is computed by itself, as before.
    """
    for conv, norm in pairs(model):
        conv.__class__ = FoldedConv2d
        norm.__class__ = FoldedNormAct2d if isinstance(norm, BatchNormAct2d) else FoldedNorm2d
        conv.norm, conv.product = (norm,), None  # type: ignore[assignment]


@contextmanager
def folded_once(model: nn.Module) -> Iterator[None]:
    """Within it, each folded convolution of `model` uses the weights of its first pass: for passes that learn nothing.

    The same bits, for a second copy of the convolutions in the type they are computed in.
    """
    layers = [module for module in model.modules() if isinstance(module, FoldedConv2d)]
    for layer in layers:
        layer.product = ()
    try:
        yield
    finally:
        for layer in layers:
            layer.product = None


def pairs(model: nn.Module) -> tuple[tuple[nn.Conv2d, nn.BatchNorm2d], ...]:
    """Each convolution with the BatchNorm that alone reads its output, seen in one pass of a blank image.

    None for a network that cannot take an image of the size that its architecture is made for.
    """
    return _seen(model) if any(_is_norm(module) for module in model.modules()) else ()


def _is_norm(module: nn.Module) -> bool:
    return type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.running_var is not None


def _is_convolution(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros"


def _seen(model: nn.Module) -> tuple[tuple[nn.Conv2d, nn.BatchNorm2d], ...]:
    """The pairs of one pass, by autograd's graph: it knows every use of every result."""
    made: dict[Any, nn.Module] = {}
    read: dict[Any, nn.Module] = {}
    calls: Counter[nn.Module] = Counter()

    def after(module: nn.Module, _: object, output: Tensor) -> None:
        made[output.grad_fn] = module
        calls[module] += 1

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        read[given[0].grad_fn] = module
        calls[module] += 1

    hooks = [module.register_forward_hook(after) for module in model.modules() if _is_convolution(module)]
    hooks += [module.register_forward_pre_hook(before) for module in model.modules() if _is_norm(module)]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            uses = _uses(model(_blank(model)).grad_fn)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception:  # a network that takes another size only: nothing is known of it, so nothing is folded
        return ()
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return tuple(
        (made[node], read[node])  # type: ignore[misc]
        for node in made
        if node in read and uses[node] == 1 and calls[made[node]] == calls[read[node]] == 1
    )


def _blank(model: nn.Module) -> Tensor:
    """One blank image of the size that the architecture is made for, whose gradient is asked for."""
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    shape = tuple(cfg.get("input_size") or (3, 224, 224))
    device = next(model.parameters()).device
    return torch.zeros(1, *shape, device=device, requires_grad=True)


def _uses(output: Any) -> Counter[Any]:
    """How often each result is read on the way to `output`."""
    uses: Counter[Any] = Counter()
    waiting, known = [output], {output}
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            uses[node] += 1
            if node not in known:
                known.add(node)
                waiting.append(node)
    return uses


def scaled(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that gives what the two layers give."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    bias = (0 if conv.bias is None else conv.bias) - norm.running_mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias
    return conv.weight * scale[:, None, None, None], bias
