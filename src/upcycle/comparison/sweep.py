"""What a comparison trains: its grid of variants and seeds as it is saved, its cells, and what of them is finished."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from upcycle.comparison.results import SMALLEST_DIFFERENCE
from upcycle.comparison.runs import FailedSeed, FinishedRun, VariantRuns, digest, entries, read_history, read_run
from upcycle.comparison.variants import (
    FREE_TO_CHANGE,
    VARIANTS,
    Options,
    Variant,
    check_common,
    check_name,
    effective,
    from_options,
    variants_of,
)
from upcycle.config import Config, absolute, canonical
from upcycle.errors import ConfigError, RunError
from upcycle.recipes import resolve
from upcycle.rundir import RunDir, read_json, write_json

MOST_SEEDS = 100


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
    smallest_difference: float = 0.01
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


# ---------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """One training of the grid: a variant with a seed, at the rate `lr` where the variant has several to choose from.

    `config` is resolved from `options`; `path` is its run directory.
    """

    variant: Variant
    seed: int
    options: Mapping[str, object]
    config: Config
    path: Path
    lr: float | None = None

    def __str__(self) -> str:
        rate = "" if self.lr is None else f" at rate {self.lr:g}"
        return f"{self.variant.name}{rate}, seed {self.seed}"


class Sweep:
    """The cells of a grid and how far they are: what is finished is read from the run directories.

    Cells with the same configuration, of whatever variant, are one run. `failed` has the reasons by run directory.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.failed: dict[Path, str] = {}
        self._paths: dict[str, Path] = {}
        self._facts: dict[str, tuple[Path, str]] = {}
        # in one fixed order, so that cells that are the same run get the name of the variant that comes first
        for variant in grid.variants:
            for seed in grid.seeds if not variant.rates else ():
                self._cell(variant, seed)
        for variant in grid.variants:
            self.trials(variant)

    def _cell(self, variant: Variant, seed: int, lr: float | None = None) -> Cell:
        """A cell; all share the split of the first seed. ConfigError, naming the variant, if it cannot be trained."""
        first = self.grid.seeds[0]
        options = variant.over(self.grid.common, seed=seed, split_seed=None if seed == first else first, lr=lr)
        try:
            config = resolve(options)
        except ConfigError as error:
            raise ConfigError(f"variant {variant.name}: {error}") from None
        key = json.dumps({**effective(config), "seed": seed}, sort_keys=True, default=str)
        rate = "" if lr is None else f"-rate-{lr:g}"
        path = self._paths.setdefault(key, self.grid.runs / f"{variant.name}{rate}-seed-{seed}")
        return Cell(variant, seed, options, config, path, lr)

    def trials(self, variant: Variant) -> tuple[Cell, ...]:
        """The cells that a variant's rate is chosen from, one per rate, with the first seed."""
        return tuple(self._cell(variant, self.grid.seeds[0], lr) for lr in variant.rates)

    def cells(self, variant: Variant) -> tuple[Cell, ...]:
        """The cells of a variant, one per seed; none until its rate is chosen."""
        lr = self.rate(variant)
        if variant.rates and lr is None:
            return ()
        return tuple(self._cell(variant, seed, lr) for seed in self.grid.seeds)

    def rate(self, variant: Variant) -> float | None:
        """The rate whose trial has the lowest validation loss; None until every trial has finished or failed."""
        trials = self.trials(variant)
        finished = [cell for cell in trials if self.finished(cell)]
        if not finished or not all(self.done(cell) for cell in trials):
            return None
        return min(finished, key=lambda cell: _lowest_loss(RunDir(cell.path))).lr

    def finished(self, cell: Cell) -> bool:
        """Whether its run is finished; RunError when other images, another split or other weights were used."""
        run = RunDir(cell.path)
        if not run.is_run() or run.status()["state"] != "finished":
            return False
        if not (run.config.exists() and run.evaluation.exists() and run.predictions("test").exists()):
            return False  # tested again from its best weights
        source, seen = entries(run.config), entries(run.model).get("preprocessing", {})
        seen = {name: value for name, value in seen.items() if name != "source"} if isinstance(seen, dict) else {}
        facts = {
            "images": source.get("data"),
            "images or split": digest(run.splits),
            f"weights {cell.config.weights} of {cell.config.arch}": source.get("weights_sha256"),
            f"input for the variant {cell.variant.name}": json.dumps(seen, sort_keys=True),
        }
        for name, value in facts.items():
            first, text = self._facts.setdefault(name, (run.root, str(value)))
            if text != str(value):
                raise RunError(f"{run.root} and {first} were trained with other {name}. Choose another --out")
        return True

    def done(self, cell: Cell) -> bool:
        """Whether its run is finished, or has failed."""
        return cell.path in self.failed or self.finished(cell)

    def progress(self) -> tuple[int, int, float | None]:
        """Runs that are done, runs in all, and the seconds left; None while a variant to come is not timed yet."""
        done, total, left = 0, 0, 0.0
        counted: set[Path] = set()
        timed = True
        for variant in self.grid.variants:
            cells = {cell.path: cell for cell in (*self.trials(variant), *self.cells(variant))}
            cells = {path: cell for path, cell in cells.items() if path not in counted}
            counted |= cells.keys()
            unchosen = len(self.grid.seeds) - 1 if variant.rates and self.rate(variant) is None else 0
            finished = [path for path, cell in cells.items() if self.finished(cell)]
            ended = {*finished, *(cells.keys() & self.failed.keys())}
            done, total = done + len(ended), total + len(cells) + unchosen
            waiting = len(cells) - len(ended) + unchosen
            timed = timed and bool(finished or not waiting)
            if finished:
                left += waiting * mean(float(RunDir(path).status().get("seconds") or 0.0) for path in finished)
        return done, total, left if timed else None

    def groups(self) -> list[VariantRuns]:
        """The finished runs of each variant, its failures and its trials; a damaged run counts as failed."""
        return [self._group(variant) for variant in self.grid.variants]

    def _group(self, variant: Variant) -> VariantRuns:
        trials, cells = self.trials(variant), self.cells(variant)
        tried, runs = (tuple(run for cell in some if (run := self._read(cell))) for some in (trials, cells))
        failed = {cell.path: cell.seed for cell in (*trials, *cells) if cell.path in self.failed}
        return VariantRuns(
            variant.name,
            variant.title,
            variant.description,
            runs,
            failed=tuple(FailedSeed(seed, self.failed[path]) for path, seed in failed.items()),
            trials=tried,
            lr=self.rate(variant),
        )

    def _read(self, cell: Cell) -> FinishedRun | None:
        try:
            return read_run(cell.path) if self.finished(cell) else None
        except RunError as error:
            self.failed[cell.path] = str(error)
            return None


def _lowest_loss(run: RunDir) -> float:
    """The lowest validation loss of a run's last phase; infinite where there is none, or the loss had exploded."""
    rows = read_history(run)
    if not rows or rows[-1].retries:
        return math.inf
    losses = [row.val_loss for row in rows if row.phase == rows[-1].phase and math.isfinite(row.val_loss)]
    return min(losses, default=math.inf)
