"""Runs as a comparison sees them: what a run directory says of itself, and several on the same test images."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upcycle.config import read_json as read_config
from upcycle.errors import RunError
from upcycle.evaluation.intervals import clusters
from upcycle.evaluation.predictions import Predictions, read
from upcycle.rundir import RunDir, read_json, read_lines
from upcycle.study.ladder import RUNGS, Rung
from upcycle.study.paired import Arm

Values = dict[str, Any]

OF_THE_MACHINE = ("seed", "split_seed", "cache", "threads")
"""Options that may differ between the seeds of one recipe."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its files as plain values, and its predictions of the test images."""

    path: Path
    config: Values
    model: Values
    status: Values
    environment: Values
    history: list[Values]
    timings: list[Values]
    evaluation: Values
    predictions: Predictions
    splits: str

    @property
    def seed(self) -> int:
        """The seed it was trained with."""
        return int(self.config.get("seed", 0))

    @property
    def size(self) -> int | None:
        """Pixels of the square input, as it was resolved."""
        size = (self.model.get("preprocessing") or {}).get("size")
        return int(size) if size else None

    def score(self, metric: str) -> float:
        """One test metric's value."""
        return float(self.evaluation["test"][metric]["value"])

    @property
    def is_timed_whole(self) -> bool:
        """Whether its seconds hold all its epochs: a session that was killed may have taken some along."""
        spent = sum(float(row.get("seconds") or 0.0) for row in self.timings)
        return spent <= float(self.status.get("seconds") or 0.0)

    @property
    def rows(self) -> list[Values]:
        """The epochs of its last phase, the one that its curves are about."""
        return [row for row in self.history if row["phase"] == self.history[-1]["phase"]]


def read_run(path: Path) -> Run:
    """A run that has been tested; RunError, saying what it lacks, for any other folder."""
    run = RunDir(path)
    if not run.is_run():
        raise RunError(f"{path} is not a run: give folders that upcycle train wrote")
    status = run.status()
    if not run.predictions("test").exists() or not run.evaluation.exists():
        raise RunError(f"{path} has no predictions of its test images (it is {status['state']}): finish it first")
    config = read_config(run.config)
    if config.folds:
        raise RunError(
            f"{path} is cross-validated, each image tested by another model: compare its folds' runs instead"
        )
    made = Run(
        path=path,
        config={**_values(run.config), **config.to_dict()},
        model=_values(run.model) if run.model.exists() else {},
        status=status,
        environment=_values(run.environment) if run.environment.exists() else {},
        history=[row for row in _lines(run.history) if "phase" in row],
        timings=_lines(run.timings),
        evaluation=_values(run.evaluation),
        predictions=read(run.predictions("test")),
        splits=hashlib.sha256(run.splits.read_bytes()).hexdigest() if run.splits.exists() else "",
    )
    try:
        _ = [made.score(metric) for metric in ("accuracy", "f1_macro", "log_loss")]
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{run.evaluation} does not hold test metrics: upcycle train writes them") from None
    return made


