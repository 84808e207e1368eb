"""What a call of `train` means: a new run or one that is resumed, where it is written, and what may not change."""

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upcycle.changes import Change, changes_from_dicts
from upcycle.config import AUTO_RATE, NUMBERS_OR_NONE, Config, absolute, canonical, read_config
from upcycle.errors import ConfigError, RunError, shown
from upcycle.jobs.callables import NO_CALLABLES, Callables
from upcycle.jobs.clock import Deadline, slurm_left
from upcycle.manifest import check
from upcycle.recipes import FREE_TO_CHANGE, resolve, without_effect
from upcycle.remote import Address, place
from upcycle.rundir import RunDir, read_json, read_lines
from upcycle.task import class_weights_text

RUNS = Path("runs")
UPDATES = 6
"""Counted up whenever an upcycle makes other updates of the same state, so that no run mixes the two."""
MOST_AT_ONCE = 1000
"""Tries to get a folder that no other process has."""


@dataclass(frozen=True)
class Start:
    """What is to be done: DATA, how, where, and the command that does it again.

    `fresh`: there is no run, or none that holds anything to lose; `moved`: DATA is another place than the run has
    recorded; `changes`: those of a plan that is repeated; `warnings`: a line for each option without effect, and for
    each part that keeps it from being resumed.
    """

    data: Path
    config: Config
    run: RunDir
    command: str
    finished: bool = False
    fresh: bool = False
    moved: bool = False
    callables: Callables = NO_CALLABLES
    warnings: tuple[str, ...] = ()
    deadline: Deadline | None = None
    changes: tuple[Change, ...] = ()


def begin(
    data: Path | None,
    options: Mapping[str, Any],
    *,
    out: Path | None,
    resume: bool,
    callables: Callables = NO_CALLABLES,
) -> Start:
    """What a call of `train` means.

    RunError for a folder in the way, with the command that resumes it, or for options that
    differ from those the run was started with. ConfigError when there is nothing to start with. A run
    that failed before its training began holds nothing to lose: it is started again.
    """
    given = absolute(canonical(options))
    run = RunDir(out) if out is not None else None
    if resume and run is None:
        raise ConfigError("--resume needs --out RUN, the run to resume")
    if run is not None and run.exists():
        if not run.is_run():
            raise RunError(f"{run.root} is not empty and not a run: give another --out")
        if run.has_work() and not run.config.exists():
            raise RunError(f"{run.config} is missing, so the run cannot be resumed: remove it, or give another --out")
        if run.config.exists() and (resume or run.has_work()):
            if not resume:
                again = shlex.join(["upcycle", "train", "--out", str(run.root), "--resume"])
                raise RunError(f"{run.root} already exists. Resume it with `{again}`, or give another --out")
            return _resumed(data, given, run, callables)
    if data is None:
        raise ConfigError("say which images to train on: upcycle train DATA")
    config = resolve(given)
    callables.check(config)
    if config.probe and config.weights == "none":  # not in resolve: runs were made with it
        raise ConfigError("a probe needs pretrained weights, and weights = none: leave probe out")
    for split in ("train_split", "val_split", "test_split"):
        if config.folds and getattr(config, split) is not None:  # the same
            raise ConfigError(
                f"folds test every image once, and {split} names images to test on: leave one of them out"
            )
    name = name_of(data, config.recipe)
    run = run or RunDir(free(name))
    if data.is_dir() and run.root.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            f"{run.root} lies inside {data}, where its pictures would be taken for a class: give another --out"
        )
    run = RunDir(reserve(name)) if out is None else run
    source = data.resolve()
    command = shlex.join(["upcycle", "train", as_recorded(source), *spelled(given), "--out", str(run.root)])
    warnings = (*without_effect(given, config), *callables.unresumable)
    return Start(source, config, run, command, fresh=True, callables=callables, warnings=warnings)


def as_recorded(data: Path) -> str:
    """DATA as a run writes it down: an address without its secrets, which are given again where they are needed."""
    return shown(data) if isinstance(data, Address) else str(data)


