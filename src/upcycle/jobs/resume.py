"""Whether a run may be resumed: its weights, images, split and network must be what it has recorded.

Its images may be at another place, where they are the same by content.
"""

import json
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from upcycle.audit.findings import Audit
from upcycle.config import Config
from upcycle.data.index import Index, check_exists
from upcycle.data.listing import Unusable
from upcycle.data.splits import Recorded, Splits, are_written, changes, folds, read_splits, split, write_splits
from upcycle.errors import DataError, RunError, shown
from upcycle.jobs.prepare import machine_of, read_index
from upcycle.jobs.start import Start, as_recorded
from upcycle.manifest import write_sealed
from upcycle.model.network import ModelSpec, create
from upcycle.reporting.progress import Display
from upcycle.rundir import RunDir, read_json


def check_place(start: Start) -> None:
    """DataError for images that are not where they should be; for a run under way, with the command to say where."""
    if start.fresh or start.moved or start.data.exists():
        check_exists(start.data)
        return
    again = shlex.join(["upcycle", "train", "DATA", "--out", str(start.run.root), "--resume"])
    raise DataError(f"{shown(start.data)} does not exist: say where the images of the run are now: {again}")


def find_moved(start: Start, show: Display) -> Index:
    """The images at the run's new place; RunError where they are others than those it has recorded."""
    check_exists(start.data)
    refused = f"{start.run.root} was started with {shown(read_json(start.run.config)['data'])}, not {shown(start.data)}"
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
    kept = index.without({at: Unusable("") for at in range(len(index)) if index.path(at) in unusable})
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
        return {entry["path"] for entry in read_json(run.audit)["quarantined"]}
    except (RunError, LookupError, TypeError):
        return set()


def record_place(run: RunDir, data: Path) -> None:
    """Write down where a run's images are now, in its configuration and the command that repeats it."""
    known = read_json(run.config)
    if known["data"] == as_recorded(data):
        return
    environment = read_json(run.environment)
    before = shlex.join(["upcycle", "train", known["data"]])
    command = str(environment.get("command", ""))
    if command.startswith(before):
        command = shlex.join(["upcycle", "train", as_recorded(data)]) + command.removeprefix(before)
        write_sealed(run, run.environment, {**environment, "command": command})
    write_sealed(run, run.config, {**known, "data": as_recorded(data)})


def same_weights(run: RunDir, config: Config, digest: str) -> None:
    """RunError when a run would resume with other weights than those of `digest`."""
    if read_json(run.config).get("weights_sha256", "") != digest:
        raise RunError(f"{run.root} was started with other weights than {config.weights} holds: give another --out")


def _below_root(rows: Sequence[Recorded]) -> list[Recorded]:
    """The rows without what all paths begin with, where a manifest has only absolute ones: that may have moved."""
    paths = [PurePosixPath(row.path) for row in rows]
    if not paths or not all(path.is_absolute() for path in paths):
        return list(rows)
    root = os.path.commonpath([path.parent for path in paths])
    return [row._replace(path=path.relative_to(root).as_posix()) for row, path in zip(rows, paths, strict=True)]


def differences(run: RunDir, index: Index, splits: Splits) -> str:
    """What is other in the images or their split than a run has recorded, in a few words; "" for nothing."""
    if are_written(run.splits, index, splits):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "splits.csv"
        write_splits(file, index, splits)
        before, now = read_splits(run.splits), read_splits(file)
    if _below_root(before) == _below_root(now):
        return ""
    return changes(before, now) or "their order"


def same_data(run: RunDir, index: Index, splits: Splits) -> None:
    """RunError when a run would resume with other images or another split than it has recorded, where it has."""
    told = differences(run, index, splits) if run.splits.exists() else ""
    if told:
        raise RunError(
            f"the images or their split are not those {run.root} was started with ({told}): give another --out"
        )


def recorded_audit(run: RunDir, index: Index) -> Audit | None:
    """What a run has recorded of images that are still its own, to be found once; None where that is not known."""
    try:
        audit = Audit.from_dict(read_json(run.audit))
    except RunError:
        return None
    return audit if audit.quarantined == index.quarantined else None


def _flat(model: Mapping[str, object]) -> dict[str, object]:
    """What decides a network's results, preprocessing and weights by their parts; where those are from left out."""
    parts = {name: model.get(name) for name in ("arch", "classes", "outputs")}
    for name in ("preprocessing", "weights"):
        part = model.get(name)
        parts |= {key: value for key, value in part.items() if key != "source"} if isinstance(part, dict) else {}
    return parts


def same_network(run: RunDir, network: ModelSpec) -> None:
    """RunError when a run would resume with another network, or another input, than it has recorded, where it has."""
    if not run.model.exists():
        return
    known, now = read_json(run.model), json.loads(json.dumps(network.to_dict()))
    if not isinstance(known, dict):
        raise RunError(f"{run.model} does not hold what a run writes")
    before, after = _flat(known), _flat(now)
    chosen = ("stages", "views")  # by the probe, as it will be again
    other = next((name for name in after if before.get(name) != after[name] and name not in chosen), None)
    if other is not None:
        raise RunError(
            f"{run.root} was started with {other} = {before.get(other)}, not {after[other]}, which the weights, a file "
            "beside them or --input say: give another --out"
        )
    if "linear_head" not in known and create(network).linear_in_name_alone:
        raise RunError(f"{run.root} is of an upcycle that computed {network.arch} otherwise: give another --out")
