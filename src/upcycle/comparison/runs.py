"""Finished runs as a comparison reads them, grouped by variant, and the test images that they share."""

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from upcycle.comparison.statistics import Arm
from upcycle.comparison.variants import VARIANTS, Variant, effective, follows
from upcycle.config import Config, read_config
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.intervals import clusters
from upcycle.evaluation.results import Evaluation, Predictions, RunEvaluation, read_predictions
from upcycle.history import History, Row
from upcycle.manifest import check
from upcycle.rundir import RunDir, read_json, read_lines
from upcycle.values import read_value

_Value = TypeVar("_Value")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Origin(_Strict):
    """What a run's config.json says beside its options."""

    data: str | None = None
    weights_sha256: str | None = None


class Environment(_Strict):
    """Where a run was trained."""

    processor: str | None = None
    device: str | None = None
    gpu: str | None = None
    threads: int | None = None
    precision: str | None = None
    versions: dict[str, str] = {}

    def __str__(self) -> str:
        threads = None if self.threads is None else f"{self.threads} threads"
        return ", ".join(part for part in (self.processor, self.device, self.gpu, threads) if part is not None)


class Seconds(_Strict):
    """Seconds of a run, and of the parts whose results are cached: the run that comes first pays for them."""

    seconds: float | None = None
    decoding_seconds: float | None = None
    features_seconds: float | None = None


class Input(_Strict):
    """What a network was given, as far as variants may differ in it."""

    size: int | None = None
    crop_pct: float | None = None


class Model(_Strict):
    """The network of a run."""

    arch: str | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    preprocessing: Input | None = None


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run: what its files say, and its predictions of the test images; `splits` is a digest of its split."""

    path: Path
    config: Config
    source: Origin
    model: Model
    seconds: Seconds
    environment: Environment
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
        """The options that had an effect, with the image size and the crop that were resolved."""
        seen = self.model.preprocessing or Input()
        return effective(
            self.config, {k: v for k, v in (("image_size", seen.size), ("crop_pct", seen.crop_pct)) if v is not None}
        )

    @property
    def rows(self) -> tuple[Row, ...]:
        """The epochs of its last phase, the one that its curves are about."""
        return tuple(row for row in self.history if row.phase == self.history[-1].phase)


def read_run(path: Path) -> FinishedRun:
    """A run that has been tested; RunError, saying what it lacks, for any other folder."""
    run = RunDir(path)
    if not run.is_run():
        raise RunError(f"{path} is not a run: give folders that upcycle train wrote")
    status = run.status()
    if status["state"] != "finished":
        resume = shlex.join(["upcycle", "train", "--out", str(path), "--resume"])
        raise RunError(f"{path} is {status['state']}, not finished: {resume}")
    for file in (run.config, run.evaluation, run.predictions("test")):
        if not file.exists():
            if run.evaluation.exists():
                _test(run)  # which says so of a run without a test set
            raise RunError(f"{path} lacks {file.relative_to(path)}: its test cannot be compared. Train it again")
    check(run)
    test = _test(run)
    try:
        config = read_config(run.config)
    except ConfigError as error:
        raise RunError(str(error)) from None
    if config.folds:
        raise RunError(f"{path} is cross-validated, each image tested by another model. Compare its folds' runs")
    return FinishedRun(
        path=path,
        config=config,
        source=read_source(run),
        model=_read(Model, run.model) if run.model.exists() else Model(),
        seconds=_read(Seconds, run.status_file),
        environment=_read(Environment, run.environment) if run.environment.exists() else Environment(),
        history=read_history(run),
        test=test,
        predictions=read_predictions(run.predictions("test")),
        splits=digest(run.splits),
    )


def read_history(run: RunDir) -> tuple[Row, ...]:
    """The epochs of a run; RunError where its file is damaged."""
    return History.from_dicts(read_lines(run.history)).rows


def read_source(run: RunDir) -> Origin:
    """The images and weights that a run recorded; RunError where its file is damaged."""
    return _read(Origin, run.config)


def digest(file: Path) -> str:
    """The sha256 of a file; '' where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _read(kind: type[_Value], file: Path) -> _Value:
    return read_value(kind, read_json(file), str(file))


