"""What a run leaves behind once it is trained: the choice, predictions, metrics, thumbnails."""

import shutil
from dataclasses import dataclass, field

from upcycle.data import decode
from upcycle.data.dataset import Dataset
from upcycle.errors import DecodeError
from upcycle.evaluation.metrics import evaluate
from upcycle.evaluation.predictions import Predictions
from upcycle.evaluation.results import Choice, RunEvaluation
from upcycle.jobs.session import Session
from upcycle.reporting.tables import evaluation_table, models_table
from upcycle.rundir import write_bytes, write_json


@dataclass(frozen=True, eq=False)
class Results:
    """Predictions of the kept model by split, "val" and, where there are test images, "test"; and of others by name."""

    kept: dict[str, Predictions]
    others: dict[str, Predictions] = field(default_factory=dict)
    choice: Choice | None = None


def write_results(session: Session, data: Dataset, results: Results) -> None:
    """Write predictions, `evaluation.json` and thumbnails of the mistakes, and show the metrics."""
    run, show = session.run, session.show
    named = {**results.kept, **results.others}
    for name, made in named.items():
        made.save(run.predictions(name))
    evaluation = RunEvaluation(
        {
            name: evaluate(made, seed=session.config.seed, split="val" if name.endswith("val") else "test")
            for name, made in named.items()
        },
        results.choice,
    )
    write_json(run.evaluation, evaluation.to_dict())
    _write_thumbnails(session, data, results.kept.get("test"))
    split = "test" if evaluation.test else "val"
    if split == "val":
        show.say("no test set: these are scores of the validation images, which chose the model, so they flatter it")
    show.table(evaluation_table(evaluation[split]))
    names = {"probe": f"probe_{split}", "fine-tuned": f"finetune_{split}"}
    others = {label: evaluation[name] for label, name in names.items() if name in evaluation.named}
    if others and results.choice is not None:
        chosen = {"finetune": "fine-tuned", "probe": "probe"}[results.choice.chosen]
        others.pop(chosen, None)
        show.table(models_table({f"{chosen} (chosen)": evaluation[split], **others}))


def _write_thumbnails(session: Session, data: Dataset, test: Predictions | None) -> None:
    """Keep a small picture of every misclassified test image, so the report needs no data folder."""
    shutil.rmtree(session.run.thumbnails, ignore_errors=True)
    if test is None:
        return
    wrong = (test.predicted() != test.labels).nonzero()[0]
    positions = data.splits.test
    for at in wrong:
        try:
            small = decode.thumbnail_jpeg(data.index.file(int(positions[at])), scale=data.preprocessing.scale)
        except DecodeError:
            continue  # the file went away since it was decoded; its row in the table remains
        write_bytes(session.run.thumbnails / f"{test.hashes[at]}.jpg", small)
