"""A network for a task: timm's architecture, pretrained body, new head, and the preprocessing its weights expect."""

import difflib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from upcycle.data.preprocessing import INTERPOLATIONS, Preprocessing
from upcycle.device import Hardware, autocast
from upcycle.errors import WeightsError
from upcycle.model import baseline
from upcycle.model.names import Shapes, fit, misfit, resemblance
from upcycle.model.weights import Weights, input_values, obtain, read_input
from upcycle.task import Task

TAGS = {"resnet50": "tv_in1k"}
"""The tag an architecture's bare name stands for, where it is not timm's own default.

ResNet-50's original ImageNet recipe is the article's network, and its features transfer better than
those of timm's default tag, whose training smoothed them away (arXiv 2110.00476, section 5)."""


@dataclass(frozen=True)
class Network:
    """What is needed to build the network again: everything but its weights."""

    arch: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    weights_source: str
    weights_sha256: str

    @property
    def task(self) -> Task:
        """What the network is asked."""
        return Task.of(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "arch": self.arch,
            **self.task.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "weights": {"source": self.weights_source, "sha256": self.weights_sha256},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Network":
        """The inverse of `to_dict`."""
        return cls(
            arch=resolve_arch(str(values["arch"])),
            classes=Task.from_dict(values).classes,
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            weights_source=str(values["weights"]["source"]),
            weights_sha256=str(values["weights"]["sha256"]),
        )


@functools.cache
def _architectures() -> frozenset[str]:
    return frozenset(timm.list_models())


_LINEAR = ("fc", "classifier", "head", "head.fc")
"""Classifiers that timm applies to the features themselves; others are tried."""
_AGREES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def resolve_arch(arch: str) -> str:
    """The architecture's full name; WeightsError, with the nearest names, when timm has none such."""
    if arch == baseline.NAME:
        return arch
    base, _, tag = arch.partition(".")
    if base not in _architectures():
        near = difflib.get_close_matches(base, _architectures(), n=3, cutoff=0.5)
        raise WeightsError(f"unknown architecture {arch!r}: did you mean {', '.join(near) or 'resnet50'}?")
    if not tag and base in TAGS:
        return f"{base}.{TAGS[base]}"
    known = [name.partition(".")[2] for name in timm.list_pretrained(base + ".*")]
    if tag and tag not in known:
        tags = ", ".join(known)
        raise WeightsError(f"architecture {base} has no tag {tag!r}: it has {tags or 'none'}")
    return arch


def pretrained_cfg(arch: str) -> PretrainedCfg:
    """timm's description of the architecture's weights; an empty one where timm has none."""
    cfg = timm.get_pretrained_cfg(arch) if arch != baseline.NAME else None
    return cfg if cfg is not None else PretrainedCfg()


def has_fixed_size(arch: str) -> bool:
    """Whether the network accepts images of one size alone, as most vision transformers do."""
    return bool(pretrained_cfg(arch).fixed_input_size)


def get_weights(arch: str, spec: str) -> Weights | None:
    """The weights `spec` asks for ("auto", "none" or a file), as `upcycle.model.weights.obtain`.

    WeightsError where they say themselves that they are of another architecture.
    """
    weights = obtain(arch, spec, pretrained_cfg(arch))
    theirs = weights.arch.partition(".")[0] if weights is not None else ""
    if weights is not None and theirs != arch.partition(".")[0] and theirs in {*_architectures(), baseline.NAME}:
        raise WeightsError(f"weights from {weights.source} are those of {theirs}, not {arch}: give --arch {theirs}")
    return weights


def preprocessing_for(
    arch: str,
    weights: Weights | None,
    *,
    input_file: str | None,
    image_size: int | None,
    crop_pct: float | None,
) -> Preprocessing:
    """The preprocessing the weights were trained with.

    Read from the weights' own header or sidecar, else from `input_file`, else from timm's
    configuration of the tag; `image_size` and `crop_pct` replace one number each.
    """
    asked = {"size": image_size, "crop_pct": crop_pct}
    instead: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if arch == baseline.NAME:
        return replace(baseline.PREPROCESSING, **instead)
    cfg = pretrained_cfg(arch)
    values = input_values({name: value for name, value in vars(cfg).items() if value is not None})
    if values.get("interpolation") not in INTERPOLATIONS:  # timm's "random" and the like
        values["interpolation"] = "bilinear"
    source = f"timm's configuration of {arch}"
    if weights is not None and weights.input:
        values, source = {**values, **weights.input}, str(weights.input.get("source", weights.source))
    elif input_file is not None:
        values, source = {**values, **read_input(Path(input_file))}, f"file {input_file}"
    return replace(Preprocessing.from_dict({**values, "source": source}), **instead)


def create(network: Network, *, seed: int = 0) -> nn.Module:
    """The untrained network with its new head, its random weights drawn from `seed`."""
    torch.manual_seed(seed)
    if network.arch == baseline.NAME:
        return baseline.SimpleCnn(network.task.outputs).to(memory_format=torch.channels_last)
    options: dict[str, Any] = {"num_classes": network.task.outputs}
    if has_fixed_size(network.arch):
        options["img_size"] = network.preprocessing.size
    model: nn.Module = timm.create_model(network.arch, pretrained=False, **options)
    if not hasattr(model, "get_classifier"):
        raise WeightsError(f"{network.arch} has no classifier to train: give another --arch")
    return model.to(memory_format=torch.channels_last)


def refusal(network: Network, *, images: int, training: bool) -> str:
    """Why the network cannot compute so many blank images of its input size, in one line; "" where it can."""
    try:
        with torch.inference_mode():
            create(network).train(training)(
                torch.zeros(images, 3, network.preprocessing.size, network.preprocessing.size)
            )
    except (RuntimeError, ValueError, AssertionError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def load_body(model: nn.Module, weights: Weights, arch: str) -> tuple[str, ...]:
    """Copy pretrained weights into everything but the head; what was left out of them is returned, in lines to tell.

    The file may hold an ImageNet head, any other head, or none. WeightsError when the rest does not
    fit name by name and shape by shape, or holds a number that is not finite. Names of wrappers and of some other
    tools are translated, as `upcycle.model.names.fit` has it.
    """
    head = head_names(model)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in head}
    fitted = fit(weights.tensors, own, _classifiers(model), weights.source)
    given = {name: tuple(tensor.shape) for name, tensor in fitted.tensors.items()}
    wrong = misfit(own, given)
    if wrong:
        of_size = has_fixed_size(arch) and own.keys() == given.keys()
        advice = "leave --image-size out, as it takes one size" if of_size else resemblance(given, arch)
        advice = advice or "name their architecture with --arch"
        raise WeightsError(f"weights from {weights.source} do not fit {arch}: {wrong}; {advice}")
    broken = next((name for name, tensor in fitted.tensors.items() if not torch.isfinite(tensor).all()), None)
    if broken is not None:
        raise WeightsError(f"weights from {weights.source} hold numbers that are not finite, in {broken}: give others")
    model.load_state_dict(fitted.tensors, strict=False)
    return fitted.notes


def shapes(network: Network) -> Shapes | None:
    """The shape of every tensor of the network, made without taking memory for any; None where that cannot be told."""
    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in create(network).state_dict().items()}
    except Exception:  # a network that looks at its own numbers cannot be made without them
        return None


