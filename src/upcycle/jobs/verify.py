"""Whether the numbers that a run or an export records follow from the files that it holds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from upcycle.bundle.card import card
from upcycle.bundle.description import CARD, EVALUATION, FILE, PREDICTIONS, Description, is_bundle, read_bundle
from upcycle.bundle.proof import macro_f1
from upcycle.config import expanded, read_config
from upcycle.data.splits import read_splits
from upcycle.errors import ExportError, RunError, UpcycleError, counted
from upcycle.evaluation.calibration import calibration_error
from upcycle.evaluation.metrics import measure
from upcycle.evaluation.results import Evaluation, Metric, Predictions, RunEvaluation, read_predictions
from upcycle.jobs.run import check_finished
from upcycle.manifest import check, unsealed
from upcycle.model.checkpoint import load_tensors
from upcycle.reporting.progress import Display, default_show
from upcycle.rundir import RunDir, plain_json, read_json, read_lines


@dataclass(frozen=True)
class Verified:
    """What was computed again and found equal; `test_reads`: how often the test images were read, by what.

    None where that is not known, as of an export.
    """

    checked: tuple[str, ...]
    test_reads: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def verify(path: Path | str, *, show: Display | None = None) -> Verified:
    """Compute the recorded metrics of a run or an export again from its predictions, and compare every digest.

    RunError, or ExportError, with the first number or file that is another.
    """
    show, folder = show or default_show(), expanded(path)
    made = _verified_bundle(folder) if is_bundle(folder) else _verified_run(RunDir(folder))
    for line in made.checked:
        show.message(line)
    if made.test_reads is not None:
        by = ", ".join(f"{what} {count}" for what, count in made.test_reads.items())
        show.message(f"the test images were read {counted(sum(made.test_reads.values()), 'time')}: {by}")
    return made


def _verified_run(run: RunDir) -> Verified:
    check_finished(run)
    check(run)
    if missing := unsealed(run):
        raise RunError(f"{run.manifest} has no checksum of {missing[0]}: what the run wrote is not known")
    load_tensors(run.best)  # which holds a checksum of its own
    evaluation, seed = RunEvaluation.from_dict(read_json(run.evaluation)), read_config(run.config).seed
    splits = read_splits(run.splits)
    for name, recorded in evaluation.named.items():
        split = "val" if name.endswith("val") else "test"
        predictions = read_predictions(run.predictions(name))
        if Counter(predictions.hashes) != Counter(row.sha256 for row in splits if row.split == split):
            raise RunError(f"{run.predictions(name)} is not of the images that {run.splits} has in {split}")
        _same(measure(predictions, seed=seed, split=split), recorded, f"{run.evaluation}, {name},", RunError)
    if evaluation.calibration is not None:
        for split, after in evaluation.calibration.after.items():
            error = calibration_error(read_predictions(run.predictions(split)), seed=seed)
            _same_error(error, after, f"{run.evaluation}, calibration of {split},", RunError)
    reads = Counter({"training": 1} if evaluation.test else {})
    reads.update(str(row.get("by")) for row in read_lines(run.test_reads))
    names = ", ".join(evaluation.named)
    return Verified(
        (
            f"every file has the sha256 of {run.manifest.name}, and the weights their own checksum",
            f"{run.evaluation.name} follows from the predictions: {names}",
            f"{counted(len(splits), 'image')} of {run.splits.name}: the predictions are of theirs",
        ),
        dict(reads),
    )


def _verified_bundle(folder: Path) -> Verified:
    made = read_bundle(folder)
    evaluation = RunEvaluation.from_dict(read_json(folder / EVALUATION))
    predictions = read_predictions(folder / PREDICTIONS)
    again = measure(predictions, seed=made.origin.seed, split=made.split)
    _same(again, evaluation[made.split], f"{folder / EVALUATION}, {made.split},", ExportError)
    _consistent(made, predictions, folder)
    if evaluation.calibration is not None and made.split in evaluation.calibration.after:
        error = calibration_error(predictions, seed=made.origin.seed)
        where = f"{folder / EVALUATION}, calibration,"
        _same_error(error, evaluation.calibration.after[made.split], where, ExportError)
    if (folder / CARD).read_text(encoding="utf-8") != card(made, evaluation):
        raise ExportError(f"{folder / CARD} does not follow from the other files: export the run again")
    return Verified(
        (
            "every file has the sha256 of bundle.json",
            f"{EVALUATION} follows from {PREDICTIONS}: {counted(len(predictions), f'{made.split} image')}",
            f"{CARD} follows from them and bundle.json; only its times and its differences from torch need the run",
        )
    )


def _consistent(made: Description, predictions: Predictions, folder: Path) -> None:
    """ExportError where bundle.json counts other images than the predictions have, or another F1."""
    counts = {name: int((predictions.labels == at).sum()) for at, name in enumerate(predictions.classes)}
    if {name: splits.get(made.split, 0) for name, splits in made.origin.images.items()} != counts:
        raise ExportError(f"{folder / FILE} counts other {made.split} images than {PREDICTIONS} has")
    proof = made.proof
    if proof is None:
        return
    if proof.images != len(predictions) or not max(proof.same, proof.recorded_same) <= proof.images:
        raise ExportError(f"{folder / FILE} has a proof of other images than {PREDICTIONS}")
    if abs(proof.recorded_f1 - macro_f1(predictions, predictions.predicted())) > 1e-9:
        raise ExportError(f"{folder / FILE} has another F1 of the run than {PREDICTIONS} gives")


def _same_error(again: Metric, recorded: Metric, where: str, error: type[UpcycleError]) -> None:
    """The given error for another calibration error or interval; the last digits are those of fp32 logits."""
    if not np.allclose([again.value, again.low, again.high], [recorded.value, recorded.low, recorded.high], atol=1e-4):
        raise error(f"{where} does not follow from the predictions: it is {again.value:.4f}")


def _same(again: Evaluation, recorded: Evaluation, where: str, error: type[UpcycleError]) -> None:
    """The given error, with the first metric that is another."""
    if plain_json(again.to_dict()) == plain_json(recorded.to_dict()):
        return
    ours, theirs = again.to_dict(), recorded.to_dict()
    name = next((name for name in ours if plain_json(ours[name]) != plain_json(theirs.get(name))), "a value")
    raise error(f"{where} does not follow from the predictions: {name} is another")