def timed(start: Start, *, deadline: str | None, began: float, plan: Path | None) -> Start:
    """`start` with the deadline or the plan to repeat that was given; ConfigError where that cannot be."""
    words: list[str] = []
    if plan is not None:
        if deadline is not None:
            raise ConfigError("a plan is repeated as it is: leave --deadline out")
        if not start.fresh:
            raise ConfigError("a run that is resumed follows its own plan: leave --plan out")
        if not plan.is_file():
            raise ConfigError(f"--plan {plan} is no file: give the plan.jsonl of a run")
        start = replace(start, changes=changes_from_dicts(read_lines(plan, whole=True)))
        words = ["--plan", str(plan.resolve())]
    elif deadline is not None:
        start = replace(start, deadline=Deadline.of(deadline, began))
        words = ["--deadline", deadline]
    elif (left := slurm_left()) is not None:
        hint = f"this Slurm job ends in {left / 60:.0f} min: with --deadline slurm the run ends before it"
        start = replace(start, warnings=(*start.warnings, hint))
    if deadline is not None and start.fresh and start.config.lr == AUTO_RATE:
        raise ConfigError("a range test has no time in a deadline: give --lr RATE, or leave --lr out")
    if deadline is not None and start.config.arch == "auto":
        raise ConfigError("a race has no time in a deadline: run `upcycle choose`, then name the architecture here")
    if words and start.config.folds:
        raise ConfigError(f"{words[0]} is for one training, and folds = {start.config.folds}: leave one of them out")
    return replace(start, command=f"{start.command} {shlex.join(words)}") if words and start.fresh else start


def spelled(given: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line that means the same."""
    words: list[str] = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
            continue
        if value is None and name not in NUMBERS_OR_NONE:
            continue  # as every recipe has it
        value = class_weights_text(value) if name == "class_weights" else value
        items = ["none" if item is None else str(item) for item in _listed(value)]
        words += [f"--{option}", *items]
    return words


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def name_of(data: Path, kind: str) -> str:
    """What the folder of a job of this kind on `data` is called where nobody says."""
    return f"{data.resolve().stem if data.is_file() else data.resolve().name}-{kind}"


def free(name: str) -> Path:
    """The first of runs/NAME-1, -2, ... that does not exist."""
    number = 1
    while (path := RUNS / f"{name}-{number}").exists():
        number += 1
    return path


def reserve(name: str) -> Path:
    """The same, made as an empty folder: no other process that asks at the same moment gets it.

    Where nothing can be made it is not: whoever writes there first says why.
    """
    for _ in range(MOST_AT_ONCE):
        path = free(name)
        try:
            path.mkdir(parents=True)
        except (FileExistsError, FileNotFoundError):  # another process has made it, or removed an empty runs/
            continue
        except OSError:
            break
        return path
    return free(name)


@contextlib.contextmanager
def removed_unless_started(folder: Path, *, reserved: bool) -> Iterator[None]:
    """Remove a reserved folder that is still empty at the end: what it was for was refused, or stopped early."""
    try:
        yield
    finally:
        if reserved:
            with contextlib.suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()


def _resumed(data: Path | None, given: Mapping[str, Any], run: RunDir, callables: Callables) -> Start:
    check(run)
    config = read_config(run.config)
    before = place(str(read_json(run.config).get("data", "")))
    moved = data is not None and data.resolve() != before
    if data is not None and moved and not _can_be_told_by_content(run, data):
        raise RunError(f"{run.root} was started with {before}, not {data}: give another --out")
    recorded = config.to_dict()
    environment = read_json(run.environment) if run.environment.exists() else {}
    said = str(environment.get("command", ""))
    if given.get("arch") == "auto" and " --arch auto " in f"{said} ":  # a race has named it since
        given = {name: value for name, value in given.items() if name != "arch"}
    now = resolve({**recorded, **given}).to_dict()
    other = [name for name in given if now[name] != recorded[name] and name not in FREE_TO_CHANGE]
    if "epochs" in other:
        raise RunError(
            f"{run.root} was started with epochs = {recorded['epochs']}, which a resumed run keeps. To train its model "
            f"further, start another run with --weights {run.root}"
        )
    if other:
        told = ", ".join(f"{name} = {recorded[name]}, not {now[name]}" for name in other)
        raise RunError(f"{run.root} was started with {told}: give another --out")
    config = resolve({**recorded, **{name: now[name] for name in FREE_TO_CHANGE}})
    finished = run.status()["state"] == "finished"
    if not finished and read_json(run.config).get("updates") != UPDATES:
        raise RunError(f"{run.root} was started by another version of upcycle, so it cannot be resumed: start it again")
    source = data.resolve() if data is not None else before
    if finished:
        return Start(source, config, run, said, finished=True, moved=moved)
    callables = callables.resumed(run.root, environment.get("callables", {}))
    callables.check(config)
    return Start(source, config, run, said, moved=moved, callables=callables, warnings=tuple(callables.unresumable))


def _can_be_told_by_content(run: RunDir, data: Path) -> bool:
    """Whether images at another place may be the run's: it has written down which it has, and does not lie there."""
    known = run.splits.exists() or any(run.root.glob("fold-*/splits.csv"))
    return known and not run.root.resolve().is_relative_to(data.resolve())
