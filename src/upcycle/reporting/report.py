"""The report of a run: one page that needs nothing else, made again at any time from the run's files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from upcycle.errors import RunError
from upcycle.evaluation import predictions
from upcycle.evaluation.predictions import Predictions
from upcycle.history import ProbeResult, without_head
from upcycle.manifest import check
from upcycle.reporting import html, page, plots
from upcycle.reporting.html import Draw
from upcycle.rundir import RunDir, read_json, read_lines, write_text

Values = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Files:
    """What a run has written so far; None or empty for what is not there yet."""

    status: Values
    config: Values
    environment: Values
    model: Values | None
    plan: Values | None
    probe: ProbeResult | None
    audit: Values | None
    history: list[Values]
    timings: list[Values]
    events: list[Values]
    evaluation: Values | None
    predictions: Predictions | None


def write_report(run: RunDir) -> Path:
    """Write `figures/` and `report.html` of a run from its own files; gives the page's path.

    Works on a copied run directory, without the images, and on an unfinished run: what has no data
    yet is left out with a sentence. RunError when `run` is no run directory or a file of it is
    damaged, StorageError when the page cannot be written.
    """
    if not run.is_run():  # before any file of what may be anything is judged
        raise RunError(f"{run.status_file} is missing: {run.root} is not a run directory, or not a whole one")
    check(run)
    files = _read(run)
    try:
        drawings = _draw(files)
        text = _render(files, drawings, [run.thumbnails, *sorted(run.root.glob("fold-*/thumbnails"))])
    except (ArithmeticError, AttributeError, LookupError, TemplateError, TypeError, ValueError) as error:
        # a directory may come from a stranger, with any value in any place
        raise RunError(f"{run.root} does not hold what a run writes ({type(error).__name__}: {error})") from error
    html.save(drawings, run.figures)
    write_text(run.report, text)
    return run.report


def _read(run: RunDir) -> Files:
    def optional(path: Path) -> Values | None:
        values: Values | None = read_json(path) if path.exists() else None
        return values

    test = run.predictions("test")
    return Files(
        status=run.status(),
        config=optional(run.config) or {},
        environment=optional(run.environment) or {},
        model=optional(run.model),
        plan=_without_head(optional(run.plan)),
        probe=ProbeResult.from_dict(values) if (values := optional(run.probe)) else None,
        audit=optional(run.audit),
        history=without_head(read_lines(run.history)),
        timings=read_lines(run.timings),
        events=read_lines(run.events),
        evaluation=optional(run.evaluation),
        predictions=predictions.read(test) if test.exists() else None,
    )


def _without_head(plan: Values | None) -> Values | None:
    """The plan of fine-tuning alone, as `without_head` has the rows."""
    if plan is None or not isinstance(plan.get("phases"), list):
        return plan
    return plan | {"phases": [phase for phase in plan["phases"] if phase["name"] != "head"]}


# ------------------------------------------------------------------------------------------ figures


def _draw(files: Files) -> dict[str, Draw]:
    """By name, what draws a figure at a width in inches, or at its own; only those that have data."""
    test = (files.evaluation or {}).get("test")
    sources: dict[str, tuple[Any, Callable[..., plots.Drawing]]] = {
        "schedule": (files.plan if (files.plan or {}).get("phases") else None, plots.schedule_figure),
        "curves": (files.history, plots.curves_figure),
        "metrics": (test, plots.metrics_figure),
        "confusion": (test, plots.confusion_figure),
    }
    return {name: html.drawn(figure, data) for name, (data, figure) in sources.items() if data}


# --------------------------------------------------------------------------------------------- page


def _render(files: Files, drawings: dict[str, Draw], thumbnails: Sequence[Path]) -> str:
    evaluation, audit = files.evaluation or {}, files.audit
    test = evaluation.get("test")
    wrong = page.mistakes(files.predictions) if files.predictions is not None else None
    return html.render(
        "report.html",
        files=files,
        title=page.title(files.config, files.model),
        lead=page.lead(files.config, files.model, audit, files.evaluation, str(files.status.get("state"))),
        tiles=page.tiles(files.evaluation, files.status),
        says=(test or {}).get("says"),
        pending=_pending(files),
        figures=html.figures(drawings),
        choice=page.choice(files.evaluation),
        probe=files.probe,
        metrics=page.metric_rows(evaluation) if test else [],
        chosen_by=page.chosen_by(files.config, files.history),
        classes=page.class_rows(test) if test else None,
        confusions=page.confusions(test) if test else None,
        mistakes=wrong,
        thumbnails={item.sha256: html.thumbnail(thumbnails, item.sha256) for item in wrong.items} if wrong else {},
        splits=page.split_rows(audit) if audit else None,
        problems=page.problems(audit) if audit else None,
        epochs=page.epoch_rows(files.history, files.timings),
        config=page.settings(files.config),
        model=page.settings(files.model or {}),
        machine=page.settings({k: v for k, v in files.environment.items() if k not in {"command", "versions"}}),
        versions=page.settings(files.environment.get("versions") or {}),
        command=html.command(files.environment.get("command")),
    )


def _pending_folds(files: Files, folds: int) -> list[str]:
    if (files.evaluation or {}).get("test"):
        return [f"Schedules, curves and splits stand in the reports of the folds, fold-1 to fold-{folds}."]
    there = f"those that are done have reports of their own, in fold-1 to fold-{folds}"
    return [f"Not all of the {folds} folds have been trained yet, so there are no metrics of all images: {there}."]


def _pending(files: Files) -> list[str]:
    """A sentence for each part of the page that has no data yet."""
    folds = files.status.get("folds") or files.config.get("folds")
    if folds:
        return _pending_folds(files, int(folds))
    absent = {
        "The images have not been scanned and split yet.": files.audit is None,
        "No schedule has been planned yet.": files.plan is None,
        "No epoch has finished yet, so there are no learning curves.": not files.history
        and files.config.get("epochs") != 0,
        "The test set has not been looked at yet: there are no metrics, no confusion matrix and no mistakes.": not (
            (files.evaluation or {}).get("test") or page.without_test(files.audit)
        ),
        "predictions/test.csv is not there, so the mistakes cannot be shown.": files.predictions is None
        and bool((files.evaluation or {}).get("test")),
    }
    return [sentence for sentence, missing in absent.items() if missing]
