"""The figures of an evaluation: confusion matrix and scores by class."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from upcycle.reporting import labels
from upcycle.reporting.drawing import PALETTE, STYLE, WIDE, Drawing
from upcycle.reporting.glyphs import drawable
from upcycle.reporting.names import occurring, short

MOST_CLASSES = 50
NAMES_ELSEWHERE = "names: see report.html"
"""Beside numbered classes: the page's text is shown in the fonts of whoever reads it."""

Row = dict[str, Any]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


# ------------------------------------------------------------------------------ confusion matrix


@mpl.rc_context(STYLE)
def confusion_figure(evaluation: Row, *, width: float = WIDE) -> Drawing:
    """Figure 3: how many images of each true class (rows) were given each class (columns).

    `evaluation` is one split's part of evaluation.json; `width` in inches is filled at most, and
    exceeded only where the cells would be too small to see. Up to 12 classes each cell has its count
    and, where there is room, its share of the row; up to 25 its count. Beyond 50 classes the 50 that take part in most
    mistakes are shown. As a PNG, classes whose names no font here can draw are numbered.
    """
    figure = _confusion(evaluation, width, evaluation["classes"])
    figure.in_pixels = _with_drawable_names(evaluation, partial(_confusion, evaluation, width))
    return figure


def _with_drawable_names(evaluation: Row, draw: Callable[..., Drawing]) -> Callable[[], Drawing]:
    """What draws a figure with names that the fonts here can draw, and a note where those are others."""

    @mpl.rc_context(STYLE)
    def drawn() -> Drawing:
        names = drawable(evaluation["classes"])
        return draw(names, note="" if names == list(evaluation["classes"]) else NAMES_ELSEWHERE)

    return drawn


def _confusion(evaluation: Row, width: float, classes: Sequence[str], note: str = "") -> Drawing:
    counts = np.asarray(evaluation["confusion"], dtype=np.int64)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = _most_mistaken(counts)
    kept = counts[np.ix_(shown, shown)]
    shares = kept / totals[shown]
    names = [short(classes[index], 18) for index in shown]
    cell = _cell_inches(names, width)
    figure, axes = _square_figure(names, cell, _confusion_summary(counts))
    _draw_cells(axes, kept, shares)
    _write_cells(axes, kept, shares, cell)
    _name_classes(axes, names, left_out=len(counts) - len(shown), note=note)
    return figure


def _confusion_summary(counts: Counts) -> str:
    right, total = int(np.trace(counts)), int(counts.sum())
    return f"Confusion matrix: {right:,} of {total:,} images on the diagonal, {total - right:,} mistaken."


def _most_mistaken(counts: Counts) -> list[int]:
    """Positions of all classes, or of the 50 that take part in most mistakes, in their own order."""
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return sorted(np.argsort(-wrong, kind="stable")[:MOST_CLASSES].tolist())


def _cell_inches(names: Sequence[str], width: float) -> float:
    """The side of a cell in a figure of this width with the names beside its cells."""
    largest = 1.15 if len(names) <= 3 else 0.75 if len(names) <= 6 else 0.5 if len(names) <= 12 else 0.3
    return min(max((width - _word_inches(names) - 0.5) / len(names), 0.19), largest)


def _square_figure(names: Sequence[str], cell: float, summary: str) -> tuple[Drawing, Axes]:
    """A figure as large as its cells and the names beside and below them need."""
    words = _word_inches(names)
    turned = words > 1.05 * cell
    figure = Drawing(
        cell * len(names) + words + 0.5, cell * len(names) + (0.75 * words + 0.5 if turned else 0.55), summary
    )
    axes = figure.subplots()
    axes.set_anchor("N")
    axes.tick_params(axis="x", labelrotation=45 if turned else 0)
    return figure, axes


def _word_inches(names: Sequence[str]) -> float:
    """About how wide the longest name is written."""
    size = _letters(len(names))
    return max(size / 105 * len(name) if name.isascii() else labels.width(name, size) for name in names)


def _letters(classes: int) -> float:
    """The size in points of class names around a matrix of so many classes."""
    return 9.0 if classes <= 12 else 7.5 if classes <= 25 else 6.5


