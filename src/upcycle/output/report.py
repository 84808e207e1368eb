"""The report of a run: one page that needs nothing else, made again at any time from the run's files.

The page holds its style, figures and thumbnails itself, runs no script and asks for nothing: it can
be mailed. Names of files and classes are anyone's, so every value is escaped where it is written
and the page's own policy forbids scripts and remote content.
"""

import base64
import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from upcycle.evaluation import predictions
from upcycle.evaluation.predictions import Predictions
from upcycle.output import page, plots
from upcycle.output.drawing import PALETTE, counted, printable
from upcycle.rundir import RunDir, read_json, read_lines, write_text

LARGEST_THUMBNAIL = 128 * 1024
"""Bytes; what is larger is no thumbnail, and would make the page heavy."""
_TEMPLATES = Path(__file__).parent / "templates"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Values = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Files:
    """What a run has written so far; None or empty for what is not there yet."""

    status: Values
    config: Values
    environment: Values
    model: Values | None
    plan: Values | None
    audit: Values | None
    history: list[Values]
    timings: list[Values]
    evaluation: Values | None
    predictions: Predictions | None


def write_report(run: RunDir) -> Path:
    """Write `figures/` and `report.html` of a run from its own files; gives the page's path.

    Works on a copied run directory, without the images, and on an unfinished run: what has no data
    yet is left out with a sentence. RunError when `run` is no run directory or a file of it is
    damaged, StorageError when the page cannot be written.
    """
    files = _read(run)
    drawings = _draw(files)
    for name, draw in drawings.items():
        plots.save(draw(None), run.figures / name)
    write_text(run.report, _render(files, drawings, [run.thumbnails, *sorted(run.root.glob("fold-*/thumbnails"))]))
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
        plan=optional(run.plan),
        audit=optional(run.audit),
        history=read_lines(run.history),
        timings=read_lines(run.timings),
        evaluation=optional(run.evaluation),
        predictions=predictions.read(test) if test.exists() else None,
    )


# ------------------------------------------------------------------------------------------ figures

Draw = Callable[[float | None], plots.Drawing]


def _draw(files: Files) -> dict[str, Draw]:
    """By name, what draws a figure at a width in inches, or at its own; only those that have data."""
    test = (files.evaluation or {}).get("test")
    sources: dict[str, tuple[Any, Callable[..., plots.Drawing]]] = {
        "schedule": (files.plan if (files.plan or {}).get("phases") else None, plots.schedule_figure),
        "curves": (files.history, plots.curves_figure),
        "metrics": (test, plots.metrics_figure),
        "confusion": (test, plots.confusion_figure),
    }
    return {name: functools.partial(_at, figure, data) for name, (data, figure) in sources.items() if data}


def _at(figure: Callable[..., plots.Drawing], data: Any, width: float | None) -> plots.Drawing:
    return figure(data) if width is None else figure(data, width=width)


def _inline(drawing: plots.Drawing, prefix: str) -> Markup:
    """The figure as an element of the page: its own ids, the page's colours and font, no namespaces."""
    root = ET.fromstring(plots.svg(drawing))
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        for child in [child for child in parent if child.tag.rpartition("}")[2] in {"metadata", "style", "title"}]:
            parent.remove(child)
        attributes = {name.rpartition("}")[2]: value for name, value in parent.attrib.items()}
        parent.attrib.clear()
        parent.attrib.update({name: _adapted(name, value, prefix) for name, value in attributes.items()})
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": printable(drawing.summary)})
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))


