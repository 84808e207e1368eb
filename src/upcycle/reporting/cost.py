"""Cost against quality: what a rung's test F1 takes to train."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from upcycle.reporting.gains import duration, finished, time_words
from upcycle.reporting.labels import Box, beside, folded, nearest, width, write
from upcycle.reporting.names import short
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, stroke

Row = dict[str, Any]

_UNITS = (("s", 1, (1, 2, 5, 10, 20, 30)), ("min", 60, (1, 2, 5, 10, 20, 30)), ("h", 3600, (1, 2, 5, 10, 20, 50)))
_COARSE = {1, 10, 60, 600, 3600, 36_000, 360_000, 3_600_000}
_LETTERS = 8.5
_LINE = 1.2 * _LETTERS / 72
"""Inches from one line of a label to the next."""
_ABOVE = 0.32
"""Inches above the axes, where a label may stand too."""
_LEAST = 0.1
"""Seconds; the logarithmic axis begins no earlier."""


@mpl.rc_context(STYLE)
def cost_figure(comparison: Row, *, width: float = WIDE) -> Drawing:
    """Test F1 with its 95 % interval against the seconds of training once plus tuning, on a logarithmic axis.

    A ring marks the recommended rung. `width` in inches. Rungs without scores or without a time are left out.
    """
    places = [at for at, rung in enumerate(comparison["rungs"]) if finished(rung) and duration(rung) is not None]
    figure = Drawing(width, 4.6 if width < 6 else 4.2, _summary([comparison["rungs"][at] for at in places]))
    figure.set_layout_engine("none")
    frame = Box(0.62, 0.55, width - 0.15, figure.get_figheight() - _ABOVE)
    axes = figure.add_axes(_shares(figure, frame))
    if not places:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No rung has scores and a time.", ha="center", va="center", color=PALETTE["soft"])
        return figure
    rungs = [comparison["rungs"][at] for at in places]
    labels = {at: _label(rung, comparison, wide=width >= 6) for at, rung in zip(places, rungs, strict=True)}
    inches = frame.right - frame.left
    _frame(axes, rungs, inches, max(_size(text)[0] for text in labels.values()), narrow=width < 6)
    for at in places:
        _draw_rung(axes, comparison["rungs"][at], stroke(at))
    _ring_recommended(axes, comparison)
    _name_rungs(axes, comparison, labels, frame)
    return figure


def _shares(figure: Drawing, box: Box) -> tuple[float, float, float, float]:
    wide, high = figure.get_figwidth(), figure.get_figheight()
    return box.left / wide, box.bottom / high, (box.right - box.left) / wide, (box.top - box.bottom) / high


def _summary(rungs: Sequence[Row]) -> str:
    parts = [f"{short(rung['title'])} {rung['f1_macro']['value']:.3f} in {time_words(rung)}" for rung in rungs]
    return f"Test F1 against training time: {'; '.join(parts) or 'no rung has both'}."


def _seconds(rung: Row) -> float:
    return max(duration(rung) or 0.0, _LEAST)


def _with_room(first: float, last: float, inches: float, words: float) -> tuple[float, float]:
    """The ends of a logarithmic axis that leaves `words` inches right of its last point for a label."""
    left, right = 0.45, min(words + 0.2, 0.42 * inches)
    each = max(math.log(last / first), math.log(2)) / (inches - left - right)
    return first / math.exp(each * left), last * math.exp(each * right)


def _frame(axes: Axes, rungs: Sequence[Row], inches: float, words: float, *, narrow: bool) -> None:
    """Both axes with room for the points and a label, times in seconds, minutes and hours."""
    times = [_seconds(rung) for rung in rungs]
    axes.set_xscale("log")
    axes.set_xlim(*_with_room(min(times), max(times), inches, words))
    ticks = time_ticks(*axes.get_xlim(), most=4 if narrow else 8)
    axes.set_xticks([seconds for seconds, _ in ticks], [words for _, words in ticks])
    axes.set_xticks([], minor=True)
    ends = [rung["f1_macro"][end] for rung in rungs for end in ("low", "value", "high")]
    low, high = min(e for e in ends if e is not None), max(e for e in ends if e is not None)
    pad = 0.12 * (high - low) or 0.02
    axes.set_ylim(low - pad, high + pad)
    ticks_up = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low - pad, high + pad)
    axes.set_yticks([tick for tick in ticks_up if low - pad <= tick <= min(high + pad, 1.0 + 1e-9)])
    axes.grid(axis="y")
    axes.set_xlabel("training it once, and tuning it before")
    axes.annotate("test F1", (0, 1), (-4, 8), xycoords="axes fraction", textcoords="offset points", ha="right")


def time_ticks(low: float, high: float, *, most: int) -> list[tuple[float, str]]:
    """Round durations between `low` and `high` seconds with their words: 10 s, 1 min, 10 min, 1 h.

    At most `most` of them: the fine ones only where they fit.
    """
    every = [(unit * many, f"{many} {name}") for name, unit, counts in _UNITS for many in counts]
    inside = [
        (seconds, words)
        for seconds, words in [*every, (360_000, "100 h"), (3_600_000, "1000 h")]
        if low <= seconds <= high
    ]
    coarse = [tick for tick in inside if tick[0] in _COARSE]
    if len(inside) <= most:
        return [(float(seconds), words) for seconds, words in inside]
    chosen = coarse if len(coarse) > 1 else inside
    return [(float(seconds), words) for seconds, words in chosen[:: -(-len(chosen) // most)]]


def _draw_rung(axes: Axes, rung: Row, look: Row) -> None:
    scores, seconds = rung["f1_macro"], _seconds(rung)
    if scores["low"] is not None and scores["high"] is not None:
        ends = [scores["low"], scores["high"]]
        axes.plot([seconds, seconds], ends, "-_", color=look["color"], linewidth=1.4, markersize=7, alpha=0.75)
    axes.plot(seconds, scores["value"], look["marker"], color=look["color"], markersize=8, zorder=4)


def _ring_recommended(axes: Axes, comparison: Row) -> None:
    rung = next((rung for rung in comparison["rungs"] if _is_recommended(rung, comparison)), None)
    if rung is None or not finished(rung) or duration(rung) is None:
        return
    ring: Row = {"markerfacecolor": "none", "markeredgecolor": PALETTE["ink"], "markeredgewidth": 1.3}
    axes.plot(_seconds(rung), rung["f1_macro"]["value"], "o", markersize=16, zorder=5, **ring)


def _name_rungs(axes: Axes, comparison: Row, labels: Mapping[int, str], frame: Box) -> None:
    """Each rung's name beside its point, clear of every point and interval, led to where it is far."""
    rungs = [comparison["rungs"][at] for at in labels]
    points = [_inches(axes, frame, _seconds(rung), rung["f1_macro"]["value"]) for rung in rungs]
    obstacles = [box for rung in rungs for box in _covered(axes, frame, rung, ring=_is_recommended(rung, comparison))]
    whole = Box(frame.left, frame.bottom, frame.right, frame.top + _ABOVE)
    boxes = beside(points, [_size(text) for text in labels.values()], obstacles, whole)
    for (at, text), point, box in zip(labels.items(), points, boxes, strict=True):
        near, colour = nearest(box, point), stroke(at)["color"]
        scale = axes.figure.dpi_scale_trans
        if abs(near[0] - point[0]) + abs(near[1] - point[1]) > 0.22:
            axes.plot([near[0], point[0]], [near[1], point[1]], color=colour, linewidth=0.7, transform=scale)
        right = box.right < point[0]
        place = box.right if right else box.left, (box.bottom + box.top) / 2
        style = {"transform": scale, "color": colour, "fontsize": _LETTERS, "parse_math": False}
        write(axes, place, text, _LINE, ha="right" if right else "left", **style)


