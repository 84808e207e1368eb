"""Test F1 against time, drawn: upcycle in colour, its peers in grey.

    python lab/time_to_accuracy_figure.py FOLDER

FOLDER/readings.jsonl are the readings of lab/time_to_accuracy.py, which calls this at its end.
FOLDER/time_to_accuracy.svg shows the mean of each setting, its lowest and highest seed, and its median seconds on a
logarithmic axis; settings more than `BELOW` under the best are named below instead of drawn.
"""

import itertools
import math
import statistics
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from upcycle.reporting.style import PALETTE, STYLE, Drawing, svg
from upcycle.rundir import read_lines

REACHES = (0.12, 0.18, 0.3, 0.45, 0.7)
"""How far from its point a label may begin."""
SLIDES = (0.5, 0.25, 0.75, 0.0, 1.0)
"""Where along its side a label may stand; in its middle first."""


Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle in inches."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover, in square inches."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(wide, 0.0) * max(high, 0.0)

    @property
    def area(self) -> float:
        """Square inches."""
        return (self.right - self.left) * (self.top - self.bottom)


def width(text: str, points: float) -> float:
    """About how wide a line of text is in inches at a size in points; an upper bound for common fonts."""
    cells = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return cells * 0.6 * points / 72


def beside(
    points: Sequence[Point],
    sizes: Sequence[Point],
    obstacles: Sequence[Box],
    frame: Box,
) -> list[Box]:
    """A box of each size beside its point, clear of obstacles, of each other and of the frame's edges.

    Where not everything can be clear, what covers least is taken; labels are placed one after the other.
    """
    placed: list[Box] = []
    for at, (point, size) in enumerate(zip(points, sizes, strict=True)):
        others = [other for place, other in enumerate(points) if place != at]
        placed.append(_best(point, size, [*obstacles, *placed], others, frame))
    return placed


def _candidates(point: Point, size: Point) -> Iterator[Box]:
    """Boxes on all four sides of a point, each at every reach and slid along its side."""
    (x, y), (wide, high) = point, size
    for reach, slide in itertools.product(REACHES, SLIDES):
        along, up = x - slide * wide, y - slide * high
        corners = ((x + reach, up), (x - reach - wide, up), (along, y + reach), (along, y - reach - high))
        yield from (Box(left, bottom, left + wide, bottom + high) for left, bottom in corners)


def _best(point: Point, size: Point, taken: Sequence[Box], others: Sequence[Point], frame: Box) -> Box:
    """Covered area weighs most, then nearness to other points, then distance; right of its point a label reads best."""

    def cost(box: Box) -> float:
        covered = sum(box.overlap(other) for other in taken) + box.area - box.overlap(frame)
        away = math.dist(nearest(box, point), point)
        misread = sum(math.dist(nearest(box, other), other) < away + 0.04 for other in others)
        return 100 * covered + 0.3 * misread + away + 0.02 * (box.left < point[0])

    return min(_candidates(point, size), key=cost)


def nearest(box: Box, point: Point) -> Point:
    """The point of `box` that is nearest to `point`."""
    return min(max(point[0], box.left), box.right), min(max(point[1], box.bottom), box.top)


BELOW = 0.09
SPAN = 0.05
"""At least so much of F1 is seen, so that chance does not look like a gap."""
LETTERS = 8.5
WIDE, HIGH = 9.2, 4.6
FRAME = Box(0.62, 0.75, WIDE - 0.15, HIGH - 0.3)
FRAME_SIDES = (FRAME.left, FRAME.bottom, FRAME.right - FRAME.left, FRAME.top - FRAME.bottom)

Row = dict[str, Any]


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


def points(readings: list[Row]) -> list[Row]:
    """Name, number of readings, seconds and F1 (mean, lowest, highest) of every setting, the quickest first."""
    found = []
    for tool in dict.fromkeys(one["tool"] for one in readings):
        some = [one for one in readings if one["tool"] == tool]
        f1 = [one["f1"]["test"] for one in some]
        seconds = statistics.median(one["seconds"] for one in some)
        spread = {"f1": statistics.mean(f1), "low": min(f1), "high": max(f1)}
        found.append({"tool": tool, "n": len(some), "seconds": seconds, **spread})
    return sorted(found, key=lambda one: one["seconds"])


