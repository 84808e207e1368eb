"""The figures of a training: the planned learning rate, and the learning curves.

Each function takes the values of a run and gives a `Drawing`, a matplotlib figure that pyplot's global state never
sees. Nothing depends on color alone: lines differ in stroke and marker, and points are named.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from upcycle.history import History, Row
from upcycle.reporting.names import counted, rate_text, short
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing

PHASES = {"finetune": "Fine-tuning", "train": "Training"}
LEAP = 10
"""A loss so many times the first one is drawn on a logarithmic axis."""

Floats = NDArray[np.float64]

_SOFT = PALETTE["soft"]
_VALIDATION = {"color": PALETTE["blue"], "linestyle": "-", "marker": "o", "markersize": 4.5}
_TRAINING = {
    "color": PALETTE["rust"],
    "linestyle": (0, (4, 2)),
    "marker": "s",
    "markersize": 4.5,
    "markerfacecolor": PALETTE["paper"],
}


def phase_name(name: str) -> str:
    """The words for a phase's name in figures and tables."""
    return PHASES.get(name, short(name))


@dataclass(frozen=True)
class PlannedPhase:
    """The rates of one phase of a plan: `steps`, `rates` and `momenta` are [n], NaN where there is no momentum."""

    name: str
    epochs: int
    steps_per_epoch: int
    per: str
    steps: Floats
    rates: Floats
    momenta: Floats

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlannedPhase":
        """A phase of plan.json."""
        columns = {key: [point.get(key) for point in values["rates"]] for key in ("step", "lr", "momentum")}
        steps, rates, momenta = (np.array(column, dtype=np.float64) for column in columns.values())
        name, per = str(values["name"]), str(values["per"])
        return cls(name, int(values["epochs"]), max(int(values["steps_per_epoch"]), 1), per, steps, rates, momenta)

    @property
    def epochs_done(self) -> Floats:
        """Epochs of the phase that are done at each of its steps, [n]."""
        return np.asarray((self.steps - self.steps[0]) / self.steps_per_epoch, dtype=np.float64)


def planned(values: object) -> tuple[PlannedPhase, ...]:
    """The phases of plan.json that have rates."""
    phases = values.get("phases") or () if isinstance(values, Mapping) else ()
    return tuple(PlannedPhase.from_dict(phase) for phase in phases if phase["rates"] and phase["name"] != "head")


def _finite(values: Floats) -> Floats:
    kept: Floats = values[np.isfinite(values)]
    return kept


def _head(axes: Axes, title: str, note: str) -> None:
    """A bold title with a softer line under it, both taken as they are: a dollar sign starts no formula."""
    axes.set_title(note, fontsize=9, color=_SOFT, parse_math=False)
    _beside_corner(axes, title, (0, 21), weight="bold")


def _beside_corner(axes: Axes, text: str, points: tuple[float, float], **style: Any) -> None:
    """Write `text` so many points right of and above the panel's upper left corner."""
    axes.annotate(text, (0, 1), points, xycoords="axes fraction", textcoords="offset points", parse_math=False, **style)


# ------------------------------------------------------------------------------------- schedule


@mpl.rc_context(STYLE)
def schedule_figure(phases: Sequence[PlannedPhase]) -> Drawing:
    """Figure 1: the learning rate of every phase by epoch, with first, peak and last rate named.

    Momentum gets a thin panel of its own where it varies. Two phases stand beside each other, more below each other.
    """
    momentum = any(_varies(phase.momenta) for phase in phases)
    columns = 1 if len(phases) > 2 else max(len(phases), 1)
    rows = -(-max(len(phases), 1) // columns)
    figure = Drawing(WIDE, rows * (3.5 if momentum else 2.8), _schedule_summary(phases))
    cells = figure.subfigures(rows, columns, squeeze=False).ravel()
    for cell, phase in zip(cells, phases, strict=False):
        _draw_phase(cell, phase, momentum)
    return figure


def _schedule_summary(phases: Sequence[PlannedPhase]) -> str:
    parts = []
    for phase in phases:
        first, peak, last = (rate_text(rate) for rate in (phase.rates[0], phase.rates.max(), phase.rates[-1]))
        epochs = counted(phase.epochs, "epoch")
        parts.append(f"{phase_name(phase.name)}, {epochs}: first {first}, peak {peak}, last {last}")
    return f"Learning rate. {'; '.join(parts)}."


def _varies(values: Floats) -> bool:
    finite = _finite(values)
    return finite.size > 1 and float(np.ptp(finite)) > 1e-9


def _draw_phase(cell: SubFigure, phase: PlannedPhase, with_momentum: bool) -> None:
    ratios = [3.2, 1.0] if with_momentum else [1.0]
    axes = cell.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios).ravel()
    _draw_rates(axes[0], phase.epochs_done, phase.rates, phase.per == "epoch")
    note = f"{counted(phase.epochs, 'epoch')} of {counted(phase.steps_per_epoch, 'step')}, set every {phase.per}"
    _head(axes[0], f"{phase_name(phase.name)}: learning rate", note)
    if with_momentum:
        _draw_momentum(axes[1], phase.epochs_done, phase.momenta, phase.per == "epoch")
    axes[-1].set_xlabel("epochs done")
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))