def _values(path: Path) -> Values:
    """A JSON file's object; RunError for anything else."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise RunError(f"{path} does not hold what a run writes there")
    return values


def _lines(path: Path) -> list[Values]:
    return [row for row in read_lines(path) if isinstance(row, dict)]


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one rung, a seed each, with the words for it and, where there are, trials and failures."""

    name: str
    title: str
    does: str
    runs: tuple[Run, ...]
    failed: tuple[Values, ...] = ()
    trials: tuple[Run, ...] = ()
    lr: float | None = None


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in nothing but their seed, together; groups in the order of their first run.

    A group has the name of the rung that its runs are, or of their recipe; where two have the same, its first folder's.
    RunError when one of them was given twice, or trained twice with one seed.
    """
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        facts = {name: value for name, value in run.config.items() if name not in OF_THE_MACHINE}
        facts |= {"data": run.splits, "size": run.size}
        kinds[json.dumps(facts, sort_keys=True)].append(run)
    rungs = [_rung_of(some[0]) for some in kinds.values()]
    known = [
        rung.name if rung else str(some[0].config.get("recipe", ""))
        for rung, some in zip(rungs, kinds.values(), strict=True)
    ]
    for some in kinds.values():
        _check_seeds(some)
    names = [
        name if name and known.count(name) == 1 else some[0].path.resolve().name
        for name, some in zip(known, kinds.values(), strict=True)
    ]
    if len(set(names)) < len(names):
        names = [str(some[0].path) for some in kinds.values()]
    return [_group(*parts) for parts in zip(names, rungs, kinds.values(), strict=True)]


def _rung_of(run: Run) -> Rung | None:
    """The built-in rung that a run is by its recipe, schedule and rate; those that tune their rate left out."""
    found = (rung for rung in RUNGS.values() if not rung.rates)
    return next((rung for rung in found if rung.makes.items() <= run.config.items()), None)


def _group(name: str, rung: Rung | None, runs: Sequence[Run]) -> Group:
    what = f"the runs {', '.join(run.path.name for run in runs)}"
    if rung is None or name != rung.name:
        return Group(name, name, what, tuple(runs))
    return Group(name, rung.title, f"{rung.does} ({what})", tuple(runs))


def _check_seeds(runs: Sequence[Run]) -> None:
    seen: dict[int, Path] = {}
    for run in runs:
        if run.seed in seen:
            raise RunError(f"{seen[run.seed]} and {run.path} are the same configuration and seed: give one of them")
        seen[run.seed] = run.path


@dataclass(frozen=True, eq=False)
class SharedTest:
    """The test images that all runs share, in the order of the first run; `units` [n] are numbered from 0.

    `order`: for each run the positions of the shared images in its own predictions.
    """

    reference: Predictions
    order: dict[Path, NDArray[np.int64]]
    units: NDArray[np.int64]

    def arm(self, runs: Sequence[Run]) -> Arm:
        """What the models of `runs` answered, [S, n], in the shared order."""
        predicted = np.stack([run.predictions.predicted()[self.order[run.path]] for run in runs])
        return Arm(self.reference.labels, predicted, self.units, len(self.reference.classes))


def shared_test(runs: Sequence[Run]) -> SharedTest:
    """The test set of all `runs`; RunError, with the reason, when one was tested on others than the first.

    Images are the same when their content and their class are. Where runs differ in what they know of
    groups, the coarsest knowledge holds.
    """
    first = runs[0]
    keys = first.predictions.identities()
    places = {key: at for at, key in enumerate(keys)}
    order = {}
    for run in runs:
        _same_classes(first, run)
        theirs = {key: at for at, key in enumerate(run.predictions.identities())}
        if theirs.keys() != places.keys():
            raise RunError(_other_images(first, run))
        order[run.path] = np.array([theirs[key] for key in keys], dtype=np.int64)
    return SharedTest(first.predictions, order, min((_units(run, order[run.path]) for run in runs), key=np.max))


def _units(run: Run, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The independent unit of each shared image, as this run knows them; runs that know no groups have more."""
    made = run.predictions
    return clusters([made.groups[at] for at in order], [made.hashes[at] for at in order])


def _same_classes(first: Run, other: Run) -> None:
    ours, theirs = first.predictions.classes, other.predictions.classes
    if ours != theirs:
        raise RunError(
            f"{other.path} knows other classes ({_listed(theirs)}) than {first.path} ({_listed(ours)}): "
            "only runs of the same classes can be compared"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _other_images(first: Run, other: Run) -> str:
    ours, theirs = first.predictions, other.predictions
    both = len(set(ours.hashes) & set(theirs.hashes))
    what = f"{other.path} was tested on {len(theirs)} images, {first.path} on {len(ours)}, {both} of them the same"
    if both == len(set(ours.hashes)) == len(set(theirs.hashes)):
        what = f"{other.path} and {first.path} were tested on the same images with other labels or in other numbers"
    return f"{what}: only runs with the same test images can be compared; train them with one --split-seed"
