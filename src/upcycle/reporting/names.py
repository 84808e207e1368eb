"""Names and numbers as text that is safe to show: in a terminal, a figure or a page."""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from upcycle.evaluation.results import Metric

METRIC_NAMES = {
    "f1_macro": "F1 (macro)",
    "accuracy": "Accuracy",
    "precision_macro": "Precision (macro)",
    "recall_macro": "Recall (macro)",
    "roc_auc": "ROC AUC",
    "log_loss": "Log loss",
}
LISTED = 20
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_Item = TypeVar("_Item")


# --------------------------------------------------------------------------------------------- names


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


def joined(names: Sequence[str], most: int = 6) -> str:
    """Names as a phrase: a, b and c; beyond `most`, the count of the others."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def sentence(text: str) -> str:
    """A message as a sentence: a capital letter, and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


@dataclass(frozen=True)
class Cut(Generic[_Item]):
    """The first items of a longer list, and how many are left out."""

    items: Sequence[_Item]
    left_out: int

    @property
    def total(self) -> int:
        """How many there are altogether."""
        return len(self.items) + self.left_out


def cut(items: Sequence[_Item], limit: int = LISTED) -> Cut[_Item]:
    """`items`, or the first `limit` of them."""
    return Cut(items[:limit], max(len(items) - limit, 0))


# ------------------------------------------------------------------------------------------- numbers


def counted(number: int, noun: str, several: str | None = None) -> str:
    """A number with its noun: 1 epoch, 1,200 epochs; `several` is the plural that is not made with an s."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def three(value: float | None) -> str:
    """A score with three decimals; a dash where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share of one as a percentage with one decimal; a dash where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def loss_text(value: float | None) -> str:
    """A loss, or a difference of two, in three digits; a dash where it is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def interval(metric: Metric, write: Callable[[float], str] = three) -> str:
    """The 95 % interval of a metric: 0.912 to 0.979."""
    return f"{write(metric.low)} to {write(metric.high)}"


def rate_text(rate: float) -> str:
    """A learning rate in three digits, the way it is typed: 1e-5, 0.012."""
    mantissa, _, exponent = f"{rate:.2e}".partition("e")
    if rate == 0 or -3 <= int(exponent) < 3:
        return f"{rate:.3g}"
    return f"{float(mantissa):g}e{int(exponent)}"


def clock(seconds: float | None) -> str:
    """A duration in its two largest units: 8.4 s, 2 min 31 s, 1 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
