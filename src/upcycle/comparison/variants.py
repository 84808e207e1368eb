"""Variants of a comparison: named configurations, and which of their options have an effect."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upcycle.config import READING, Config, absolute, canonical, read_toml
from upcycle.errors import ConfigError
from upcycle.recipes import resolve

Options = Mapping[str, object]

TUNED_RATES = (1e-5, 3e-5, 1e-4, 3e-4)
"""Rates that constant-tuned tries; the one with the lowest validation loss is used."""
FREE_TO_CHANGE = ("cache", "checkpoint_every", "on_divergence", "workers")
"""Options that may differ when a run or a comparison resumes: they do not change a result."""
LONGEST_NAME = 100
"""Bytes of a variant's name, which is a part of file names."""

_SHARED = (*READING, "seed", "split_seed", "folds", "quarantine", "val_fraction", "test_fraction")
"""Options that are the same for all variants, or set by the comparison: no variant's file may set them."""
_VARIED = ("recipe", "lr", "schedule")
"""Options that variants differ in: they cannot be set for all of them."""
_ELSEWHERE = ("recipe", "seed", "split_seed", "threads", *FREE_TO_CHANGE)
"""Options that may differ between the seeds of one variant."""
_SHAPES = {
    "ramp-sustain-decay": ("lr_start", "lr_min", "rampup", "sustain", "decay", "momentum"),
    "one-cycle": ("pct_start", "div", "div_final", "anneal", "moms"),
    "constant": ("momentum",),
}
_ALWAYS = (
    *(name for name in _SHARED if name not in ("seed", "split_seed")),
    *("input", "image_size", "crop_pct", "scale", "arch", "weights", "class_weights", "precision", "device"),
    *("label_smoothing", "probe", "epochs"),
)
"""Options that have an effect on the probe alone as well."""


@dataclass(frozen=True)
class Variant:
    """A configuration with a name: `options` over its recipe; `rates` where its rate is chosen on validation.

    `title` is for tables, `description` a phrase. `ignores` names common options that it does not take.
    """

    name: str
    title: str
    description: str
    options: Options
    rates: tuple[float, ...] = ()
    ignores: tuple[str, ...] = ()

    def over(self, common: Options, *, seed: int, split_seed: int | None, lr: float | None = None) -> dict[str, object]:
        """The options of its run for one seed: its own over `common` ones over its recipe's."""
        shared = {name: value for name, value in common.items() if name not in self.ignores}
        own = {"lr": lr, "split_seed": split_seed}
        own = {name: value for name, value in own.items() if value is not None}
        return {"recipe": "default", **shared, **self.options, **own, "seed": seed}


_CONSTANT = {"recipe": "classic", "schedule": "constant"}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            "simple-cnn",
            "Simple CNN",
            "a small convolutional network trained from random weights",
            {"recipe": "simple-cnn"},
            ignores=("arch", "weights", "input", "freeze", "bn", "probe", "layer_decay"),
        ),
        Variant(
            "probe",
            "Frozen probe",
            "a linear classifier on the frozen pretrained network's features",
            {"recipe": "probe", "epochs": 0},
        ),
        Variant(
            "constant", "Constant rate", "all layers fine-tuned at a constant rate of 1e-4", {**_CONSTANT, "lr": 1e-4}
        ),
        Variant(
            "constant-tuned",
            "Constant rate, tuned",
            "all layers fine-tuned at the constant rate, of 1e-5, 3e-5, 1e-4 and 3e-4, with the lowest validation loss",
            _CONSTANT,
            rates=TUNED_RATES,
        ),
        Variant(
            "classic",
            "One-cycle, classic",
            "all layers fine-tuned with the article's ramp and decay of the rate",
            {"recipe": "classic"},
        ),
        Variant(
            "default",
            "upcycle's default",
            "the probe, then the upper layers fine-tuned with one-cycle, whichever validates better",
            {"recipe": "default"},
        ),
    )
}
"""The built-in variants, from the simplest to upcycle's default."""