def _draw_cells(axes: Axes, counts: Counts, shares: Floats) -> None:
    """Tint each cell that holds images by its share of the row, the diagonal outlined."""
    cells = np.argwhere(counts).tolist()
    colours = [
        to_rgba(PALETTE["blue" if row == column else "rust"], 0.16 + 0.32 * shares[row, column])
        for row, column in cells
    ]
    squares = [_square(row, column, 0.48) for row, column in cells]
    axes.add_collection(PolyCollection(squares, facecolors=colours, edgecolors="none"))
    diagonal = [_square(index, index, 0.46) for index in range(len(counts))]
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
    large = min(large, _fitting(f"{counts.max():,}", large, cell))
    small = min(0.8 * large, 9)
    noted = size <= 12 and labels.width("88.8 %" if size <= 6 else "88 %", small) <= cell
    middle = {"ha": "center", "va": "center"}
    for (row, column), count in np.ndenumerate(counts):
        if size > 12 and not count:
            continue
        percent = bool(count) and noted
        axes.text(column, row - 0.12 * percent, f"{count:,}", fontsize=large, **middle)  # type: ignore[arg-type]
        if percent:
            note = f"{100 * shares[row, column]:.{0 if size > 6 else 1}f} %"
            axes.text(column, row + 0.2, note, fontsize=small, **middle)  # type: ignore[arg-type]


def _fitting(text: str, size: float, inches: float) -> float:
    """The letters' size in points, up to `size`, at which the text is no wider than a cell."""
    return size * min(1.0, 0.94 * inches / labels.width(text, size))


def _name_classes(axes: Axes, names: Sequence[str], *, left_out: int, note: str) -> None:
    """Name rows and columns, each name taken as it is: a dollar sign starts no formula."""
    axes.set_yticks(range(len(names)), names, fontsize=_letters(len(names)))
    axes.set_xticks(range(len(names)), names, fontsize=_letters(len(names)))
    for label in itertools.chain(axes.get_xticklabels(), axes.get_yticklabels()):
        label.set_parse_math(False)
    for label in axes.get_xticklabels():
        label.set(rotation_mode="anchor", horizontalalignment="right" if label.get_rotation() else "center")
    axes.tick_params(length=0, labelcolor=PALETTE["ink"])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    title = f"The {len(names)} classes with most mistakes; {left_out:,} more are left out." if left_out else ""
    if title or note:
        axes.set_title("\n".join(filter(None, (title, note))), fontsize=9)


# ------------------------------------------------------------------------------ scores by class


@mpl.rc_context(STYLE)
def metrics_figure(evaluation: Row, *, width: float = WIDE) -> Drawing:
    """F1 of every class that occurs and their macro average as dots with 95 % intervals, best first.

    `evaluation` is one split's part of evaluation.json; `width` in inches. Beyond 50 classes the 50
    lowest are shown. As a PNG, classes whose names no font here can draw are numbered.
    """
    figure = _metrics(evaluation, width, evaluation["classes"])
    figure.in_pixels = _with_drawable_names(evaluation, partial(_metrics, evaluation, width))
    return figure


def _metrics(evaluation: Row, width: float, names: Sequence[str], note: str = "") -> Drawing:
    there, written = occurring(evaluation), dict(zip(evaluation["classes"], names, strict=True))
    classes = [
        (short(written[name]), values["f1"]) for name, values in evaluation["per_class"].items() if name in there
    ]
    classes.sort(key=lambda item: item[1]["value"] or 0.0)
    rows = [*classes[:MOST_CLASSES], ("macro average", evaluation["f1_macro"])]
    (lowest, low), (_, mean) = rows[0], rows[-1]
    summary = f"F1 by class with 95 % intervals: lowest {_words(low)} for {lowest}, macro average {_words(mean)}."
    figure = Drawing(width, 0.8 + 0.34 * len(rows), summary)
    axes = figure.subplots()
    for height, (_, score) in enumerate(rows):
        _draw_score(axes, height, score, average=height == len(rows) - 1, words=width >= 6)
    left_out = f"; the {MOST_CLASSES} lowest of {len(classes):,} classes" if len(classes) > MOST_CLASSES else ""
    axes.set_xlabel("\n".join(filter(None, (f"F1, with its 95 % interval{left_out}", note))))
    _frame_scores(axes, rows)
    return figure


def _frame_scores(axes: Axes, rows: Sequence[tuple[str, Row]]) -> None:
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    lows = [score[end] for _, score in rows for end in ("low", "value") if score[end] is not None]
    axes.set_xlim(max(min(lows, default=0.0) - 0.03, -0.02), 1.01)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axhline(len(rows) - 1.5, color=PALETTE["rule"], linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _draw_score(axes: Axes, height: int, score: Row, *, average: bool, words: bool) -> None:
    if score["value"] is None:
        return
    colour = PALETTE["ink" if average else "blue"]
    if score["low"] is not None:
        ends = [score["low"], score["high"]]
        axes.plot(ends, [height, height], "-|", color=colour, linewidth=2, markersize=8)
    axes.plot(score["value"], height, "D" if average else "o", color=colour, markersize=7)
    note = _words(score) if words else f"{score['value']:.3f}"
    axes.text(1.015, height, note, transform=axes.get_yaxis_transform(), va="center")


def _words(score: Row) -> str:
    if score["value"] is None:
        return "unknown"
    if score["low"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