def head_names(model: nn.Module) -> frozenset[str]:
    """Names of the classifier's parameters, pretrained or new."""
    return frozenset(f"{prefix}.{leaf}" for prefix in _classifiers(model) for leaf in ("weight", "bias"))


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that timm calls the network's classifiers."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def has_linear_head(model: nn.Module) -> bool:
    """Whether the classifier is one linear layer over one feature vector an image, as nearly all are."""
    if not _ends_linear(model):
        return False
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if cfg.get("classifier") in _LINEAR:
        return True
    if model not in _AGREES:
        _AGREES[model] = _agrees(model, cfg)
    return _AGREES[model]


def _ends_linear(model: nn.Module) -> bool:
    return hasattr(model, "forward_head") and isinstance(model.get_classifier(), nn.Linear)  # type: ignore[operator]


def is_linear_in_name_alone(model: nn.Module) -> bool:
    """Whether the classifier is a linear layer and not all there is between features and logits."""
    return _ends_linear(model) and not has_linear_head(model)


def _agrees(model: nn.Module, cfg: Mapping[str, Any]) -> bool:
    """Whether the classifier makes the network's logits of its features: some have a norm or a second head between."""
    like: Tensor = next(model.parameters())
    shape = tuple(cfg.get("input_size") or (3, 224, 224))
    images = torch.linspace(-2, 2, math.prod(shape)).sin().view(1, *shape).to(like)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            whole: Tensor = model(images)
            apart: Tensor = model.get_classifier()(features(model, images))  # type: ignore[operator]
    except Exception:  # made for another size: then the network is taken as a whole, which is always right
        return False
    finally:
        for module, training in modes.items():
            module.training = training
    return torch.equal(whole, apart)  # a new BatchNorm between them changes the last bits alone


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What the network hands to its linear classifier: [B, D]."""
    return model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator,no-any-return]


def logits(model: nn.Module, images: Tensor, machine: Hardware) -> Tensor:
    """Logits [B, outputs] in fp32: the body in the machine's precision, the linear head always in fp32.

    bf16 keeps 8 bits of a number: enough inside the network, too coarse for the last sum over
    features, which decides between classes.
    """
    if not has_linear_head(model):
        with autocast(machine):
            return model(images).float()  # type: ignore[no-any-return]
    with autocast(machine):
        body = features(model, images)
    return model.get_classifier()(body.float())  # type: ignore[operator,no-any-return]


def set_head(model: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Copy a trained linear head, `weight` [outputs, D] and `bias` [outputs], into the classifier."""
    head = model.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
