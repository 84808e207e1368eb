"""A figure that stands by itself: palette, style, and its SVG and PNG.

Every colour comes from `PALETTE`, so that a page may give each name another colour in the dark.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from upcycle.reporting.glyphs import FAMILY, fonts_for
from upcycle.rundir import write_bytes

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
WIDE, NARROW = 9.2, 3.9
"""Widths in inches: a page or notebook, and a phone. Figures narrower than 6 stack their panels."""

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
# neighbours far apart in colour, in dash and in marker
_COLOURS = ("ochre", "plum", "green", "rust", "teal", "blue")
_DASHES: tuple[Any, ...] = ((0, (5, 2)), "-", (0, (1.3, 1.4)), (0, (6, 2, 1.3, 2)), (0, (9, 2.5)), "-")
_MARKERS = "sD^vPoX*<>ph"
_INSIDE = (0.008, 0.01, 0.984, 0.98)


class Drawing(Figure):
    """A figure that a notebook shows by itself; `summary` says in a sentence what is to be seen.

    `in_pixels` draws it again for a PNG, where that wants other words: names in letters that a font here has.
    """

    def __init__(self, width: float, height: float, summary: str) -> None:
        super().__init__(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=_INSIDE))
        self.summary = summary
        self.in_pixels: Callable[[], Drawing] | None = None

    def _repr_png_(self) -> bytes:
        return png(self, dpi=110)


def stroke(place: int) -> dict[str, Any]:
    """Colour, dash and marker of the line at `place`, counted from 0: different in all three from its neighbours."""
    return {
        "color": PALETTE[_COLOURS[place % len(_COLOURS)]],
        "linestyle": _DASHES[(place + place // len(_COLOURS)) % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
    }


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
    """The figure as PNG bytes at `dpi` pixels an inch."""
    buffer = io.BytesIO()
    drawn = figure.in_pixels() if isinstance(figure, Drawing) and figure.in_pixels is not None else figure
    with _rendering(), _fitting_fonts(drawn):
        drawn.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _fitting_fonts(figure: Figure) -> Iterator[None]:
    """Inside, its words are set in fonts that have their letters, as far as such are installed."""
    texts: list[Any] = figure.findobj(Text)
    before = [text.get_fontfamily() for text in texts]
    families = fonts_for(text.get_text() for text in texts).families
    if len(families) == 1:
        yield
        return
    for text in texts:
        text.set_fontfamily(families)
    try:
        yield
    finally:
        for text, family in zip(texts, before, strict=True):
            text.set_fontfamily(family)


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write `path` as .svg and as .png, each whole or not at all; StorageError when that fails.

    A .svg or .png ending of `path` is taken off first.
    """
    stem = path.with_suffix("") if path.suffix.lower() in {".svg", ".png"} else path
    vector, pixels = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    write_bytes(vector, svg(figure).encode())
    write_bytes(pixels, png(figure))
    return vector, pixels