def _draw_rates(axes: Axes, epochs: Floats, rates: Floats, stepped: bool) -> None:
    top = float(rates.max()) or 1.0
    line = {"color": PALETTE["blue"], "markersize": 3, "marker": "o" if stepped and len(rates) <= 120 else ""}
    axes.plot(epochs, rates, drawstyle="steps-post" if stepped else "default", **line)  # type: ignore[arg-type]
    axes.set_ylim(-0.26 * top, 1.22 * top)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top)
    axes.set_yticks([tick for tick in ticks if 0 <= tick <= 1.05 * top])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_text(rate)))
    axes.grid(axis="y")
    axes.margins(x=0.03)
    _name_rates(axes, epochs, rates)


def _name_rates(axes: Axes, epochs: Floats, rates: Floats) -> None:
    """Name the first, the peak and the last rate, words for the same point in one label."""
    words: dict[int, list[str]] = {}
    for word, index in (("first", 0), ("peak", int(rates.argmax())), ("last", len(rates) - 1)):
        words.setdefault(index, []).append(word)
    for index, names in words.items():
        share = (epochs[index] - epochs[0]) / max(epochs[-1] - epochs[0], 1e-9)
        above = "peak" in names
        axes.plot(epochs[index], rates[index], "o", color=PALETTE["blue"], markersize=6)
        axes.annotate(
            f"{' and '.join(names)} {rate_text(rates[index])}",
            (epochs[index], rates[index]),
            xytext=(0, 8 if above else -8),
            textcoords="offset points",
            ha="left" if share < 0.3 else "right" if share > 0.7 else "center",
            va="bottom" if above else "top",
        )


def _draw_momentum(axes: Axes, epochs: Floats, values: Floats, stepped: bool) -> None:
    line = {"color": PALETTE["rust"], "linestyle": (0, (4, 2)), "linewidth": 1.5}
    axes.plot(epochs, values, drawstyle="steps-post" if stepped else "default", **line)  # type: ignore[arg-type]
    axes.set_title("momentum", fontsize=9, color=_SOFT)
    finite = _finite(values)
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        pad = 0.15 * (high - low) or 0.05
        axes.set_ylim(low - pad, high + pad)
        axes.set_yticks(sorted({round(low, 4), round(high, 4)}))
    axes.grid(axis="y")


# --------------------------------------------------------------------------------------- curves


@mpl.rc_context(STYLE)
def curves_figure(history: History) -> Drawing:
    """Figure 2: loss and accuracy, training and validation, by epoch; phases one after the other.

    Cheap enough to draw again after every epoch. A ring marks the best epoch of each phase, the last row of it whose
    `best` is true.
    """
    phases = [(name, list(group)) for name, group in itertools.groupby(history.rows, lambda row: row.phase)]
    figure = Drawing(WIDE, 5.2, _curves_summary(phases))
    if not phases:
        figure.text(0.5, 0.5, "No epoch has finished yet.", ha="center", va="center", color=_SOFT)
        return figure
    longest = max(len(group) for _, group in phases)
    ratios = [max(len(group), 0.6 * longest) for _, group in phases]
    grid = figure.subplots(2, len(phases), sharex="col", sharey="row", squeeze=False, width_ratios=ratios)
    figure.get_layout_engine().set(wspace=0, w_pad=0.02)  # type: ignore[union-attr, call-arg]
    for column, (name, group) in enumerate(phases):
        panels = list(grid[:, column])
        _draw_curve(panels[0], group, "loss")
        _draw_curve(panels[1], group, "accuracy")
        _mark_best(panels, group)
        letters = int((WIDE - 0.8) * ratios[column] / sum(ratios) / 0.085)
        _frame_column(panels, name, group, letters=letters, first=column == 0)
    _limit(grid[0, 0], grid[1, 0], history.rows)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)


