"""What a learning-rate range test found: a picture, and a table and a plot for a terminal."""

import math

import matplotlib as mpl
from matplotlib.ticker import FuncFormatter
from rich.console import Group, RenderableType
from rich.text import Text

from upcycle.errors import counted
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, stroke
from upcycle.reporting.terminal_plot import terminal_plot
from upcycle.reporting.text import columns, rate_text, titled
from upcycle.training.rate_curve import LrFinding, Suggestion

FIGURE = "find_lr.svg"
TALLEST = 2.0
"""The axis ends at so many times the loss at the start: how high an explosion goes says nothing."""


def lr_table(finding: LrFinding) -> RenderableType:
    """The curve as a plot of letters, and the rate of each rule with its interval."""
    rates, losses = finding.rates[: len(finding.loss)], finding.loss
    top = TALLEST * losses[0] if losses else 0.0
    points = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if loss <= top]
    drawn = tuple(zip(*points, strict=True)) if points else ((), ())
    plot = terminal_plot(
        {"loss": (drawn[0], drawn[1])}, title="Training loss by rate, smoothed", x_label="rate", log_x=True
    )
    if not finding.suggestions:
        return Text.from_ansi(plot)
    grid = columns("rule", "rate", "95 % interval", "taken")
    for one in finding.suggestions:
        grid.add_row(one.rule, rate_text(one.lr), interval_text(one), "yes" if one.rule == finding.peak.rule else "")
    repeats = counted(finding.sweep.repeats, "repeat")
    return Group(Text.from_ansi(plot), "", titled(f"Suggested rates, geometric means over {repeats}", grid))


def interval_text(one: Suggestion) -> str:
    """The interval of a suggestion: 4e-4 to 1.2e-3; a dash where it is not known."""
    return f"{rate_text(one.low)} to {rate_text(one.high)}" if math.isfinite(one.low) else "–"


@mpl.rc_context(STYLE)
def lr_figure(finding: LrFinding) -> Drawing:
    """The smoothed training loss by rate, the band of its repeats, and where each rule puts the rate."""
    figure = Drawing(WIDE, 3.6, f"Range test of the learning rate: {finding.peak.reason}.")
    axes = figure.subplots()
    rates, blue = finding.rates[: len(finding.loss)], PALETTE["blue"]
    axes.set_xscale("log")
    axes.set_xlim(finding.sweep.start_lr, 1.5 * max(rates) if rates else finding.sweep.end_lr)
    axes.set_xlabel("learning rate")
    axes.set_title("training loss, smoothed; the band is from the lowest to the highest repeat")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_text(rate)))
    axes.grid(axis="y")
    if not finding.loss:
        axes.text(0.5, 0.5, "The loss explodes at once.", transform=axes.transAxes, ha="center", color=PALETTE["soft"])
        return figure
    axes.fill_between(rates, finding.low, finding.high, color=blue, alpha=0.18, linewidth=0)
    axes.plot(rates, finding.loss, color=blue)
    bottom, start = min(finding.low), finding.loss[0]
    top = min(max(finding.high), TALLEST * start)
    room = 0.06 * (top - bottom) or 0.01
    axes.set_ylim(bottom - room, top + room)
    for place, one in enumerate(finding.suggestions):
        look = stroke(place)
        taken = one.rule == finding.peak.rule
        label = f"{one.rule} {rate_text(one.lr)}" + (f" ({interval_text(one)})" if len(one.picks) > 1 else "")
        axes.axvline(
            one.lr,
            color=look.color,
            linestyle=look.linestyle,
            linewidth=2.2 if taken else 1.2,
            label=f"{label}, taken" if taken else label,
        )
    if not finding.suggestions:
        axes.axvline(finding.fallback, color=PALETTE["soft"], linestyle=(0, (4, 2)), linewidth=1.2)
        axes.lines[-1].set_label(f"no usable valley: {rate_text(finding.fallback)} is used instead")
    figure.legend(loc="outside lower left", ncols=2, frameon=False).set_in_layout(True)
    return figure
