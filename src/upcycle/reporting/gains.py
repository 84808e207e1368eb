"""What each rung of a ladder gained, in words: which pair is whose step, points, verdicts, chances.

`comparison` is laid out as in comparison.json; shares of one in it are points (a hundredth) in words.
"""

import math
from dataclasses import dataclass
from typing import Any

from upcycle.reporting.names import counted
from upcycle.reporting.page import clock

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a comparison came to: a mark that needs no colour, a few words, and the words beside a number."""

    mark: str
    words: str
    beside: str


VERDICTS = {
    "gain": Verdict("▲", "a real gain", "real"),
    "loss": Verdict("▼", "a real loss", "real"),
    "same": Verdict("=", "no difference that matters", "no difference that matters"),
    "unclear": Verdict("?", "not distinguishable", "not distinguishable"),
    "too-small": Verdict("∅", "too few test images to tell", "too few test images"),
}
UNKNOWN = Verdict("–", "not compared", "not compared")


def verdict(pair: Row | None) -> Verdict:
    """The verdict on a pair; one that says so where there is none."""
    return VERDICTS.get((pair or {}).get("verdict") or "", UNKNOWN)


def is_real(pair: Row | None) -> bool:
    """Whether the difference between a pair is more than chance."""
    return (pair or {}).get("verdict") in {"gain", "loss"}


# ------------------------------------------------------------------------------------------- pairs


def step_to(comparison: Row, name: str) -> Row | None:
    """The pair of a rung and the one before it that has results."""
    return _pair(comparison, "step", name)


def climb_to(comparison: Row, name: str) -> Row | None:
    """The pair of the ladder's first rung and a later one."""
    return _pair(comparison, "first", name)


def _pair(comparison: Row, kind: str, name: str) -> Row | None:
    return next((pair for pair in comparison["pairs"] if pair["second"] == name and kind in pair["kinds"]), None)


def corrected(pair: Row) -> float | None:
    """The p of a pair corrected within the family that its verdict is of: the first of its kinds."""
    p: float | None = (pair.get("corrected") or {}).get(pair["kinds"][0])
    return p


def gain(pair: Row | None) -> float | None:
    """How much F1 the second of a pair has over the first, a share of one."""
    value: float | None = ((pair or {}).get("f1_difference") or {}).get("value")
    return value


def finished(rung: Row) -> bool:
    """Whether a rung has test scores."""
    return bool(rung.get("f1_macro"))


def titles(comparison: Row) -> dict[str, str]:
    """The words for each rung by its name."""
    return {rung["name"]: rung["title"] for rung in comparison["rungs"]}


def duration(rung: Row) -> float | None:
    """Seconds of training a rung once and tuning it before; None where they are unknown."""
    once: float | None = rung.get("seconds")
    return None if once is None else once + (rung.get("tuning_seconds") or 0.0)


def is_timed_whole(rung: Row) -> bool:
    """Whether no part of a rung's training is missing from its time."""
    return all(run.get("seconds_complete", True) for run in rung["runs"])


# ------------------------------------------------------------------------------------------- words


def points(value: float | None) -> str:
    """A difference of shares in points, with its sign: +2.1, −0.3, 0.0; a dash where it is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{100 * abs(value):.1f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "−"
    return f"{sign}{text}"


def in_points(value: float | None) -> str:
    """`points` with the unit behind them."""
    return points(value) if value is None else f"{points(value)} points"


def interval(ends: list[float] | None) -> str:
    """An interval of a difference: +1.2 to +3.0; a dash where there is none."""
    return f"{points(ends[0])} to {points(ends[1])}" if ends else "–"


def gain_words(pair: Row | None) -> str:
    """What a pair gained and whether it is real: "+2.1 points, real"."""
    return f"{in_points(gain(pair))}, {verdict(pair).beside}" if pair else ""


def chance(p: float | None) -> str:
    """A p-value with as many digits as say something: 0.37, 0.0021, < 0.0001."""
    if p is None or not math.isfinite(p):
        return "–"
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.01 else f"{p:.4f}"


def once_words(rung: Row) -> str:
    """How long training a rung once takes; at least so long where a part of the time is not known."""
    return f"{'' if is_timed_whole(rung) else '≥ '}{clock(rung.get('seconds'))}"


def time_words(rung: Row) -> str:
    """How long training a rung once takes, and tuning it before: "4 min 2 s + 1 h 5 min tuning"."""
    tuning = rung.get("tuning_seconds")
    return f"{once_words(rung)} + {clock(tuning)} tuning" if tuning else once_words(rung)


def parameters_words(number: int | None) -> str:
    """A number of parameters in three digits: 2,562, 355 k, 23.5 M."""
    if number is None:
        return "–"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= (10_000 if unit == "k" else 0.9995 * size):  # rounded, it is of this size
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def epochs_words(rung: Row) -> str:
    """Mean epochs of a rung, with a decimal where seeds differ; 0 of the probe alone."""
    return "–" if rung.get("epochs") is None else _count(rung["epochs"])


def _count(mean: float) -> str:
    return f"{mean:.0f}" if float(mean).is_integer() else f"{mean:.1f}"


def seeds_words(rung: Row) -> str:
    """How many seeds of a rung finished, and how many did not."""
    failed = len(rung["failed"])
    return counted(len(rung["seeds"]), "seed") + (f", {failed} failed" if failed else "")
