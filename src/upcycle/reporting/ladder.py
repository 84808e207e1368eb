"""The figures of a comparison: the ladder, its curves overlaid, cost against quality.

Each takes plain values as comparison.json and the runs' histories hold them. Nothing is told by
colour alone: rungs differ in marker and stroke and are named where they are drawn, verdicts are words.
"""

from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from upcycle.reporting import labels
from upcycle.reporting.cost import cost_figure
from upcycle.reporting.gains import finished, gain_words, is_real, step_to
from upcycle.reporting.labels import folded
from upcycle.reporting.names import short
from upcycle.reporting.overlay import overlay_figure
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing

__all__ = ["cost_figure", "ladder_figure", "overlay_figure"]

_ROW = 0.62
"""Inches from one rung to the next."""

Row = dict[str, Any]


@mpl.rc_context(STYLE)
def ladder_figure(comparison: Row, *, width: float = WIDE) -> Drawing:
    """Test F1 of every rung, a row each in ladder order, and what each gained over the one before it.

    A dot is the mean over seeds with its 95 % interval, small rings below it are the seeds, a dotted
    line leads down from the rung before. `width` in inches; in a figure narrower than 6 the words
    stand above and below the dots instead of beside them.
    """
    rungs, narrow = comparison["rungs"], width < 6
    row = 0.86 if narrow else _ROW
    figure = Drawing(width, row * len(rungs) + 0.62, _summary(comparison))
    figure.set_layout_engine("none")
    left, right = (0.12, 0.12) if narrow else _margins(comparison)
    height = figure.get_figheight()
    axes = figure.add_axes((left / width, 0.5 / height, (width - left - right) / width, row * len(rungs) / height))
    _frame(axes, comparison, narrow=narrow)
    _lead_down(axes, rungs)
    for place, rung in enumerate(rungs):
        _draw_scores(axes, place, rung)
        write = _write_around if narrow else _write_beside
        write(axes, place, rung, step_to(comparison, rung["name"]), rung["name"] == _recommended(comparison))
    return figure


def _summary(comparison: Row) -> str:
    parts = [
        f"{short(rung['title'])} {rung['f1_macro']['value']:.3f}" if finished(rung) else f"{short(rung['title'])} none"
        for rung in comparison["rungs"]
    ]
    return f"Test F1 by rung of the ladder, in its order: {', '.join(parts)}."


def _margins(comparison: Row) -> tuple[float, float]:
    """Inches that the names left of the rows and the words right of them need."""
    names = [line for rung in comparison["rungs"] for line in folded(rung["title"], 25).split("\n")]
    words = [_score_words(rung) for rung in comparison["rungs"]]
    words += [gain_words(step_to(comparison, rung["name"])) for rung in comparison["rungs"]]
    return max(labels.width(line, 10.0) for line in names) + 0.2, max(labels.width(line, 9.0) for line in words) + 0.3


def _recommended(comparison: Row) -> str | None:
    return (comparison.get("recommendation") or {}).get("rung")


def _frame(axes: Axes, comparison: Row, *, narrow: bool) -> None:
    """The F1 axis below the rows, as wide as scores and intervals need."""
    axes.set_ylim(len(comparison["rungs"]) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("test F1 (macro), with its 95 % interval")
    ends = [end for rung in comparison["rungs"] if finished(rung) for end in _ends(rung)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.02
    axes.set_xlim(low - pad, min(high + pad, 1.0 + 0.2 * pad))
    axes.locator_params(axis="x", nbins=4 if narrow else 7)
    for line in range(1, len(comparison["rungs"])):
        axes.axhline(line - 0.5, color=PALETTE["rule"], linewidth=0.7)


def _ends(rung: Row) -> list[float]:
    """Every place on the F1 axis that a rung needs."""
    scores = rung["f1_macro"]
    found = [scores["value"], scores["low"], scores["high"], *(run["f1_macro"] for run in rung["runs"])]
    return [end for end in found if end is not None]


def _lead_down(axes: Axes, rungs: list[Row]) -> None:
    """From each rung's dot a dotted line to the row of the next, so that its gain is a distance."""
    rows = [(place, rung["f1_macro"]["value"]) for place, rung in enumerate(rungs) if finished(rung)]
    for (upper, value), (lower, _) in pairwise(rows):
        axes.plot([value, value], [upper, lower], color=PALETTE["soft"], linewidth=0.9, linestyle=(0, (1, 2)))


def _draw_scores(axes: Axes, place: int, rung: Row) -> None:
    if not finished(rung):
        axes.text(0.5, place, "no run finished", transform=axes.get_yaxis_transform(), ha="center", va="center")
        return
    scores, blue = rung["f1_macro"], PALETTE["blue"]
    if scores["low"] is not None and scores["high"] is not None:
        axes.plot([scores["low"], scores["high"]], [place, place], "-|", color=blue, linewidth=2.2, markersize=9)
    seeds = [run["f1_macro"] for run in rung["runs"] if run["f1_macro"] is not None]
    if len(seeds) > 1:
        ring = {"markerfacecolor": PALETTE["paper"], "markeredgecolor": PALETTE["soft"], "markeredgewidth": 0.9}
        axes.plot(seeds, [place + 0.2] * len(seeds), "o", markersize=4, **ring)  # type: ignore[arg-type]
    dot: Row = {"color": blue, "markersize": 8.5, "markeredgecolor": PALETTE["paper"], "zorder": 4}
    axes.plot(scores["value"], place, "o", **dot)


def _write_beside(axes: Axes, place: int, rung: Row, step: Row | None, recommended: bool) -> None:
    """The rung's name left of its row, its score and gain right of it."""
    at = axes.get_yaxis_transform()
    style: Row = {"transform": at, "va": "center", "parse_math": False, "clip_on": False}
    name = folded(rung["title"], 25)
    weight = "bold" if recommended else "normal"
    labels.write(axes, (-0.04, place), name, -0.145 / _ROW, ha="right", weight=weight, **style)
    axes.text(1.04, place - (0.17 if step else 0), _score_words(rung), **style)
    if step:
        axes.text(1.04, place + 0.19, gain_words(step), **style, **_tone(step))


def _write_around(axes: Axes, place: int, rung: Row, step: Row | None, recommended: bool) -> None:
    """The rung's name and score above its row, its gain below it."""
    at = axes.get_yaxis_transform()
    style: Row = {"transform": at, "parse_math": False, "clip_on": False, "fontsize": 8.5, "zorder": 3}
    style["bbox"] = {"facecolor": PALETTE["paper"], "edgecolor": "none", "pad": 1.0}  # no line crosses the words
    name = short(rung["title"], 27)
    axes.text(0.0, place - 0.2, name, va="bottom", weight="bold" if recommended else "normal", **style)
    axes.text(1.0, place - 0.2, _score_words(rung), ha="right", va="bottom", **style)
    if step:
        axes.text(0.0, place + 0.44, gain_words(step), va="bottom", **style, **_tone(step))


def _score_words(rung: Row) -> str:
    if not finished(rung):
        return "–"
    scores = rung["f1_macro"]
    if scores["low"] is None or scores["high"] is None:
        return f"{scores['value']:.3f}"
    return f"{scores['value']:.3f} ({scores['low']:.3f} to {scores['high']:.3f})"


def _tone(step: Row) -> Row:
    """Real differences in the colour of their kind, all others soft; the words say it too."""
    kind = {"gain": "blue", "loss": "rust"}.get(step.get("verdict") or "", "soft")
    return {"color": PALETTE[kind], "weight": "bold" if is_real(step) else "normal"}