def _adapted(name: str, value: str, prefix: str) -> str:
    """One attribute with the page's colours for the palette's, and ids that no other figure has."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if name == "clip-path":
        return value.replace("url(#", f"url(#{prefix}-")
    for colour, code in PALETTE.items():
        value = value.replace(code, f"var(--{colour})") if name == "style" else value
    return value


def _figures(drawings: dict[str, Draw]) -> dict[str, Values]:
    """Each figure in the page's own width and, where it differs, a phone's."""
    return {name: _figure(name, draw) for name, draw in drawings.items()}


def _figure(name: str, draw: Draw) -> Values:
    wide = draw(None)
    inches = float(wide.get_figwidth())
    # a large matrix cannot be made narrow: it scrolls
    narrow = draw(plots.NARROW) if inches > plots.NARROW else None
    if narrow is not None and narrow.get_figwidth() > plots.NARROW + 0.01:
        narrow = None
    return {
        "wide": _inline(wide, name),
        "narrow": None if narrow is None else _inline(narrow, f"{name}-narrow"),
        "inches": round(inches, 2),
        "scrolls": narrow is None and inches > plots.NARROW,
    }


# --------------------------------------------------------------------------------------------- page


def _finalize(value: Any) -> Any:
    """Make every text that is written into the page printable; markup of ours stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(path: str) -> Markup:
    """A path that may be broken after each of its parts rather than inside a word."""
    parts = re.split(r"(?<=[/_.-])", printable(path))
    return Markup("<wbr>").join(escape(part) for part in parts)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "three": page.three,
        "percent": page.percent,
        "clock": page.clock,
        "sentence": page.sentence,
        "rate": plots.rate_text,
        "phase": plots.phase_name,
        "counted": counted,
        "breakable": _breakable,
    }
    return environment


def _render(files: Files, drawings: dict[str, Draw], thumbnails: Sequence[Path]) -> str:
    evaluation, audit = files.evaluation or {}, files.audit
    test = evaluation.get("test")
    wrong = page.mistakes(files.predictions) if files.predictions is not None else None
    environment = _environment()
    command = files.environment.get("command")
    return environment.get_template("report.html").render(
        files=files,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        title=page.title(files.config, files.model),
        lead=page.lead(files.config, files.model, audit, files.evaluation),
        tiles=page.tiles(files.evaluation, files.status),
        says=(test or {}).get("says"),
        pending=_pending(files),
        figures=_figures(drawings),
        choice=page.choice(files.evaluation),
        metrics=page.metric_rows(evaluation) if test else [],
        classes=page.class_rows(test) if test else None,
        confusions=page.confusions(test) if test else None,
        mistakes=wrong,
        thumbnails={item.sha256: thumbnail(thumbnails, item.sha256) for item in wrong.items} if wrong else {},
        splits=page.split_rows(audit) if audit else None,
        problems=page.problems(audit) if audit else None,
        epochs=page.epoch_rows(files.history, files.timings),
        config=page.settings(files.config),
        model=page.settings(files.model or {}),
        machine=page.settings({k: v for k, v in files.environment.items() if k not in {"command", "versions"}}),
        versions=page.settings(files.environment.get("versions") or {}),
        # a line break inside quotes is part of the command
        command=escape(printable(command, keep="\n\t")) if command else None,
    )


def _pending(files: Files) -> list[str]:
    """A sentence for each part of the page that has no data yet."""
    folds = files.status.get("folds")
    if folds:
        return [f"Schedules, curves and splits stand in the reports of the folds, fold-1 to fold-{folds}."]
    absent = {
        "The images have not been scanned and split yet.": files.audit is None,
        "No schedule has been planned yet.": not (files.plan or {}).get("phases"),
        "No epoch has finished yet, so there are no learning curves.": not files.history,
        "The test set has not been looked at yet: there are no metrics, no confusion matrix and no mistakes.": not (
            (files.evaluation or {}).get("test")
        ),
        "predictions/test.csv is not there, so the mistakes cannot be shown.": files.predictions is None
        and bool((files.evaluation or {}).get("test")),
    }
    return [sentence for sentence, missing in absent.items() if missing]


def thumbnail(folders: Sequence[Path], sha256: str) -> str | None:
    """A thumbnail as a data address, from the first folder that has it; None where the name is no content hash."""
    files = [folder / f"{sha256}.jpg" for folder in folders if _SHA256.fullmatch(sha256)]
    for file in files:
        if file.is_file() and file.stat().st_size <= LARGEST_THUMBNAIL:
            return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
    return None
