"""The figures of a run: planned learning rate, learning curves, scores by class and confusion matrix.

Each function takes the values of a run and gives a `Drawing`, a matplotlib figure that pyplot's global state never
sees. Nothing depends on color alone: lines differ in stroke and marker, and points are named.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from upcycle.errors import counted
from upcycle.evaluation.calibration import Bin
from upcycle.evaluation.results import Evaluation, Metric
from upcycle.history import History
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, as_text, stroke
from upcycle.reporting.text import interval, rate_text, share_text, short
from upcycle.rundir import Number, read_value

LEAP = 10
"""A loss so many times the first one is drawn on a logarithmic axis."""
CLASSES_DRAWN = 50

_PHASES = {"finetune": "Fine-tuning", "train": "Training"}
_DASHED = (0, (4, 2))

_Floats = NDArray[np.float64]


def phase_name(name: str) -> str:
    """The words for a phase's name in figures and tables."""
    return _PHASES.get(name, short(name))


# ------------------------------------------------------------------------------------- schedule


@dataclass(frozen=True)
class PlannedRate:
    """The learning rate and momentum of the run's update `step`; NaN where there is no momentum."""

    step: int
    lr: float
    momentum: Number = math.nan


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of a plan with its rates, each set for a step or, where `per` says so, for an epoch."""

    name: str
    epochs: int
    steps_per_epoch: int
    per: str
    rates: tuple[PlannedRate, ...]

    @classmethod
    def from_dict(cls, values: object) -> "PlannedPhase":
        """A phase of plan.json; RunError for other values."""
        return read_value(cls, values, "plan.json")


def planned(values: Mapping[str, Any]) -> PlannedPhase | None:
    """The last phase of plan.json that has rates; the head of earlier versions is none."""
    there = [phase for phase in values.get("phases") or () if phase["rates"] and phase["name"] != "head"]
    return PlannedPhase.from_dict(there[-1]) if there else None


@mpl.rc_context(STYLE)
def schedule_figure(phase: PlannedPhase) -> Drawing:
    """Figure 1: the learning rate by epoch, with first, peak and last rate named; momentum below it where it varies."""
    rates = np.array([point.lr for point in phase.rates])
    momenta = np.array([point.momentum for point in phase.rates])
    done = np.array([point.step - phase.rates[0].step for point in phase.rates]) / max(phase.steps_per_epoch, 1)
    first, peak, last = (rate_text(rate) for rate in (rates[0], rates.max(), rates[-1]))
    epochs = counted(phase.epochs, "epoch")
    summary = f"Learning rate. {phase_name(phase.name)}, {epochs}: first {first}, peak {peak}, last {last}."
    varies = _spread(momenta) > 1e-9
    figure = Drawing(WIDE, 3.5 if varies else 2.8, summary)
    panels = figure.subplots(1 + varies, 1, sharex=True, squeeze=False, height_ratios=[3.2, 1.0][: 1 + varies]).ravel()
    drawn = "steps-post" if phase.per == "epoch" else "default"
    marker = "o" if phase.per == "epoch" and len(rates) <= 120 else ""
    panels[0].plot(done, rates, color=PALETTE["blue"], markersize=3, marker=marker, drawstyle=drawn)
    _frame_rates(panels[0], done, rates)
    note = f"{epochs} of {counted(phase.steps_per_epoch, 'step')}, set every {phase.per}"
    panels[0].set_title(f"{phase_name(phase.name)}: {note}", parse_math=False)
    if varies:
        panels[1].plot(done, momenta, color=PALETTE["rust"], linestyle=_DASHED, linewidth=1.5, drawstyle=drawn)
        panels[1].set_title("momentum", fontsize=9, color=PALETTE["soft"])
        panels[1].set_yticks(sorted({round(float(end), 4) for end in (np.nanmin(momenta), np.nanmax(momenta))}))
        panels[1].margins(y=0.15)
        panels[1].grid(axis="y")
    panels[-1].set_xlabel("epochs done")
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    return figure


@mpl.rc_context(STYLE)
def overlaid_figure(phases: Mapping[str, PlannedPhase]) -> Drawing:
    """Learning rate and momentum of several plans by update, on the same axes; lines differ in dash and marker too.

    Rates whose peaks are far apart are on a logarithmic axis.
    """
    peaks = [max(point.lr for point in phase.rates) for phase in phases.values()]
    told = "; ".join(f"{short(name)}: {counted(phase.epochs, 'epoch')}" for name, phase in phases.items())
    figure = Drawing(WIDE, 4.5 + 0.2 * ((len(phases) + 1) // 2), f"Learning rate and momentum by update. {told}.")
    rates, momenta = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1.0])
    for place, (name, phase) in enumerate(phases.items()):
        done = [point.step - phase.rates[0].step for point in phase.rates]
        line = stroke(place)
        looks: dict[str, Any] = {
            **{"color": line.color, "linestyle": line.linestyle, "marker": line.marker, "markersize": 4.5},
            "markevery": (0.01 + 0.013 * place, 0.09),  # where lines coincide, the markers of both are seen
            "drawstyle": "steps-post" if phase.per == "epoch" else "default",
        }
        rates.plot(done, [point.lr for point in phase.rates], label=short(name), **looks)
        momenta.plot(done, [point.momentum for point in phase.rates], **looks)
    if max(peaks) >= LEAP * min(peaks) > 0:
        rates.set_yscale("log")
        rates.set_title("learning rate, logarithmic axis")
    else:
        rates.set_ylim(bottom=0)
        rates.set_title("learning rate")
    rates.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_text(rate)))
    momenta.set_title("momentum")
    momenta.margins(y=0.15)
    momenta.set_xlabel("update")
    for axes in (rates, momenta):
        axes.grid(axis="y")
    legend = figure.legend(
        *rates.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, handlelength=4
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _spread(values: _Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if finite.size else 0.0


def _frame_rates(axes: Axes, done: _Floats, rates: _Floats) -> None:
    """Scale the rates and name the first, the peak and the last, words for the same point in one label."""
    top = float(rates.max()) or 1.0
    axes.set_ylim(-0.26 * top, 1.22 * top)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top)
    axes.set_yticks([tick for tick in ticks if 0 <= tick <= 1.05 * top])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_text(rate)))
    axes.grid(axis="y")
    axes.margins(x=0.03)
    words: dict[int, list[str]] = {}
    for word, index in (("first", 0), ("peak", int(rates.argmax())), ("last", len(rates) - 1)):
        words.setdefault(index, []).append(word)
    for index, names in words.items():
        share = done[index] / max(done[-1], 1e-9)
        above = "peak" in names
        axes.plot(done[index], rates[index], "o", color=PALETTE["blue"], markersize=6)
        axes.annotate(
            f"{' and '.join(names)} {rate_text(rates[index])}",
            (done[index], rates[index]),
            xytext=(0, 8 if above else -8),
            textcoords="offset points",
            ha="left" if share < 0.3 else "right" if share > 0.7 else "center",
            va="bottom" if above else "top",
        )


# --------------------------------------------------------------------------------------- curves


@mpl.rc_context(STYLE)
def curves_figure(history: History) -> Drawing:
    """Figure 2: loss and accuracy, training and validation, by epoch; cheap enough to draw again after each.

    A ring marks the best epoch, the last row whose `best` is true.
    """
    rows = history.rows
    known = [row.val_loss for row in rows if math.isfinite(row.val_loss)]
    ends = f", validation loss {known[0]:.3f} at first, {known[-1]:.3f} at last" if known else ""
    summary = f"{phase_name(rows[-1].phase)}, {counted(len(rows), 'epoch')}{ends}" if rows else "No epoch has finished"
    figure = Drawing(WIDE, 3.3, f"Loss and accuracy by epoch. {summary}.")
    if not rows:
        figure.text(0.5, 0.5, "No epoch has finished yet.", ha="center", va="center", color=PALETTE["soft"])
        return figure
    best = next((row for row in reversed(rows) if row.best), None)
    epochs = np.arange(1, len(rows) + 1)
    strokes = (("training", "rust", _DASHED, "s", "paper"), ("validation", "blue", "-", "o", "blue"))
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        columns = [np.array([getattr(row, name) for row in rows]) for name in (metric, f"val_{metric}")]
        for values, (label, color, dash, marker, face) in zip(columns, strokes, strict=True):
            style = {"color": PALETTE[color], "marker": marker, "markersize": 4.5, "markerfacecolor": PALETTE[face]}
            axes.plot(epochs, values, linestyle=dash, label=label, markevery=max(1, len(rows) // 15), **style)
        if best is not None:
            _ring(axes, rows.index(best) + 1, best.val_loss if metric == "loss" else best.val_accuracy)
        axes.set_title(metric)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        axes.set_xlim(1 - 0.03 * len(rows) - 0.2, 1.03 * len(rows) + 0.2)
        axes.grid(axis="y")
        (_frame_losses if metric == "loss" else _frame_accuracies)(axes, np.concatenate(columns))
    legend = figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False
    )
    legend.set_in_layout(True)
    return figure


def _ring(axes: Axes, epoch: int, value: float) -> None:
    axes.axvline(epoch, color=PALETTE["soft"], linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    axes.plot(epoch, value, "o", markersize=11, mfc="none", mec=PALETTE["ink"], mew=1.3, clip_on=False)


def _frame_losses(axes: Axes, losses: _Floats) -> None:
    """Let the losses start at 0. One that leaps would press all others flat: its axis is logarithmic."""
    finite = losses[np.isfinite(losses)]
    top = float(finite.max()) if finite.size else 1.0
    if finite.size and top > LEAP * finite[0] > 0:
        axes.set_yscale("log")
        axes.annotate("logarithmic axis", (0.98, 0.97), xycoords="axes fraction", va="top", ha="right", fontsize=8)
    else:
        axes.set_ylim(-0.05 * (top or 1.0), 1.08 * (top or 1.0))


def _frame_accuracies(axes: Axes, shares: _Floats) -> None:
    """Frame the accuracies, at least 5 points of them, with no mark above 100 %."""
    finite = shares[np.isfinite(shares)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    span = max(high - low, 0.05)
    top = min(high + 0.08 * span, 1 + 0.04 * span)
    axes.set_ylim(min(low - 0.08 * span, top - span), top)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if _spread(shares) > 0.04 else 1, symbol=" %"))


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
    rows = [*classes[:CLASSES_DRAWN], ("macro average", evaluation.f1_macro)]
    (lowest, low), (_, mean) = rows[0], rows[-1]
    summary = f"F1 by class with 95 % intervals: lowest {_words(low)} for {lowest}, macro average {_words(mean)}."
    figure = Drawing(WIDE, 0.8 + 0.34 * len(rows), summary)
    axes = figure.subplots()
    for height, (_, score) in enumerate(rows):
        average = height == len(rows) - 1
        color = PALETTE["ink" if average else "blue"]
        axes.plot([score.low, score.high], [height, height], "-|", color=color, linewidth=2, markersize=8)
        axes.plot(score.value, height, "D" if average else "o", color=color, markersize=7)
        axes.text(1.015, height, _words(score), transform=axes.get_yaxis_transform(), va="center")
    left_out = f"; the {CLASSES_DRAWN} lowest of {len(classes):,} classes" if len(classes) > CLASSES_DRAWN else ""
    axes.set_xlabel(f"F1, with its 95 % interval{left_out}")
    as_text(axes.yaxis, [name for name, _ in rows])
    lows = [end for _, score in rows for end in (score.low, score.value) if math.isfinite(end)]
    axes.set_xlim(max(min(lows, default=0.0) - 0.03, -0.02), 1.01)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axhline(len(rows) - 1.5, color=PALETTE["rule"], linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return figure


def _words(score: Metric) -> str:
    return f"{score.value:.3f} ({interval(score)})"


# ---------------------------------------------------------------------------------- reliability


@mpl.rc_context(STYLE)
def reliability_figure(panels: Mapping[str, tuple[Sequence[Bin], Metric]]) -> Drawing:
    """Figure 3c: the share of right answers over their mean probability, in bins of as many images each.

    `panels` have the bins and the calibration error of the same images by title: without temperature, and with it.
    """
    errors = "; ".join(f"{title} {share_text(error)}" for title, (_, error) in panels.items())
    figure = Drawing(WIDE if len(panels) > 1 else WIDE / 2, 3.9, f"Expected calibration error: {errors}.")
    every = [one for made, _ in panels.values() for one in made]
    low = max(min(min(one.confidence, one.right.low) for one in every) - 0.03, 0.0)
    for axes, (title, (made, error)) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        axes.plot([low, 1], [low, 1], color=PALETTE["soft"], linestyle=_DASHED, linewidth=1)
        for one in made:
            ends = [one.right.low, one.right.high]
            axes.plot([one.confidence] * 2, ends, "-_", color=PALETTE["blue"], alpha=0.55, linewidth=1.5, markersize=6)
        at = [one.confidence for one in made]
        axes.plot(at, [one.right.value for one in made], "o-", color=PALETTE["blue"], linewidth=1, markersize=5)
        axes.set_title(f"{title}: error {share_text(error)}", fontsize=10)
        axes.set_xlim(low, 1 + 0.02 * (1 - low))
        axes.set_ylim(low, 1 + 0.02 * (1 - low))
        axes.set_xlabel("probability of the answer")
        axes.grid(axis="both")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0 if low < 0.9 else 1, symbol=" %"))
    figure.axes[0].set_ylabel("answers that are right")
    return figure


# ------------------------------------------------------------------------------ confusion matrix


@mpl.rc_context(STYLE)
def confusion_figure(evaluation: Evaluation) -> Drawing:
    """Figure 3b: how many images of each true class (rows) were given each class (columns).

    Up to 25 classes each cell has its count, up to 6 its share of the row too. Beyond 50 classes the 50 that take part
    in most mistakes are shown.
    """
    counts = np.asarray(evaluation.confusion, dtype=np.int64)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    shown = sorted(np.argsort(-wrong, kind="stable")[:CLASSES_DRAWN].tolist())
    totals, counts = np.maximum(counts.sum(axis=1), 1), counts[np.ix_(shown, shown)]
    size, right, total = len(shown), evaluation.correct, evaluation.n
    cell = 1.1 if size <= 3 else 0.6 if size <= 6 else max((WIDE - 1.7) / max(size, 12), 0.19)
    side = cell * size + 1.7
    summary = f"Confusion matrix: {right:,} of {total:,} images on the diagonal, {total - right:,} mistaken."
    figure = Drawing(side, side, summary)
    axes = figure.subplots()
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", anchor="N")
    large = min(15.0 if size <= 3 else 11.0, 72 * 0.94 * cell / (0.64 * len(f"{counts.max():,}")))
    for row, column in itertools.product(range(size), repeat=2):
        count, share = int(counts[row, column]), counts[row, column] / totals[shown[row]]
        face = to_rgba(PALETTE["blue" if row == column else "rust"], (0.16 + 0.32 * share) if count else 0.0)
        edge = PALETTE["blue"] if row == column else "none"
        axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fc=face, ec=edge, lw=0.9))
        if size <= 12 or (size <= 25 and count):
            axes.text(column, row, f"{count:,}", fontsize=large, ha="center", va="bottom" if size <= 6 else "center")
        if size <= 6 and count:
            axes.text(column, row + 0.1, f"{100 * share:.1f} %", fontsize=min(0.8 * large, 9), ha="center", va="top")
    names = [short(evaluation.classes[at], 18) for at in shown]
    for axis in (axes.xaxis, axes.yaxis):
        as_text(axis, names, size=9.0 if size <= 12 else 6.5)
    if max(map(len, names)) > 14 * cell:
        axes.tick_params(axis="x", labelrotation=90)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(evaluation.classes) > size:
        left_out = len(evaluation.classes) - size
        axes.set_title(f"The {size} classes with most mistakes; {left_out:,} more are left out.", fontsize=9)
    return figure
