"""The learning curves of several rungs in one figure: the mean over seeds, and how far seeds differ."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from upcycle.reporting import labels
from upcycle.reporting.labels import apart, folded, write
from upcycle.reporting.names import counted, short
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, stroke

STRETCHED = 8.0
"""Losses, or errors, whose extremes differ by more than this factor are drawn on a logarithmic axis."""
UNEQUAL = 4.0
"""Numbers of epochs that differ by this factor or more share a logarithmic axis."""
_ACCURACIES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)
_SOFT = PALETTE["soft"]
_LETTERS = 8.5
_LEAD = 0.25
"""Inches between a panel and the names right of it."""

Row = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric of one rung by epoch, [epochs]: mean, lowest and highest of the seeds that reached the epoch.

    NaN where none of them knows the value. `shared` is the number of epochs that every seed reached.
    """

    mean: Floats
    low: Floats
    high: Floats
    shared: int
    seeds: int

    @property
    def last(self) -> tuple[int, float] | None:
        """The last epoch whose mean is known, counted from 1, and that mean."""
        known = np.flatnonzero(np.isfinite(self.mean))
        return (int(known[-1]) + 1, float(self.mean[known[-1]])) if known.size else None


def curve(runs: Sequence[Sequence[Row]], metric: str) -> Curve:
    """`metric` over the rows of one phase, epoch after epoch, a list for each seed."""
    some = [rows for rows in runs if rows]
    lengths = [len(rows) for rows in some]
    table = np.full((len(some), max(lengths, default=0)), np.nan)
    for values, rows in zip(table, some, strict=True):
        values[: len(rows)] = [np.nan if row.get(metric) is None else float(row[metric]) for row in rows]
    known = np.isfinite(table)
    count = known.sum(axis=0)
    mean = np.where(known, table, 0.0).sum(axis=0) / np.maximum(count, 1)
    low = np.where(known, table, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, table, -np.inf).max(axis=0, initial=-np.inf)
    mean, low, high = (np.where(count > 0, values, np.nan) for values in (mean, low, high))
    return Curve(mean, low, high, shared=min(lengths, default=0), seeds=len(some))


@mpl.rc_context(STYLE)
def overlay_figure(curves: Sequence[Mapping[str, Any]], *, width: float = WIDE) -> Drawing:
    """Validation loss and accuracy of every rung by epoch, named where its lines end.

    `curves` are the rungs in ladder order: {"title": words, "runs": [rows of history.jsonl of a seed]};
    those without rows are left out but keep their place's stroke. A line is the mean over the seeds that
    reached the epoch, its band from the lowest to the highest; from where seeds are missing the line is
    thin and has no band. `width` in inches.
    """
    places = [at for at, rung in enumerate(curves) if any(rung["runs"])]
    narrow = width < 6
    panel = max(2.5, 0.3 * len(places) if narrow else 0.24 * len(places))
    figure = Drawing(width, 2 * panel + 1.5, _summary([curves[at] for at in places]))
    figure.set_layout_engine("none")
    if not places:
        figure.text(0.5, 0.5, "No learning curves are there.", ha="center", va="center", color=_SOFT)
        return figure
    letters = 15 if narrow else 26
    names = [folded(rung["title"], letters, 1 if len(places) > 8 else 2) for rung in curves]
    room = _LEAD + 0.1 + max(labels.width(line, _LETTERS) for at in places for line in names[at].split("\n"))
    for number, metric in enumerate(("val_accuracy", "val_loss")):
        bottom = 0.55 + number * (panel + 0.55)
        axes = figure.add_axes(_shares(figure, 0.6, bottom, width - 0.6 - room, panel))
        found = {at: curve(curves[at]["runs"], metric) for at in places}
        _draw_panel(axes, found, accuracy=metric == "val_accuracy")
        _name_ends(axes, found, names, lead=_LEAD / (width - 0.6 - room), panel=panel)
    return figure


