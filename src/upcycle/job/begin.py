"""Starting a run, or going on with one: where it is written, and what may not change."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upcycle.config import Config, absolute, canonical, read_json
from upcycle.errors import ConfigError, RunError
from upcycle.recipes import resolve
from upcycle.rundir import RunDir
from upcycle.rundir import read_json as read_plain

RUNS = Path("runs")
FREE_TO_CHANGE = ("cache", "checkpoint_every")
"""Options that may differ when a run goes on: they change no result."""


@dataclass(frozen=True)
class Start:
    """What is to be done: DATA, how, where, and the command that does it again."""

    data: Path
    config: Config
    run: RunDir
    command: str
    finished: bool = False


def begin(data: Path | None, options: Mapping[str, Any], *, out: Path | None, resume: bool) -> Start:
    """What a call of `train` means.

    RunError for a folder in the way, with the command that goes on with it, or for options that
    differ from those the run was begun with. ConfigError when there is nothing to start with. A run
    that failed before its training began holds nothing to lose: it is begun anew.
    """
    given = absolute(canonical(options))
    run = RunDir(out) if out is not None else None
    if resume and run is None:
        raise ConfigError("--resume needs --out RUN, the run to go on with")
    if run is not None and run.exists():
        if not run.is_run():
            raise RunError(f"{run.root} is not empty and not a run: give another --out")
        if run.config.exists() and (resume or run.has_work()):
            if not resume:
                again = shlex.join(["upcycle", "train", "--out", str(run.root), "--resume"])
                raise RunError(f"{run.root} is not empty; to go on with it: {again}; or give another --out")
            return _going_on(data, given, run)
        run.config.unlink(missing_ok=True)
    if data is None:
        raise ConfigError("say which images to train on: upcycle train DATA")
    config = resolve(given)
    run = run or RunDir(free_name(data, config.recipe))
    if data.is_dir() and run.root.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            f"{run.root} lies inside {data}, where its pictures would be taken for a class: give another --out"
        )
    return Start(data.resolve(), config, run, _command(data.resolve(), given, run.root))


def _command(data: Path, given: Mapping[str, Any], out: Path) -> str:
    return shlex.join(["upcycle", "train", str(data), *spelled(given), "--out", str(out)])


def spelled(given: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line."""
    words: list[str] = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
            continue
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{option}", *(str(item) for item in values)]
    return words


def free_name(data: Path, kind: str) -> Path:
    """The first of runs/NAME-KIND-1, -2, ... that does not exist."""
    stem = data.resolve().stem if data.is_file() else data.resolve().name
    number = 1
    while (path := RUNS / f"{stem}-{kind}-{number}").exists():
        number += 1
    return path


def _going_on(data: Path | None, given: Mapping[str, Any], run: RunDir) -> Start:
    config = read_json(run.config)
    begun = Path(str(read_plain(run.config).get("data", "")))
    if data is not None and data.resolve() != begun:
        raise RunError(f"{run.root} was begun with {begun}, not {data}: give another --out")
    recorded = config.to_dict()
    now = resolve({**recorded, **given}).to_dict()
    for name in given:
        if now[name] != recorded[name] and name not in FREE_TO_CHANGE:
            raise RunError(f"{run.root} was begun with {name} = {recorded[name]}, not {now[name]}: give another --out")
    config = config.model_copy(update={name: given[name] for name in FREE_TO_CHANGE if name in given})
    said = str(read_plain(run.environment).get("command", "")) if run.environment.exists() else ""
    return Start(begun, config, run, said, finished=run.status()["state"] == "finished")
