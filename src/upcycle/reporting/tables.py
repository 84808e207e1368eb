"""Metrics as tables for a terminal, readable without color and in 80 columns."""

from collections.abc import Mapping

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from upcycle.evaluation.results import Evaluation, Metric
from upcycle.reporting.names import METRIC_NAMES, counted, loss_text, printable

MOST_CLASSES = 20
MOST_COLUMNS = 6
"""Classes in a confusion matrix of 80 columns; with more, the most frequent mistakes are listed."""
MOST_MISTAKES = 8
NARROWEST = 8
"""Letters of a name that a narrow terminal still shows."""


def evaluation_table(evaluation: Evaluation) -> RenderableType:
    """Metrics with 95 % intervals, scores by class, and the confusion matrix."""
    small = len(evaluation.classes) <= MOST_COLUMNS
    mistakes = _confusion(evaluation) if small else _mistakes(evaluation)
    return Group(_metrics(evaluation), _classes(evaluation), mistakes, Text(evaluation.resolution))


def models_table(models: Mapping[str, Evaluation]) -> RenderableType:
    """Accuracy, macro F1 and log loss of several models, one row each."""
    grid = columns("model", "accuracy", "F1, macro", "log loss")
    for name, evaluation in models.items():
        shares = (f"{metric.value:.3f} {_interval(metric)}" for metric in (evaluation.accuracy, evaluation.f1_macro))
        grid.add_row(named(name), *shares, loss_text(evaluation.log_loss.value))
    return Group(titled("Models compared", grid), *map(Text, _resolutions(models)))


def _resolutions(models: Mapping[str, Evaluation]) -> list[str]:
    """What the test set can tell apart: models that err more are harder to tell apart, so one line for each."""
    lines = {name: evaluation.resolution for name, evaluation in models.items()}
    if len(set(lines.values())) == 1:
        return list(lines.values())[:1]
    return [f"at the accuracy of {printable(name)}: {line}" for name, line in lines.items()]


def titled(title: str, grid: Table) -> Group:
    """A table below its title."""
    name = grid.columns[0]
    name.min_width = min(NARROWEST, max(cell_len(str(cell)) for cell in [name.header, *name.cells]))
    # not the table's own title, which would be folded to the width of a narrow table
    return Group(Text(title, style="bold"), grid, "")


def columns(first: str, *others: str) -> Table:
    """A table whose first column gives way when the terminal is narrow; numbers keep their width."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    grid.add_column(first)
    for other in others:
        grid.add_column(other, justify="right", no_wrap=True)
    return grid


def named(name: str) -> Text:
    """Anyone's name as a cell."""
    # Text: brackets in a name are no markup; printable: an escape sequence must not reach the terminal
    return Text(printable(name), no_wrap=True, overflow="ellipsis")


def _interval(metric: Metric, digits: int = 3) -> str:
    return f"[{metric.low:.{digits}f}, {metric.high:.{digits}f}]"


def _metrics(evaluation: Evaluation) -> Group:
    grid = columns("metric", "value", "95 % interval")
    for key, label in METRIC_NAMES.items():
        metric: Metric | None = getattr(evaluation, key)
        if metric and key == "log_loss":
            grid.add_row(label, loss_text(metric.value), f"[{loss_text(metric.low)}, {loss_text(metric.high)}]")
        elif metric:
            grid.add_row(label, f"{metric.value:.3f}", _interval(metric))
    return titled(f"Metrics of {counted(evaluation.n, 'image')}", grid)


def _classes(evaluation: Evaluation) -> Group:
    """One row per class, or those with the lowest F1 where there are too many."""
    rows, there = list(evaluation.per_class.items()), evaluation.occurring
    shown, title = rows, "By class, with 95 % intervals"
    if len(rows) > MOST_CLASSES:
        shown = sorted(rows, key=lambda row: (row[0] not in there, row[1].f1.value))[:MOST_CLASSES]
        title = f"The {MOST_CLASSES} of {len(rows)} classes with the lowest F1, with 95 % intervals"
    grid = columns("class", "precision", "recall", "F1", "images")
    for name, scores in shown:
        cells = (
            f"{metric.value:.2f} {_interval(metric, 2)}" if name in there else "–"
            for metric in (scores.precision, scores.recall, scores.f1)
        )
        grid.add_row(named(name), *cells, f"{scores.support:,}")
    return titled(title, grid)


def _confusion(evaluation: Evaluation) -> Group:
    grid = columns("true class")
    for name in evaluation.classes:
        grid.add_column(named(name), justify="right", min_width=6)
    for name, counts in zip(evaluation.classes, evaluation.confusion, strict=True):
        grid.add_row(named(name), *(f"{count:,}" for count in counts))
    return titled("Confusion matrix: one row per true class, one column per predicted class", grid)


def _mistakes(evaluation: Evaluation) -> Group:
    grid = columns("true class")
    grid.add_column("predicted")
    grid.add_column("images", justify="right", no_wrap=True)
    for true, predicted, count in evaluation.confusions()[:MOST_MISTAKES]:
        grid.add_row(named(true), named(predicted), f"{count:,}")
    return titled("The most frequent mistakes", grid)