def _draw_panel(axes: Axes, found: Mapping[int, Curve], *, accuracy: bool) -> None:
    """The lines of one metric with both axes and a head."""
    stretched = _scale_values(axes, list(found.values()), accuracy=accuracy)
    _scale_epochs(axes, [len(line.mean) for line in found.values()], named=accuracy)
    note = "stretched axis" if accuracy else "logarithmic axis"
    _head(axes, "validation accuracy" if accuracy else "validation loss", note if stretched else "")
    for at, line in found.items():
        _draw(axes, line, stroke(at))


def _shares(figure: Drawing, left: float, bottom: float, wide: float, high: float) -> tuple[float, float, float, float]:
    across, up = figure.get_figwidth(), figure.get_figheight()
    return left / across, bottom / up, wide / across, high / up


def _summary(curves: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for rung in curves:
        last = curve(rung["runs"], "val_loss").last
        if last:
            parts.append(f"{short(rung['title'])} {last[1]:.3f} after {counted(last[0], 'epoch')}")
    return f"Validation loss and accuracy by epoch. Loss at the end: {'; '.join(parts) or 'unknown'}."


def _head(axes: Axes, title: str, note: str) -> None:
    text = axes.annotate(title, (0, 1), (-30, 9), xycoords="axes fraction", textcoords="offset points", weight="bold")
    if note:
        axes.annotate(f"   {note}", (1, 0), xycoords=text, color=_SOFT, va="bottom")


# ------------------------------------------------------------------------------------------- scales


def _scale_epochs(axes: Axes, lengths: Sequence[int], *, named: bool) -> None:
    """Epochs from 1 to the longest run's last: logarithmic, each tick twice the last, where lengths differ much."""
    longest = max(lengths)
    if longest >= UNEQUAL * min(lengths) and longest > 4:
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.93, longest * 1.04)
        ticks = [2**power for power in range(int(math.log2(longest)) + 1)]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        note = ", each mark twice the last"
    else:
        axes.set_xlim(1 - 0.03 * longest, longest + 0.03 * longest)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        note = ""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda epoch, _: f"{epoch:,.0f}"))
    axes.grid(axis="y")
    if named:
        axes.set_xlabel(f"epoch{note}")
    else:
        axes.tick_params(axis="x", labelbottom=False)


def _scale_values(axes: Axes, found: Sequence[Curve], *, accuracy: bool) -> bool:
    """A value axis that holds every band; whether it is stretched where values are good."""
    values = np.concatenate([np.concatenate([line.low, line.high]) for line in found])
    values = values[np.isfinite(values)]
    if not values.size:
        axes.set_ylim(0.0, 1.0)
        return False
    costs = 1.0 - values if accuracy else values
    positive = costs[costs > 0]
    stretched = positive.size > 0 and float(positive.max()) > STRETCHED * float(positive.min())
    limit = _limit_accuracies if accuracy else _limit_losses
    limit(axes, values, stretched)
    return stretched


def _limit_losses(axes: Axes, losses: Floats, stretched: bool) -> None:
    if not stretched:
        top = float(losses.max()) or 1.0
        axes.set_ylim(-0.03 * top, 1.06 * top)
        return
    least = float(losses[losses > 0].min())
    axes.set_yscale("log")
    axes.set_ylim(least / 1.25, float(losses.max()) * 1.25)
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    low, high = axes.get_ylim()
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(inside[:: 1 + len(inside) // 9]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))


def _limit_accuracies(axes: Axes, shares: Floats, stretched: bool) -> None:
    low, high = float(shares.min()), float(shares.max())
    if not stretched:
        pad = max(0.08 * (high - low), 0.005)
        axes.set_ylim(low - pad, high + pad)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > 0.04 else 1))
        return
    forward, inverse = _stretch(float((1.0 - shares)[shares < 1.0].min()))
    axes.set_yscale("function", functions=(forward, inverse))
    bottom, top = forward(np.array([low, high]))
    pad = 0.05 * (top - bottom)
    axes.set_ylim(*inverse(np.array([bottom - pad, top + pad])))
    ticks = [tick for tick in _ACCURACIES if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(_thinned(ticks, forward, 0.07 * (top - bottom))))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))


