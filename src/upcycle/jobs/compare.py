"""The comparison job: train what of the grid is missing, then compare; or compare runs that exist."""

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from upcycle.comparison.compare import SMALLEST_DIFFERENCE, compare
from upcycle.comparison.grid import Cell, Grid, check_same, read_grid, seeds_from, write_grid
from upcycle.comparison.ladder import RUNGS, Rung, check_common, from_options, rungs
from upcycle.comparison.runs import Group, Run, grouped, read_run
from upcycle.comparison.sweep import Progress, remaining, rounds
from upcycle.config import absolute, canonical
from upcycle.data.folder import Index
from upcycle.errors import ConfigError, RunError, StorageError, UpcycleError
from upcycle.jobs.finetune import duration
from upcycle.jobs.prepare import machine_of, read_index
from upcycle.jobs.start import begin, free, name_of, removed_unless_started, reserve, spelled
from upcycle.jobs.train import run_training
from upcycle.model import zoo
from upcycle.recipes import resolve
from upcycle.reporting.comparison import FILE, write_comparison
from upcycle.reporting.ladder_table import ladder_table
from upcycle.reporting.names import counted
from upcycle.reporting.show import Observer
from upcycle.rundir import locked, write_json


def compare_runs(paths: Sequence[Path], *, out: Path | None, goal: float, show: Observer) -> Path:
    """Compare finished runs; returns the folder of the comparison.

    RunError for a folder that is no tested run, or whose classes or test images are others than the
    first's; ConfigError for fewer than two configurations.
    """
    groups = grouped([read_run(path) for path in paths])
    folder = out or reserve("compare")
    with removed_unless_started(folder, reserved=out is None):
        _no_file(folder)
        if folder.exists() and not (_is_of_runs(folder) or not any(folder.iterdir())):
            raise RunError(f"{folder} is not empty and not a comparison of runs: give another --out")
        known = {str(run.config.get("data")) for group in groups for run in group.runs}
        words = ["upcycle", "compare", *(str(path) for path in paths), "--out", str(folder)]
        facts = {
            "data": known.pop() if len(known) == 1 else None,
            "command": shlex.join([*words, "--smallest-difference", f"{100 * goal:g}"]),
        }
        _write(groups, folder, facts, goal, show)
    return folder


def _no_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file: give another --out")


def _is_of_runs(out: Path) -> bool:
    return (out / FILE).is_file() and not (out / "grid.json").exists()


def _write(groups: Sequence[Group], out: Path, facts: Mapping[str, Any], goal: float, show: Observer) -> None:
    """Compare, write everything down and show it."""
    created = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    values = compare(groups, folder=out, smallest_difference=goal, facts={**facts, "created": created})
    write_json(out / FILE, values)
    page = write_comparison(out)
    show.table(ladder_table(values))
    show.say(f"comparison: {page}")


# ------------------------------------------------------------------------------------------- grid


def begin_grid(
    data: Path | None,
    names: Sequence[str] | None,
    *,
    seeds: int | None,
    options: Mapping[str, Any],
    goal: float | None,
    out: Path | None,
    resume: bool,
) -> Grid:
    """What a call of `compare` on images means; ConfigError or RunError for what it cannot mean.

    With `resume` whatever is left out is as the comparison in `out` was begun; rungs and seeds may be added.
    """
    given = absolute(canonical(options))
    check_common(given)
    known: dict[str, Any] = {}
    if resume and out is None:
        raise ConfigError("--resume needs --out DIR, the comparison to go on with")
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        known = _known(out, resume=resume)
    if data is None and not known:
        raise ConfigError("say what to compare: upcycle compare DATA, or upcycle compare RUN RUN ...")
    data = data if data is not None else Path(known["data"])
    first = _seed(given.pop("seed", known.get("first_seed", 0)))
    grid = Grid(
        data=data.resolve(),
        rungs=rungs(names) if names is not None else _rungs_of(known),
        seeds=seeds_from(first, seeds if seeds is not None else known.get("seeds", 3)),
        common={**known.get("common", {}), **known.get("free", {}), **given},
        out=out or free(name_of(data, "compare")),
        goal=goal if goal is not None else known.get("smallest_difference", SMALLEST_DIFFERENCE),
    )
    if known:
        check_same(grid)
    if grid.data.is_dir() and grid.out.resolve().is_relative_to(grid.data):
        raise ConfigError(f"{grid.out} lies inside {data}: give another --out")
    return grid if out is not None else replace(grid, out=reserve(name_of(data, "compare")))


def _known(out: Path, *, resume: bool) -> dict[str, Any]:
    """The grid in a folder that is not empty; RunError when there is none, or it is not to be gone on with."""
    _no_file(out)
    if not resume:
        again = shlex.join(["upcycle", "compare", "--out", str(out), "--resume"])
        raise RunError(f"{out} is not empty; to go on with it: {again}; or give another --out")
    if not (out / "grid.json").exists() and {path.name for path in out.iterdir()} <= {"runs"}:
        return {}  # runs that are there already: each is checked before it is taken
    return read_grid(out / "grid.json")


def _seed(given: object) -> int:
    return resolve({"seed": given}).seed


def _rungs_of(known: Mapping[str, Any]) -> tuple[Rung, ...]:
    """The rungs a comparison was begun with; all built-in ones where there is none."""
    if not known:
        return tuple(RUNGS.values())
    return tuple(from_options(name, options, known["files"].get(name, "")) for name, options in known["rungs"].items())