def _curves_summary(phases: Sequence[tuple[str, Sequence[Row]]]) -> str:
    parts = []
    for name, group in phases:
        losses = _finite(_column(group, "val_loss"))
        ends = f", validation loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last" if losses.size else ""
        parts.append(f"{phase_name(name)}, {counted(len(group), 'epoch')}{ends}")
    return f"Loss and accuracy by epoch. {'; '.join(parts) or 'No epoch has finished yet'}."


def _draw_curve(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    epochs, every = _column(rows, "epoch"), max(1, len(rows) // 15)
    for label, column, look in (("training", metric, _TRAINING), ("validation", f"val_{metric}", _VALIDATION)):
        axes.plot(epochs, _column(rows, column), markevery=every, label=label, **look)  # type: ignore[arg-type]


def _best(rows: Sequence[Row]) -> Row | None:
    return next((row for row in reversed(rows) if row.best), None)


def _mark_best(column: Sequence[Axes], rows: Sequence[Row]) -> None:
    best = _best(rows)
    if best is None:
        return
    for axes, value in zip(column, (best.val_loss, best.val_accuracy), strict=True):
        axes.axvline(best.epoch, color=_SOFT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        (ring,) = axes.plot(best.epoch, value, "o", markersize=11, clip_on=False)
        ring.set(markerfacecolor="none", markeredgecolor=PALETTE["ink"], markeredgewidth=1.3)


def _frame_column(column: Sequence[Axes], name: str, rows: Sequence[Row], *, letters: int, first: bool) -> None:
    """Titles of one phase's two panels, its own epoch axis, and the line that divides it from the last."""
    loss, accuracy = column
    best = _best(rows)
    title = "\n".join(textwrap.wrap(phase_name(name), max(letters, 11), break_on_hyphens=False))
    _head(loss, title, f"○ best: epoch {best.epoch}" if best else " ")
    if first:
        _beside_corner(loss, "loss", (-4, 6), ha="right")
        _beside_corner(accuracy, "accuracy", (-4, 6), ha="center")
    accuracy.set_xlabel("epoch")
    accuracy.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    pad = max(0.03 * len(rows), 0.3)
    accuracy.set_xlim(rows[0].epoch - min(pad, 0.8), rows[-1].epoch + pad)
    for axes in column:
        axes.grid(axis="y")
        if not first:
            axes.spines["left"].set(linestyle=(0, (5, 3)), color=PALETTE["ink"])
            axes.tick_params(axis="y", length=0)


def _limit(loss: Axes, accuracy: Axes, rows: Sequence[Row]) -> None:
    """Let the losses start at 0 and the accuracies fill their panel, for all phases alike.

    A loss that leaps far above where it began would press all others flat: its axis is logarithmic.
    """
    losses = _finite(np.concatenate([_column(rows, "loss"), _column(rows, "val_loss")]))
    top = float(losses.max()) if losses.size else 0.0
    if losses.size and top > LEAP * losses[0] > 0:
        loss.set_yscale("log")
        loss.set_ylim(losses[losses > 0].min() / 1.3, 1.3 * top)
        loss.annotate("logarithmic axis", (0.02, 0.97), xycoords="axes fraction", va="top", fontsize=8, color=_SOFT)
    else:
        loss.set_ylim(-0.05 * (top or 1.0), 1.08 * (top or 1.0))
    shares = _finite(np.concatenate([_column(rows, "accuracy"), _column(rows, "val_accuracy")]))
    low, high = (float(shares.min()), float(shares.max())) if shares.size else (0.0, 1.0)
    pad = max(0.08 * (high - low), 0.005)
    accuracy.set_ylim(low - pad, high + pad)
    accuracy.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > 0.04 else 1))
