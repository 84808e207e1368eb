"""Finished runs as a comparison reads them, grouped by what was trained, and the test images that they share."""

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from upcycle.comparison.statistics import Arm
from upcycle.config import FACTS, Config, read_config
from upcycle.data.splits import read_splits
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.intervals import clusters
from upcycle.evaluation.results import Evaluation, Predictions, RunEvaluation, read_predictions
from upcycle.history import History, Row
from upcycle.manifest import check
from upcycle.recipes import effective
from upcycle.rundir import RunDir, read_json, read_lines, read_value

_MACHINE = ("processor", "device", "gpu", "threads", "precision", "versions")
"""What a comparison shows of where its runs were trained."""


class Facts(BaseModel):
    """What the files of a run say beside its options and metrics; None where they do not.

    `seconds` are those of the whole run; `decoding_seconds` and `features_seconds` of the parts whose results are
    cached: the run that comes first pays for them. `size` and `crop_pct` are of the network's input.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    data: str | None = None
    weights_sha256: str | None = None
    updates: int | None = None
    seconds: float | None = None
    decoding_seconds: float | None = None
    features_seconds: float | None = None
    arch: str | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    size: int | None = None
    crop_pct: float | None = None


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run: what its files say, and its predictions of the test images.

    `custom`: which schedule, loss and augmentation of the caller's it had, by name; `splits`: a digest of its split.
    """

    path: Path
    config: Config
    facts: Facts
    environment: Mapping[str, object]
    custom: Mapping[str, str]
    history: tuple[Row, ...]
    test: Evaluation
    predictions: Predictions
    splits: str

    @property
    def seed(self) -> int:
        """The seed it was trained with."""
        return self.config.seed

    @property
    def options(self) -> dict[str, object]:
        """The options that had an effect, with the image size and the crop that were resolved, and what was passed."""
        seen = {"image_size": self.facts.size, "crop_pct": self.facts.crop_pct, **self.custom}
        return effective(self.config, {name: value for name, value in seen.items() if value is not None})

    @property
    def rows(self) -> tuple[Row, ...]:
        """The epochs of its last phase, the one that its curves are about."""
        return tuple(row for row in self.history if row.phase == self.history[-1].phase)

    @property
    def machine(self) -> str:
        """Where it was trained, in words."""
        parts = [str(self.environment[name]) for name in ("processor", "device", "gpu") if name in self.environment]
        threads = self.environment.get("threads")
        return ", ".join([*parts, *([] if threads is None else [f"{threads} threads"])])


def read_run(path: Path) -> FinishedRun:
    """A run that has been tested; RunError, saying what it lacks, for any other folder."""
    run = RunDir(path)
    if not run.is_run():
        raise RunError(f"{path} is not a run: give folders that upcycle train wrote")
    status = run.status()
    if status["state"] != "finished":
        resume = shlex.join(["upcycle", "train", "--out", str(path), "--resume"])
        raise RunError(f"{path} is {status['state']}, not finished: {resume}")
    check(run)
    evaluation = entries(run.evaluation)
    if run.evaluation.exists() and "test" not in evaluation:
        raise RunError(f"{path} has no test set, and runs are compared by their test: train it with a test_fraction")
    for file in (run.config, run.evaluation, run.predictions("test")):
        if not file.exists():
            raise RunError(f"{path} lacks {file.relative_to(path)}: its test cannot be compared. Train it again")
    try:
        test = RunEvaluation.from_dict(evaluation)["test"]
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    try:
        config = read_config(run.config)
    except ConfigError as error:
        raise RunError(str(error)) from None
    if config.folds:
        raise RunError(f"{path} is cross-validated, each image tested by another model. Compare its folds' runs")
    model, environment, recorded = entries(run.model), entries(run.environment), entries(run.config)
    seconds = {name: value for name, value in status.items() if name.endswith("seconds")}
    facts = {**model, **_entries(model.get("preprocessing") or {}, run.model), **seconds}
    passed = _entries(environment.get("callables") or {}, run.environment)
    return FinishedRun(
        path=path,
        config=config,
        facts=read_value(Facts, {**facts, **{name: recorded.get(name) for name in FACTS}}, str(path)),
        environment={name: environment[name] for name in _MACHINE if environment.get(name) is not None},
        custom={name: _named(entry) for name, entry in passed.items()},
        history=read_history(run),
        test=test,
        predictions=read_predictions(run.predictions("test")),
        splits=digest(run.splits),
    )


def read_history(run: RunDir) -> tuple[Row, ...]:
    """The epochs of a run; RunError where its file is damaged."""
    return History.from_dicts(read_lines(run.history)).rows


def entries(file: Path) -> dict[str, Any]:
    """What a JSON file of a run holds, nothing where there is none; RunError for other values than settings."""
    return _entries(read_json(file) if file.exists() else {}, file)


