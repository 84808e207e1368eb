"""Where words go in a figure so that none covers another: in a column, or beside points.

All places and sizes are in inches, so that they hold whatever the axes' scales are.
"""

import math
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.optimize import isotonic_regression

from upcycle.output.drawing import short

REACHES = (0.11, 0.24, 0.42, 0.65)
"""How far from its point a label may begin."""


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
    clean = short(text, letters * lines)
    rows = textwrap.wrap(clean, letters, break_on_hyphens=False)
    if len(rows) > lines:  # words do not fill their lines: break them anywhere
        rows = [clean[at : at + letters] for at in range(0, len(clean), letters)]
    return "\n".join(rows)


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
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    frame: Box,
) -> list[Box]:
    """A box of each size beside its point, clear of obstacles, of each other and of the frame's edges.

    Where not everything can be clear, what covers least is taken; labels are placed one after the other.
    """
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        taken = [*obstacles, *placed]
        placed.append(min(_candidates(point, size), key=lambda box: _cost(box, point, taken, frame)))
    return placed


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    (x, y), (wide, high) = point, size
    for reach in REACHES:
        for angle in range(0, 360, 30):
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            left = x + reach * across - wide * (1 - across) / 2
            bottom = y + reach * up - high * (1 - up) / 2
            yield Box(left, bottom, left + wide, bottom + high)


def _cost(box: Box, point: tuple[float, float], taken: Sequence[Box], frame: Box) -> float:
    """Covered area weighs most, then distance; to the right of its point a label reads best."""
    covered = sum(box.overlap(other) for other in taken) + box.area - box.overlap(frame)
    away = math.dist(nearest(box, point), point)
    return 100 * covered + away + 0.02 * (box.left < point[0])


def nearest(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    """The point of `box` that is nearest to `point`."""
    return min(max(point[0], box.left), box.right), min(max(point[1], box.bottom), box.top)
