"""Which options had an effect on a run, and in which of them the rungs of a comparison differ."""

from collections.abc import Mapping
from typing import Any

from upcycle.config import FACTS, Config, canonical

Values = dict[str, Any]

FREE_TO_CHANGE = ("cache", "checkpoint_every", "on_divergence", "workers")
"""Options that may differ when a run or a grid goes on: they change no result, or only that of a run without one."""
OF_THE_MACHINE = ("seed", "split_seed", "threads", *FREE_TO_CHANGE)
"""Options that may differ between the seeds of one recipe."""
_ELSEWHERE = ("recipe", *OF_THE_MACHINE, *FACTS, "more_epochs")
_SHAPES = {
    "ramp-sustain-decay": ("lr_start", "lr_min", "rampup", "sustain", "decay", "momentum"),
    "one-cycle": ("pct_start", "div", "div_final", "anneal", "moms"),
    "constant": ("momentum",),
}
OF_THE_TASK = (
    "val_fraction",
    "test_fraction",
    "train_split",
    "val_split",
    "test_split",
    "classes_at",
    "drop_empty_classes",
    "regroup",
    "image_root",
    "image_suffix",
    "path_column",
    "label_column",
    "split_column",
    "group_column",
    "quarantine",
    "folds",
    "input",
    "image_size",
    "crop_pct",
    "scale",
    "arch",
    "weights",
    "class_weights",
    "precision",
    "device",
)
"""Options that say what is learned, on what and from where; a recipe stays what it is under any of them."""
_ALWAYS = (*OF_THE_TASK, "label_smoothing", "probe", "epochs")
"""Options that count for the probe alone as well."""


def effective(config: Mapping[str, Any], resolved: Mapping[str, Any] | None = None) -> Values:
    """The options of a run that had an effect on it, those in `resolved` as what was left out came to be."""
    options = {name: value for name, value in config.items() if name not in _ELSEWHERE}
    shaped = {name for names in _SHAPES.values() for name in names}
    unused = shaped - set(_SHAPES.get(str(options.get("schedule")), ()))
    if not options.get("epochs"):  # the probe alone
        unused = set(options) - set(_ALWAYS)
    if not options.get("probe"):
        unused |= {"lr_adapt"}
    kept = {name: value for name, value in options.items() if name not in unused and value is not None}
    return {**kept, **(resolved or {})}


def without_effect(given: Mapping[str, Any], config: Config) -> list[str]:
    """A line for each option that was given and that the schedule does not read."""
    schedules = {name: [kind for kind, names in _SHAPES.items() if name in names] for name in canonical(given)}
    return [
        f"{name} has no effect: it is for the schedule {' and '.join(kinds)}, and this one is {config.schedule}"
        for name, kinds in schedules.items()
        if kinds and config.schedule not in kinds
    ]


def deciding(config: Mapping[str, Any]) -> Values:
    """What decides how a run comes out on one machine: two runs alike in this are one."""
    seed, split_seed = config.get("seed", 0), config.get("split_seed")
    return {**effective(config), "seed": seed, "split_seed": seed if split_seed is None else split_seed}


def way(config: Mapping[str, Any]) -> Values:
    """What makes a recipe: the options that had an effect, without those of the task and the machine."""
    return {name: value for name, value in effective(config).items() if name not in OF_THE_TASK}


def differing(used: Mapping[str, Values]) -> dict[str, Values]:
    """Options whose values differ between rungs, by rung; an option that a rung makes no use of is missing.

    `used` has the effective options by rung. That the probe alone makes no use of fine-tuning's
    options is no difference in each of them.
    """
    names = dict.fromkeys(name for options in used.values() for name in options)
    found: dict[str, Values] = {}
    for name in names:
        values = {rung: options[name] for rung, options in used.items() if name in options}
        expected = [rung for rung, options in used.items() if options.get("epochs") or name in _ALWAYS]
        if set(expected) - values.keys() or len({repr(value) for value in values.values()}) > 1:
            found[name] = values
    return found
