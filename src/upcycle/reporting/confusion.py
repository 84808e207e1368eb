"""The figures of an evaluation: confusion matrix and scores by class."""

import itertools
import math
import unicodedata
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.ticker import FixedFormatter, FixedLocator
from numpy.typing import NDArray

from upcycle.evaluation.results import Evaluation, Metric
from upcycle.reporting.names import interval, short
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing

MOST_CLASSES = 50

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


# ------------------------------------------------------------------------------ confusion matrix


@mpl.rc_context(STYLE)
def confusion_figure(evaluation: Evaluation) -> Drawing:
    """Figure 3b: how many images of each true class (rows) were given each class (columns).

    Up to 12 classes each cell has its count and, where there is room, its share of the row; up to 25 its count.
    Beyond 50 classes the 50 that take part in most mistakes are shown. The figure grows where its cells would be too
    small to see.
    """
    counts = np.asarray(evaluation.confusion, dtype=np.int64)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = _most_mistaken(counts)
    kept = counts[np.ix_(shown, shown)]
    shares = kept / totals[shown]
    names = [short(evaluation.classes[at], 18) for at in shown]
    cell = _cell_inches(names)
    figure, axes = _square_figure(names, cell, _summary(evaluation))
    _draw_cells(axes, kept, shares)
    _write_cells(axes, kept, shares, cell)
    _name_classes(axes, names, left_out=len(counts) - len(shown))
    return figure


def _summary(evaluation: Evaluation) -> str:
    right, total = evaluation.correct, evaluation.n
    return f"Confusion matrix: {right:,} of {total:,} images on the diagonal, {total - right:,} mistaken."


def _most_mistaken(counts: Counts) -> list[int]:
    """Positions of all classes, or of the 50 that take part in most mistakes, in their own order."""
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return sorted(np.argsort(-wrong, kind="stable")[:MOST_CLASSES].tolist())


def _cell_inches(names: Sequence[str]) -> float:
    """The side of a cell in a figure of the usual width with the names beside its cells."""
    largest = 1.15 if len(names) <= 3 else 0.75 if len(names) <= 6 else 0.5 if len(names) <= 12 else 0.3
    return min(max((WIDE - _name_inches(names) - 0.5) / len(names), 0.19), largest)


def _square_figure(names: Sequence[str], cell: float, summary: str) -> tuple[Drawing, Axes]:
    """A figure as large as its cells and the names beside and below them need."""
    words, side = _name_inches(names), cell * len(names)
    turned = words > 1.05 * cell
    figure = Drawing(side + words + 0.5, side + (0.75 * words + 0.5 if turned else 0.55), summary)
    axes = figure.subplots()
    axes.set_anchor("N")
    axes.tick_params(axis="x", labelrotation=45 if turned else 0)
    return figure, axes


