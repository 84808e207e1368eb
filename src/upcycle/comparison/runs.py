"""Runs as a comparison sees them: what a run directory says of itself, and several on the same test images."""

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from upcycle.comparison.ladder import RUNGS, Rung
from upcycle.comparison.options import effective, way
from upcycle.comparison.paired import Arm
from upcycle.config import read_json as read_config
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.intervals import clusters
from upcycle.evaluation.predictions import Predictions, read
from upcycle.history import without_head
from upcycle.manifest import check
from upcycle.recipes import resolve
from upcycle.rundir import RunDir, read_json, read_lines

Values = dict[str, Any]


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
    def split_seed(self) -> int:
        """The seed that decided its split."""
        given = self.config.get("split_seed")
        return self.seed if given is None else int(given)

    @property
    def size(self) -> int | None:
        """Pixels of the square input, as it was resolved."""
        size = (self.model.get("preprocessing") or {}).get("size")
        return int(size) if size else None

    def score(self, metric: str) -> float:
        """One test metric's value."""
        return float(self.evaluation["test"][metric]["value"])

    @property
    def options(self) -> Values:
        """The options that had an effect, with the image size and the crop that were resolved."""
        known = self.model.get("preprocessing") or {}
        resolved = {"image_size": self.size, "crop_pct": known.get("crop_pct")}
        return effective(self.config, {name: value for name, value in resolved.items() if value})

    @property
    def is_timed_whole(self) -> bool:
        """Whether its seconds hold all its epochs: a session that was killed may have taken some along."""
        spent = sum(float(row.get("seconds") or 0.0) for row in self.timings)
        return spent <= float(self.status.get("seconds") or 0.0)

    @property
    def epochs(self) -> int:
        """Epochs of training layers of the network."""
        return len(self.history)

    @property
    def rows(self) -> list[Values]:
        """The epochs of its last phase, the one that its curves are about."""
        return [row for row in self.history if row["phase"] == self.history[-1]["phase"]]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Config(_Strict):
    data: str | None = None
    weights_sha256: str | None = None


class _Environment(_Strict):
    processor: str | None = None
    device: str | None = None
    threads: int | None = None
    precision: str | None = None
    versions: dict[str, str] = {}


class _Status(_Strict):
    seconds: float | None = None
    decoding_seconds: float | None = None
    features_seconds: float | None = None


class _Preprocessing(_Strict):
    size: int | None = None
    crop_pct: float | None = None


class _Model(_Strict):
    arch: str | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    preprocessing: _Preprocessing | None = None


class _Epoch(_Strict):
    phase: str
    val_loss: float | None = None


class _Timing(_Strict):
    seconds: float | None = None


class _Score(_Strict):
    value: float


class _Scores(_Strict):
    accuracy: _Score
    f1_macro: _Score
    log_loss: _Score


class _Evaluation(_Strict):
    test: _Scores


class _Files(_Strict):
    """What a comparison takes from a run's files, checked before it is used."""

    config: _Config
    environment: _Environment
    status: _Status
    model: _Model
    history: list[_Epoch]
    timings: list[_Timing]
    evaluation: _Evaluation


def read_run(path: Path) -> Run:
    """A run that has been tested; RunError, saying what it lacks, for any other folder."""
    run = RunDir(path)
    if not run.is_run():
        raise RunError(f"{path} is not a run: give folders that upcycle train wrote")
    status = run.status()
    if status["state"] != "finished":
        again = shlex.join(["upcycle", "train", "--out", str(path), "--resume"])
        raise RunError(f"{path} is {status['state']}, not finished: {again}")
    if run.evaluation.exists() and "test" not in _values(run.evaluation):
        raise RunError(f"{path} has no test set, and runs are compared by their test: train it with a test_fraction")
    for file in (run.config, run.evaluation, run.predictions("test")):
        if not file.exists():
            raise RunError(f"{path} lacks {file.relative_to(path)}: its test cannot be compared; train it again")
    check(run)
    try:
        config = read_config(run.config)
    except ConfigError as error:
        raise RunError(str(error)) from None
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
        history=without_head(row for row in _lines(run.history) if "phase" in row),
        timings=_lines(run.timings),
        evaluation=_values(run.evaluation),
        predictions=read(run.predictions("test")),
        splits=hashlib.sha256(run.splits.read_bytes()).hexdigest() if run.splits.exists() else "",
    )
    _check(made)
    return made


def _check(run: Run) -> None:
    """RunError for a file whose values are of another kind than upcycle writes."""
    try:
        _Files.model_validate({name: getattr(run, name) for name in _Files.model_fields})
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RunError(f"{run.path} does not hold what a run writes there: look at {where}") from None


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

    A group has the name and title of the built-in rung that its runs are; else, and where two are the
    same rung, the name of its first folder. RunError when one run was given twice, or one configuration
    was trained twice with one seed.
    """
    kinds: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        facts = {**run.options, "data": run.splits, "weights": run.config.get("weights_sha256")}
        kinds[json.dumps(facts, sort_keys=True)].append(run)
    for some in kinds.values():
        _check_seeds(some)
    rungs = [_rung_of(some[0]) for some in kinds.values()]
    rungs = [rung if rungs.count(rung) == 1 else None for rung in rungs]
    names = [
        rung.name if rung else some[0].path.resolve().name for rung, some in zip(rungs, kinds.values(), strict=True)
    ]
    if len(set(names)) < len(names):
        names = [str(some[0].path) for some in kinds.values()]
    return [_group(*parts) for parts in zip(names, rungs, kinds.values(), strict=True)]


def _rung_of(run: Run) -> Rung | None:
    """The built-in rung whose recipe a run followed to the letter; those that tune their rate left out."""
    for rung in RUNGS.values():
        config = resolve(rung.options).to_dict()
        alike = run.config.get("recipe") == config["recipe"] and way(run.config) == way(config)
        if config["weights"] == "none":
            alike = alike and run.config["weights"] == "none" and run.config["arch"] == config["arch"]
        else:
            alike = alike and run.config["weights"] != "none"
        if alike and not rung.rates:
            return rung
    return None


def _group(name: str, rung: Rung | None, runs: Sequence[Run]) -> Group:
    what = f"the run{'' if len(runs) == 1 else 's'} {', '.join(run.path.name for run in runs)}"
    if rung is None:
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
