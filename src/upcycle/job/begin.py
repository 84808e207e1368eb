"""Starting a run, or going on with one: where it is written, and what may not change."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upcycle.config import Config, canonical, read_json
from upcycle.errors import ConfigError, RunError
from upcycle.recipes import resolve
from upcycle.rundir import RunDir
from upcycle.rundir import read_json as read_plain

RUNS = Path("runs")


def command(data: Path | str, options: Mapping[str, Any], out: Path, *extra: str) -> str:
    """The command that repeats a run."""
    words = ["upcycle", "train", str(data)]
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        words += ["--" + name.replace("_", "-"), *(str(item) for item in values)]
    return shlex.join([*words, "--out", str(out), *extra])


def free_name(data: Path, config: Config) -> Path:
    """The first of runs/NAME-RECIPE-1, -2, ... that does not exist."""
    stem = data.resolve().stem if data.is_file() else data.resolve().name
    number = 1
    while (path := RUNS / f"{stem}-{config.recipe}-{number}").exists():
        number += 1
    return path


def begin(
    data: Path | None, options: Mapping[str, Any], *, out: Path | None, resume: bool
) -> tuple[Path, Config, RunDir, str, bool]:
    """DATA, configuration, run directory, the command that repeats it, and whether it is finished already.

    RunError for a folder in the way, with the command that goes on with it, or for options that
    differ from those the run was begun with. ConfigError when there is nothing to start with.
    """
    given = canonical(options)
    run = RunDir(out) if out is not None else None
    if resume and run is None:
        raise ConfigError("--resume needs --out RUN, the run to go on with")
    if run is not None and run.exists():
        if not resume:
            again = shlex.join(["upcycle", "train", "--out", str(run.root), "--resume"])
            raise RunError(f"{run.root} is not empty; to go on with it: {again}; or give another --out")
        return _going_on(data, given, run)
    if data is None:
        raise ConfigError("say which images to train on: upcycle train DATA")
    config = resolve(given)
    run = run or RunDir(free_name(data, config))
    return data, config, run, command(data, given, run.root), False


def _going_on(data: Path | None, given: Mapping[str, Any], run: RunDir) -> tuple[Path, Config, RunDir, str, bool]:
    if not run.config.exists() or not run.status_file.exists():
        raise RunError(f"{run.root} is not empty and not a run: give another --out")
    config = read_json(run.config)
    recorded = read_plain(run.config)
    begun = Path(recorded["data"])
    if data is not None and data.resolve() != begun.resolve():
        raise RunError(f"{run.root} was begun with {begun}, not {data}: give another --out")
    now = resolve(given).to_dict() if given else {}
    for name in given:
        if now[name] != recorded[name]:
            raise RunError(f"{run.root} was begun with {name} = {recorded[name]}, not {now[name]}: give another --out")
    finished = run.status()["state"] == "finished"
    said = str(read_plain(run.environment)["command"]) if run.environment.exists() else ""
    return begun, config, run, said, finished
