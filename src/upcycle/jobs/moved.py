"""A run whose images are at another place now: gone on with where they are the same, by content."""

import shlex
from pathlib import Path

from upcycle.audit.summary import Audit
from upcycle.data.index import Index, check_there
from upcycle.data.listing import Failure, shown
from upcycle.data.splits import folds, split
from upcycle.errors import DataError, RunError
from upcycle.jobs.begin import Start
from upcycle.jobs.prepare import differences, machine_of, read_index
from upcycle.manifest import write_sealed
from upcycle.reporting.show import Show
from upcycle.rundir import RunDir, read_json


def check_place(start: Start) -> None:
    """DataError for images that are not where they should be; for a run under way, with the command to say where."""
    if start.anew or start.moved or start.data.exists():
        check_there(start.data)
        return
    again = shlex.join(["upcycle", "train", "DATA", "--out", str(start.run.root), "--resume"])
    raise DataError(f"{shown(start.data)} does not exist: say where the images of the run are now: {again}")


def find_moved(start: Start, show: Show) -> Index:
    """The images at the run's new place; RunError where they are others than those it has recorded."""
    check_there(start.data)
    refused = f"{start.run.root} was begun with {shown(read_json(start.run.config)['data'])}, not {shown(start.data)}"
    try:
        index = read_index(start.data, start.config, machine_of(start.config), show)
        told = _differs(start, index)
    except DataError as error:
        raise RunError(f"{refused} ({error}): give another --out") from error
    if told:
        raise RunError(f"{refused} ({told}): give another --out")
    return index


def _differs(start: Start, index: Index) -> str:
    """What is other than the run has recorded, as far as that is known without decoding; "" for nothing."""
    config, parts = start.config, [start.run]
    if config.folds:
        parts = [RunDir(start.run.root / f"fold-{number}") for number in range(1, config.folds + 1)]
    number, run = next((number, run) for number, run in enumerate(parts) if run.splits.exists())
    unusable = _unusable(run)
    kept = index.without({at: Failure("") for at in range(len(index)) if index.path(at) in unusable})
    if config.folds:
        drawn = folds(kept, k=config.folds, seed=config.seed_of_split, val_fraction=config.val_fraction)[number]
    else:
        drawn = split(
            kept, seed=config.seed_of_split, val_fraction=config.val_fraction, test_fraction=config.test_fraction
        )
    return differences(run, kept, drawn)


def _unusable(run: RunDir) -> set[str]:
    """The files that were there and could not be used; none where that is not known."""
    try:
        return {file.path for file in Audit.from_dict(read_json(run.audit)).quarantined}
    except (RunError, LookupError, TypeError):
        return set()


def record_place(run: RunDir, data: Path) -> None:
    """Write down where a run's images are now, in its configuration and the command that repeats it."""
    known = read_json(run.config)
    if known["data"] == str(data):
        return
    environment = read_json(run.environment)
    before = shlex.join(["upcycle", "train", known["data"]])
    command = str(environment.get("command", ""))
    if command.startswith(before):
        command = shlex.join(["upcycle", "train", str(data)]) + command.removeprefix(before)
        write_sealed(run, run.environment, {**environment, "command": command})
    write_sealed(run, run.config, {**known, "data": str(data)})
