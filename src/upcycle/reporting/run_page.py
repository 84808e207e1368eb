"""The report of a run: one page that needs nothing else, made again at any time from the run's files.

Lists are cut at the limits below, always with a count of what is left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from jinja2 import TemplateError

from upcycle.audit.findings import Audit
from upcycle.errors import RunError, counted
from upcycle.evaluation.calibration import bins, scaled
from upcycle.evaluation.results import (
    MODELS,
    ClassMetrics,
    Evaluation,
    Metric,
    Predictions,
    RunEvaluation,
)
from upcycle.history import Row
from upcycle.manifest import check
from upcycle.reporting import html
from upcycle.reporting.figures import (
    confusion_figure,
    curves_figure,
    metrics_figure,
    reliability_figure,
    schedule_figure,
)
from upcycle.reporting.run_record import RunRecord, Timing
from upcycle.reporting.style import Drawing, save, svg
from upcycle.reporting.text import (
    METRIC_NAMES,
    Cut,
    calibration_text,
    clock,
    cut,
    interval,
    joined,
    percent,
    sentence,
    three,
)
from upcycle.rundir import RunDir, write_text

GALLERY, EPOCHS, CONFUSIONS, COPIES = 24, 200, 8, 6
"""Mistakes, epochs, pairs of confused classes, and copies of one image that the page shows."""


# --------------------------------------------------------------------------------------------- page


def write_report(run: RunDir) -> Path:
    """Write `figures/` and `report.html` of a run from its own files; gives the page's path.

    Works on a copied run directory, without the images, and on an unfinished run: what has no data
    yet is left out with a sentence. RunError when `run` is no run directory or a file of it is
    damaged, StorageError when the page cannot be written.
    """
    if not run.is_run():  # before any file of what may be anything is judged
        raise RunError(f"{run.status_file} is missing: {run.root} is not a run directory, or not a whole one")
    check(run)
    try:
        record = RunRecord.read(run)
        figures = _figures(record)
        documents = {name: svg(figure) for name, figure in figures.items()}
        text = _render(record, documents, [run.thumbnails, *sorted(run.root.glob("fold-*/thumbnails"))])
    except (ArithmeticError, AttributeError, LookupError, TemplateError, TypeError, ValueError) as error:
        # a directory may come from a stranger, with any value in any place
        raise RunError(f"{run.root} does not hold what a run writes ({type(error).__name__}: {error})") from error
    save(figures, documents, run.figures)
    write_text(run.report, text)
    return run.report


def _figures(record: RunRecord) -> dict[str, Drawing]:
    """The figures that there are data for, by name."""
    figures = {}
    if record.phase:
        figures["schedule"] = schedule_figure(record.phase)
    if len(record.history):
        figures["curves"] = curves_figure(record.history)
    if record.test:
        figures |= {"metrics": metrics_figure(record.test), "confusion": confusion_figure(record.test)}
    known = record.evaluation.calibration if record.evaluation else None
    if known and record.predictions is not None and "test" in known.after:
        panels = {"with temperature": (bins(record.predictions), known.after["test"])}
        if known.temperature == 1:
            panels = {"test images": panels["with temperature"]}
        else:
            plain = scaled(record.predictions, 1 / known.temperature)
            panels = {"without temperature": (bins(plain), known.before["test"]), **panels}
        figures["reliability"] = reliability_figure(panels)
    return figures


def _render(record: RunRecord, documents: Mapping[str, str], thumbnails: Sequence[Path]) -> str:
    test, wrong = record.test, mistakes(record.predictions) if record.predictions is not None else None
    return html.render(
        "report.html",
        record=record,
        title=_title(record),
        lead=_lead(record),
        tiles=_tiles(record),
        missing=_missing(record),
        figures=html.inlined(documents),
        rivals=rivals(record.evaluation),
        probe=record.probe,
        models=MODELS,
        metric_names=METRIC_NAMES,
        chosen_by=_chosen_by(record),
        calibration=_calibration(record.evaluation),
        classes=_class_rows(test) if test else None,
        confusions=cut(test.confusions(), CONFUSIONS) if test else None,
        mistakes=wrong,
        thumbnails={item.sha256: html.thumbnail_address(thumbnails, item.sha256) for item in wrong.items}
        if wrong
        else {},
        splits=html.split_table(record.audit) if record.audit else None,
        problems=_problems(record.audit) if record.audit else None,
        epochs=_epoch_rows(record),
        config=html.settings(record.config),
        model=html.settings(record.model),
        machine=html.settings({k: v for k, v in record.environment.items() if k not in {"command", "versions"}}),
        versions=html.settings(record.versions),
        command=html.command(str(record.environment.get("command") or "")),
    )


# ----------------------------------------------------------------------------------------- headline


def _title(record: RunRecord) -> str:
    """What was trained on what, in a few words."""
    data, arch = PurePath(str(record.config.get("data") or "")).name, record.arch or "A classifier"
    return f"{arch} on {data}" if data else arch


def _lead(record: RunRecord) -> list[str]:
    """The run in sentences: what was trained on what, and how well it did."""
    sentences, test = [], record.test
    if record.model and record.audit:
        sentences.append(_trained(record, record.audit))
    if test:
        accuracy, f1 = test.accuracy, test.f1_macro
        sentences.append(
            f"It gets {test.correct:,} of {counted(test.n, 'test image')} right. Its accuracy is "
            f"{percent(accuracy.value)}, and with 95 % confidence between {percent(accuracy.low)} and "
            f"{percent(accuracy.high)}; its test F1 is {three(f1.value)}, between {three(f1.low)} and "
            f"{three(f1.high)}."
        )
    elif record.audit and record.audit.without_test:
        sentences.append("No test set: test_fraction is 0, so nothing here is measured on images that chose nothing.")
        val = record.evaluation.val if record.evaluation else None
        if val:
            sentences.append(
                f"Of {counted(val.n, 'validation image')}, which chose the model and so flatter it, the accuracy is "
                f"{percent(val.accuracy.value)} and the F1 {three(val.f1_macro.value)}."
            )
    folds = record.evaluation.folds if record.evaluation else None
    if folds:
        scores = [three(score) for score in folds.f1_macro]
        sentences.append(
            f"Each image was tested by the one of {len(scores)} models that had not seen it. Their test F1 by fold: "
            f"{joined(scores, most=50)} (mean {three(folds.mean)}, standard deviation {three(folds.deviation)})."
        )
    return sentences


def _trained(record: RunRecord, audit: Audit) -> str:
    evaluation, config, weights = record.evaluation, record.config, record.model.get("weights")
    now = "was" if evaluation else "is being" if record.state == "running" else "was being"
    source = str(weights.get("source") or "") if isinstance(weights, Mapping) else ""
    what = f"{counted(sum(audit.splits.get('train', {}).values()), 'image')} of "
    what += f"{counted(len(audit.classes), 'class', 'classes')}: {joined(list(audit.classes))}"
    if source.startswith("none") or config.get("weights") == "none":
        how = f"{record.arch} {now} trained from random weights"
    elif (evaluation and evaluation.choice and evaluation.choice.chosen == "probe") or record.probe_alone:
        how = f"On the frozen features of {record.arch}, a linear classifier {now} fitted"
    else:
        how = f"A pretrained {record.arch} {now} fine-tuned"
    return f"{how} on {what}."


def _tiles(record: RunRecord) -> list[html.Tile]:
    """The headline numbers, each with its interval."""
    found, test, seconds = [], record.test, record.status.get("seconds")
    if test:
        floor = _floor([test.f1_macro, test.accuracy])
        for name, metric, write in (("Test F1", test.f1_macro, three), ("Test accuracy", test.accuracy, percent)):
            found.append(html.Tile(name, write(metric.value), interval(metric, write), _strip(metric, floor)))
        found.append(html.Tile("Mistakes", f"{test.n - test.correct:,}", f"of {counted(test.n, 'test image')}"))
    if isinstance(seconds, int | float) and seconds:
        found.append(html.Tile("Time", clock(seconds), "for the whole run" if record.state == "finished" else "so far"))
    return found


def _floor(metrics: Iterable[Metric]) -> float:
    """The left end of a scale up to 1 that holds every interval: a multiple of 0.1, at most 0.9."""
    ends = [end for metric in metrics for end in (metric.low, metric.value) if math.isfinite(end)]
    return min(math.floor(10 * min(ends, default=0.0) + 1e-9) / 10, 0.9)


def _strip(metric: Metric, floor: float) -> html.Strip | None:
    left, dot, right = (round(100 * (end - floor) / (1 - floor), 2) for end in (metric.low, metric.value, metric.high))
    return html.Strip(f"{floor:.1f}", left, round(right - left, 2), dot) if math.isfinite(left + dot + right) else None


# ------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Rival:
    """A tested model of those that a run chooses from."""

    name: str
    chosen: bool
    scores: Evaluation
    strip: html.Strip | None


def rivals(evaluation: RunEvaluation | None) -> list[Rival]:
    """Probe, fine-tuning and, where it is another, the kept model on one scale; none where the run had no probe.

    Without a test set the scores are those of the validation images.
    """
    if evaluation is None:
        return []
    split = "test" if evaluation.test else "val"
    chosen = evaluation.choice.chosen if evaluation.choice else None
    probe, tuned = (evaluation.named.get(f"{name}_{split}") for name in ("probe", "finetune"))
    if probe is None:
        return []
    if tuned is None and chosen in (None, "finetune"):
        tuned = evaluation.named.get(split)
    models = [("Frozen probe", "probe", probe), *([("Fine-tuning", "finetune", tuned)] if tuned else [])]
    kept = evaluation.named.get(split)
    if kept and chosen not in (None, "probe", "finetune"):
        models.append((sentence(MODELS[chosen])[:-1], chosen, kept))
    floor = _floor(metric for _, _, scores in models for metric in (scores.f1_macro, scores.accuracy))
    return [Rival(name, key == chosen, scores, _strip(scores.f1_macro, floor)) for name, key, scores in models]


def _chosen_by(record: RunRecord) -> str:
    """What the validation images have chosen."""
    if not record.history.rows:
        return "the strengths of the probe"
    probed = record.config.get("probe", record.config.get("head_epochs"))  # by earlier versions trained for epochs
    return "the probe, the best epoch and the model" if probed else "the best epoch"


def _calibration(evaluation: RunEvaluation | None) -> str:
    """The temperature and what it changed, "" where the run has none."""
    known = evaluation.calibration if evaluation else None
    return calibration_text(known, "test" if "test" in known.after else "val") if known else ""


def _class_rows(test: Evaluation) -> Cut[tuple[str, ClassMetrics]]:
    """Scores by class in the data's order; of more than 50 classes those with the lowest F1."""
    rows = list(test.per_class.items())
    if len(rows) > html.CLASSES:
        rows.sort(key=lambda row: (row[0] not in test.occurring, row[1].f1.value))
    return cut(rows, html.CLASSES)


