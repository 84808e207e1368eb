"""What is needed to build a network again, all but its weights: architecture, task, preprocessing, and their source."""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg

from upcycle.data.preprocessing import INTERPOLATIONS, Preprocessing
from upcycle.errors import WeightsError
from upcycle.model.weights import Weights, input_values, read_input
from upcycle.task import Task

TAGS = {"resnet50": "tv_in1k"}
"""The tag an architecture's bare name stands for, where it is not timm's own default.

ResNet-50's original ImageNet recipe is the article's network, and its features transfer better than
those of timm's default tag, whose training smoothed them away (arXiv 2110.00476, section 5)."""
SIMPLE_CNN = "simple-cnn"
"""The network that pretrained ones are compared with; its preprocessing is its own."""
RESERVED = ("stages", "views", "temperature", "thresholds")
"""Entries of model.json for what changes logits or classes: the stages that the head reads, the views of an image whose
logits are averaged, the temperature, and the thresholds of classes. This version knows no value of them but null."""


@dataclass(frozen=True)
class ModelSpec:
    """A network without its weights: what model.json and the header of its weights hold."""

    arch: str
    task: Task
    preprocessing: Preprocessing
    weights_source: str
    weights_sha256: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.task.classes

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "arch": self.arch,
            **self.task.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "weights": {"source": self.weights_source, "sha256": self.weights_sha256},
            **dict.fromkeys(RESERVED),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """The inverse of `to_dict`; ValueError for a model that this version would compute otherwise."""
        later = next((name for name in RESERVED if values.get(name) is not None), None)
        if later is not None:
            raise ValueError(f"{later} = {values[later]!r} needs a later version of upcycle")
        return cls(
            arch=resolve_arch(str(values["arch"])),
            task=Task.from_dict(values),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            weights_source=str(values["weights"]["source"]),
            weights_sha256=str(values["weights"]["sha256"]),
        )


def spec_of(arch: str, classes: tuple[str, ...], preprocessing: Preprocessing, weights: Weights | None) -> ModelSpec:
    """The spec of a network to train on these classes; `weights` None for random ones."""
    source, digest = (weights.source, weights.sha256) if weights is not None else ("none: random", "")
    return ModelSpec(arch, Task.of(classes), preprocessing, source, digest)


@functools.cache
def architectures() -> frozenset[str]:
    """The names of all networks that can be built, without tags."""
    return frozenset((*timm.list_models(), SIMPLE_CNN))


def resolve_arch(arch: str) -> str:
    """The architecture's full name; WeightsError, with the nearest names, when timm has none such."""
    if arch == SIMPLE_CNN:
        return arch
    base, _, tag = arch.partition(".")
    if base not in architectures():
        near = difflib.get_close_matches(base, architectures(), n=3, cutoff=0.5)
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
    cfg = timm.get_pretrained_cfg(arch) if arch != SIMPLE_CNN else None
    return cfg if cfg is not None else PretrainedCfg()


def has_fixed_size(arch: str) -> bool:
    """Whether the network accepts images of one size alone, as most vision transformers do."""
    return bool(pretrained_cfg(arch).fixed_input_size)


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
    found = _trained_with(arch, weights, input_file)
    return replace(
        found,
        size=found.size if image_size is None else image_size,
        crop_pct=found.crop_pct if crop_pct is None else crop_pct,
    )


def _trained_with(arch: str, weights: Weights | None, input_file: str | None) -> Preprocessing:
    if arch == SIMPLE_CNN:
        half = (0.5, 0.5, 0.5)
        return Preprocessing(mean=half, std=half, source="the simple CNN's own numbers")
    cfg = pretrained_cfg(arch)
    values = input_values({name: value for name, value in vars(cfg).items() if value is not None})
    if values.get("interpolation") not in INTERPOLATIONS:  # timm's "random" and the like
        values["interpolation"] = "bilinear"
    source = f"timm's configuration of {arch}"
    if weights is not None and weights.input:
        values, source = {**values, **weights.input}, str(weights.input.get("source", weights.source))
    elif input_file is not None:
        values, source = {**values, **read_input(Path(input_file))}, f"file {input_file}"
    return Preprocessing.from_dict({**values, "source": source})
