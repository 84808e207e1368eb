"""Which letters the fonts of this machine can draw, and class names in letters that they can.

An SVG keeps its text, and whoever shows it brings the fonts. The pixels of a PNG need the shapes at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

from upcycle.reporting.names import printable, short

FAMILY = "DejaVu Sans"
"""What comes with matplotlib: Latin, Greek, Cyrillic and more, but no Chinese, Japanese, Thai, Devanagari or emoji."""
MOST_LETTERS = 20
_BOXES = "last resort"
"""A font that has a box for every letter."""


@dataclass(frozen=True)
class Fonts:
    """Families that draw a text together, each what those before it lack; and the letters that none of them has."""

    families: tuple[str, ...]
    lacking: frozenset[str]


def fonts_for(texts: Iterable[str]) -> Fonts:
    """The fonts to draw `texts` with: our own, and of those that are installed the fewest that help."""
    letters = {letter for text in texts for letter in text if letter not in " \n"}
    families, lacking = [FAMILY], letters - _drawn(FT2Font(str(findfont(FontProperties(family=[FAMILY])))), letters)
    drawn = [(_drawn(font, lacking), name) for name, font in _opened(installed() if lacking else ())]
    while lacking and drawn:
        most, name = max(drawn, key=lambda one: len(one[0] & lacking))  # the first of equals
        if not most & lacking:
            break
        families.append(name)
        lacking -= most
    return Fonts(tuple(families), frozenset(lacking))


def installed() -> list[FontEntry]:
    """Upright fonts of ordinary weight, in order of name."""
    plain = (one for one in fontManager.ttflist if one.style == one.variant == "normal" and one.weight in (400, 500))
    return sorted((one for one in plain if _BOXES not in one.name.lower()), key=lambda one: (one.name, str(one.fname)))


def _opened(entries: Iterable[FontEntry]) -> Iterable[tuple[str, FT2Font]]:
    for entry in entries:
        face: dict[str, Any] = {"face_index": entry.index} if getattr(entry, "index", 0) else {}  # of a collection
        try:
            yield entry.name, FT2Font(entry.fname, **face)
        except (OSError, RuntimeError):  # it was removed since matplotlib made its list, or is damaged
            continue


def _drawn(font: FT2Font, letters: Iterable[str]) -> set[str]:
    return {letter for letter in letters if font.get_char_index(ord(letter))}


def drawable(names: Sequence[str]) -> list[str]:
    """`names`; one with letters that no font here has is its number, counted from 1, and those letters as escapes."""
    lacking = fonts_for(map(printable, names)).lacking
    return [
        f"{number} {short(escaped(printable(name), lacking), MOST_LETTERS)}" if lacking & set(printable(name)) else name
        for number, name in enumerate(names, 1)
    ]


def escaped(text: str, letters: Iterable[str]) -> str:
    """`text` with each of `letters` as its code: \\u732b."""
    codes = {ord(letter): letter.encode("unicode_escape").decode("ascii") for letter in letters}
    return text.translate(codes)