def _label(rung: Row, comparison: Row, *, wide: bool) -> str:
    name = short(rung["title"], 34) if wide else folded(rung["title"], 16)
    recommended = ["recommended"] if _is_recommended(rung, comparison) else []
    return "\n".join([name, *recommended, *([time_words(rung)] if wide else [])])


def _is_recommended(rung: Row, comparison: Row) -> bool:
    name: str = rung["name"]
    return name == (comparison.get("recommendation") or {}).get("rung")


def _size(text: str) -> tuple[float, float]:
    lines = text.split("\n")
    return max(width(line, _LETTERS) for line in lines), _LINE * len(lines)


def _inches(axes: Axes, frame: Box, seconds: float, score: float) -> tuple[float, float]:
    """Where a point of the axes lies in the figure."""
    across, up = axes.transLimits.transform(axes.transScale.transform((seconds, score)))
    return frame.left + across * (frame.right - frame.left), frame.bottom + up * (frame.top - frame.bottom)


def _covered(axes: Axes, frame: Box, rung: Row, *, ring: bool) -> list[Box]:
    """What no label may cover of a rung: its point, the ring around it, and its interval."""
    scores, half = rung["f1_macro"], 0.16 if ring else 0.1
    x, y = _inches(axes, frame, _seconds(rung), scores["value"])
    dot = Box(x - half, y - half, x + half, y + half)
    if scores["low"] is None or scores["high"] is None:
        return [dot]
    (_, low), (_, high) = (_inches(axes, frame, _seconds(rung), scores[end]) for end in ("low", "high"))
    return [dot, Box(x - 0.05, low, x + 0.05, high)]