def _test(run: RunDir) -> Evaluation:
    """The metrics of a run's test; RunError where it has none."""
    values = read_json(run.evaluation)
    if isinstance(values, dict) and "test" not in values:
        raise RunError(
            f"{run.root} has no test set, and runs are compared by their test: train it with a test_fraction"
        )
    try:
        test = RunEvaluation.from_dict(values).test
    except RunError as error:
        raise RunError(f"{run.root}: {error}") from None
    assert test is not None
    return test


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
    """Runs that differ in nothing but their seed, together; groups in the order of their first run.

    A group has the name and title of the built-in variant that its runs are; else, and where two are the
    same variant, the name of its first folder. RunError for one configuration and seed twice.
    """
    kinds: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        facts = {**run.options, "data": run.splits, "weights": run.source.weights_sha256}
        kinds[json.dumps(facts, sort_keys=True, default=str)].append(run)
    for some in kinds.values():
        _check_seeds(some)
    variants = [_variant_of(some[0]) for some in kinds.values()]
    variants = [variant if variants.count(variant) == 1 else None for variant in variants]
    groups = [_group(variant, tuple(some)) for variant, some in zip(variants, kinds.values(), strict=True)]
    if len({group.name for group in groups}) < len(groups):
        groups = [replace(group, name=str(group.runs[0].path)) for group in groups]
    return groups


def _variant_of(run: FinishedRun) -> Variant | None:
    """The built-in variant whose recipe a run followed exactly; those that tune their rate left out."""
    return next((one for one in VARIANTS.values() if not one.rates and follows(run.config, one)), None)


def _group(variant: Variant | None, runs: tuple[FinishedRun, ...]) -> VariantRuns:
    what = f"the run{'' if len(runs) == 1 else 's'} {', '.join(run.path.name for run in runs)}"
    if variant is None:
        name = runs[0].path.resolve().name
        return VariantRuns(name, name, what, runs)
    return VariantRuns(variant.name, variant.title, f"{variant.description} ({what})", runs)


def _check_seeds(runs: Sequence[FinishedRun]) -> None:
    seen: dict[int, Path] = {}
    for run in runs:
        if run.seed in seen:
            raise RunError(f"{seen[run.seed]} and {run.path} are the same configuration and seed: give one of them")
        seen[run.seed] = run.path


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
    places = set(keys)
    order = {}
    for run in runs:
        _same_classes(first, run)
        theirs = {key: at for at, key in enumerate(run.predictions.identities())}
        if theirs.keys() != places:
            raise RunError(_other_images(first, run))
        order[run.path] = np.array([theirs[key] for key in keys], dtype=np.int64)
    return SharedTest(first.predictions, order, min((_units(run, order[run.path]) for run in runs), key=np.max))


def _units(run: FinishedRun, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The independent unit of each shared image, as this run knows them; runs that know no groups have more."""
    made = run.predictions
    return clusters([made.groups[at] for at in order], [made.hashes[at] for at in order])


def _same_classes(first: FinishedRun, other: FinishedRun) -> None:
    ours, theirs = first.predictions.classes, other.predictions.classes
    if ours != theirs:
        raise RunError(
            f"{other.path} has other classes ({_listed(theirs)}) than {first.path} ({_listed(ours)}): "
            "only runs of the same classes can be compared"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _other_images(first: FinishedRun, other: FinishedRun) -> str:
    ours, theirs = first.predictions, other.predictions
    both = len(set(ours.hashes) & set(theirs.hashes))
    what = f"{other.path} was tested on {len(theirs)} images, {first.path} on {len(ours)}, {both} of them the same"
    if both == len(set(ours.hashes)) == len(set(theirs.hashes)):
        what = f"{other.path} and {first.path} were tested on the same images with other labels or in other numbers"
    return f"{what}: only runs with the same test images can be compared. Train them with one --split-seed"