def run_grid(grid: Grid, *, show: Observer) -> None:
    """Train every run of the grid that is not there, and write the comparison after each round of them.

    A run that fails is told and reported beside the others; a disk that cannot be written stops everything.
    """
    progress = Progress(grid)
    index = _checked(grid, show)
    remaining(progress)  # refuses runs that are there and are others
    facts = {"data": str(grid.data), "command": _command(grid)}
    try:
        with locked(grid.out):
            if grid.file.exists():
                check_same(grid)  # it may have grown since it was read
            write_grid(grid)
            for cells in rounds(progress):
                for rung, seed in cells:
                    _climb(rung, seed, progress, index, show)
                groups = _groups(progress)
                if sum(bool(group.runs) for group in groups) >= 2:
                    _write(groups, grid.out, facts, grid.goal, show)
    except KeyboardInterrupt:
        show.say(f"to go on: {shlex.join(['upcycle', 'compare', '--out', str(grid.out), '--resume'])}")
        raise
    if sum(bool(group.runs) for group in groups) < 2:
        place, reason = next(iter(progress.failed.items()))
        raise UpcycleError(
            f"nothing to compare: {counted(len(progress.failed), 'run')} failed, first {place.name}: {reason}"
        )


def _command(grid: Grid) -> str:
    """The command that trains the same grid."""
    names = ",".join(rung.file or rung.name for rung in grid.rungs)
    words = ["upcycle", "compare", str(grid.data), "--rungs", names, "--seeds", str(len(grid.seeds))]
    words += ["--seed", str(grid.seeds[0]), "--smallest-difference", f"{100 * grid.goal:g}", *spelled(grid.common)]
    return shlex.join([*words, "--out", str(grid.out)])


def _checked(grid: Grid, show: Observer) -> Index:
    """The scanned images; raises for what would make every run of a rung fail, before anything is trained."""
    configs = [Cell(rung, grid.seeds[0], grid.options(rung, grid.seeds[0])).config for rung in grid.rungs]
    config = configs[0]
    machine = machine_of(config)
    index = read_index(grid.data, config, machine, show)
    if not config.test_fraction and not (index.declared == "test").any():
        raise ConfigError("test_fraction = 0 leaves no test set, and a comparison needs one: give a fraction above 0")
    for arch, weights in dict.fromkeys((config.arch, config.weights) for config in configs):
        zoo.get_weights(zoo.resolve_arch(arch), weights)
    return index


def _climb(rung: Rung, seed: int, progress: Progress, index: Index, show: Observer) -> None:
    """Train a rung for one seed, its trials first where its rate is still to be chosen."""
    if rung.rates and progress.chosen(rung) is None:
        for trial in _to_try(rung, progress):
            _run(trial, progress, index, show)
        lr = progress.chosen(rung)
        if lr is not None:
            show.say(f"{rung.name}: the lowest validation loss is that of the rate {lr:g}")
    cell = progress.cell(rung, seed)
    if cell is not None:
        _run(cell, progress, index, show)


def _to_try(rung: Rung, progress: Progress) -> Iterator[Cell]:
    """A rung's trials that are neither finished nor failed: which comes next depends on those before."""
    while waiting := [cell for cell in progress.trials(rung) if not progress.done(cell)]:
        yield max(waiting, key=lambda cell: float(cell.options["lr"]))  # large steps end soonest


def _run(cell: Cell, progress: Progress, index: Index, show: Observer) -> None:
    """One training, unless it is there; a failure is kept and told."""
    place = progress.place(cell)
    if progress.done(cell):
        return
    show.say(_where(cell, progress))
    try:
        run_training(begin(progress.grid.data, cell.options, out=place, resume=True), show, index=index)
    except StorageError:
        raise
    except Exception as error:  # whatever stops one run is reported beside the others
        reason = str(error) if isinstance(error, UpcycleError) else f"{type(error).__name__}: {error}"
        progress.failed[place] = reason
        show.warn(f"{cell.words} failed: {reason}")


def _where(cell: Cell, progress: Progress) -> str:
    """How far the grid is, and how long the rest takes as far as that is known."""
    rest = remaining(progress)
    least = "at least" if rest.untimed else "about"
    left = f", {least} {duration(rest.seconds)} left" if rest.seconds else ""
    untimed = f" ({', '.join(rest.untimed)} not timed yet)" if rest.untimed else ""
    return f"run {rest.done + 1} of {rest.total}: {cell.words}{left}{untimed}"


def _groups(progress: Progress) -> list[Group]:
    return [_group(rung, progress) for rung in progress.grid.rungs]


def _group(rung: Rung, progress: Progress) -> Group:
    """A rung's finished runs, failures and trials."""
    cells = [cell for seed in progress.grid.seeds if (cell := progress.cell(rung, seed)) is not None]
    trials = progress.trials(rung)
    runs, tried = (_readable(some, progress) for some in (cells, trials))
    failed = [cell for cell in [*trials, *cells] if progress.place(cell) in progress.failed]
    return Group(
        name=rung.name,
        title=rung.title,
        does=rung.does,
        runs=runs,
        failed=tuple({"seed": cell.seed, "reason": progress.failed[progress.place(cell)]} for cell in failed),
        trials=tried,
        lr=progress.chosen(rung) if rung.rates else None,
    )


def _readable(cells: Sequence[Cell], progress: Progress) -> tuple[Run, ...]:
    """The finished runs of `cells`; one whose files are damaged counts as failed."""
    runs = []
    for cell in cells:
        try:
            runs += [read_run(progress.place(cell))] if progress.finished(cell) else []
        except RunError as error:
            progress.failed[progress.place(cell)] = str(error)
    return tuple(runs)
