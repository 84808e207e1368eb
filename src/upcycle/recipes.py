"""Named configurations, and which of their options have an effect."""

from collections.abc import Mapping
from typing import Any

from upcycle.config import AUTO_RATE, CUSTOM, READING, Config, build, canonical
from upcycle.errors import ConfigError

FREE_TO_CHANGE = ("cache", "cache_budget", "checkpoint_every", "on_divergence", "workers")
"""Options that may differ when a run or a comparison resumes: they do not change a result."""
_ELSEWHERE = ("recipe", "seed", "split_seed", "threads", *FREE_TO_CHANGE)
"""Options that may differ between the seeds of one variant."""
_SHAPES = {
    "ramp-sustain-decay": ("lr_start", "lr_min", "rampup", "sustain", "decay", "momentum"),
    "one-cycle": ("pct_start", "div", "div_final", "anneal", "moms", "three_phase"),
    "warmup-stable-decay": ("warmup", "cooldown", "cooldown_shape", "div", "div_final", "momentum"),
    "cosine": ("warmup", "div", "div_final", "momentum"),
    "linear": ("warmup", "div", "div_final", "momentum"),
    "step": ("step_size", "gamma", "momentum"),
    "constant": ("momentum",),
}
_STOPPING = ("cooldown", "cooldown_shape")
"""Those that a run which is stopped uses too."""
_ALWAYS = (
    *READING,
    *("folds", "quarantine", "val_fraction", "test_fraction"),
    *("input", "image_size", "crop_pct", "scale", "arch", "weights", "class_weights", "precision", "device"),
    *("label_smoothing", "probe", "probe_layers", "refit", "views", "epochs"),
)
"""Options that have an effect on the probe alone as well."""
_OF_PROBES = ("lr_adapt", "fine_tune", "min_updates", "ema_decay", "probe_layers", "refit")
"""Options that have none without a probe."""

RECIPES: Mapping[str, Mapping[str, object]] = {
    # Config's own defaults.
    "default": {},
    # The article "Fine-tuning pre-trained ResNet-50 with one-cycle learning rate" (Transfer Learning in
    # Action); docs/training.md lists what it leaves unsaid and what is taken for it.
    "classic": {
        "epochs": 100,
        "probe": False,
        "views": "none",
        "batch_size": 32,
        "schedule": "ramp-sustain-decay",
        "lr": 1e-4,
        "lr_start": 1e-5,
        "lr_min": 1e-5,
        "rampup": 5,
        "sustain": 0,
        "decay": 0.8,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "momentum": 0.9,
        "beta2": 0.999,
        "eps": 1e-7,
        "layer_decay": 1.0,
        "clip_grad": 0.0,
        "ema_decay": 0.0,
        "freeze": "none",
        "bn": "train",
        "augment": "none",
        "monitor": "val_loss",
        "patience": 5,
        "cooldown": 0.0,
    },
    # A linear classifier on the frozen network's features, and nothing else.
    "probe": {"epochs": 0},
    # The article's baseline: a small network from scratch, with a rate that suits it.
    "simple-cnn": {
        "arch": "simple-cnn",
        "weights": "none",
        "epochs": 100,
        "probe": False,
        "views": "none",
        "schedule": "constant",
        "lr": 1e-3,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "beta2": 0.999,
        "eps": 1e-7,
        "layer_decay": 1.0,
        "clip_grad": 0.0,
        "ema_decay": 0.0,
        "freeze": "none",
        "bn": "train",
        "augment": "none",
        "patience": 5,
    },
}


DEFAULT_RATE = 1e-3
"""The highest rate of a recipe that names none."""


def resolve(options: Mapping[str, Any], recipe: str | None = None) -> Config:
    """The configuration of a recipe with `options` laid over it.

    ConfigError for an unknown recipe or option, or a value out of range.
    """
    named = canonical(options)
    name = recipe or named.get("recipe", "default")
    if not isinstance(name, str) or name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    exact = _exact({**RECIPES[name], **_from_scratch(name, named), **named})
    return build({**RECIPES[name], **exact, **_from_scratch(name, named), **named, "recipe": name})


def _exact(chosen: Mapping[str, Any]) -> dict[str, object]:
    """What the probe no longer decides: a rate that is named is the rate, and epochs that are named are trained."""
    probed = chosen.get("probe", True) is not False
    fixed = "epochs" in chosen or not probed or chosen.get("schedule") == CUSTOM
    return {
        **({"lr_adapt": False} if chosen.get("lr", AUTO_RATE) != AUTO_RATE else {}),
        **({"min_updates": 0} if fixed else {}),
        **({"fine_tune": "always"} if chosen.get("epochs") else {}),
        **({} if probed else {"ema_decay": 0.0}),
    }


def _from_scratch(name: str, named: Mapping[str, Any]) -> dict[str, object]:
    """What changes without pretrained weights: nothing is worth freezing, no features are worth a probe."""
    if named.get("weights", RECIPES[name].get("weights")) != "none":
        return {}
    return {"probe": False, "freeze": "none", "bn": "train", "layer_decay": 1.0}


def peak_rate(config: Config) -> float:
    """The highest rate as a number: `lr`, or where a range test is to pick it, the recipe's own until it has."""
    if not isinstance(config.lr, str):
        return config.lr
    own = RECIPES[config.recipe].get("lr", DEFAULT_RATE)
    assert isinstance(own, float)
    return own


def effective(config: Config, resolved: Mapping[str, object] | None = None) -> dict[str, object]:
    """The options that had an effect on a run; `resolved` has the values of those that were left out."""
    options = {name: value for name, value in config.to_dict().items() if name not in _ELSEWHERE}
    shaped = {name for names in _SHAPES.values() for name in names}
    unused = shaped - set(_SHAPES.get(config.schedule, ())) - set(_STOPPING if config.patience else ())
    if not config.tunes:  # the probe alone
        unused = set(options) - set(_ALWAYS)
        options["epochs"] = 0
    if not config.probe:
        unused |= set(_OF_PROBES)
    used = {name: value for name, value in options.items() if name not in unused and value is not None}
    return {**used, **(resolved or {})}


def without_effect(given: Mapping[str, object], config: Config) -> list[str]:
    """A line for each option that was given and that the run does not use: its schedule is another, or no probe."""
    named = canonical(given)
    schedules = {name: [kind for kind, names in _SHAPES.items() if name in names] for name in named}
    of_probes = [name for name in _OF_PROBES[1:] if named.get(name) not in (None, 0) and not config.probe]
    return [f"{name} has no effect: it is for runs with a probe" for name in of_probes] + [
        f"{name} has no effect: it is for the schedule {' and '.join(kinds)}, and this one is {config.schedule}"
        for name, kinds in schedules.items()
        if kinds and config.schedule not in kinds and name not in _STOPPING
    ]


def differing(used: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
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
