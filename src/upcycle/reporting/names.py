"""Names and numbers as words that are safe to print: in a terminal, a figure or a page."""

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, *, keep: str = "") -> str:
    """`text` with control characters, lone surrogates and direction overrides written as escapes.

    Names of files and classes are anyone's: these characters would break lines, SVG or UTF-8, or
    turn the words around them. Those in `keep` stay.
    """
    return "".join(_escaped(character) if _hidden(character, keep) else character for character in text)


def _hidden(character: str, keep: str) -> bool:
    if character in keep:
        return False
    noncharacter = ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDI or noncharacter


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def short(text: str, limit: int = 22) -> str:
    """`text` made printable and cut in the middle to at most `limit` characters."""
    clean = printable(text)
    if len(clean) <= limit:
        return clean
    tail = (limit - 1) // 3
    return f"{clean[: limit - 1 - tail]}…{clean[len(clean) - tail :]}"


def occurring(evaluation: Mapping[str, Any]) -> set[str]:
    """The classes of one split's part of evaluation.json that an image is of, or was taken for."""
    counts = evaluation["confusion"]
    columns = [sum(column) for column in zip(*counts, strict=True)]
    return {name for name, row, claims in zip(evaluation["classes"], counts, columns, strict=True) if sum(row) + claims}


def cost(value: float | None) -> str:
    """A loss, or a difference of two, in three digits; a dash where it is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def counted(number: int, noun: str, several: str | None = None) -> str:
    """A number with its noun: 1 epoch, 1,200 epochs; `several` where that is not made with an s."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"
