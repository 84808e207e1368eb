"""Comparing: train what is missing of a grid of variants and seeds, or take runs that exist; nothing here loads torch.

What of the grid is finished is read from the run directories. What trains is imported when something is trained:
comparing runs that exist starts without it.
"""

import contextlib
import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal, Unpack

from upcycle.comparison.results import FILE, PAGE, About, Comparison
from upcycle.comparison.runs import (
    FailedSeed,
    FinishedRun,
    VariantRuns,
    digest,
    entries,
    grouped,
    read_history,
    read_run,
)
from upcycle.comparison.summary import summarize
from upcycle.comparison.variants import SMALLEST_DIFFERENCE, Grid, Variant, check_folder, requested
from upcycle.config import IMAGES, Config, canonical, expanded, path_or_none, read_toml
from upcycle.errors import ConfigError, RunError, StorageError, UpcycleError, counted
from upcycle.jobs.on_ray import cluster, driver_machine
from upcycle.jobs.start import begin, name_of, removed_unless_started, reserve, spelled
from upcycle.options import TrainOptions
from upcycle.recipes import effective, resolve
from upcycle.reporting.comparison_page import comparison_table, write_page
from upcycle.reporting.progress import Display, default_show
from upcycle.reporting.text import clock
from upcycle.rundir import RunDir, locked

if TYPE_CHECKING:
    from upcycle.data.index import Index


def compare(
    *paths: Path | str,
    variants: Sequence[str] | None = None,
    seeds: int | None = None,
    smallest_difference: float | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    config: Path | str | None = None,
    augment: Literal["auto", "light", "square", "none"] | None = None,
    on: str | None = None,
    show: Display | None = None,
    **options: Unpack[TrainOptions],
) -> Comparison:
    """Train variants on one split and compare them, or compare runs that exist.

    `upcycle.compare("photos/", variants=["probe", "default"], seeds=5, arch="resnet50")` trains;
    `upcycle.compare("runs/a", "runs/b")` does not. `smallest_difference` is in points of F1: what
    would matter to you (1 if left out). `on`: "ray" trains on the nodes of a Ray cluster, see `upcycle.jobs.on_ray`.
    Raises an UpcycleError with one line that says what is wrong.
    """
    goal = _share(smallest_difference)
    file = path_or_none(config, "one TOML file")
    said: dict[str, Any] = {**options, **({} if augment is None else {"augment": augment})}
    given = {**read_toml(file), **canonical(said)} if file else said
    places = [expanded(path, f"{IMAGES}, or runs one by one") for path in paths]
    folder = path_or_none(out, "one folder")
    show = show or default_show()
    if len(places) > 1 or any(RunDir(path).is_run() for path in places):
        others = {"variants": variants, "seeds": seeds, "resume": resume or None, "on": on}
        unused = [*given, *(name for name, value in others.items() if value is not None)]
        if unused:
            raise ConfigError(f"{unused[0]} is for training, and runs that exist are not trained again. Leave it out")
        return _compare_runs(places, folder, goal or SMALLEST_DIFFERENCE, show)
    if resume and folder is None:
        raise ConfigError("--resume needs --out DIR, the comparison to resume")
    data = places[0] if places else None
    place = folder or reserve(name_of(data or Path(), "compare"))
    with removed_unless_started(place, reserved=folder is None):
        grid = requested(data, variants, seeds=seeds, options=given, goal=goal, out=place, resume=resume)
        return run_grid(grid if grid.command else replace(grid, command=_command(grid, variants)), show, on)


def _share(points: float | None) -> float | None:
    """Points of F1 as a share; ConfigError for what is not a number of points."""
    if isinstance(points, bool) or not isinstance(points, int | float | None):
        raise ConfigError(f"smallest_difference = {points!r} is not a number of points")
    if points is not None and not 0 < points <= 100:
        raise ConfigError(f"smallest_difference = {points} is out of range: use points above 0, up to 100")
    return None if points is None else points / 100


def _compare_runs(paths: Sequence[Path], out: Path | None, goal: float, show: Display) -> Comparison:
    groups = grouped([read_run(path) for path in paths])
    folder = out or reserve("compare")
    with removed_unless_started(folder, reserved=out is None):
        check_folder(folder)
        ours = (folder / FILE).is_file() and not (folder / "grid.json").exists()
        if folder.exists() and any(folder.iterdir()) and not ours:
            raise RunError(f"{folder} is not empty and not a comparison of runs. Choose another --out")
        data = {run.facts.data for group in groups for run in group.runs}
        words = ["upcycle", "compare", *map(str, paths), "--out", str(folder)]
        words += ["--smallest-difference", f"{100 * goal:g}"]
        return _summarize(groups, folder, About(data.pop() if len(data) == 1 else None, shlex.join(words)), goal, show)