def _stretch(least: float) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]:
    """A scale on which halving the error is always the same distance, and its inverse; 100 % lies on it too.

    `least` is the smallest error above none.
    """
    floor = least / 2

    def forward(shares: Floats) -> Floats:
        return -np.log(np.maximum(1.0 - np.asarray(shares, dtype=np.float64) + floor, 1e-12))

    def inverse(places: Floats) -> Floats:
        return 1.0 + floor - np.exp(-np.asarray(places, dtype=np.float64))

    return forward, inverse


def _thinned(ticks: Sequence[float], forward: Callable[[Floats], Floats], gap: float) -> list[float]:
    """Ticks that stand at least `gap` from the next, the highest kept."""
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or forward(np.array(kept[-1])) - forward(np.array(tick)) >= gap:
            kept.append(tick)
    return kept[::-1]


# ------------------------------------------------------------------------------------------- lines


def _draw(axes: Axes, line: Curve, look: Row) -> None:
    epochs = np.arange(1, len(line.mean) + 1)
    shared, colour = line.shared, look["color"]
    if line.seeds > 1:
        axes.fill_between(epochs[:shared], line.low[:shared], line.high[:shared], color=colour, alpha=0.16, linewidth=0)
    marks = [at for at in _marked(shared) if at < shared]
    axes.plot(epochs[:shared], line.mean[:shared], markersize=4.8, markevery=marks, linewidth=1.7, **look)
    rest = slice(max(shared - 1, 0), None)
    if len(line.mean) > shared:
        axes.plot(epochs[rest], line.mean[rest], color=colour, linestyle=look["linestyle"], linewidth=0.8)
    last = line.last
    if last:
        axes.plot(*last, look["marker"], color=colour, markersize=5.5, clip_on=False, zorder=4)


def _marked(epochs: int) -> list[int]:
    """Positions of markers that lie apart on a logarithmic axis as on an even one."""
    if epochs <= 8:
        return list(range(epochs))
    return sorted({round(2 ** (step / 2)) - 1 for step in range(2 * int(math.log2(epochs)) + 2)})


def _name_ends(axes: Axes, found: Mapping[int, Curve], names: Sequence[str], *, lead: float, panel: float) -> None:
    """Name each line right of the panel, a dotted line leading there from the epoch where it ends.

    `lead` is the share of the panel's width between it and the names, `panel` its height in inches.
    """
    ends = {at: last for at, line in found.items() if (last := line.last)}
    heights = [_height(axes, value) for _, value in ends.values()]
    words = {at: names[at] for at in ends}
    lines = max((text.count("\n") + 1 for text in words.values()), default=1)
    places = apart(heights, (0.145 * lines + 0.02) / panel, 0.02, 0.98)
    for (at, (epoch, _)), height, place in zip(ends.items(), heights, places, strict=True):
        colour, start = stroke(at)["color"], _across(axes, epoch)
        led: Row = {"color": colour, "linewidth": 0.7, "transform": axes.transAxes, "clip_on": False}
        axes.plot([start, 1.0], [height, height], linestyle=(0, (1, 2.5)), **led)
        axes.plot([1.0, 1.0 + 0.8 * lead], [height, place], **led)
        style = {"transform": axes.transAxes, "color": colour, "fontsize": _LETTERS, "parse_math": False}
        write(axes, (1.0 + lead, place), words[at], 0.13 / panel, **style)


def _height(axes: Axes, value: float) -> float:
    """How far up the panel a value lies, a share."""
    return float(axes.transLimits.transform(axes.transScale.transform((1.0, value)))[1])


def _across(axes: Axes, epoch: float) -> float:
    low = axes.get_ylim()[0]
    return float(axes.transLimits.transform(axes.transScale.transform((epoch, low)))[0])
