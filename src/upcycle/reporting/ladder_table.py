"""A comparison as tables for a terminal, readable without colour and in 80 columns."""

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from upcycle.reporting import gains
from upcycle.reporting.names import clock, printable
from upcycle.reporting.tables import columns, named, titled

Row = dict[str, Any]


def ladder_table(comparison: Row) -> RenderableType:
    """Scores and gains, costs, and the sentences of comparison.json."""
    steps = [pair["says"] for pair in comparison["pairs"] if "step" in pair["kinds"]]
    advice = comparison.get("recommendation")
    sentences = [*steps, "", *comparison["says"], *([advice["says"]] if advice else [])]
    tables = (_scores(comparison), _gains(comparison), _costs(comparison))
    return Group(*tables, *(Text(printable(text)) for text in sentences))


def _scores(comparison: Row) -> Group:
    """Accuracy and F1 by rung, with the deviation of F1 between seeds."""
    table = columns("rung", "accuracy (95 %)", "F1 (95 %)", "spread")
    for rung in comparison["rungs"]:
        if not gains.finished(rung):
            table.add_row(named(rung["title"]), "no run finished", "–", "–")
            continue
        spread = rung["f1_macro"]["spread"]
        cells = (_between(rung["accuracy"]), _between(rung["f1_macro"]), "–" if spread is None else f"{spread:.3f}")
        table.add_row(named(rung["title"]), *cells)
    return titled("Test scores", table)


def _between(score: Row) -> str:
    """A score with its interval, as far as that is known."""
    ends = (
        "" if score.get("low") is None or score.get("high") is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
    )
    return f"{score['value']:.3f}{ends}"


def _gains(comparison: Row) -> Group:
    """What each rung gained, with intervals."""
    table = columns("rung", "over the one before (95 %)", "over the first (95 %)")
    for rung in comparison["rungs"]:
        pairs = (gains.step_to(comparison, rung["name"]), gains.climb_to(comparison, rung["name"]))
        if gains.finished(rung) and any(pairs):
            table.add_row(named(rung["title"]), *(_gain(pair) for pair in pairs))
    marks = "▲ real gain  ▼ real loss  = no difference that matters  ? not distinguishable"
    if any(pair.get("verdict") == "too-small" for pair in comparison["pairs"]):
        marks += "  ∅ too few test images"
    return Group(titled("What each choice bought, in points of F1", table), marks, "")


def _gain(pair: Row | None) -> str:
    """+2.1 [+1.2, +3.0] ▲; a dash where nothing was compared."""
    if pair is None:
        return "–"
    ends = (pair.get("f1_difference") or {}).get("interval")
    between = f" [{gains.points(ends[0])}, {gains.points(ends[1])}]" if ends else ""
    return f"{gains.points(gains.gain(pair))}{between} {gains.verdict(pair).mark}"


def _costs(comparison: Row) -> Group:
    """What each rung takes to train once, and to tune before."""
    rungs = [rung for rung in comparison["rungs"] if gains.finished(rung)]
    tuned = any(rung.get("tuning_seconds") for rung in rungs)
    table = columns("rung", "seeds", "epochs", "time", *(["tuning"] if tuned else []), "trained parameters")
    for rung in rungs:
        trained = f"{rung['trained_parameters']:,}" if rung.get("trained_parameters") else "–"
        tuning = [clock(rung["tuning_seconds"]) if rung["tuning_seconds"] else "–"] if tuned else []
        cells = (str(len(rung["seeds"])), gains.epochs_words(rung), gains.once_words(rung), *tuning, trained)
        table.add_row(named(rung["title"]), *cells)
    return titled("What it takes to train once", table)