def _entries(values: object, file: Path) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise RunError(f"{file} is damaged: it holds no settings")
    return values


def _named(entry: object) -> str:
    """What a run records of a function or value that was passed to it, in a few words."""
    parts = entry.items() if isinstance(entry, dict) else ()
    return ", ".join(f"{name} {str(value)[:8] if name == 'sha256' else value}" for name, value in parts)


def digest(file: Path) -> str:
    """The sha256 of which images a splits file has on which side, by content; '' where there is no file."""
    if not file.exists():
        return ""
    sides = sorted((row.sha256 or row.path, row.label, row.split) for row in read_splits(file))
    return hashlib.sha256(json.dumps(sides).encode()).hexdigest()


# --------------------------------------------------------------------------------------- groups


@dataclass(frozen=True)
class FailedSeed:
    """A run that failed, and why."""

    seed: int
    reason: str


@dataclass(frozen=True, eq=False)
class VariantRuns:
    """The finished runs of one variant, one per seed; failures; where its rate is chosen, the runs that tried them."""

    name: str
    title: str
    description: str
    runs: tuple[FinishedRun, ...]
    failed: tuple[FailedSeed, ...] = ()
    trials: tuple[FinishedRun, ...] = ()
    lr: float | None = None


def grouped(runs: Sequence[FinishedRun]) -> list[VariantRuns]:
    """Runs that differ in nothing but their seed, together; groups in the order, and by the name, of their first run.

    RunError for one configuration and seed twice.
    """
    kinds: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        own = {"data": run.splits, "weights": run.facts.weights_sha256, "updates": run.facts.updates}
        facts = {**run.options, **own}
        kinds[json.dumps(facts, sort_keys=True, default=str)].append(run)
    groups = []
    for some in kinds.values():
        seen: dict[int, Path] = {}
        for run in some:
            if seen.setdefault(run.seed, run.path) is not run.path:
                raise RunError(f"{seen[run.seed]} and {run.path} are the same configuration and seed: give one of them")
        name = some[0].path.resolve().name
        what = f"the run{'' if len(some) == 1 else 's'} {', '.join(run.path.name for run in some)}"
        groups.append(VariantRuns(name, name, what, tuple(some)))
    if len({group.name for group in groups}) < len(groups):
        groups = [replace(group, name=str(group.runs[0].path)) for group in groups]
    return groups


# ---------------------------------------------------------------------------------- shared test


@dataclass(frozen=True, eq=False)
class SharedTest:
    """The test images that all runs share, in the order of the first run; `units` [n] are numbered from 0.

    `order`: for each run the positions of the shared images in its own predictions.
    """

    reference: Predictions
    order: dict[Path, NDArray[np.int64]]
    units: NDArray[np.int64]

    def arm(self, runs: Sequence[FinishedRun]) -> Arm:
        """What the models of `runs` answered, [S, n], in the shared order."""
        predicted = np.stack([run.predictions.predicted()[self.order[run.path]] for run in runs])
        return Arm(self.reference.labels, predicted, self.units, len(self.reference.classes))


def shared_test(runs: Sequence[FinishedRun]) -> SharedTest:
    """The test set of all `runs`; RunError, with the reason, when one was tested on others than the first.

    Images are the same when their content and their class are. Where runs differ in what they know of
    groups, the coarsest knowledge holds.
    """
    first = runs[0]
    keys = first.predictions.identities()
    places, order, units = set(keys), {}, []
    for run in runs:
        ours, made = first.predictions.classes, run.predictions
        if ours != made.classes:
            raise RunError(
                f"{run.path} has other classes ({_listed(made.classes)}) than {first.path} ({_listed(ours)}): "
                "only runs of the same classes can be compared"
            )
        theirs = {key: at for at, key in enumerate(made.identities())}
        if theirs.keys() != places:
            raise RunError(_other_images(first, run))
        order[run.path] = np.array([theirs[key] for key in keys], dtype=np.int64)
        # runs that know no groups have more
        units.append(clusters([made.groups[theirs[key]] for key in keys], [made.hashes[theirs[key]] for key in keys]))
    return SharedTest(first.predictions, order, min(units, key=np.max))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _other_images(first: FinishedRun, other: FinishedRun) -> str:
    ours, theirs = first.predictions, other.predictions
    both = len(set(ours.hashes) & set(theirs.hashes))
    what = f"{other.path} was tested on {len(theirs)} images, {first.path} on {len(ours)}, {both} of them the same"
    if both == len(set(ours.hashes)) == len(set(theirs.hashes)):
        what = f"{other.path} and {first.path} were tested on the same images with other labels or in other numbers"
    return f"{what}: only runs with the same test images can be compared. Train them with one --split-seed"
