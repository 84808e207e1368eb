"""Metrics as tables for a terminal, readable without colour and in 80 columns."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from upcycle.reporting.names import cost, counted, occurring, printable

METRICS = {
    "accuracy": "accuracy",
    "precision_macro": "precision, macro",
    "recall_macro": "recall, macro",
    "f1_macro": "F1, macro",
    "log_loss": "log loss",
    "roc_auc": "ROC AUC",
}
MOST_CLASSES = 20
MOST_COLUMNS = 6
"""Classes in a confusion matrix of 80 columns; with more, the commonest mistakes are listed."""
MOST_MISTAKES = 8
NARROWEST = 8
"""Letters of a name that a narrow terminal still shows."""

Row = Mapping[str, Any]


def table(evaluation: Row) -> RenderableType:
    """One split's part of evaluation.json: metrics with 95 % intervals, classes, the confusion matrix."""
    small = len(evaluation["classes"]) <= MOST_COLUMNS
    mistakes = _confusion(evaluation) if small else _mistakes(evaluation)
    return Group(_metrics(evaluation), _classes(evaluation), mistakes, Text(evaluation["says"]))


def comparison_table(models: Mapping[str, Row]) -> RenderableType:
    """Accuracy, macro F1 and log loss of several models, a row each, from their parts of evaluation.json."""
    grid = columns("model", "accuracy", "F1, macro", "log loss")
    for name, evaluation in models.items():
        shares = (f"{_share(evaluation[key])} {_interval(evaluation[key])}" for key in ("accuracy", "f1_macro"))
        grid.add_row(named(name), *shares, cost(evaluation["log_loss"]["value"]))
    return Group(titled("Models compared", grid), *map(Text, _telling(models)))


def _telling(models: Mapping[str, Row]) -> list[str]:
    """What the test set can tell apart: models that err more are harder to tell apart, so one line for each."""
    says = {name: str(evaluation["says"]) for name, evaluation in models.items()}
    if len(set(says.values())) == 1:
        return list(says.values())[:1]
    return [f"at the accuracy of {printable(name)}: {words}" for name, words in says.items()]


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


def _share(metric: Row) -> str:
    return f"{metric['value']:.3f}"


def _interval(metric: Row) -> str:
    return f"[{metric['low']:.3f}, {metric['high']:.3f}]"


def _metrics(evaluation: Row) -> Group:
    grid = columns("metric", "value", "95 % interval")
    for key, label in METRICS.items():
        metric = evaluation.get(key)
        if metric and key == "log_loss":
            grid.add_row(label, cost(metric["value"]), f"[{cost(metric['low'])}, {cost(metric['high'])}]")
        elif metric:
            grid.add_row(label, _share(metric), _interval(metric))
    return titled(f"Metrics of {counted(evaluation['n'], 'image')}", grid)


def _classes(evaluation: Row) -> Group:
    """A row a class, or those with the lowest F1 where there are too many."""
    rows, there = list(evaluation["per_class"].items()), occurring(evaluation)
    shown, title = rows, "By class, with 95 % intervals"
    if len(rows) > MOST_CLASSES:
        shown = sorted(rows, key=lambda row: (row[0] not in there, row[1]["f1"]["value"]))[:MOST_CLASSES]
        title = f"The {MOST_CLASSES} of {len(rows)} classes with the lowest F1, with 95 % intervals"
    grid = columns("class", "precision", "recall", "F1", "images")
    for name, metrics in shown:
        cells = (
            f"{metrics[key]['value']:.2f} {_short_interval(metrics[key])}" if name in there else "–"
            for key in ("precision", "recall", "f1")
        )
        grid.add_row(named(name), *cells, f"{metrics['support']:,}")
    return titled(title, grid)


def _short_interval(metric: Row) -> str:
    return f"[{metric['low']:.2f}, {metric['high']:.2f}]"


def _confusion(evaluation: Row) -> Group:
    names = evaluation["classes"]
    grid = columns("true class")
    for name in names:
        grid.add_column(named(name), justify="right", min_width=6)
    for name, counts in zip(names, evaluation["confusion"], strict=True):
        grid.add_row(named(name), *(f"{count:,}" for count in counts))
    return titled("Confusion matrix: a row for each true class, a column for each predicted one", grid)


def _mistakes(evaluation: Row) -> Group:
    grid = columns("true class")
    grid.add_column("predicted")
    grid.add_column("images", justify="right", no_wrap=True)
    for count, true, predicted in sorted(_wrong(evaluation), key=lambda cell: -cell[0])[:MOST_MISTAKES]:
        grid.add_row(named(true), named(predicted), f"{count:,}")
    return titled("The commonest mistakes", grid)


def _wrong(evaluation: Row) -> Iterator[tuple[int, str, str]]:
    """Count, true and predicted class of every cell off the diagonal that is not empty."""
    names, counts = evaluation["classes"], evaluation["confusion"]
    for i, j in product(range(len(names)), repeat=2):
        if i != j and counts[i][j]:
            yield counts[i][j], names[i], names[j]
