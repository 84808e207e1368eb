"""What a comparison trains: variants, which are named configurations, and their grid with seeds as it is saved."""

import difflib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from upcycle.config import READING, absolute, canonical, read_toml
from upcycle.errors import ConfigError, RunError
from upcycle.recipes import FREE_TO_CHANGE, resolve
from upcycle.rundir import read_json, write_json

Options = Mapping[str, object]

TUNED_RATES = (1e-5, 3e-5, 1e-4, 3e-4)
"""Rates that constant-tuned tries; the one with the lowest validation loss is used."""
LONGEST_NAME = 100
"""Bytes of a variant's name, which is a part of file names."""
MOST_SEEDS = 100
SMALLEST_DIFFERENCE = 0.01
"""The difference of F1 that matters where nobody says."""

_SHARED = (*READING, "seed", "split_seed", "folds", "quarantine", "val_fraction", "test_fraction")
"""Options that are the same for all variants, or set by the comparison: no variant's file may set them."""
_VARIED = ("recipe", "lr", "schedule")
"""Options that variants differ in: they cannot be set for all of them."""


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

    def under(self, given: Options) -> dict[str, object]:
        """Its options with `given` ones over them, rate and schedule too."""
        shared = {name: value for name, value in given.items() if name not in self.ignores}
        return {"recipe": "default", **self.options, **shared}


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
            "probe-last",
            "Frozen probe, last stage",
            "a linear classifier on the features of the frozen network's last stage, of one view",
            {"recipe": "probe", "epochs": 0, "probe_layers": "last", "views": "none"},
        ),
        Variant(
            "probe",
            "Frozen probe",
            "a linear classifier on the frozen network's last stages",
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


def variants_of(names: Sequence[str], *, least: int = 2) -> tuple[Variant, ...]:
    """The variants that `names` mean, at least so many: built-in ones, or TOML files of options, named by the file.

    ConfigError for an unknown name, a name used twice, or a file that sets what the comparison sets.
    """
    found = tuple(_variant(name) for name in names)
    doubled = {one.name for one in found if sum(one.name == other.name for other in found) > 1}
    if doubled:
        raise ConfigError(f"two variants are called {min(doubled)!r}. Give each its own name")
    if len(found) < least:
        wanted = "a comparison needs 2 or more variants" if least > 1 else "no variant is named"
        raise ConfigError(f"{wanted}: choose from {', '.join(VARIANTS)} and TOML files")
    return found


def _variant(name: str) -> Variant:
    if name in VARIANTS:
        return VARIANTS[name]
    if not name.endswith(".toml"):
        near = difflib.get_close_matches(name, VARIANTS, n=1)
        meant = f". Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}, or name a TOML file of options{meant}"
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


# ------------------------------------------------------------------------------------------- grid


class _Saved(BaseModel):
    """What grid.json holds."""

    model_config = ConfigDict(strict=True)

    data: str
    common: Options
    seeds: list[Annotated[int, Field(ge=0, lt=2**31 + MOST_SEEDS)]] = Field(min_length=1, max_length=MOST_SEEDS)
    smallest_difference: float = Field(gt=0, le=1)
    variants: dict[Annotated[str, AfterValidator(check_name)], Options]
    command: str = ""


@dataclass(frozen=True)
class Grid:
    """What is compared: `variants` in order, `seeds`, the options that all share, and the difference that matters."""

    data: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    common: Options
    out: Path
    smallest_difference: float = SMALLEST_DIFFERENCE
    command: str = ""

    @property
    def runs(self) -> Path:
        """The folder of its run directories."""
        return self.out / "runs"

    @property
    def file(self) -> Path:
        """Where it is saved (JSON)."""
        return self.out / "grid.json"

    def to_dict(self) -> dict[str, object]:
        """What grid.json holds."""
        return {
            "data": str(self.data),
            "common": _plain(self.common),
            "seeds": list(self.seeds),
            "smallest_difference": self.smallest_difference,
            "variants": {variant.name: _plain(variant.options) for variant in self.variants},
            "command": self.command,
        }

    def save(self) -> None:
        """Write it down, so that it can resume."""
        write_json(self.file, self.to_dict())


def _plain(options: Options) -> Options:
    made: Options = json.loads(json.dumps(dict(options), default=str))
    return made


def read_grid(out: Path) -> Grid:
    """The grid saved in `out`; RunError when there is none, or it was written by an earlier version."""
    values = read_json(out / "grid.json")
    if isinstance(values, dict) and "variants" not in values:
        raise RunError(
            f"{out} was started by an earlier version and cannot resume. Compare its runs with "
            f"`upcycle compare {out}/runs/*`, or choose another --out"
        )
    try:
        saved = _Saved.model_validate(values)
    except ValidationError:
        raise RunError(f"{out / 'grid.json'} does not hold a comparison's grid. Choose another --out") from None
    return Grid(
        data=Path(saved.data),
        variants=tuple(from_options(name, options) for name, options in saved.variants.items()),
        seeds=tuple(saved.seeds),
        common=saved.common,
        out=out,
        smallest_difference=saved.smallest_difference,
        command=saved.command,
    )


def requested(
    data: Path | None,
    names: Sequence[str] | None,
    *,
    seeds: int | None,
    options: Options,
    goal: float | None,
    out: Path,
    resume: bool,
) -> Grid:
    """What a call of `compare` on images means; ConfigError or RunError for what it cannot mean.

    With `resume` whatever is left out is as the comparison in `out` was started; whatever is given has to agree.
    """
    given = absolute(canonical(options))
    check_common(given)
    saved = _saved(out, resume=resume)
    if data is None and saved is None:
        raise ConfigError("say what to compare: upcycle compare DATA, or upcycle compare RUN RUN ...")
    first = given.pop("seed", None)
    if saved is not None:
        now = replace(
            saved,
            data=saved.data if data is None else data.resolve(),
            variants=saved.variants if names is None else variants_of(names),
            seeds=seeds_from(saved.seeds[0] if first is None else first, len(saved.seeds) if seeds is None else seeds),
            common={**saved.common, **given},
            smallest_difference=goal or saved.smallest_difference,
        )
        return resumed(saved, now)
    assert data is not None
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"{out} lies inside {data}. Choose another --out")
    return Grid(
        data=data.resolve(),
        variants=tuple(VARIANTS.values()) if names is None else variants_of(names),
        seeds=seeds_from(first or 0, 3 if seeds is None else seeds),
        common=given,
        out=out,
        smallest_difference=goal or SMALLEST_DIFFERENCE,
    )


