"""The figures of a comparison: scores with intervals, and learning curves overlaid.

A variant has the same color, dash and marker in both, and nothing is shown by color alone.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from upcycle.comparison.results import Comparison, VariantResult
from upcycle.history import Row
from upcycle.reporting.names import counted, short
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, Stroke, as_text, stroke

STRETCHED = 8.0
"""Losses whose extremes differ by more than this factor are drawn on a logarithmic axis."""
UNEQUAL = 4.0
"""Numbers of epochs that differ by this factor or more share a logarithmic axis."""
LETTERS = 34
"""Letters of a variant's name."""

CurvesByVariant = Mapping[str, Sequence[Sequence[Row]]]
"""The epochs of each run, by the name of its variant."""


@mpl.rc_context(STYLE)
def scores_figure(comparison: Comparison) -> Drawing:
    """Test F1 of every variant: the mean over seeds with its 95 % interval, small rings for the seeds."""
    rows = [(one, one.f1_macro) for one in comparison.finished if one.f1_macro]
    summary = "; ".join(f"{short(one.title)} {f1.value:.3f}" for one, f1 in rows)
    figure = Drawing(WIDE, 0.42 * len(rows) + 0.75, f"Test F1 by variant: {summary}.")
    axes = figure.add_subplot()
    for at, (one, f1) in enumerate(rows):
        look = _look(comparison, one)
        axes.plot([f1.low, f1.high], [at, at], "-|", color=look.color, linewidth=2, markersize=9)
        if len(one.runs) > 1:
            seeds = [run.f1_macro for run in one.runs]
            axes.plot(seeds, [at + 0.24] * len(seeds), "o", markersize=3.8, mfc="none", mec=PALETTE["soft"], mew=0.9)
        axes.plot(f1.value, at, look.marker, color=look.color, markersize=8)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    as_text(axes.yaxis, [short(one.title, LETTERS) for one, _ in rows])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("test F1 (macro), with its 95 % interval")
    return figure


def _look(comparison: Comparison, variant: VariantResult) -> Stroke:
    return stroke([one.name for one in comparison.variants].index(variant.name))


@mpl.rc_context(STYLE)
def overlay_figure(comparison: Comparison, curves: CurvesByVariant) -> Drawing:
    """Validation loss and accuracy of every variant by epoch.

    A thin line per seed; the thick one is their mean, as far as every seed got.
    """
    variants = [one for one in comparison.variants if any(curves.get(one.name, ()))]
    parts = [f"{short(one.title)} {counted(max(map(len, curves[one.name])), 'epoch')}" for one in variants]
    figure = Drawing(WIDE, 3.9, f"Validation loss and accuracy by epoch: {'; '.join(parts)}.")
    for axes, metric in zip(figure.subplots(1, 2), ("val_loss", "val_accuracy"), strict=True):
        for one in variants:
            _draw(axes, [rows for rows in curves[one.name] if rows], metric, _look(comparison, one))
        _scale_epochs(axes, [len(rows) for one in variants for rows in curves[one.name] if rows])
        if metric == "val_loss":
            _scale_losses(axes)
        else:
            axes.set_title("validation accuracy")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(axis="y")
    handles = []
    for one in variants:
        look, label = _look(comparison, one), short(one.title, LETTERS)
        handles.append(Line2D([], [], label=label, color=look.color, marker=look.marker, linestyle=look.linestyle))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, handlelength=3)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw(axes: Axes, seeds: Sequence[Sequence[Row]], metric: str, look: Stroke) -> None:
    values = [np.array([getattr(row, metric) for row in rows]) for rows in seeds]
    for line in values if len(values) > 1 else ():
        axes.plot(range(1, len(line) + 1), line, color=look.color, linestyle=look.linestyle, linewidth=0.6, alpha=0.6)
    shared = min(map(len, values))
    mean = np.mean([line[:shared] for line in values], axis=0)
    axes.plot(range(1, shared + 1), mean, color=look.color, linestyle=look.linestyle, linewidth=1.7)
    axes.plot(shared, mean[-1], look.marker, color=look.color, markersize=6)


def _scale_epochs(axes: Axes, lengths: Sequence[int]) -> None:
    """Epochs from 1: logarithmic, each tick twice the last, where lengths differ much."""
    if max(lengths) >= UNEQUAL * min(lengths) and max(lengths) > 4:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")


def _scale_losses(axes: Axes) -> None:
    """A loss axis, logarithmic where losses differ much."""
    losses = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    positive = losses[np.isfinite(losses) & (losses > 0)]
    stretched = len(positive) > 0 and positive.max() > STRETCHED * positive.min()
    axes.set_title(f"validation loss{' (logarithmic)' if stretched else ''}")
    if stretched:
        axes.set_yscale("log", subs=[2, 5])
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.set_ylim(bottom=0.0)
