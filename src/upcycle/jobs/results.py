"""What a run leaves behind once it is trained: the choice, predictions, metrics, thumbnails."""

import shutil
from dataclasses import dataclass, field
from typing import Any, Literal

from upcycle.data import decode
from upcycle.errors import DecodeError
from upcycle.evaluation.metrics import evaluate, paired_log_loss
from upcycle.evaluation.predictions import Predictions
from upcycle.jobs.prepare import Prepared
from upcycle.jobs.session import Session
from upcycle.reporting.terminal import comparison_table, table
from upcycle.rundir import write_bytes, write_json


@dataclass(frozen=True)
class Choice:
    """Which model was kept, and the paired difference of log losses (fine-tuned minus probe) that decided it."""

    chosen: Literal["finetune", "probe"]
    mean_difference: float
    standard_error: float

    @classmethod
    def between(cls, tuned: Predictions, probe: Predictions) -> "Choice":
        """Fine-tuning where its per-image log loss beats the probe's by more than one standard error of the paired
        difference, on validation images.
        """
        paired = paired_log_loss(tuned, probe)
        better = paired.mean_difference < -paired.standard_error
        return cls("finetune" if better else "probe", paired.mean_difference, paired.standard_error)

    @property
    def says(self) -> str:
        """The decision in words."""
        difference = f"{self.mean_difference:+.4f} ± {self.standard_error:.4f}"
        if self.chosen == "finetune":
            return (
                f"fine-tuning kept: its validation loss differs from the probe's by {difference} per image, "
                "better by more than one standard error"
            )
        return (
            f"probe kept: fine-tuning's validation loss differs from the probe's by {difference} per image, "
            "not better by more than one standard error"
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "chosen": self.chosen,
            "mean_difference": self.mean_difference,
            "standard_error": self.standard_error,
            "says": self.says,
        }


@dataclass(frozen=True, eq=False)
class Results:
    """Predictions of the kept model by split, "val" and, where there are test images, "test"; and of others by name."""

    kept: dict[str, Predictions]
    others: dict[str, Predictions] = field(default_factory=dict)
    choice: Choice | None = None


def write_results(session: Session, data: Prepared, results: Results) -> None:
    """Write predictions, `evaluation.json` and thumbnails of the mistakes, and show the metrics."""
    run, show = session.run, session.show
    named = {**results.kept, **results.others}
    for name, made in named.items():
        made.save(run.predictions(name))
    known: dict[str, Any] = {
        name: evaluate(made, seed=session.config.seed, split="val" if name.endswith("val") else "test").to_dict()
        for name, made in named.items()
    }
    if results.choice is not None:
        known["choice"] = results.choice.to_dict()
    write_json(run.evaluation, known)
    _write_thumbnails(session, data, results.kept.get("test"))
    split = "test" if "test" in known else "val"
    if split == "val":
        show.say("no test set: these are scores of the validation images, which chose the model, so they flatter it")
    show.table(table(known[split]))
    rivals = {"probe": f"probe_{split}", "fine-tuned": f"finetune_{split}"}
    others = {label: known[name] for label, name in rivals.items() if name in known}
    if others and results.choice is not None:
        kept = {"finetune": "fine-tuned (kept)", "probe": "probe (kept)"}[results.choice.chosen]
        rows = {kept: known[split], **{label: value for label, value in others.items() if label not in kept}}
        show.table(comparison_table(rows))


def _write_thumbnails(session: Session, data: Prepared, test: Predictions | None) -> None:
    """Keep a small picture of every misclassified test image, so the report needs no data folder."""
    shutil.rmtree(session.run.thumbnails, ignore_errors=True)
    if test is None:
        return
    wrong = (test.predicted() != test.labels).nonzero()[0]
    positions = data.splits.test
    for at in wrong:
        try:
            small = decode.thumbnail(data.index.file(int(positions[at])), scale=data.preprocessing.scale)
        except DecodeError:
            continue  # the file went away since it was decoded; its row in the table remains
        write_bytes(session.run.thumbnails / f"{test.hashes[at]}.jpg", small)