def _summarize(groups: Sequence[VariantRuns], out: Path, about: About, goal: float, show: Display) -> Comparison:
    """Compare, write the result and its page, and show the table."""
    about = replace(about, created=time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    # the working directory may change before the result is used
    comparison = summarize(groups, folder=out.absolute(), smallest_difference=goal, about=about)
    comparison.save()
    for run in (run for group in groups for run in group.runs):
        RunDir(run.path).note_test_read("compare")
    write_page(comparison)
    show.table(comparison_table(comparison))
    show.message(f"comparison: {out / PAGE}")
    return comparison


# ------------------------------------------------------------------------------------------- grid


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

    def ready(self) -> list[Cell]:
        """The cells that are not done and can be trained now: each run once, those that a rate is chosen from first."""
        trials = [cell for variant in self.grid.variants for cell in self.trials(variant)]
        cells = [cell for variant in self.grid.variants for cell in self.cells(variant)]
        waiting = {
            cell.path: cell for cell in (*trials, *sorted(cells, key=lambda cell: self.grid.seeds.index(cell.seed)))
        }
        return [cell for cell in waiting.values() if not self.done(cell)]

    def fail(self, cell: Cell, reason: str, show: Display) -> None:
        """Keep why a run failed, and say so."""
        self.failed[cell.path] = reason
        show.warn(f"{cell} failed: {reason}")

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
        groups = []
        for variant in self.grid.variants:
            trials, cells = self.trials(variant), self.cells(variant)
            tried, runs = (tuple(run for cell in some if (run := self._read(cell))) for some in (trials, cells))
            failed = {cell.path: cell.seed for cell in (*trials, *cells) if cell.path in self.failed}
            group = VariantRuns(
                variant.name,
                variant.title,
                variant.description,
                runs,
                failed=tuple(FailedSeed(seed, self.failed[path]) for path, seed in failed.items()),
                trials=tried,
                lr=self.rate(variant),
            )
            groups.append(group)
        return groups

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


def _command(grid: Grid, names: Sequence[str] | None) -> str:
    """The command that trains the same grid."""
    named = ",".join(names or [variant.name for variant in grid.variants])
    words = ["upcycle", "compare", str(grid.data), "--variants", named, "--seeds", str(len(grid.seeds))]
    words += ["--seed", str(grid.seeds[0]), "--smallest-difference", f"{100 * grid.smallest_difference:g}"]
    return shlex.join([*words, *spelled(grid.common), "--out", str(grid.out)])


def run_grid(grid: Grid, show: Display, on: str | None = None) -> Comparison:
    """Train every run of the grid that is missing, and compare.

    On this machine a seed of all variants after the other, with a comparison after each; on a Ray cluster (`on`) all
    runs that can be trained at once. A run that fails is reported beside the others; a disk that cannot be written
    stops everything.
    """
    sweep = Sweep(grid)
    comparison = None
    try:
        with contextlib.ExitStack() as stack:
            ray = stack.enter_context(cluster(on)) if on else None
            index = _checked(sweep, show, elsewhere=ray is not None)
            sweep.progress()  # refuses finished runs of other images, split or weights
            stack.enter_context(locked(grid.out))
            grid.save()
            rounds = _trained_on(ray, sweep, index, show) if ray else _trained_here(sweep, index, show)
            for _ in rounds:
                groups = sweep.groups()
                if sum(bool(group.runs) for group in groups) >= 2:
                    about = About(str(grid.data), grid.command)
                    comparison = _summarize(groups, grid.out, about, grid.smallest_difference, show)
    except KeyboardInterrupt:
        again = ["upcycle", "compare", "--out", str(grid.out), "--resume", *(["--on", on] if on else [])]
        show.message(f"to resume: {shlex.join(again)}")
        raise
    if comparison is None:
        place, reason = next(iter(sweep.failed.items()))
        raise UpcycleError(
            f"nothing to compare: {counted(len(sweep.failed), 'run')} failed, first {place.name}: {reason}"
        )
    return comparison


def _checked(sweep: Sweep, show: Display, *, elsewhere: bool) -> "Index":
    """The scanned images; raises for what would make every run of a variant fail, where it is trained here."""
    from upcycle.jobs.prepare import machine_of, read_index
    from upcycle.model.sources import get_weights, resolve_arch

    grid = sweep.grid
    configs = [(sweep.trials(variant) or sweep.cells(variant))[0].config for variant in grid.variants]
    index = read_index(grid.data, configs[0], (driver_machine if elsewhere else machine_of)(configs[0]), show)
    if not configs[0].test_fraction and not (index.declared == "test").any():
        raise ConfigError("test_fraction = 0 leaves no test set, and a comparison needs one: give a fraction above 0")
    for arch, weights in dict.fromkeys((config.arch, config.weights) for config in configs):
        get_weights(resolve_arch(arch), weights)
    return index


def _trained_here(sweep: Sweep, index: "Index", show: Display) -> Iterator[None]:
    """Train the cells one by one, and pause after each seed. A cell that is done is not trained again."""
    from upcycle.jobs.train import run_training

    def train(cell: Cell) -> None:
        if sweep.done(cell):
            return
        done, total, left = sweep.progress()
        show.message(f"run {done + 1} of {total}: {cell}{f', about {clock(left)} left' if left else ''}")
        try:
            run_training(begin(sweep.grid.data, cell.options, out=cell.path, resume=True), show, index=index)
        except StorageError:
            raise
        except Exception as error:  # whatever stops one run is reported beside the others
            sweep.fail(
                cell, str(error) if isinstance(error, UpcycleError) else f"{type(error).__name__}: {error}", show
            )

    for seed in sweep.grid.seeds:
        for variant in sweep.grid.variants:
            for cell in sweep.trials(variant):
                train(cell)
            for cell in sweep.cells(variant):
                if cell.seed == seed:
                    train(cell)
        yield


def _trained_on(ray: Any, sweep: Sweep, index: "Index", show: Display) -> Iterator[None]:
    """Train the cells on the nodes of a Ray cluster, and pause once all are done."""
    from upcycle.jobs.ray_training import trained_on

    yield from trained_on(ray, sweep, index, show)
