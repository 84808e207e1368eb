"""Names and numbers as text that is safe to show, in a terminal, a figure or a page; metrics as tables for a terminal.

Tables are readable without color and in 80 columns.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from upcycle.errors import counted
from upcycle.evaluation.results import Calibration, Evaluation, Metric

METRIC_NAMES = {
    "f1_macro": "F1 (macro)",
    "accuracy": "Accuracy",
    "precision_macro": "Precision (macro)",
    "recall_macro": "Recall (macro)",
    "roc_auc": "ROC AUC",
    "log_loss": "Log loss",
}
LISTED = 20
MOST_CLASSES = 20
MOST_COLUMNS = 6
"""Classes in a confusion matrix of 80 columns; with more, the most frequent mistakes are listed."""
MOST_MISTAKES = 8
NARROWEST = 8
"""Letters of a name that a narrow terminal still shows."""
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_Item = TypeVar("_Item")


# --------------------------------------------------------------------------------------------- names


def printable(text: str, *, keep: str = "") -> str:
    """`text` with control characters, lone surrogates and direction overrides written as escapes.

    Names of files and classes are anyone's: these characters would break lines, SVG or UTF-8, or
    turn the words around them. Those in `keep` stay.
    """
    return "".join(_escaped(character) if _hidden(character, keep) else character for character in text)


def _hidden(character: str, keep: str) -> bool:
    if character in keep:
        return False
    noncharacter = ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDI or noncharacter


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def short(text: str, limit: int = 22) -> str:
    """`text` made printable and cut in the middle to at most `limit` characters."""
    clean = printable(text)
    if len(clean) <= limit:
        return clean
    tail = (limit - 1) // 3
    return f"{clean[: limit - 1 - tail]}…{clean[len(clean) - tail :]}"


def joined(names: Sequence[str], most: int = 6) -> str:
    """Names as a phrase: a, b and c; beyond `most`, the count of the others."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def sentence(text: str) -> str:
    """A message as a sentence: a capital letter, and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


@dataclass(frozen=True)
class Cut(Generic[_Item]):
    """The first items of a longer list, and how many are left out."""

    items: Sequence[_Item]
    left_out: int

    @property
    def total(self) -> int:
        """How many there are altogether."""
        return len(self.items) + self.left_out


def cut(items: Sequence[_Item], limit: int = LISTED) -> Cut[_Item]:
    """`items`, or the first `limit` of them."""
    return Cut(items[:limit], max(len(items) - limit, 0))


# ------------------------------------------------------------------------------------------- numbers


def three(value: float | None) -> str:
    """A score with three decimals; a dash where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share of one as a percentage with one decimal; a dash where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def loss_text(value: float | None) -> str:
    """A loss, or a difference of two, in three digits; a dash where it is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def interval(metric: Metric, write: Callable[[float], str] = three) -> str:
    """The 95 % interval of a metric: 0.912 to 0.979."""
    return f"{write(metric.low)} to {write(metric.high)}"


def share_text(metric: Metric) -> str:
    """A share with its interval, in percent: 93.8 % (92.1 to 95.2)."""
    return f"{percent(metric.value)} ({percent_range(metric)})"


def percent_range(metric: Metric) -> str:
    """The interval of a share in percent, without the sign: 92.1 to 95.2."""
    return f"{100 * metric.low:.1f} to {100 * metric.high:.1f}"


def calibration_text(calibration: Calibration, split: str) -> str:
    """The temperature, and the calibration error of a split with it and without."""
    before = f", without it {share_text(calibration.before[split])}" if calibration.temperature != 1 else ""
    return (
        f"temperature {calibration.temperature:.3g}: expected calibration error of {split} images "
        f"{share_text(calibration.after[split])}{before}; where all probabilities are right it is about "
        f"{percent(calibration.chance[split])} on so many images"
    )


def metric_texts(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """The metrics there are: the name of each, its value, and the ends of its interval."""
    found = (
        (name, getattr(evaluation, key), loss_text if key == "log_loss" else three)
        for key, name in METRIC_NAMES.items()
    )
    return [(name, write(one.value), write(one.low), write(one.high)) for name, one, write in found if one]


def rate_text(rate: float) -> str:
    """A learning rate in three digits, the way it is typed: 1e-5, 0.012."""
    mantissa, _, exponent = f"{rate:.2e}".partition("e")
    if rate == 0 or -3 <= int(exponent) < 3:
        return f"{rate:.3g}"
    return f"{float(mantissa):g}e{int(exponent)}"


def clock(seconds: float | None) -> str:
    """A duration in its two largest units: 8.4 s, 2 min 31 s, 1 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# -------------------------------------------------------------------------------------------- tables


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
    for name, value, low, high in metric_texts(evaluation):
        grid.add_row(name, value, f"[{low}, {high}]")
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
