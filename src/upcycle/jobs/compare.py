"""Comparing: train what is missing of a grid of variants and seeds, or take runs that exist; nothing here loads torch.

What trains is imported when something is trained: comparing runs that exist starts without it.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

from upcycle.comparison.results import FILE, PAGE, SMALLEST_DIFFERENCE, About, Comparison
from upcycle.comparison.runs import VariantRuns, grouped, read_run
from upcycle.comparison.summary import summarize
from upcycle.comparison.sweep import Cell, Grid, Sweep, check_folder, requested
from upcycle.config import IMAGES, canonical, expanded, path_or_none, read_toml
from upcycle.errors import ConfigError, RunError, StorageError, UpcycleError
from upcycle.jobs.start import begin, name_of, removed_unless_started, reserve, spelled
from upcycle.options import TrainOptions
from upcycle.reporting.comparison_page import comparison_table, write_page
from upcycle.reporting.progress import Display, default_show
from upcycle.reporting.text import clock, counted
from upcycle.rundir import RunDir, locked


def compare(
    *paths: Path | str,
    variants: Sequence[str] | None = None,
    seeds: int | None = None,
    smallest_difference: float | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    config: Path | str | None = None,
    augment: Literal["light", "none"] | None = None,
    show: Display | None = None,
    **options: Unpack[TrainOptions],
) -> Comparison:
    """Train variants on one split and compare them, or compare runs that exist.

    `upcycle.compare("photos/", variants=["probe", "default"], seeds=5, arch="resnet50")` trains;
    `upcycle.compare("runs/a", "runs/b")` does not. `smallest_difference` is in points of F1: what
    would matter to you (1 if left out). Raises an UpcycleError with one line that says what is wrong.
    """
    goal = _share(smallest_difference)
    file = path_or_none(config, "one TOML file")
    said: dict[str, Any] = {**options, **({} if augment is None else {"augment": augment})}
    given = {**read_toml(file), **canonical(said)} if file else said
    places = [expanded(path, f"{IMAGES}, or runs one by one") for path in paths]
    folder = path_or_none(out, "one folder")
    show = show or default_show()
    if len(places) > 1 or any(RunDir(path).is_run() for path in places):
        others = {"variants": variants, "seeds": seeds, "resume": resume or None}
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
        return run_grid(grid if grid.command else replace(grid, command=_command(grid, variants)), show)


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
        data = {run.source.data for group in groups for run in group.runs}
        words = ["upcycle", "compare", *map(str, paths), "--out", str(folder)]
        words += ["--smallest-difference", f"{100 * goal:g}"]
        return _summarize(groups, folder, About(data.pop() if len(data) == 1 else None, shlex.join(words)), goal, show)


def _summarize(groups: Sequence[VariantRuns], out: Path, about: About, goal: float, show: Display) -> Comparison:
    """Compare, write the result and its page, and show the table."""
    about = replace(about, created=time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    # the working directory may change before the result is used
    comparison = summarize(groups, folder=out.absolute(), smallest_difference=goal, about=about)
    comparison.save()
    write_page(comparison)
    show.table(comparison_table(comparison))
    show.message(f"comparison: {out / PAGE}")
    return comparison


# ------------------------------------------------------------------------------------------- grid


def _command(grid: Grid, names: Sequence[str] | None) -> str:
    """The command that trains the same grid."""
    named = ",".join(names or [variant.name for variant in grid.variants])
    words = ["upcycle", "compare", str(grid.data), "--variants", named, "--seeds", str(len(grid.seeds))]
    words += ["--seed", str(grid.seeds[0]), "--smallest-difference", f"{100 * grid.smallest_difference:g}"]
    return shlex.join([*words, *spelled(grid.common), "--out", str(grid.out)])


def run_grid(grid: Grid, show: Display) -> Comparison:
    """Train every run of the grid that is missing, a seed of all variants after the other, and compare after each.

    A run that fails is reported beside the others; a disk that cannot be written stops everything.
    """
    sweep = Sweep(grid)
    train = _trainer(sweep, show)
    sweep.progress()  # refuses finished runs of other images, split or weights
    comparison = None
    try:
        with locked(grid.out):
            grid.save()
            for seed in grid.seeds:
                for variant in grid.variants:
                    for cell in sweep.trials(variant):
                        train(cell)
                    for cell in sweep.cells(variant):
                        if cell.seed == seed:
                            train(cell)
                groups = sweep.groups()
                if sum(bool(group.runs) for group in groups) >= 2:
                    about = About(str(grid.data), grid.command)
                    comparison = _summarize(groups, grid.out, about, grid.smallest_difference, show)
    except KeyboardInterrupt:
        show.message(f"to resume: {shlex.join(['upcycle', 'compare', '--out', str(grid.out), '--resume'])}")
        raise
    if comparison is None:
        place, reason = next(iter(sweep.failed.items()))
        raise UpcycleError(
            f"nothing to compare: {counted(len(sweep.failed), 'run')} failed, first {place.name}: {reason}"
        )
    return comparison


def _trainer(sweep: Sweep, show: Display) -> Callable[[Cell], None]:
    """What trains a cell on the scanned images; raises for what would make every run of a variant fail.

    A cell that is done is not trained again. A failure is kept and reported.
    """
    from upcycle.jobs.prepare import machine_of, read_index
    from upcycle.jobs.train import run_training
    from upcycle.model.sources import get_weights
    from upcycle.model.spec import resolve_arch

    grid = sweep.grid
    configs = [(sweep.trials(variant) or sweep.cells(variant))[0].config for variant in grid.variants]
    index = read_index(grid.data, configs[0], machine_of(configs[0]), show)
    if not configs[0].test_fraction and not (index.declared == "test").any():
        raise ConfigError("test_fraction = 0 leaves no test set, and a comparison needs one: give a fraction above 0")
    for arch, weights in dict.fromkeys((config.arch, config.weights) for config in configs):
        get_weights(resolve_arch(arch), weights)

    def train(cell: Cell) -> None:
        if sweep.done(cell):
            return
        done, total, left = sweep.progress()
        show.message(f"run {done + 1} of {total}: {cell}{f', about {clock(left)} left' if left else ''}")
        try:
            run_training(begin(grid.data, cell.options, out=cell.path, resume=True), show, index=index)
        except StorageError:
            raise
        except Exception as error:  # whatever stops one run is reported beside the others
            reason = str(error) if isinstance(error, UpcycleError) else f"{type(error).__name__}: {error}"
            sweep.failed[cell.path] = reason
            show.warn(f"{cell} failed: {reason}")

    return train
