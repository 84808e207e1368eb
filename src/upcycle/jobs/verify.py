"""Whether the numbers that a run or an export records follow from the files that it holds. No torch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from upcycle.bundle.card import card
from upcycle.bundle.description import CARD, EVALUATION, PREDICTIONS, is_bundle, read_bundle
from upcycle.config import expanded, read_config
from upcycle.data.splits import read_splits
from upcycle.errors import ExportError, RunError, UpcycleError, counted
from upcycle.evaluation.metrics import measure
from upcycle.evaluation.results import Evaluation, RunEvaluation, read_predictions
from upcycle.manifest import check
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
    if any(run.root.glob("fold-*")):
        raise RunError(f"{run.root} holds one model per fold: name one of them, {run.root / 'fold-1'} for example")
    if run.status()["state"] != "finished":
        raise RunError(f"{run.root} is not finished: there is nothing to verify yet")
    check(run)
    evaluation, seed = RunEvaluation.from_dict(read_json(run.evaluation)), read_config(run.config).seed
    splits = read_splits(run.splits)
    for name, recorded in evaluation.named.items():
        split = "val" if name.endswith("val") else "test"
        predictions = read_predictions(run.predictions(name))
        if Counter(predictions.hashes) != Counter(row.sha256 for row in splits if row.split == split):
            raise RunError(f"{run.predictions(name)} is not of the images that {run.splits} has in {split}")
        _same(measure(predictions, seed=seed, split=split), recorded, f"{run.evaluation}, {name},", RunError)
    reads = Counter({"training": 1} if evaluation.test else {})
    reads.update(str(row.get("by")) for row in read_lines(run.test_reads))
    names = ", ".join(evaluation.named)
    return Verified(
        (
            f"every file has the sha256 of {run.manifest.name}",
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
    if (folder / CARD).read_text(encoding="utf-8") != card(made, evaluation):
        raise ExportError(f"{folder / CARD} does not follow from the other files: export the run again")
    return Verified(
        (
            "every file has the sha256 of bundle.json",
            f"{EVALUATION} follows from {PREDICTIONS}: {counted(len(predictions), f'{made.split} image')}",
            f"every number of {CARD} is one of these files",
        )
    )


def _same(again: Evaluation, recorded: Evaluation, where: str, error: type[UpcycleError]) -> None:
    """The given error, with the first metric that is another."""
    if plain_json(again.to_dict()) == plain_json(recorded.to_dict()):
        return
    ours, theirs = again.to_dict(), recorded.to_dict()
    name = next((name for name in ours if plain_json(ours[name]) != plain_json(theirs.get(name))), "a value")
    raise error(f"{where} does not follow from the predictions: {name} is another")
