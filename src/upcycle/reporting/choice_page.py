"""What a race among backbones found: a picture, tables for a terminal, and the page."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from rich.console import Group, RenderableType

from upcycle.comparison.selection import Behind, Candidate, Selection
from upcycle.errors import counted
from upcycle.reporting import html
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, svg
from upcycle.reporting.text import columns, interval, loss_text, named, printable, short, three, titled
from upcycle.rundir import write_text

PAGE = "choice.html"
LETTERS, FEW_LETTERS = 26, 16
"""Letters of a backbone's name in the picture, and in the table of scores: its end tells it from its kin."""
_STRETCHED = 4.0
"""Minutes that differ by this factor or more are on a logarithmic axis."""
_LETTER, _LINE = 0.0088, 0.05
"""About the width of a letter and the height of a line, in parts of the picture's axes."""


def write_choice(path: Path, selection: Selection) -> Path:
    """Write the page of a selection; gives its path. StorageError when it cannot be written."""
    best, over = selection.best, selection.gain
    tiles = [
        html.Tile("Validation F1", three(best.f1_macro.value), short(best.name, 44)),
        html.Tile("Training takes about", minutes_text(best.minutes), f"at {best.images_per_second:.3g} images/s"),
        html.Tile("Backbones", f"{len(selection.candidates)}", f"{len(selection.left_out):,} left out"),
        html.Tile("Validation images", f"{selection.validation_images:,}", "the same for each, no test image"),
    ]
    text = html.render(
        "choice.html",
        selection=selection,
        title=f"Which backbone for {Path(selection.data).name}",
        tiles=tiles,
        over=over,
        figures=html.inlined({"scores": svg(choice_figure(selection))}),
        words={
            "behind": behind_text,
            "weights": weights_text,
            "minutes": minutes_text,
            "interval": interval,
            "amount": amount,
        },
        train=html.command(selection.train),
        command=html.command(selection.command),
    )
    write_text(path, text)
    return path


# ------------------------------------------------------------------------------------------ words


def plain_names(rows: Sequence[Candidate]) -> list[str]:
    """Each backbone's name without its tag where no other has the same."""
    bare = [one.name.partition(".")[0] for one in rows]
    return [name if bare.count(name) == 1 else one.name for name, one in zip(bare, rows, strict=True)]


def minutes_text(minutes: float) -> str:
    """A rough duration in two digits: 0.4 min, 12 min, 3.1 h."""
    if not math.isfinite(minutes):
        return "–"
    hours = minutes >= 90
    value = minutes / 60 if hours else minutes
    rounded = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
    return f"{rounded} {'h' if hours else 'min'}"


def behind_text(behind: Behind | None) -> str:
    """A difference of log losses with its interval: +0.12 [0.05, 0.19]; a dash for the leader."""
    if behind is None:
        return "–"
    if not math.isfinite(behind.low + behind.high):
        return f"{behind.value:+.3f}"
    return f"{behind.value:+.3f} [{behind.low:.3f}, {behind.high:.3f}]"


def weights_text(one: Candidate) -> str:
    """Where the weights were: at hand, or how large the download was."""
    return "at hand" if one.local else f"{one.megabytes:.0f} MB"


