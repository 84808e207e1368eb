"""BatchNorm computed inside the convolution before it.

In evaluation mode BatchNorm is a scale and a shift of each channel, so a convolution with scaled weights and
a bias gives the same (Jacob et al., 2018, arXiv 1712.05877, section 3.2) without a pass over the activations of
its own, forward or backward. Weights, scales and shifts stay parameters: gradients flow through the product.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from upcycle.device import Hardware, computed_in

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]
Kept = dict[nn.Conv2d, tuple[Tensor, Tensor]]
"""Scaled weights [out, in / groups, height, width] and biases [out] of convolutions, as `computed_in` says."""
_PAIRS: WeakKeyDictionary[nn.Module, tuple[Pair, ...]] = WeakKeyDictionary()


@contextmanager
def folded(model: nn.Module, machine: Hardware, kept: Kept | None = None) -> Iterator[None]:
    """Within it, each BatchNorm of `model` that is in evaluation mode now is part of the convolution it follows.

    Where `machine.fold_bn` is off, and where a network has no such pair, nothing changes. The model's parameters
    and statistics may change within it, and are used as they are at each call. With `kept`, empty at first, they are
    used as they were at the first call that was given it: for a series of passes that learn nothing.
    """
    chosen = [(conv, norm) for conv, norm in pairs(model) if not norm.training] if machine.fold_bn else []
    for conv, norm in chosen:
        conv.forward = _convolution(conv, norm, machine, kept)  # type: ignore[method-assign,assignment]
        norm.forward = _rest(norm)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for pair in chosen:
            for module in pair:
                del module.forward


def pairs(model: nn.Module) -> tuple[Pair, ...]:
    """Each convolution with the BatchNorm that alone reads its output, seen in one pass of a blank image.

    None for a network that cannot take an image of the size that its architecture is made for.
    """
    if model not in _PAIRS:
        _PAIRS[model] = _seen(model) if any(_is_norm(module) for module in model.modules()) else ()
    return _PAIRS[model]


def _is_norm(module: nn.Module) -> bool:
    return type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.running_var is not None


def _is_convolution(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros"


def _seen(model: nn.Module) -> tuple[Pair, ...]:
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
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
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


def _convolution(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, machine: Hardware, kept: Kept | None
) -> Callable[[Tensor], Tensor]:
    """The convolution with its BatchNorm's scale and shift."""

    def forward(images: Tensor) -> Tensor:
        if kept is None:
            weight, bias = _scaled(conv, norm)
        else:
            if conv not in kept:
                weight, bias = _scaled(conv, norm)
                kept[conv] = weight.to(computed_in(machine)), bias.to(computed_in(machine))  # as autocast would
            weight, bias = kept[conv]
        return nn.functional.conv2d(images, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    return forward


def _scaled(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that gives what the two layers give."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    bias = (0 if conv.bias is None else conv.bias) - norm.running_mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias
    return conv.weight * scale[:, None, None, None], bias


def _rest(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """What a BatchNorm does besides."""
    if isinstance(norm, BatchNormAct2d):
        return lambda images: norm.act(norm.drop(images))
    return lambda images: images