def variants_of(names: Sequence[str]) -> tuple[Variant, ...]:
    """The variants that `names` mean: built-in ones, or TOML files of options, named by the file.

    ConfigError for an unknown name, a name used twice, or a file that sets what the comparison sets.
    """
    found = tuple(_variant(name) for name in names)
    doubled = {one.name for one in found if sum(one.name == other.name for other in found) > 1}
    if doubled:
        raise ConfigError(f"two variants are called {min(doubled)!r}. Give each its own name")
    if len(found) < 2:
        raise ConfigError(f"a comparison needs 2 or more variants: choose from {', '.join(VARIANTS)} and TOML files")
    return found


def _variant(name: str) -> Variant:
    if name in VARIANTS:
        return VARIANTS[name]
    if not name.endswith(".toml"):
        raise ConfigError(
            f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}, or name a TOML file of options"
        )
    path = Path(name)
    options = absolute(read_toml(path))
    shared = next((option for option in _SHARED if option in options), None)
    if shared:
        raise ConfigError(f"{path} sets {shared}, which is the same for all variants. Remove it from the file")
    try:
        resolve(options)
        if check_name(path.stem) in VARIANTS:
            raise ValueError
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValueError:
        raise ConfigError(
            f"{path}: a variant needs its own name of up to {LONGEST_NAME} bytes. Rename the file"
        ) from None
    return from_options(path.stem, options)


def check_name(name: str) -> str:
    """`name` if it can be a part of a folder's name; ValueError otherwise."""
    if not name.strip() or len(os.fsencode(name)) > LONGEST_NAME or {"/", "\\", "\0"} & set(name):
        raise ValueError(f"{name!r} cannot be a variant's name")
    return name


def check_common(options: Options) -> None:
    """ConfigError for a common option that variants differ in, or that the comparison sets itself."""
    varied = next((option for option in _VARIED if option in options), None)
    if varied:
        raise ConfigError(f"variants differ in {varied}: choose them with --variants, or write a TOML file")
    if options.get("folds"):
        raise ConfigError("a comparison has one test set, so it cannot cross-validate. Leave out --folds")
    if "split_seed" in options:
        raise ConfigError("all variants share the split that --seed decides. Leave out --split-seed")


def from_options(name: str, options: Options) -> Variant:
    """A variant as it was saved: a built-in one by its name, else the options of a user's own."""
    return VARIANTS.get(name) or Variant(name, name, f"the options of {name}.toml", dict(options))


# ------------------------------------------------------------------------------------- options with an effect


def effective(config: Config, resolved: Options | None = None) -> dict[str, object]:
    """The options that had an effect on a run; `resolved` has the values of those that were left out."""
    options = {name: value for name, value in config.to_dict().items() if name not in _ELSEWHERE}
    shaped = {name for names in _SHAPES.values() for name in names}
    unused = shaped - set(_SHAPES.get(config.schedule, ()))
    if not config.epochs:  # the probe alone
        unused = set(options) - set(_ALWAYS)
    if not config.probe:
        unused |= {"lr_adapt"}
    used = {name: value for name, value in options.items() if name not in unused and value is not None}
    return {**used, **(resolved or {})}


def without_effect(given: Options, config: Config) -> list[str]:
    """A line for each option that was given and that the schedule does not use."""
    schedules = {name: [kind for kind, names in _SHAPES.items() if name in names] for name in canonical(given)}
    return [
        f"{name} has no effect: it is for the schedule {' and '.join(kinds)}, and this one is {config.schedule}"
        for name, kinds in schedules.items()
        if kinds and config.schedule not in kinds
    ]


def differing(used: Mapping[str, Options]) -> dict[str, dict[str, object]]:
    """Options whose values differ between variants, by variant; an option without effect on a variant is missing.

    `used` has the effective options by variant. That the probe does not use fine-tuning's options is not a difference.
    """
    names = dict.fromkeys(name for options in used.values() for name in options)
    found: dict[str, dict[str, object]] = {}
    for name in names:
        values = {variant: options[name] for variant, options in used.items() if name in options}
        expected = [variant for variant, options in used.items() if options.get("epochs") or name in _ALWAYS]
        if set(expected) - values.keys() or len({repr(value) for value in values.values()}) > 1:
            found[name] = values
    return found