def check_folder(out: Path) -> None:
    """RunError for a file where a comparison's folder should be."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file. Choose another --out")


def _saved(out: Path, *, resume: bool) -> Grid | None:
    """The grid saved in `out`, to be resumed; None where it is empty. RunError when it is in the way."""
    check_folder(out)
    if not out.exists() or not any(out.iterdir()):
        return None
    if not resume:
        command = shlex.join(["upcycle", "compare", "--out", str(out), "--resume"])
        raise RunError(f"{out} already exists. Resume it with `{command}`, or choose another --out")
    return read_grid(out)


def seeds_from(first: object, count: int) -> tuple[int, ...]:
    """`count` seeds from `first`; ConfigError when that is none, too many or no number."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise ConfigError(f"seeds = {count!r} is not a whole number")
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(f"seeds = {count} is out of range: use 1 to {MOST_SEEDS}")
    start = resolve({"seed": first}).seed
    return tuple(range(start, start + count))


def resumed(saved: Grid, now: Grid) -> Grid:
    """`now`, if it is `saved` but for options that change no result; RunError, naming the difference, otherwise."""
    before, after = (
        replace(grid, command="", common={k: v for k, v in grid.common.items() if k not in FREE_TO_CHANGE}).to_dict()
        for grid in (saved, now)
    )
    name = next((name for name in before if before[name] != after[name]), None)
    if name is not None:
        label = {"data": "DATA", "common": "options"}.get(name, name.replace("_", " "))
        raise RunError(f"{now.out} was started with {label} {before[name]}, not {after[name]}. Choose another --out")
    return replace(now, common={**saved.common, **now.common}, command=saved.command)