@dataclass(frozen=True)
class Mistake:
    """A misclassified image: its classes by name, the probability of its predicted class, and its content hash."""

    path: str
    sha256: str
    label: str
    predicted: str
    probability: float


def mistakes(test: Predictions) -> Cut[Mistake]:
    """Misclassified images, the most confident first."""
    probabilities, predicted = test.probabilities(), test.predicted()
    order = test.mistakes()
    found = [
        Mistake(
            path=test.paths[at],
            sha256=test.hashes[at],
            label=test.classes[test.labels[at]],
            predicted=test.classes[predicted[at]],
            probability=float(probabilities[at, predicted[at]]),
        )
        for at in order[:GALLERY]
    ]
    return Cut(found, len(order) - len(found))


# ------------------------------------------------------------------------------------ data, epochs


def _problems(audit: Audit) -> dict[str, Cut[object]]:
    """What is wrong with the data; every list cut, and long groups of identical images too."""
    groups = {finding.kind: finding.groups for finding in audit.findings}
    leaks = groups.get("leaks", ())
    groups["copies"] = tuple(group for group in groups.get("copies", ()) if group not in leaks)
    return {
        "warnings": cut(audit.warnings),
        "quarantined": cut(audit.quarantined),
        **{
            kind: cut([cut(group, COPIES) for group in groups.get(kind, ())])
            for kind in ("conflicts", "leaks", "copies")
        },
    }


