"""The figures of a comparison: scores with intervals, learning curves overlaid, score against time.

A variant has the same color, dash and marker in each of them, and nothing is shown by color alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from upcycle.comparison.results import Comparison, VariantResult
from upcycle.comparison.runs import Epoch
from upcycle.reporting.names import clock, counted, short
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, stroke

STRETCHED = 8.0
"""Losses whose extremes differ by more than this factor are drawn on a logarithmic axis."""
UNEQUAL = 4.0
"""Numbers of epochs that differ by this factor or more share a logarithmic axis."""
LETTERS = 34
"""Letters of a variant's name."""

Floats = NDArray[np.float64]
Curves = Mapping[str, Sequence[Sequence[Epoch]]]
"""The epochs of each run, by the name of its variant."""


@mpl.rc_context(STYLE)
def scores_figure(comparison: Comparison) -> Drawing:
    """Test F1 of every variant: the mean over seeds with its 95 % interval, small rings for the seeds."""
    rows = comparison.finished
    summary = "; ".join(f"{short(one.title)} {one.f1_macro.value:.3f}" for one in rows if one.f1_macro)
    figure = Drawing(WIDE, 0.42 * len(rows) + 0.75, f"Test F1 by variant: {summary}.")
    axes = figure.add_subplot()
    for at, one in enumerate(rows):
        if one.f1_macro is None:
            continue
        look = _look(comparison, one)
        axes.plot([one.f1_macro.low, one.f1_macro.high], [at, at], "-|", color=look.color, linewidth=2, markersize=9)
        if len(one.runs) > 1:
            seeds = [run.f1_macro for run in one.runs]
            axes.plot(seeds, [at + 0.24] * len(seeds), "o", markersize=3.8, mfc="none", mec=PALETTE["soft"], mew=0.9)
        axes.plot(one.f1_macro.value, at, look.marker, color=look.color, markersize=8)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_yticks(range(len(rows)), [short(one.title, LETTERS) for one in rows], parse_math=False)
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("test F1 (macro), with its 95 % interval")
    return figure


@dataclass(frozen=True)
class _Look:
    color: str
    linestyle: object
    marker: str


def _look(comparison: Comparison, variant: VariantResult) -> _Look:
    look = stroke([one.name for one in comparison.variants].index(variant.name))
    return _Look(look["color"], look["linestyle"], look["marker"])


def _add_legend(figure: Drawing, comparison: Comparison, variants: Sequence[VariantResult], *, lines: bool) -> None:
    """Names of the variants below the panels."""
    handles = []
    for one in variants:
        look = _look(comparison, one)
        dash = look.linestyle if lines else "none"
        style = {"color": look.color, "marker": look.marker, "linestyle": dash}
        handles.append(Line2D([], [], label=short(one.title, LETTERS), **style))  # type: ignore[arg-type]
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(len(handles), 3 if longest < 24 else 2))
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3 if lines else 1.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


# -------------------------------------------------------------------------------------------- cost