def _inches(text: str, points: float) -> float:
    """About how wide a text is at a size in points: an upper bound for common fonts."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text) * 0.6 * points / 72


def _name_inches(names: Sequence[str]) -> float:
    """About how wide the longest name is written."""
    size = _letters(len(names))
    return max(size / 105 * len(name) if name.isascii() else _inches(name, size) for name in names)


def _letters(classes: int) -> float:
    """The size in points of class names around a matrix of so many classes."""
    return 9.0 if classes <= 12 else 7.5 if classes <= 25 else 6.5


def _draw_cells(axes: Axes, counts: Counts, shares: Floats) -> None:
    """Tint each cell that holds images by its share of the row, the diagonal outlined."""
    cells = np.argwhere(counts).tolist()
    colors = [
        to_rgba(PALETTE["blue" if row == column else "rust"], 0.16 + 0.32 * shares[row, column])
        for row, column in cells
    ]
    squares = [_square(row, column, 0.48) for row, column in cells]
    axes.add_collection(PolyCollection(squares, facecolors=colors, edgecolors="none"))
    diagonal = [_square(at, at, 0.46) for at in range(len(counts))]
    axes.add_collection(PolyCollection(diagonal, facecolors="none", edgecolors=PALETTE["blue"], linewidths=0.9))
    axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5), aspect="equal")


def _square(row: int, column: int, half: float) -> list[tuple[float, float]]:
    left, right, top, bottom = column - half, column + half, row - half, row + half
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _write_cells(axes: Axes, counts: Counts, shares: Floats, cell: float) -> None:
    """Write counts, and shares where all of them have room; letters shrink until the longest count fits its cell."""
    size = len(counts)
    if size > 25:
        return
    large = 15.0 if size <= 3 else 11.0 if size <= 6 else 8.5 if size <= 12 else 6.5
    large *= min(1.0, 0.94 * cell / _inches(f"{counts.max():,}", large))
    small = min(0.8 * large, 9)
    noted = size <= 12 and _inches("88.8 %" if size <= 6 else "88 %", small) <= cell
    middle = {"ha": "center", "va": "center"}
    for (row, column), count in np.ndenumerate(counts):
        if size > 12 and not count:
            continue
        percent = bool(count) and noted
        axes.text(column, row - 0.12 * percent, f"{count:,}", fontsize=large, **middle)  # type: ignore[arg-type]
        if percent:
            note = f"{100 * shares[row, column]:.{0 if size > 6 else 1}f} %"
            axes.text(column, row + 0.2, note, fontsize=small, **middle)  # type: ignore[arg-type]


def _name_classes(axes: Axes, names: Sequence[str], *, left_out: int) -> None:
    """Name rows and columns, each name taken as it is: a dollar sign starts no formula."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(range(len(names))))
        axis.set_major_formatter(FixedFormatter(names))
    axes.tick_params(length=0, labelcolor=PALETTE["ink"], labelsize=_letters(len(names)))
    for label in itertools.chain(axes.get_xticklabels(), axes.get_yticklabels()):
        label.set_parse_math(False)
    for label in axes.get_xticklabels():
        label.set(rotation_mode="anchor", horizontalalignment="right" if label.get_rotation() else "center")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if left_out:
        axes.set_title(f"The {len(names)} classes with most mistakes; {left_out:,} more are left out.", fontsize=9)


# ------------------------------------------------------------------------------ scores by class


@mpl.rc_context(STYLE)
def metrics_figure(evaluation: Evaluation) -> Drawing:
    """Figure 3a: F1 of every class that occurs and their mean as dots with 95 % intervals, best first.

    Beyond 50 classes the 50 lowest are shown.
    """
    classes = [
        (short(name), scores.f1) for name, scores in evaluation.per_class.items() if name in evaluation.occurring
    ]
    classes.sort(key=lambda row: row[1].value)
    rows = [*classes[:MOST_CLASSES], ("macro average", evaluation.f1_macro)]
    (lowest, low), (_, mean) = rows[0], rows[-1]
    summary = f"F1 by class with 95 % intervals: lowest {_words(low)} for {lowest}, macro average {_words(mean)}."
    figure = Drawing(WIDE, 0.8 + 0.34 * len(rows), summary)
    axes = figure.subplots()
    for height, (_, score) in enumerate(rows):
        _draw_score(axes, height, score, average=height == len(rows) - 1)
    left_out = f"; the {MOST_CLASSES} lowest of {len(classes):,} classes" if len(classes) > MOST_CLASSES else ""
    axes.set_xlabel(f"F1, with its 95 % interval{left_out}")
    _frame_scores(axes, rows)
    return figure


def _frame_scores(axes: Axes, rows: Sequence[tuple[str, Metric]]) -> None:
    axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
    axes.yaxis.set_major_formatter(FixedFormatter([name for name, _ in rows]))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    lows = [end for _, score in rows for end in (score.low, score.value) if math.isfinite(end)]
    axes.set_xlim(max(min(lows, default=0.0) - 0.03, -0.02), 1.01)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axhline(len(rows) - 1.5, color=PALETTE["rule"], linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _draw_score(axes: Axes, height: int, score: Metric, *, average: bool) -> None:
    color = PALETTE["ink" if average else "blue"]
    axes.plot([score.low, score.high], [height, height], "-|", color=color, linewidth=2, markersize=8)
    axes.plot(score.value, height, "D" if average else "o", color=color, markersize=7)
    axes.text(1.015, height, _words(score), transform=axes.get_yaxis_transform(), va="center")


def _words(score: Metric) -> str:
    return f"{score.value:.3f} ({interval(score)})"
