"""Comparing: train what is missing of a grid of variants and seeds, or take runs that exist; nothing here loads torch.

What trains is imported when something is trained: comparing runs that exist starts without it.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from upcycle.comparison.results import FILE, PAGE, SMALLEST_DIFFERENCE, About, Comparison
from upcycle.comparison.runs import Group, grouped, read_run
from upcycle.comparison.summary import summarize
from upcycle.comparison.sweep import Cell, Grid, Sweep, read_grid, resumed, seeds_from
from upcycle.comparison.variants import VARIANTS, Options, check_common, variants_of
from upcycle.config import IMAGES, absolute, canonical, expanded, path_or_none, read_toml
from upcycle.device import crowded
from upcycle.errors import ConfigError, RunError, StorageError, UpcycleError
from upcycle.jobs.start import free, name_of, removed_unless_started, reserve, spelled
from upcycle.options import TrainOptions
from upcycle.recipes import resolve
from upcycle.reporting.comparison_page import comparison_table, write_page
from upcycle.reporting.names import clock, counted
from upcycle.reporting.progress import Observer, default_show
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
    augment: Literal["light", "none"] | None = None,
    show: Observer | None = None,
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
    places, folder = (
        [expanded(path, f"{IMAGES}, or runs one by one") for path in paths],
        path_or_none(out, "one folder"),
    )
    show = show or default_show()
    if len(places) > 1 or any(RunDir(path).is_run() for path in places):
        others = {"variants": variants, "seeds": seeds, "resume": resume or None}
        unused = [*given, *(name for name, value in others.items() if value is not None)]
        if unused:
            raise ConfigError(f"{unused[0]} is for training, and runs that exist are not trained again. Leave it out")
        return _compare_runs(places, folder, goal or SMALLEST_DIFFERENCE, show)
    grid = begin_grid(
        places[0] if places else None, variants, seeds=seeds, options=given, goal=goal, out=folder, resume=resume
    )
    with removed_unless_started(grid.out, reserved=folder is None):
        if crowd := crowded(resolve({"threads": grid.common.get("threads", 0)}).threads):
            show.warn(crowd)
        return run_grid(grid, show)


def _share(points: float | None) -> float | None:
    """Points of F1 as a share; ConfigError for what is not a number of points."""
    if isinstance(points, bool) or not isinstance(points, int | float | None):
        raise ConfigError(f"smallest_difference = {points!r} is not a number of points")
    if points is not None and not 0 < points <= 100:
        raise ConfigError(f"smallest_difference = {points} is out of range: use points above 0, up to 100")
    return None if points is None else points / 100


def _compare_runs(paths: Sequence[Path], out: Path | None, goal: float, show: Observer) -> Comparison:
    groups = grouped([read_run(path) for path in paths])
    folder = out or reserve("compare")
    with removed_unless_started(folder, reserved=out is None):
        _check_folder(folder)
        ours = (folder / FILE).is_file() and not (folder / "grid.json").exists()
        if folder.exists() and any(folder.iterdir()) and not ours:
            raise RunError(f"{folder} is not empty and not a comparison of runs. Choose another --out")
        data = {run.source.data for group in groups for run in group.runs}
        words = [
            "upcycle",
            "compare",
            *map(str, paths),
            "--out",
            str(folder),
            "--smallest-difference",
            f"{100 * goal:g}",
        ]
        return _summarize(groups, folder, About(data.pop() if len(data) == 1 else None, shlex.join(words)), goal, show)


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file. Choose another --out")


def _summarize(groups: Sequence[Group], out: Path, about: About, goal: float, show: Observer) -> Comparison:
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


def begin_grid(
    data: Path | None,
    names: Sequence[str] | None,
    *,
    seeds: int | None,
    options: Options,
    goal: float | None,
    out: Path | None,
    resume: bool,
) -> Grid:
    """What a call of `compare` on images means; ConfigError or RunError for what it cannot mean.

    With `resume` whatever is left out is as the comparison in `out` was started; whatever is given has to agree.
    """
    given = absolute(canonical(options))
    check_common(given)
    if resume and out is None:
        raise ConfigError("--resume needs --out DIR, the comparison to resume")
    saved = _saved(out, resume=resume) if out is not None else None
    if data is None and saved is None:
        raise ConfigError("say what to compare: upcycle compare DATA, or upcycle compare RUN RUN ...")
    first = given.pop("seed", None)
    if saved is not None:
        first = saved.seeds[0] if first is None else resolve({"seed": first}).seed
        common = {**saved.common, **given}
        chosen = variants_of(names) if names is not None else saved.variants
        now = replace(
            saved,
            data=saved.data if data is None else data.resolve(),
            variants=chosen,
            seeds=seeds_from(first, len(saved.seeds) if seeds is None else seeds),
            common=common,
            smallest_difference=goal or saved.smallest_difference,
        )
        return resumed(saved, now)
    assert data is not None
    grid = Grid(
        data=data.resolve(),
        variants=variants_of(names) if names is not None else tuple(VARIANTS.values()),
        seeds=seeds_from(resolve({"seed": first or 0}).seed, 3 if seeds is None else seeds),
        common=given,
        out=out or free(name_of(data, "compare")),
        smallest_difference=goal or SMALLEST_DIFFERENCE,
    )
    if grid.data.is_dir() and grid.out.resolve().is_relative_to(grid.data):
        raise ConfigError(f"{grid.out} lies inside {data}. Choose another --out")
    grid = grid if out is not None else replace(grid, out=reserve(name_of(data, "compare")))
    return replace(grid, command=_command(grid, names))


def _saved(out: Path, *, resume: bool) -> Grid | None:
    """The grid saved in `out`, to be resumed; None where it is empty. RunError when it is in the way."""
    _check_folder(out)
    if not out.exists() or not any(out.iterdir()):
        return None
    if not resume:
        command = shlex.join(["upcycle", "compare", "--out", str(out), "--resume"])
        raise RunError(f"{out} already exists. Resume it with `{command}`, or choose another --out")
    return read_grid(out)


def _command(grid: Grid, names: Sequence[str] | None) -> str:
    """The command that trains the same grid."""
    named = ",".join(names or VARIANTS)
    words = ["upcycle", "compare", str(grid.data), "--variants", named, "--seeds", str(len(grid.seeds))]
    words += ["--seed", str(grid.seeds[0]), "--smallest-difference", f"{100 * grid.smallest_difference:g}"]
    return shlex.join([*words, *spelled(grid.common), "--out", str(grid.out)])


def run_grid(grid: Grid, show: Observer) -> Comparison:
    """Train every run of the grid that is missing, a seed of all variants after the other, and compare after each.

    A run that fails is reported beside the others; a disk that cannot be written stops everything.
    """
    sweep = Sweep(grid)
    index = _checked(sweep, show)
    sweep.progress()  # refuses finished runs of other images, split or weights
    comparison = None
    try:
        with locked(grid.out):
            grid.save()
            for seed in grid.seeds:
                for variant in grid.variants:
                    for cell in sweep.trials(variant):
                        _train(cell, sweep, index, show)
                    for cell in sweep.cells(variant):
                        if cell.seed == seed:
                            _train(cell, sweep, index, show)
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


def _checked(sweep: Sweep, show: Observer) -> "Index":
    """The scanned images; raises for what would make every run of a variant fail, before anything is trained."""
    from upcycle.jobs.prepare import machine_of, read_index
    from upcycle.model.sources import get_weights
    from upcycle.model.spec import resolve_arch

    grid = sweep.grid
    configs = [(sweep.trials(variant) or sweep.cells(variant))[0].config for variant in grid.variants]
    index = read_index(grid.data, configs[0], machine_of(configs[0]), show)
    if not configs[0].test_fraction and not (index.declared == "test").any():
        raise ConfigError("test_fraction = 0 leaves no test set, and a comparison needs one: give a fraction above 0")
    for arch, weights in dict.fromkeys((config.arch, config.weights) for config in configs):
        get_weights(resolve_arch(arch), weights)
    return index


def _train(cell: Cell, sweep: Sweep, index: "Index", show: Observer) -> None:
    """One training, unless it is done; a failure is kept and reported."""
    from upcycle.jobs.start import begin
    from upcycle.jobs.train import run_training

    if sweep.done(cell):
        return
    done, total, left = sweep.progress()
    show.message(f"run {done + 1} of {total}: {cell}{f', about {clock(left)} left' if left else ''}")
    try:
        run_training(begin(sweep.grid.data, cell.options, out=cell.path, resume=True), show, index=index)
    except StorageError:
        raise
    except Exception as error:  # whatever stops one run is reported beside the others
        reason = str(error) if isinstance(error, UpcycleError) else f"{type(error).__name__}: {error}"
        sweep.failed[cell.path] = reason
        show.warn(f"{cell} failed: {reason}")
