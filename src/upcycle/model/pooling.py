"""What a linear head reads: the features of timm's own head, and pooled maps of stages before the last one.

On tasks far from its own, a network's middle can tell more than its end: textures and edges, before they become the
classes it was trained for. A head may read the mean of a stage's map over the image, beside the last features. Of a
vision transformer it reads the class token and the mean of the patches, after the last block and at each quarter.
"""

import inspect

import torch
from torch import Tensor, nn

MOST = 3
"""Stages that a head may read."""


def widths(body: nn.Module) -> tuple[int, ...]:
    """The number of features of each stage, the last stage first; () without a linear classifier.

    The last stage alone where timm does not describe the others.
    """
    classifier = body.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        return ()
    first = classifier.in_features
    if not hasattr(body, "forward_intermediates"):
        return (first,)
    infos = _infos(body)
    places = _places(body)
    if not _is_flat(body):
        return (first, *(infos[place]["num_chs"] for place in places))
    copies = 2 if _has_tokens(body) else 1
    own = infos[-1]["num_chs"] if _has_tokens(body) else 0
    found = [copies * infos[place]["num_chs"] for place in places]
    return (first, *((width + own if at == 0 else width) for at, width in enumerate(found)))


def pooled(body: nn.Module, images: Tensor, stages: int) -> Tensor:
    """Features [B, D] of images [B, 3, S, S] by the last `stages`, the last one first."""
    return pooled_with_map(body, images, stages)[0]


def pooled_with_map(body: nn.Module, images: Tensor, stages: int) -> tuple[Tensor, Tensor]:
    """The same, and what timm's own head reads: the last map [B, C, H, W], or tokens [B, T, C]."""
    if stages == 1:
        last: Tensor = body.forward_features(images)  # type: ignore[operator]
        return body.forward_head(last, pre_logits=True), last  # type: ignore[operator]
    places = _places(body)[: stages - 1]
    flat, tokens = _is_flat(body), _has_tokens(body)
    indices = sorted([*places, -1]) if tokens else sorted(places)
    options = {"norm": True} if flat else {}
    options |= {"return_prefix_tokens": True} if tokens else {}
    last, maps = body.forward_intermediates(images, indices=indices, **options)  # type: ignore[operator]
    by_place = dict(zip(indices, maps, strict=True))
    found = [body.forward_head(last, pre_logits=True).float()]  # type: ignore[operator]
    if tokens:
        found.append(_mean(by_place[-1][0]))
    for place in places:
        if tokens:
            patches, prefix = by_place[place]
            found += [prefix[:, 0].float(), _mean(patches)]
        else:
            found.append(_mean(by_place[place]))
    return torch.cat(found, dim=1), last


def computes(body: nn.Module, images: Tensor) -> bool:
    """Whether `pooled` gives the `widths` for these images, beginning with the features that timm's own head reads."""
    expected = widths(body)
    if len(expected) < 2:
        return False
    try:
        found = pooled(body, images, len(expected))
        last = pooled(body, images, 1)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception:  # a network may raise anything for a size, or an argument, that it does not know
        return False
    first = found[:, : last.shape[1]]  # an accelerator may add in another order
    return found.shape[1] == sum(expected) and torch.allclose(first, last.float(), rtol=1e-2, atol=1e-3)


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3), dtype=torch.float32)


def _infos(body: nn.Module) -> list[dict[str, int]]:
    """timm's description of the network's stages, from its first to its last; [] without one."""
    info = getattr(body, "feature_info", None)
    found = getattr(info, "info", info)
    return found if isinstance(found, list) else []


def _is_flat(body: nn.Module) -> bool:
    """Whether each block is listed as a stage and all have one size, as in a vision transformer."""
    reductions = [info.get("reduction") for info in _infos(body)]
    return len(reductions) >= 6 and len(set(reductions[len(reductions) // 2 :])) == 1


def _has_tokens(body: nn.Module) -> bool:
    """Whether a class token goes through the network beside the patches."""
    known = inspect.signature(body.forward_intermediates).parameters  # type: ignore[arg-type]
    return "return_prefix_tokens" in known and int(getattr(body, "num_prefix_tokens", 0)) > 0


def _places(body: nn.Module) -> tuple[int, ...]:
    """Positions of the stages before the last one, from the end of timm's list, the nearest first."""
    count = len(_infos(body))
    step = count // 4 if _is_flat(body) else 1
    return tuple(-1 - step * back for back in range(1, MOST) if step * back < count)
