"""Cost against quality: what a rung's test F1 takes to train."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from upcycle.output.drawing import PALETTE, STYLE, WIDE, Drawing, short, stroke
from upcycle.output.gains import duration, finished, time_words
from upcycle.output.labels import Box, beside, folded, nearest, width

Row = dict[str, Any]

_UNITS = (("s", 1, (1, 2, 5, 10, 20, 30)), ("min", 60, (1, 2, 5, 10, 20, 30)), ("h", 3600, (1, 2, 5, 10, 20, 50)))
_COARSE = {1, 10, 60, 600, 3600, 36_000, 360_000, 3_600_000}
_LETTERS = 8.5
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
    frame = Box(0.62, 0.55, width - 0.15, figure.get_figheight() - 0.32)
    axes = figure.add_axes(_shares(figure, frame))
    if not places:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No rung has scores and a time.", ha="center", va="center", color=PALETTE["soft"])
        return figure
    _frame(axes, [comparison["rungs"][at] for at in places], narrow=width < 6)
    for at in places:
        _draw_rung(axes, comparison["rungs"][at], stroke(at))
    _ring_recommended(axes, comparison)
    _name_rungs(axes, comparison, places, frame)
    return figure


def _shares(figure: Drawing, box: Box) -> tuple[float, float, float, float]:
    wide, high = figure.get_figwidth(), figure.get_figheight()
    return box.left / wide, box.bottom / high, (box.right - box.left) / wide, (box.top - box.bottom) / high


def _summary(rungs: Sequence[Row]) -> str:
    parts = [f"{short(rung['title'])} {rung['f1_macro']['value']:.3f} in {time_words(rung)}" for rung in rungs]
    return f"Test F1 against training time: {'; '.join(parts) or 'no rung has both'}."


def _seconds(rung: Row) -> float:
    return max(duration(rung) or 0.0, _LEAST)


def _frame(axes: Axes, rungs: Sequence[Row], *, narrow: bool) -> None:
    """Both axes with room around the points, times in seconds, minutes and hours."""
    times = [_seconds(rung) for rung in rungs]
    room = max((max(times) / min(times)) ** (0.16 if narrow else 0.1), 1.7)
    axes.set_xscale("log")
    axes.set_xlim(min(times) / room, max(times) * room)
    ticks = time_ticks(*axes.get_xlim(), most=4 if narrow else 8)
    axes.set_xticks([seconds for seconds, _ in ticks], [words for _, words in ticks])
    axes.set_xticks([], minor=True)
    ends = [rung["f1_macro"][end] for rung in rungs for end in ("low", "value", "high")]
    low, high = min(e for e in ends if e is not None), max(e for e in ends if e is not None)
    pad = 0.12 * (high - low) or 0.02
    axes.set_ylim(low - pad, high + pad)
    axes.set_yticks([tick for tick in axes.get_yticks() if low - pad <= tick <= min(high + pad, 1.0 + 1e-9)])
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
    name = (comparison.get("recommendation") or {}).get("rung")
    rung = next((rung for rung in comparison["rungs"] if rung["name"] == name), None)
    if rung is None or not finished(rung) or duration(rung) is None:
        return
    ring: Row = {"markerfacecolor": "none", "markeredgecolor": PALETTE["ink"], "markeredgewidth": 1.3}
    axes.plot(_seconds(rung), rung["f1_macro"]["value"], "o", markersize=16, zorder=5, **ring)


def _name_rungs(axes: Axes, comparison: Row, places: Sequence[int], frame: Box) -> None:
    """Each rung's name beside its point, clear of every point and interval, led to where it is far."""
    rungs = [comparison["rungs"][at] for at in places]
    recommended = (comparison.get("recommendation") or {}).get("rung")
    words = [_label(rung, recommended=rung["name"] == recommended, wide=frame.right > 6) for rung in rungs]
    points = [_inches(axes, frame, _seconds(rung), rung["f1_macro"]["value"]) for rung in rungs]
    boxes = beside(points, [_size(text) for text in words], list(_obstacles(axes, frame, rungs)), frame)
    for text, point, box, at in zip(words, points, boxes, places, strict=True):
        near, colour = nearest(box, point), stroke(at)["color"]
        scale = axes.figure.dpi_scale_trans
        if abs(near[0] - point[0]) + abs(near[1] - point[1]) > 0.22:
            axes.plot([near[0], point[0]], [near[1], point[1]], color=colour, linewidth=0.7, transform=scale)
        right = box.right < point[0]
        axes.text(
            box.right if right else box.left,
            (box.bottom + box.top) / 2,
            text,
            transform=scale,
            color=colour,
            ha="right" if right else "left",
            va="center",
            fontsize=_LETTERS,
            parse_math=False,
            linespacing=1.15,
        )


def _label(rung: Row, *, recommended: bool, wide: bool) -> str:
    name = short(rung["title"], 34) if wide else folded(rung["title"], 16)
    lines = [name, *(["recommended"] if recommended else []), *([time_words(rung)] if wide else [])]
    return "\n".join(lines)


def _size(text: str) -> tuple[float, float]:
    lines = text.split("\n")
    return max(width(line, _LETTERS) for line in lines), 1.25 * _LETTERS / 72 * len(lines)


def _inches(axes: Axes, frame: Box, seconds: float, score: float) -> tuple[float, float]:
    """Where a point of the axes lies in the figure."""
    across, up = axes.transLimits.transform(axes.transScale.transform((seconds, score)))
    return frame.left + across * (frame.right - frame.left), frame.bottom + up * (frame.top - frame.bottom)


def _obstacles(axes: Axes, frame: Box, rungs: Sequence[Row]) -> itertools.chain[Box]:
    """What no label may cover: every point, and its interval."""
    return itertools.chain.from_iterable(_covered(axes, frame, rung) for rung in rungs)


def _covered(axes: Axes, frame: Box, rung: Row) -> list[Box]:
    scores = rung["f1_macro"]
    x, y = _inches(axes, frame, _seconds(rung), scores["value"])
    dot = Box(x - 0.1, y - 0.1, x + 0.1, y + 0.1)
    if scores["low"] is None or scores["high"] is None:
        return [dot]
    (_, low), (_, high) = (_inches(axes, frame, _seconds(rung), scores[end]) for end in ("low", "high"))
    return [dot, Box(x - 0.05, low, x + 0.05, high)]