def amount(value: float) -> str:
    """Three digits, or all before the decimal point: images per second, milliseconds."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def selection_table(selection: Selection) -> RenderableType:
    """Scores and costs of every candidate, the best first, readable without color in 80 columns."""
    scores = columns("backbone", "images", "log loss", "behind (95 %)", "F1 (95 %)")
    costs = columns("backbone", "license", "weights", "px", "images/s", "training", "1 image")
    for name, one in zip(plain_names(selection.candidates), selection.candidates, strict=True):
        f1 = f"{one.f1_macro.value:.3f} [{one.f1_macro.low:.3f}, {one.f1_macro.high:.3f}]"
        scores.add_row(
            named(short(name, FEW_LETTERS)), f"{one.images:,}", loss_text(one.log_loss), behind_text(one.behind), f1
        )
        speed, alone = amount(one.images_per_second), f"{amount(one.milliseconds)} ms"
        training = f"~{minutes_text(one.minutes)}"
        costs.add_row(named(one.name), printable(one.license), weights_text(one), f"{one.size}", speed, training, alone)
    held_out = counted(selection.validation_images, "validation image")
    return Group(titled(f"Probes on {held_out}", scores), titled("What they cost here", costs))


# ----------------------------------------------------------------------------------------- figure


@mpl.rc_context(STYLE)
def choice_figure(selection: Selection) -> Drawing:
    """Validation F1 of each backbone with its 95 % interval, by the minutes that a training takes.

    The one to use is a large disc, others of the last round are small ones, those dropped before it gray rings.
    """
    rows = selection.candidates
    summary = "; ".join(f"{short(one.name)} {one.f1_macro.value:.3f} in {minutes_text(one.minutes)}" for one in rows)
    figure = Drawing(WIDE, 4.2, f"Validation F1 by minutes of training: {summary}.")
    axes = figure.add_subplot()
    for one in rows:
        color = PALETTE["rust" if one.name == selection.winner else "blue" if not one.dropped else "soft"]
        faint = 0.45 if one.dropped else 1.0
        ends = [one.f1_macro.low, one.f1_macro.high]
        axes.plot([one.minutes] * 2, ends, "-_", color=color, linewidth=1.2, markersize=7, alpha=faint)
        inside = PALETTE["paper"] if one.dropped else color
        size = 10 if one.name == selection.winner else 7
        axes.plot(one.minutes, one.f1_macro.value, "o", color=color, mfc=inside, markersize=size)
    _frame(axes, rows)
    names = [short(name, LETTERS) for name in plain_names(rows)]
    for name, one, (side, x, y) in zip(names, rows, _label_places(axes, rows, names), strict=True):
        axes.annotate(
            name,
            (x, y),
            xycoords="axes fraction",
            ha=side,
            va="center",
            fontsize=8.5,
            color=PALETTE["soft"] if one.dropped else PALETTE["ink"],
            fontweight="bold" if one.name == selection.winner else "normal",
            parse_math=False,
            bbox={"facecolor": PALETTE["paper"], "edgecolor": "none", "pad": 0.8},
        )
    return figure


def _frame(axes: Axes, rows: Sequence[Candidate]) -> None:
    minutes = [one.minutes for one in rows]
    low, high = min(one.f1_macro.low for one in rows), max(one.f1_macro.high for one in rows)
    margin = 0.08 * max(high - low, 0.02)
    axes.set_ylim(low - margin, high + margin)
    if max(minutes) >= _STRETCHED * min(minutes):
        axes.set_xscale("log")
        axes.set_xlim(min(minutes) / 1.4, max(minutes) * 1.4)
        spread = max(minutes) / min(minutes)
        wanted = [base * 10.0**power for power in range(-3, 7) for base in ((1, 2, 5) if spread < 100 else (1,))]
        axes.set_xticks([tick for tick in wanted if min(minutes) / 1.4 <= tick <= max(minutes) * 1.4])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max(minutes) * 1.25)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y")
    axes.set_xlabel("about so many minutes to train, decoding left out")
    axes.set_ylabel("validation F1 (macro), with its 95 % interval")


Place = tuple[str, float, float]
"""The side that a label is aligned at, and where that is in parts of the axes."""


def _label_places(axes: Axes, rows: Sequence[Candidate], names: Sequence[str]) -> list[Place]:
    """A place beside each point where its label covers no other label, and few bars."""
    to_share = axes.transData + axes.transAxes.inverted()
    points = [tuple(to_share.transform((one.minutes, one.f1_macro.value))) for one in rows]
    bars = [
        (x - 0.008, to_share.transform((one.minutes, one.f1_macro.low))[1], x + 0.008,
         to_share.transform((one.minutes, one.f1_macro.high))[1])
        for one, (x, _) in zip(rows, points, strict=True)
    ]  # fmt: skip
    taken: list[tuple[float, float, float, float]] = []
    places: list[Place] = []
    for at, (name, (x, y)) in enumerate(zip(names, points, strict=True)):
        width, best = _LETTER * len(name), None
        others = bars[:at] + bars[at + 1 :]
        for step in (0, 1, -1, 2, -2):
            for side in ("left", "right"):
                left = x + 0.018 if side == "left" else x - 0.018 - width
                box = (left, y + (step - 0.5) * _LINE, left + width, y + (step + 0.5) * _LINE)
                inside = left >= 0 and left + width <= 1 and box[1] >= 0 and box[3] <= 1
                covered = 4 * sum(_overlap(box, label) for label in taken) + sum(_overlap(box, bar) for bar in others)
                clash = covered + 10 * (not inside) + 0.4 * abs(step)
                if best is None or clash < best[0]:
                    best = (clash, side, box)
        assert best is not None
        _, side, box = best
        taken.append(box)
        places.append((side, box[0] if side == "left" else box[2], (box[1] + box[3]) / 2))
    return places


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
