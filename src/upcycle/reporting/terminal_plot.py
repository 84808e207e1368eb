"""Curves as text for a terminal, drawn by plotext, which is loaded when something is drawn."""

import bisect
import codecs
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from upcycle.reporting.text import printable

WIDEST = 100
"""Columns that a plot takes at most."""
NARROWEST = 30
_MARKERS, _ASCII_MARKERS = "•×+○▲◆#%", "*x+o#%@="
_COLORS = ("blue+", "red+", "green", "magenta", "cyan", "orange")
_BOX = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")

_Points = list[tuple[float, float]]


def terminal_plot(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    width: int | None = None,
    height: int = 15,
) -> str:
    """The curves through (x, y) of each series by name, as lines of text, below a title and the markers' meaning.

    `width` is in columns; left out, the terminal's, at most 100. `height` is in lines, without title and legend. Points
    that are not finite, or not above 0 on a logarithmic axis, are left out. Colors only where standard output is a
    terminal and NO_COLOR is not set, letters beyond ASCII only where it is UTF-8.
    """
    columns = max(NARROWEST, min(width or shutil.get_terminal_size().columns, WIDEST))
    plain = _plain_text()
    markers = _ASCII_MARKERS if plain else _MARKERS
    drawn = {name: _points(*values, log_x=log_x, log_y=log_y) for name, values in series.items()}
    lines = [printable(title), *(_legend(list(drawn), markers, columns) if len(drawn) > 1 else ())]
    if any(drawn.values()):
        axes = (_Axis("x", x_label, log_x), _Axis("y", y_label, log_y))
        lines.append(_canvas(list(drawn.values()), markers, axes, (columns, height)))
    else:
        lines.append("nothing to draw")
    text = "\n".join(lines)
    return text.translate(_BOX).encode("ascii", "replace").decode() if plain else text


def _plain_text() -> bool:
    """Whether standard output takes ASCII alone."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # text in memory has none
    try:
        return codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    except LookupError:
        return True


def _colored() -> bool:
    stream = sys.stdout
    return not os.environ.get("NO_COLOR") and stream is not None and not stream.closed and stream.isatty()


def _points(x: Sequence[float], y: Sequence[float], *, log_x: bool, log_y: bool) -> _Points:
    """The points that can be drawn, where they are drawn; of many neighbors the lowest and the highest."""
    points = [
        (math.log10(at) if log_x else float(at), math.log10(value) if log_y else float(value))
        for at, value in zip(x, y, strict=True)
        if math.isfinite(at) and math.isfinite(value) and (at > 0 or not log_x) and (value > 0 or not log_y)
    ]
    size = -(-len(points) // (4 * WIDEST))
    if size <= 2:
        return points
    parts = (points[start : start + size] for start in range(0, len(points), size))
    ends = (sorted({part[0], min(part, key=_value), max(part, key=_value), part[-1]}) for part in parts)
    return [point for some in ends for point in some]


def _value(point: tuple[float, float]) -> float:
    return point[1]


def _legend(names: Sequence[str], markers: str, columns: int) -> Iterator[str]:
    """Marker and name of each series, as many on a line as there is room for."""
    row, taken = "", 0
    for at, name in enumerate(names):
        marker, word = _symbol(at, markers), printable(name)
        length = 2 + cell_len(word)
        if row and taken + 3 + length > columns:
            yield row
            row, taken = "", 0
        row += f"{'   ' if row else ''}{_painted(marker, at)} {word}"
        taken += length + (3 if taken else 0)
    yield row


def _symbol(at: int, markers: str) -> str:
    return markers[at % len(markers)]


def _painted(text: str, at: int) -> str:
    import plotext

    if not _colored():
        return text
    pixel = plotext.pixel(foreground=_COLORS[at % len(_COLORS)])
    return str(plotext.colorize(text).fill(pixel).string())


@dataclass(frozen=True)
class _Axis:
    """An axis, its label and whether places on it are logarithms: plotext's own place no ticks that are chosen."""

    name: str
    label: str
    log: bool

    def ticks(self, low: float, high: float) -> dict[float, str]:
        """Labels of a few round numbers by their place."""
        step = 1.0 if self.log and high - low >= 1 else _step((high - low) / 4)
        places = [step * count for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        places = places[:: 1 + len(places) // 8]
        return {place: _number(10.0**place if self.log else place) for place in places}


def _step(rough: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, whichever is nearest."""
    unit = 10.0 ** math.floor(math.log10(rough))
    return unit * min((1, 2, 2.5, 5, 10), key=lambda factor: abs(math.log(factor * unit / rough)))


def _number(value: float) -> str:
    """A tick's label: 0.001, 5e-5, 12000."""
    mantissa, letter, exponent = f"{value:.6g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if letter else mantissa


def _canvas(curves: Sequence[_Points], markers: str, axes: tuple[_Axis, _Axis], size: tuple[int, int]) -> str:
    """Axes and curves; plotext has one figure for the whole process, which is left as new."""
    import plotext

    figure = plotext.figure
    figure.clear()
    plotext.terminal.limit(False, False)  # or it cuts a plot down to the terminal's height
    try:
        figure.theme("colorless")
        figure.canvas("default")
        figure.plot_size(*size)
        for place, axis in enumerate(axes):
            low, high = _limits([point[place] for curve in curves for point in curve])
            ticks = axis.ticks(low, high)
            figure.ruler(axis.name).lim(low, high).ticks(list(ticks), labels=list(ticks.values()))
            if axis.label:
                figure.label(printable(axis.label), axis=axis.name)
        for at, curve in enumerate(curves):
            _draw(curve, at, markers, lines=True)
        for at, curve in enumerate(curves if len(curves) > 1 else ()):
            _draw(_share(curve, at, len(curves), size[0]), at, markers, lines=False)
        return "\n".join(line.rstrip() for line in str(figure.build().string(not _colored())).rstrip().split("\n"))
    finally:
        figure.clear()
        plotext.terminal.limit()


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest, apart from each other."""
    low, high = min(values), max(values)
    margin = 0.0 if high - low > 1e-9 * abs(high) else (abs(high) or 1.0) / 2
    return low - margin, high + margin


def _draw(curve: _Points, at: int, markers: str, *, lines: bool) -> None:
    import plotext

    marker = plotext.marker(_symbol(at, markers), plotext.pixel(foreground=_COLORS[at % len(_COLORS)]))
    x, y = [point[0] for point in curve], [point[1] for point in curve]
    if curve:
        plotext.figure.draw(plotext.figure.signal(x, y, marker=marker).lines(lines))


def _share(curve: _Points, at: int, curves: int, columns: int) -> _Points:
    """The points in a curve's own columns, drawn again: where curves coincide their markers take turns."""
    x = [point[0] for point in curve]
    if not x or x != sorted(x):
        return []
    places = (x[0] + (x[-1] - x[0]) * column / columns for column in range(at, columns, curves))
    return [curve[min(bisect.bisect_left(x, place), len(curve) - 1)] for place in places]
