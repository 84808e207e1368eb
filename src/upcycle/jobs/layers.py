"""How fast the layers of an architecture learn: its groups by depth, without its weights."""

from dataclasses import dataclass
from typing import Literal

from upcycle.config import Config
from upcycle.model.network import without_weights
from upcycle.model.sources import resolve_arch
from upcycle.training.optim import depth_groups, frozen_names, scaled_groups


@dataclass(frozen=True)
class Layers:
    """A group of layers: its rate is the schedule's times `scale`; `frozen` says whether it is trained at all.

    "near": frozen where the probe finds the task near the pretrained features, trained where it is far from them.
    """

    name: str
    scale: float
    frozen: Literal["no", "near", "yes"]


def layers_of(config: Config) -> tuple[Layers, ...]:
    """The groups from the head down; WeightsError for an unknown architecture, ConfigError for an unknown `freeze`."""
    body = without_weights(resolve_arch(config.arch))
    frozen = frozen_names(body, config.freeze)
    # as planning.decide has it: only a probe may find a task far
    kept: Literal["near", "yes"] = "near" if config.probe and config.freeze == "auto" else "yes"
    groups = scaled_groups(depth_groups(body), config.layer_decay)
    names = group_names([group for group, _ in groups])
    return tuple(
        Layers(name, scale, kept if frozen.issuperset(group) else "no")
        for name, (group, scale) in zip(names, groups, strict=True)
    )


def group_names(groups: list[list[str]]) -> list[str]:
    """The module that each group of parameters is, or the first and the last of several: layer4, conv1 … bn1."""
    found = []
    for at, group in enumerate(groups):
        module = _shared(group)
        others = (name for other in (*groups[:at], *groups[at + 1 :]) for name in other)
        alone = module and not any(name.startswith(f"{module}.") for name in others)
        found.append(module if alone else " … ".join(dict.fromkeys(map(_module, (group[0], group[-1])))))
    return found


def _shared(names: list[str]) -> str:
    """The module that all these parameters are below."""
    found = names[0].split(".")[:-1]
    for name in names[1:]:
        parts = name.split(".")[:-1]
        found = found[: next((at for at, part in enumerate(found) if parts[at : at + 1] != [part]), len(found))]
    return ".".join(found)


def _module(name: str) -> str:
    """A parameter's module, no deeper than the second level; its own name where it is the network's."""
    return ".".join(name.split(".")[:-1][:2]) or name