@mpl.rc_context(STYLE)
def figure(readings: list[Row], title: str) -> Drawing:
    """All settings of the readings in one frame."""
    every = points(readings)
    best = max(one["f1"] for one in every)
    shown = [one for one in every if one["f1"] >= best - BELOW]
    made = Drawing(WIDE, HIGH, f"Test F1 against seconds from the command to its end, {title}: {told(every)}.")
    made.set_layout_engine("none")
    axes = made.add_axes(tuple(np.divide(FRAME_SIDES, (WIDE, HIGH, WIDE, HIGH))))
    frame(axes, shown)
    caption = f"{title}."
    if any(one["n"] == 1 for one in shown):
        caption += " Hollow: one reading."
    if len(shown) < len(every):
        caption += f" Not drawn: {told([one for one in every if one not in shown])}."
    made.text(0.06, 0.055, textwrap.fill(caption, 125), va="top")
    for one in shown:
        colour, marker = look(one)
        axes.plot([one["seconds"]] * 2, [one["low"], one["high"]], "-_", color=colour, linewidth=1.4, markersize=7)
        inside = PALETTE["paper"] if one["n"] == 1 else colour
        axes.plot(one["seconds"], one["f1"], marker, color=colour, markerfacecolor=inside, markersize=7, zorder=4)
    name(axes, shown)
    return made


def told(some: list[Row]) -> str:
    """Settings in words."""
    return "; ".join(f"{one['tool']} {one['f1']:.3f} in {one['seconds']:.0f} s" for one in some)


def look(one: Row) -> tuple[str, str]:
    """Colour and marker of a setting."""
    return (PALETTE["blue"], "o") if one["tool"].startswith("upcycle") else (PALETTE["soft"], "s")


def frame(axes: Axes, shown: list[Row]) -> None:
    """Both axes, with room for a name right of the last point."""
    axes.set_xscale("log")
    axes.set_xlim(shown[0]["seconds"] / 1.35, shown[-1]["seconds"] * 2.4)
    low, high = min(one["low"] for one in shown), max(one["high"] for one in shown)
    room = max(0.12 * (high - low), (SPAN - (high - low)) / 2)
    axes.set_ylim(low - room, high + room)
    ticks = time_ticks(*axes.get_xlim(), most=9)
    axes.set_xticks([seconds for seconds, _ in ticks], [words for _, words in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1 + 1e-9])
    axes.set_ylim(low - room, high + room)  # ticks outside would widen it
    axes.grid(axis="y")
    axes.set_xlabel("from the command to its end")
    axes.annotate("test F1", (0, 1), (-4, 8), xycoords="axes fraction", textcoords="offset points", ha="right")


def inches(axes: Axes, seconds: float, score: float) -> Point:
    """Where a point of the axes lies in the figure."""
    across, up = axes.transLimits.transform(axes.transScale.transform((seconds, score)))
    return FRAME.left + across * (FRAME.right - FRAME.left), FRAME.bottom + up * (FRAME.top - FRAME.bottom)


def name(axes: Axes, shown: list[Row]) -> None:
    """Each setting's name beside its point, clear of the others, led to where it is far."""
    where = [inches(axes, one["seconds"], one["f1"]) for one in shown]
    covered = [Box(x - 0.09, y - 0.09, x + 0.09, y + 0.09) for x, y in where]
    for one, (x, _) in zip(shown, where, strict=True):
        low, high = (inches(axes, one["seconds"], one[end])[1] for end in ("low", "high"))
        covered.append(Box(x - 0.04, low, x + 0.04, high))
    sizes = [(width(one["tool"], LETTERS), 1.2 * LETTERS / 72) for one in shown]
    scale = axes.figure.dpi_scale_trans
    boxes = beside(where, sizes, covered, Box(FRAME.left, FRAME.bottom, FRAME.right, HIGH))
    for one, at, box in zip(shown, where, boxes, strict=True):
        near, colour, right = nearest(box, at), look(one)[0], box.right < at[0]
        if abs(near[0] - at[0]) + abs(near[1] - at[1]) > 0.22:
            axes.plot([near[0], at[0]], [near[1], at[1]], color=colour, linewidth=0.7, transform=scale)
        style: Row = {"color": colour, "fontsize": LETTERS, "transform": scale, "va": "center"}
        up = (box.bottom + box.top) / 2
        axes.text(box.right if right else box.left, up, one["tool"], ha="right" if right else "left", **style)


def draw(readings: list[Row], folder: Path) -> None:
    """FOLDER/time_to_accuracy.svg of the readings."""
    of = readings[0]["of"]
    title = f"{Path(of['data']).name}, {of['size']} px where no other size is named"
    (folder / "time_to_accuracy.svg").write_text(svg(figure(readings, title)))


if __name__ == "__main__":
    draw(read_lines(Path(sys.argv[1]) / "readings.jsonl"), Path(sys.argv[1]))