@mpl.rc_context(STYLE)
def cost_figure(comparison: Comparison) -> Drawing:
    """Test F1 with its 95 % interval against the time of training once plus tuning, on a logarithmic axis.

    A ring marks the recommended variant. Variants without a time are left out.
    """
    timed = [(one, one.f1_macro, one.cost.total) for one in comparison.finished if one.cost and one.cost.total]
    parts = [f"{short(one.title)} {f1.value:.3f} in {clock(seconds)}" for one, f1, seconds in timed if f1]
    figure = Drawing(WIDE, 3.9, f"Test F1 against training time: {'; '.join(parts)}.")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for one, f1, seconds in timed:
        if f1 is None:
            continue
        look = _look(comparison, one)
        axes.plot([seconds, seconds], [f1.low, f1.high], "-_", color=look.color, linewidth=1.4, markersize=7)
        axes.plot(seconds, f1.value, look.marker, color=look.color, markersize=8)
        if comparison.recommendation and comparison.recommendation.variant == one.name:
            axes.plot(seconds, f1.value, "o", markersize=16, mfc="none", mec=PALETTE["ink"], mew=1.2)
    spans = [seconds for *_, seconds in timed]
    low, high = (min(spans) / 1.6, max(spans) * 1.6) if spans else (1.0, 60.0)
    axes.set_xlim(low, high)
    ticks = time_ticks(low, high, most=8)
    axes.set_xticks([seconds for seconds, _ in ticks], [label for _, label in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    axes.set_xlabel("time to train once, with tuning")
    axes.set_ylabel("test F1 (macro)")
    _add_legend(figure, comparison, [one for one, *_ in timed], lines=False)
    return figure


def time_ticks(low: float, high: float, *, most: int) -> list[tuple[float, str]]:
    """At most `most` round durations between `low` and `high` seconds with their labels: 10 s, 1 min, 10 min, 1 h."""
    units = (
        ("s", 1, (1, 2, 5, 10, 20, 30)),
        ("min", 60, (1, 2, 5, 10, 20, 30)),
        ("h", 3600, (1, 2, 5, 10, 20, 50, 100)),
    )
    every = [(float(unit * many), f"{many} {name}") for name, unit, counts in units for many in counts]
    inside = [(seconds, label) for seconds, label in every if low <= seconds <= high]
    return inside[:: max(1, -(-len(inside) // most))]


# ------------------------------------------------------------------------------------------ curves


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric of one variant by epoch, [epochs]: mean, lowest and highest of the seeds that reached the epoch.

    NaN where none of them has the value. `shared` is the number of epochs that every seed reached.
    """

    mean: Floats
    low: Floats
    high: Floats
    shared: int


def curve(runs: Sequence[Sequence[Epoch]], metric: str) -> Curve:
    """`metric` over the epochs of one phase, a sequence for each seed."""
    some = [rows for rows in runs if rows]
    lengths = [len(rows) for rows in some]
    table = np.full((len(some), max(lengths, default=0)), np.nan)
    for values, rows in zip(table, some, strict=True):
        known = [getattr(row, metric) for row in rows]
        values[: len(rows)] = [np.nan if value is None else value for value in known]
    seen = np.ma.masked_invalid(table)
    mean, low, high = (np.ma.filled(made, np.nan) for made in (seen.mean(axis=0), seen.min(axis=0), seen.max(axis=0)))
    return Curve(np.asarray(mean), np.asarray(low), np.asarray(high), min(lengths, default=0))


@mpl.rc_context(STYLE)
def overlay_figure(comparison: Comparison, curves: Curves) -> Drawing:
    """Validation loss and accuracy of every variant by epoch.

    A line is the mean over the seeds that reached the epoch, its band from the lowest to the highest; from where
    seeds have stopped it is thin and has no band.
    """
    variants = [one for one in comparison.variants if any(curves.get(one.name, ()))]
    lengths = [len(rows) for one in variants for rows in curves[one.name] if rows]
    parts = [f"{short(one.title)} {counted(max(map(len, curves[one.name])), 'epoch')}" for one in variants]
    figure = Drawing(WIDE, 3.9, f"Validation loss and accuracy by epoch: {'; '.join(parts)}.")
    for axes, metric in zip(figure.subplots(1, 2), ("val_loss", "val_accuracy"), strict=True):
        found = [(one, curve(curves[one.name], metric)) for one in variants]
        for one, line in found:
            _draw(axes, line, _look(comparison, one))
        _scale_epochs(axes, lengths)
        scale = _scale_losses if metric == "val_loss" else _scale_accuracies
        note = scale(axes, np.concatenate([line.mean for _, line in found]))
        axes.set_title(f"{'validation loss' if metric == 'val_loss' else 'validation accuracy'}{note}")
        axes.grid(axis="y")
    _add_legend(figure, comparison, variants, lines=True)
    return figure


def _draw(axes: Axes, line: Curve, look: _Look) -> None:
    epochs = np.arange(1, len(line.mean) + 1)
    whole, rest = slice(0, line.shared), slice(max(line.shared - 1, 0), None)
    style = {"color": look.color, "linestyle": look.linestyle}
    axes.fill_between(epochs[whole], line.low[whole], line.high[whole], color=look.color, alpha=0.16, linewidth=0)
    axes.plot(epochs[rest], line.mean[rest], linewidth=0.8, **style)  # type: ignore[arg-type]
    axes.plot(epochs[whole], line.mean[whole], linewidth=1.7, **style)  # type: ignore[arg-type]
    known = np.flatnonzero(np.isfinite(line.mean))
    if len(known):
        axes.plot(known[-1] + 1, line.mean[known[-1]], look.marker, color=look.color, markersize=6)


def _scale_epochs(axes: Axes, lengths: Sequence[int]) -> None:
    """Epochs from 1: logarithmic, each tick twice the last, where lengths differ much."""
    longest = max(lengths)
    if longest >= UNEQUAL * min(lengths) and longest > 4:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")


def _scale_losses(axes: Axes, losses: Floats) -> str:
    """A loss axis, logarithmic where losses differ much; gives the words for that."""
    positive = losses[np.isfinite(losses) & (losses > 0)]
    if not len(positive) or positive.max() <= STRETCHED * positive.min():
        axes.set_ylim(bottom=0.0)
        return ""
    axes.set_yscale("log")
    steps = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    inside = [step for step in steps if positive.min() / 1.3 <= step <= positive.max() * 1.3]
    axes.yaxis.set_major_locator(FixedLocator(inside[:: 1 + len(inside) // 9]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return " (logarithmic)"


def _scale_accuracies(axes: Axes, shares: Floats) -> str:
    finite = shares[np.isfinite(shares)]
    narrow = len(finite) and math.isclose(finite.min(), finite.max(), abs_tol=0.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1 if narrow else 0))
    return ""
