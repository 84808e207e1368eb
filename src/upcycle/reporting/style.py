"""How figures look, and their SVG and PNG.

Every color comes from `PALETTE`, so that a page's style sheet may give each name another one, in the dark for example.
"""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator

from upcycle.reporting.text import short
from upcycle.rundir import write_bytes, write_text

FAMILY = "DejaVu Sans"
"""It comes with matplotlib: Latin, Greek, Cyrillic and more, but no Chinese, Japanese, Thai, Devanagari or emoji."""
_LONGEST = 20
"""Letters of a name that is written in escapes."""

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
    axis.set_major_locator(FixedLocator(range(len(names))))
    axis.set_major_formatter(FixedFormatter(names))
    axis.set_tick_params(length=0, labelcolor=PALETTE["ink"], labelsize=size)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)


@contextmanager
def _rendering() -> Iterator[None]:
    """Our style, and no warning about letters that no font here has (SVG viewers bring their own)."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # a stranger's numbers may leave an axis no room beside its labels
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
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
    buffer = io.BytesIO()
    with _rendering(), _drawable(figure):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------- fonts


@contextmanager
def _drawable(figure: Figure) -> Iterator[None]:
    """Inside, texts use installed fonts that have their letters; letters that none has are escapes: \\u732b.

    Whoever shows an SVG brings the fonts. The pixels of a PNG need the shapes, or show boxes.
    """
    found: list[Any] = figure.findobj(Text)
    texts = [(text, text.get_fontfamily(), text.get_text()) for text in found]
    axes = (axis.get_major_formatter() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis))
    ticks = [(formatter, formatter.seq) for formatter in axes if isinstance(formatter, FixedFormatter)]
    families, missing = fonts_for([*(words for _, _, words in texts), *(name for _, names in ticks for name in names)])
    if len(families) == 1 and not missing:
        yield
        return

    def legible(words: str) -> str:
        return words if missing.keys().isdisjoint(map(ord, words)) else short(words.translate(missing), _LONGEST)

    try:
        for text, _, words in texts:
            text.set(fontfamily=families, text=legible(words))
        for formatter, names in ticks:
            formatter.seq = [legible(name) for name in names]
        yield
    finally:
        for text, family, words in texts:
            text.set(fontfamily=family, text=words)
        for formatter, names in ticks:
            formatter.seq = names


def fonts_for(texts: Iterable[str]) -> tuple[list[str], Mapping[int, str]]:
    """The fonts to draw `texts` with, ours and as few others as help, and escapes of the letters that none has."""
    letters = {letter for text in texts for letter in text if letter not in " \n"}
    families, missing = [FAMILY], letters - _has(FT2Font(str(findfont(FontProperties(family=[FAMILY])))), letters)
    others = list(_opened(installed_fonts(), missing)) if missing else []
    while missing and others:
        name, has = max(others, key=lambda font: len(font[1] & missing))
        if not has & missing:
            break
        families.append(name)
        missing -= has
    return families, {ord(letter): letter.encode("unicode_escape").decode("ascii") for letter in missing}


def installed_fonts() -> list[FontEntry]:
    """Upright fonts of ordinary weight in order of name, without those that have a box for every letter."""
    plain = (
        font for font in fontManager.ttflist if font.style == font.variant == "normal" and font.weight in (400, 500)
    )
    return sorted((font for font in plain if "last resort" not in font.name.lower()), key=lambda f: (f.name, f.fname))


def _opened(fonts: Iterable[FontEntry], letters: set[str]) -> Iterator[tuple[str, set[str]]]:
    """The name of each font, and which of `letters` it has."""
    for font in fonts:
        face: dict[str, int] = {"face_index": font.index} if getattr(font, "index", 0) else {}  # of a collection
        try:
            yield font.name, _has(FT2Font(font.fname, **face), letters)  # type: ignore[arg-type]
        except (OSError, RuntimeError):  # removed since matplotlib made its list, or damaged
            continue


def _has(font: FT2Font, letters: Iterable[str]) -> set[str]:
    return {letter for letter in letters if font.get_char_index(ord(letter))}


# ------------------------------------------------------------------------------------------- files


def save(figures: Mapping[str, Figure], documents: Mapping[str, str], folder: Path) -> None:
    """Write NAME.svg, the figure's document, and NAME.png, each whole or not at all; StorageError when that fails."""
    for name, figure in figures.items():
        write_text(folder / f"{name}.svg", documents[name])
        write_bytes(folder / f"{name}.png", png(figure))
