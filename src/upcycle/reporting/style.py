"""How figures look, and their SVG and PNG.

Every color comes from `PALETTE`, so that a page's style sheet may give each name another one, in the dark for example.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from upcycle.rundir import write_bytes

FAMILY = "DejaVu Sans"
"""It comes with matplotlib: Latin, Greek, Cyrillic and more, but no Chinese, Japanese, Thai, Devanagari or emoji."""
OTHER_FAMILIES = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "Microsoft YaHei", "Hiragino Sans", "PingFang SC"),
    *("WenQuanYi Zen Hei", "Malgun Gothic", "Noto Sans Thai", "Noto Sans Devanagari", "Nirmala UI", "Arial Unicode MS"),
)
"""Fonts that draw such letters in pixels, where they are installed. A viewer of SVG brings its own."""

PALETTE = {
    "paper": "#ffffff",
    "ink": "#1b2530",
    "soft": "#5a6672",
    "rule": "#d3dae0",
    "blue": "#17609c",
    "rust": "#b34a0c",
    "ochre": "#8a6400",
    "plum": "#8b3a86",
    "green": "#2c7a3f",
    "teal": "#0b7579",
}
WIDE = 7.6
"""The width of a figure in inches. A page scales it down to what can still be read, and then scrolls it."""

STYLE: Any = {
    "font.family": [FAMILY],
    "font.size": 9.0,
    "text.usetex": False,
    "text.color": PALETTE["ink"],
    "figure.facecolor": PALETTE["paper"],
    "axes.facecolor": "none",
    "axes.edgecolor": PALETTE["soft"],
    "axes.labelcolor": PALETTE["soft"],
    "axes.labelsize": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.titlecolor": PALETTE["ink"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.7,
    "grid.linestyle": "-",
    "xtick.color": PALETTE["soft"],
    "ytick.color": PALETTE["soft"],
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "savefig.transparent": False,
    # text stays text: small files, a page's own font, and readable to a screen reader
    "svg.fonttype": "none",
    "svg.hashsalt": "upcycle",
}
# neighbors far apart in color, in dash and in marker
_COLORS = ("ochre", "plum", "green", "rust", "teal", "blue")
_DASHES: tuple[Any, ...] = ((0, (5, 2)), "-", (0, (1.3, 1.4)), (0, (6, 2, 1.3, 2)), (0, (9, 2.5)), "-")
_MARKERS = "sD^vPoX*<>ph"
_INSIDE = (0.008, 0.01, 0.984, 0.98)


class Drawing(Figure):
    """A figure that a notebook shows by itself; `summary` describes it in a sentence for who cannot see it."""

    def __init__(self, width: float, height: float, summary: str) -> None:
        super().__init__(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=_INSIDE))
        self.summary = summary

    def _repr_png_(self) -> bytes:
        return png(self, dpi=110)


@dataclass(frozen=True)
class Stroke:
    """Color, dash and marker of a line."""

    color: str
    linestyle: Any
    marker: str


def stroke(place: int) -> Stroke:
    """How the line at `place`, counted from 0, is drawn: different in all three from its neighbors."""
    return Stroke(
        PALETTE[_COLORS[place % len(_COLORS)]],
        _DASHES[(place + place // len(_COLORS)) % len(_DASHES)],
        _MARKERS[place % len(_MARKERS)],
    )


def as_text(axis: Axis, names: Sequence[str], *, size: float = 9.0) -> None:
    """Name the places 0, 1, ... of an axis, each name taken as it is: a dollar sign starts no formula."""
    axis.set_ticks(range(len(names)), names, parse_math=False)
    axis.set_tick_params(length=0, labelcolor=PALETTE["ink"], labelsize=size)


@contextmanager
def _rendering() -> Iterator[None]:
    """Our style, and no warning about letters that no font here has (SVG viewers bring their own)."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def svg(figure: Figure) -> str:
    """The figure as an SVG document with live text; equal figures give equal documents."""
    buffer = io.BytesIO()
    title = figure.summary if isinstance(figure, Drawing) else None
    with _rendering():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return _with_plain_ids(buffer.getvalue().decode())


def _with_plain_ids(document: str) -> str:
    """Number what is defined: matplotlib names it by a hash of places whose last bits the layout varies."""
    names = dict.fromkeys(re.findall(r'<(?:clipPath|path) id="([a-z][0-9a-f]{10})"', document))
    for number, name in enumerate(names):
        document = document.replace(name, f"d{number}")
    return document


def png(figure: Figure, *, dpi: float = 160) -> bytes:
    """The figure as PNG bytes, at `dpi` pixels per inch."""
    installed = {font.name for font in fontManager.ttflist}
    texts: list[Any] = figure.findobj(Text)
    buffer = io.BytesIO()
    with _rendering():
        for text in texts:
            text.set_fontfamily([FAMILY, *(name for name in OTHER_FAMILIES if name in installed)])
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        for text in texts:
            text.set_fontfamily([FAMILY])
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write `path` as .svg and as .png, each whole or not at all; StorageError when that fails.

    A .svg or .png ending of `path` is taken off first.
    """
    stem = path.with_suffix("") if path.suffix.lower() in {".svg", ".png"} else path
    vector, pixels = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    write_bytes(vector, svg(figure).encode())
    write_bytes(pixels, png(figure))
    return vector, pixels
