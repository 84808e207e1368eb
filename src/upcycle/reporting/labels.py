"""Where words go in a figure so that none covers another: in a column, or beside points.

All places and sizes are in inches, so that they hold whatever the axes' scales are.
"""

import itertools
import math
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from upcycle.reporting.names import printable, short

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


def folded(text: str, letters: int, lines: int = 2) -> str:
    """`text` made printable, in at most `lines` lines of at most `letters` letters, cut in its middle if longer."""
    wide = width(printable(text), 1.0) > 1.5 * width("x" * len(printable(text)), 1.0)  # letters of double width
    letters = letters // 2 if wide else letters
    clean = short(text, letters * lines)
    rows = textwrap.wrap(clean, letters, break_on_hyphens=False)
    if len(rows) > lines:  # words do not fill their lines: break them anywhere
        rows = [clean[at : at + letters] for at in range(0, len(clean), letters)]
    return "\n".join(rows)


def write(axes: Axes, place: Point, text: str, step: float, **style: Any) -> None:
    """Write each line of `text` by itself, `step` below the one above, their middle at `place`.

    In one text of several lines matplotlib aligns them for its own font, which a page replaces.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines):
        axes.text(place[0], place[1] - (number - (len(lines) - 1) / 2) * step, line, **{"va": "center", **style})


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`places` moved as little as can be so that any two are `gap` apart, between `low` and `high`.

    They keep their order; where there is not room enough, all gaps shrink alike. Least squares by
    isotonic regression (Barlow et al. 1972).
    """
    if not places:
        return []
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    order = sorted(range(len(places)), key=lambda at: places[at])
    free = isotonic_regression([places[at] - rank * gap for rank, at in enumerate(order)]).x
    moved = [0.0] * len(places)
    for rank, at in enumerate(order):
        moved[at] = min(max(float(free[rank]), low), high - (len(places) - 1) * gap) + rank * gap
    return moved


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
