"""The rungs of a comparison: named configurations, each of which adds a choice to the one before."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upcycle.config import absolute, read_toml
from upcycle.errors import ConfigError
from upcycle.recipes import resolve

TUNED_RATES = (1e-5, 3e-5, 1e-4, 3e-4)
"""Rates that constant-tuned chooses from, by validation loss."""
FIRST_RATE = 1e-4
"""It begins with the one of the rung constant."""
OF_THE_GRID = (
    *("seed", "split_seed", "folds", "train_split", "val_split", "test_split", "classes_at", "drop_empty_classes"),
    *("regroup", "image_root", "image_suffix", "path_column", "label_column", "split_column", "group_column"),
    *("quarantine", "val_fraction", "test_fraction"),
)
"""Options that are the same for all rungs, or set by the grid: no rung of a user's own may set them."""
OF_THE_RUNGS = ("recipe", "lr", "schedule")
"""Options that rungs differ in: none for all of them may be set."""

LONGEST_NAME = 100
"""Bytes of a rung's name, which is a part of file names."""


@dataclass(frozen=True)
class Rung:
    """A configuration with a name: `options` over its recipe; `rates` where its rate is chosen on validation.

    `rates` ascend. `title` stands in tables, `does` is what it is, in a phrase. `ignores` names common options it does
    not take, `file` the TOML file that it was read from.
    """

    name: str
    title: str
    does: str
    options: Mapping[str, Any]
    rates: tuple[float, ...] = ()
    ignores: tuple[str, ...] = ()
    file: str = ""

    @property
    def middle(self) -> int:
        """Where in `rates` the first to try is: that of the rung constant, or the one nearest to it."""
        return min(range(len(self.rates)), key=lambda at: abs(math.log(self.rates[at] / FIRST_RATE)))

    def over(
        self, common: Mapping[str, Any], *, seed: int, split_seed: int | None, lr: float | None = None
    ) -> dict[str, Any]:
        """The options of its run for one seed: `common` ones over the recipe's, what makes the rung over both."""
        shared = {name: value for name, value in common.items() if name not in self.ignores}
        own = {"lr": lr, "split_seed": split_seed}
        own = {name: value for name, value in own.items() if value is not None}
        return {"recipe": "default", **shared, **self.options, **own, "seed": seed}


_CONSTANT = {"recipe": "classic", "schedule": "constant"}

RUNGS = {
    rung.name: rung
    for rung in (
        Rung(
            "simple-cnn",
            "Simple CNN",
            "a small convolutional network trained from random weights",
            {"recipe": "simple-cnn"},
            ignores=("arch", "weights", "input", "freeze", "bn", "probe", "layer_decay"),
        ),
        Rung(
            "probe",
            "Frozen probe",
            "a linear classifier on the frozen pretrained network's features",
            {"recipe": "probe", "epochs": 0},
        ),
        Rung(
            "constant", "Constant rate", "all layers fine-tuned at a constant rate of 1e-4", {**_CONSTANT, "lr": 1e-4}
        ),
        Rung(
            "constant-tuned",
            "Constant rate, tuned",
            "all layers fine-tuned at the constant rate, of 1e-5, 3e-5, 1e-4 and 3e-4, with the lowest validation loss "
            "(1e-4 and its neighbours are tried; 1e-5 if 3e-5 was the best of them)",
            _CONSTANT,
            rates=TUNED_RATES,
        ),
        Rung(
            "classic",
            "One-cycle, classic",
            "all layers fine-tuned with the article's ramp and decay of the rate",
            {"recipe": "classic"},
        ),
        Rung(
            "default",
            "upcycle's default",
            "the probe, then the upper layers fine-tuned with one-cycle, whichever validates better",
            {"recipe": "default"},
        ),
    )
}
"""The article's ladder and upcycle's own recipe, in order."""


def rungs(names: Sequence[str]) -> tuple[Rung, ...]:
    """The rungs that `names` mean: built-in ones, or TOML files of options, named by the file.

    ConfigError for an unknown name, two of the same name, or a file that sets what the grid sets.
    """
    found = tuple(_rung(name) for name in names)
    doubled = {rung.name for rung in found if sum(rung.name == other.name for other in found) > 1}
    if doubled:
        raise ConfigError(f"two rungs are called {min(doubled)!r}: give each a name of its own")
    if len(found) < 2:
        raise ConfigError(f"a comparison needs 2 or more rungs: choose from {', '.join(RUNGS)} and TOML files")
    return found


def _rung(name: str) -> Rung:
    if name in RUNGS:
        return RUNGS[name]
    if not name.endswith(".toml"):
        raise ConfigError(f"unknown rung {name!r}: choose from {', '.join(RUNGS)}, or name a TOML file of options")
    path = Path(name)
    options = absolute(read_toml(path))
    taken = next((option for option in OF_THE_GRID if option in options), None)
    if taken:
        raise ConfigError(f"{path} sets {taken}, which a comparison sets for all rungs alike: take it out")
    try:
        resolve(options)
        if check_name(path.stem) in RUNGS:
            raise ValueError
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValueError:
        raise ConfigError(
            f"{path}: a rung has a name of its own of up to {LONGEST_NAME} bytes: rename the file"
        ) from None
    return Rung(path.stem, path.stem, f"the options of {path.name}", options, file=str(path))


def check_name(name: str) -> str:
    """`name` if it can be a part of a folder's name; ValueError otherwise."""
    if not name.strip() or len(os.fsencode(name)) > LONGEST_NAME or {"/", "\\", "\0"} & set(name):
        raise ValueError(f"{name!r} is no name of a rung")
    return name


def check_common(options: Mapping[str, Any]) -> None:
    """ConfigError for a common option that rungs differ in, or that the grid sets itself."""
    taken = next((option for option in OF_THE_RUNGS if option in options), None)
    if taken:
        raise ConfigError(
            f"{taken} is what the rungs of a comparison differ in: name them with --rungs, or write a TOML file"
        )
    if options.get("folds"):
        raise ConfigError("a comparison has one test set: leave --folds out")
    if "split_seed" in options:
        raise ConfigError("all rungs share the split that --seed decides: leave --split-seed out")


def from_options(name: str, options: Mapping[str, Any], file: str = "") -> Rung:
    """A rung as a grid has written it down: a built-in one by its name, else the options of a user's own."""
    return RUNGS.get(name) or Rung(name, name, f"the options of {name}.toml", dict(options), file=file)