def _epoch_rows(record: RunRecord) -> Cut[tuple[Row, Timing]]:
    """Each epoch with its time, the last 200 of them."""
    timings = {(timing.phase, timing.epoch): timing for timing in record.timings}
    rows = record.history.rows
    timed = [(row, timings.get((row.phase, row.epoch), Timing(row.phase, row.epoch))) for row in rows[-EPOCHS:]]
    return Cut(timed, max(len(rows) - EPOCHS, 0))


def _missing(record: RunRecord) -> list[str]:
    """A sentence for each part of the page that has no data yet."""
    folds, test, audit = record.status.get("folds") or record.config.get("folds"), record.test, record.audit
    if folds and test:
        return [f"Schedules, curves and splits are in the reports of the folds, fold-1 to fold-{folds}."]
    if folds:
        finished = f"those that have finished have reports of their own, in fold-1 to fold-{folds}"
        return [
            f"Not all of the {folds} folds have been trained yet, so there are no metrics of all images: {finished}."
        ]
    tuned = not record.probe_alone
    missing = {
        "The images have not been scanned and split yet.": audit is None,
        "No schedule has been planned yet.": tuned and not record.phase,
        "No epoch has finished yet, so there are no learning curves.": tuned and not len(record.history),
        "The model has not been tested yet: there are no metrics, no confusion matrix and no mistakes.": not (
            test or (audit and audit.without_test)
        ),
        "predictions/test.csv is missing, so the mistakes cannot be shown.": record.predictions is None and bool(test),
    }
    return [sentence for sentence, absent in missing.items() if absent]
