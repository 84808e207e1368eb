"""What a run leaves behind once it is trained: predictions, metrics, thumbnails."""

import shutil
from dataclasses import dataclass, field

from upcycle.data import decode
from upcycle.errors import DecodeError
from upcycle.evaluation.metrics import evaluate
from upcycle.evaluation.predictions import Predictions
from upcycle.evaluation.results import Choice, RunEvaluation
from upcycle.jobs.prepare import Job
from upcycle.reporting.tables import evaluation_table, models_table
from upcycle.rundir import write_bytes, write_json


@dataclass(frozen=True, eq=False)
class Results:
    """Predictions of the kept model by split, "val" and, where there are test images, "test"; and of others by name."""

    kept: dict[str, Predictions]
    others: dict[str, Predictions] = field(default_factory=dict)
    choice: Choice | None = None


def write_results(job: Job, results: Results) -> None:
    """Write predictions, `evaluation.json` and thumbnails of the mistakes, and show the metrics."""
    named = {**results.kept, **results.others}
    for name, made in named.items():
        made.save(job.run.predictions(name))
    for path in set(job.run.root.glob("predictions/*.csv")) - {job.run.predictions(name) for name in named}:
        path.unlink()  # of a choice before more epochs
    evaluation = RunEvaluation(
        {
            name: evaluate(made, seed=job.config.seed, split="val" if name.endswith("val") else "test")
            for name, made in named.items()
        },
        results.choice,
    )
    write_json(job.run.evaluation, evaluation.to_dict())
    _write_thumbnails(job, results.kept.get("test"))
    split = "test" if evaluation.test else "val"
    if split == "val":
        job.show.say(
            "no test set: these are scores of the validation images, which chose the model, so they flatter it"
        )
    job.show.table(evaluation_table(evaluation[split]))
    names = {"probe": f"probe_{split}", "fine-tuned": f"finetune_{split}"}
    others = {label: evaluation[name] for label, name in names.items() if name in evaluation.named}
    if others and results.choice is not None:
        chosen = {"finetune": "fine-tuned", "probe": "probe"}[results.choice.chosen]
        others.pop(chosen, None)
        job.show.table(models_table({f"{chosen} (chosen)": evaluation[split], **others}))


def _write_thumbnails(job: Job, test: Predictions | None) -> None:
    """Keep a small picture of every misclassified test image, so the report needs no data folder."""
    shutil.rmtree(job.run.thumbnails, ignore_errors=True)
    if test is None:
        return
    wrong = (test.predicted() != test.labels).nonzero()[0]
    positions = job.prepared.splits.test
    for at in wrong:
        try:
            small = decode.thumbnail(
                job.prepared.index.file(int(positions[at])), scale=job.prepared.preprocessing.scale
            )
        except DecodeError:
            continue  # the file went away since it was decoded; its row in the table remains
        write_bytes(job.run.thumbnails / f"{test.hashes[at]}.jpg", small)
