"""A comparison as tables for a terminal, readable without colour and in 80 columns."""

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from upcycle.output import gains
from upcycle.output.names import printable
from upcycle.output.page import clock
from upcycle.output.terminal import columns, named, titled

Row = dict[str, Any]


def ladder_table(comparison: Row) -> RenderableType:
    """Scores and gains, costs, and the sentences of comparison.json."""
    steps = [pair["says"] for pair in comparison["pairs"] if "step" in pair["kinds"]]
    advice = comparison.get("recommendation")
    sentences = [*steps, "", *comparison["says"], *([advice["says"]] if advice else [])]
    return Group(_scores(comparison), _costs(comparison), *(Text(printable(text)) for text in sentences))


def _scores(comparison: Row) -> Group:
    """F1 and accuracy by rung, and what each gained."""
    table = columns("rung", "accuracy", "F1 (95 % interval)", "spread", "step", "first")
    for rung in comparison["rungs"]:
        if not gains.finished(rung):
            table.add_row(named(rung["title"]), "–", "no run finished", "–", "–", "–")
            continue
        f1, accuracy = rung["f1_macro"], rung["accuracy"]
        step, climb = gains.step_to(comparison, rung["name"]), gains.climb_to(comparison, rung["name"])
        mark = f"{gains.points(gains.gain(step))} {gains.verdict(step).mark}" if step else "–"
        spread = "–" if f1["spread"] is None else f"{f1['spread']:.3f}"
        ends = "" if f1["low"] is None or f1["high"] is None else f" [{f1['low']:.3f}, {f1['high']:.3f}]"
        first = f"{gains.points(gains.gain(climb))} {gains.verdict(climb).mark}" if climb else "–"
        cells = (f"{accuracy['value']:.3f}", f"{f1['value']:.3f}{ends}", spread, mark, first)
        table.add_row(named(rung["title"]), *cells)
    marks = "▲ real gain  ▼ real loss  = no difference that matters  ? not distinguishable"
    return Group(titled("What each choice bought: points of F1 over the rung before, and the first", table), marks, "")


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
