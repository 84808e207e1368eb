"""The page of a comparison with its figures, and its tables for a terminal.

A variant has the same color, dash and marker in both figures, and nothing is shown by color alone.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter
from rich.console import Group, RenderableType
from rich.text import Text

from upcycle.comparison.results import Comparison, MeanScore, VariantResult, Verdict
from upcycle.comparison.runs import read_history
from upcycle.errors import RunError, counted
from upcycle.history import Row
from upcycle.reporting import html
from upcycle.reporting.style import PALETTE, STYLE, WIDE, Drawing, Stroke, as_text, save, stroke, svg
from upcycle.reporting.text import clock, columns, cut, named, printable, short, three, titled
from upcycle.rundir import RunDir, write_text

NAME = 60
"""Letters of a variant's name in tables; the whole name stands beside its description."""
NAMED = 3
"""Run directories that are named when they are missing."""
OPEN = 15
"""Pairs that are shown at once; more are folded away."""
STRETCHED = 8.0
"""Losses whose extremes differ by more than this factor are drawn on a logarithmic axis."""
UNEQUAL = 4.0
"""Numbers of epochs that differ by this factor or more share a logarithmic axis."""
LETTERS = 34
"""Letters of a variant's name in figures."""

CurvesByVariant = Mapping[str, Sequence[Sequence[Row]]]
"""The epochs of each run, by the name of its variant."""

VERDICTS: dict[Verdict, tuple[str, str]] = {
    "gain": ("▲", "significant gain"),
    "loss": ("▼", "significant loss"),
    "same": ("=", "no difference that matters"),
    "unclear": ("?", "not significant"),
    "too-small": ("∅", "too few test images"),
}
"""A verdict as a mark that needs no color, and as words."""


def write_page(comparison: Comparison) -> Path:
    """Write `figures/` and `comparison.html` of a comparison; gives the page's path.

    Curves come from the run directories; one that is missing costs its own alone, and the page says so.
    """
    curves = {
        one.name: [_epochs(comparison.path / run.path, run.phase) for run in one.runs] for one in comparison.variants
    }
    figures: dict[str, Drawing] = {"scores": scores_figure(comparison)}
    if any(any(runs) for runs in curves.values()):
        figures["curves"] = overlay_figure(comparison, curves)
    documents = {name: svg(figure) for name, figure in figures.items()}
    save(figures, documents, comparison.path / "figures")
    missing = [
        short(Path(run.path).name, NAME)
        for one in comparison.variants
        for run, rows in zip(one.runs, curves[one.name], strict=True)
        if run.phase is not None and not rows
    ]
    write_text(comparison.page, _render(comparison, documents, missing))
    return comparison.page


def _epochs(run: Path, phase: str | None) -> Sequence[Row]:
    """The epochs of a run's last phase; none where its directory is missing or damaged."""
    try:
        return [row for row in read_history(RunDir(run)) if row.phase == phase]
    except (RunError, OSError, ValueError):  # whatever the path
        return []


def _render(comparison: Comparison, documents: Mapping[str, str], missing: Sequence[str]) -> str:
    differ, partial = _options(comparison)
    machine = {name: value for name, value in comparison.environment.items() if name != "versions"}
    versions = comparison.environment.get("versions")
    data = Path(comparison.about.data or "").name
    return html.render(
        "comparison.html",
        comparison=comparison,
        title=f"Variants compared on {data}" if data else "Variants compared",
        tiles=_tiles(comparison),
        figures=html.inlined(documents),
        titles={one.name: short(one.title, NAME) for one in comparison.variants},
        verdicts=VERDICTS,
        words={"points": signed_points, "chance": chance, "epochs": epochs, "seeds": seeds},
        failed=[one for one in comparison.variants if one.failed],
        tuned=[one for one in comparison.variants if one.trials],
        missing=cut(missing, NAMED),
        folded=len(comparison.pairs) > OPEN,
        differ=differ,
        partial=partial,
        machine=html.settings(machine),
        versions=html.settings(versions if isinstance(versions, dict) else {}),
        command=html.command(comparison.about.command),
    )


def _tiles(comparison: Comparison) -> list[html.Tile]:
    """The headline numbers."""
    best, advice = comparison.best, comparison.recommendation
    significant = sum(pair.f1.significant for pair in comparison.pairs)
    same = comparison.test_units == comparison.test_images
    units = "all independent" if same else f"{comparison.test_units:,} independent groups"
    tiles = [html.Tile("Best test F1", _value(best.f1_macro), short(best.title, NAME))]
    for one in comparison.finished:
        if advice and one.name == advice.variant:
            note = f"{short(one.title, NAME)}, F1 {_value(one.f1_macro)}"
            tiles.append(html.Tile("Recommended takes", clock(one.cost.total if one.cost else None), note))
    pairs = f"{significant} of {len(comparison.pairs)}"
    tiles.append(html.Tile("Significant differences", pairs, "pairs, corrected for their number"))
    tiles.append(html.Tile("Test images", f"{comparison.test_images:,}", units))
    return tiles


OptionRow = tuple[str, list[str]]
"""An option, and its value as text by variant."""


def _options(comparison: Comparison) -> tuple[list[OptionRow], list[OptionRow]]:
    """Options with different values, and those that only some variants use."""
    differ: list[OptionRow] = []
    partial: list[OptionRow] = []
    for option, values in comparison.options.items():
        texts = [html.setting(values[one.name]) if one.name in values else "–" for one in comparison.variants]
        (differ if len(set(texts) - {"–"}) > 1 else partial).append((option, texts))
    return differ, partial


# ----------------------------------------------------------------------------------------- figures


@mpl.rc_context(STYLE)
def scores_figure(comparison: Comparison) -> Drawing:
    """Test F1 of every variant: the mean over seeds with its 95 % interval, small rings for the seeds."""
    rows = [(one, one.f1_macro) for one in comparison.finished if one.f1_macro]
    summary = "; ".join(f"{short(one.title)} {f1.value:.3f}" for one, f1 in rows)
    figure = Drawing(WIDE, 0.42 * len(rows) + 0.75, f"Test F1 by variant: {summary}.")
    axes = figure.add_subplot()
    for at, (one, f1) in enumerate(rows):
        look = _look(comparison, one)
        axes.plot([f1.low, f1.high], [at, at], "-|", color=look.color, linewidth=2, markersize=9)
        if len(one.runs) > 1:
            seeds = [run.f1_macro for run in one.runs]
            axes.plot(seeds, [at + 0.24] * len(seeds), "o", markersize=3.8, mfc="none", mec=PALETTE["soft"], mew=0.9)
        axes.plot(f1.value, at, look.marker, color=look.color, markersize=8)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    as_text(axes.yaxis, [short(one.title, LETTERS) for one, _ in rows])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("test F1 (macro), with its 95 % interval")
    return figure


def _look(comparison: Comparison, variant: VariantResult) -> Stroke:
    return stroke([one.name for one in comparison.variants].index(variant.name))


@mpl.rc_context(STYLE)
def overlay_figure(comparison: Comparison, curves: CurvesByVariant) -> Drawing:
    """Validation loss and accuracy of every variant by epoch.

    A thin line per seed; the thick one is their mean, as far as every seed got.
    """
    variants = [one for one in comparison.variants if any(curves.get(one.name, ()))]
    parts = [f"{short(one.title)} {counted(max(map(len, curves[one.name])), 'epoch')}" for one in variants]
    figure = Drawing(WIDE, 3.9, f"Validation loss and accuracy by epoch: {'; '.join(parts)}.")
    for axes, metric in zip(figure.subplots(1, 2), ("val_loss", "val_accuracy"), strict=True):
        for one in variants:
            _draw(axes, [rows for rows in curves[one.name] if rows], metric, _look(comparison, one))
        _scale_epochs(axes, [len(rows) for one in variants for rows in curves[one.name] if rows])
        if metric == "val_loss":
            _scale_losses(axes)
        else:
            axes.set_title("validation accuracy")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(axis="y")
    handles = []
    for one in variants:
        look, label = _look(comparison, one), short(one.title, LETTERS)
        handles.append(Line2D([], [], label=label, color=look.color, marker=look.marker, linestyle=look.linestyle))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, handlelength=3)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw(axes: Axes, seeds: Sequence[Sequence[Row]], metric: str, look: Stroke) -> None:
    values = [np.array([getattr(row, metric) for row in rows]) for rows in seeds]
    for line in values if len(values) > 1 else ():
        axes.plot(range(1, len(line) + 1), line, color=look.color, linestyle=look.linestyle, linewidth=0.6, alpha=0.6)
    shared = min(map(len, values))
    mean = np.mean([line[:shared] for line in values], axis=0)
    axes.plot(range(1, shared + 1), mean, color=look.color, linestyle=look.linestyle, linewidth=1.7)
    axes.plot(shared, mean[-1], look.marker, color=look.color, markersize=6)


def _scale_epochs(axes: Axes, lengths: Sequence[int]) -> None:
    """Epochs from 1: logarithmic, each tick twice the last, where lengths differ much."""
    if max(lengths) >= UNEQUAL * min(lengths) and max(lengths) > 4:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")


def _scale_losses(axes: Axes) -> None:
    """A loss axis, logarithmic where losses differ much."""
    losses = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    positive = losses[np.isfinite(losses) & (losses > 0)]
    stretched = len(positive) > 0 and positive.max() > STRETCHED * positive.min()
    axes.set_title(f"validation loss{' (logarithmic)' if stretched else ''}")
    if stretched:
        axes.set_yscale("log", subs=[2, 5])
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.set_ylim(bottom=0.0)


# ------------------------------------------------------------------------------------------- words


def _value(score: MeanScore | None) -> str:
    return three(score.value if score else None)


def signed_points(value: float | None) -> str:
    """A difference of shares in points, with its sign: +2.1, −0.3, 0.0; a dash where it is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{100 * abs(value):.1f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "−"
    return f"{sign}{text}"


def chance(p: float) -> str:
    """A p-value with as many digits as say something: 0.37, 0.0021, < 0.0001."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.01 else f"{p:.4f}"


def epochs(variant: VariantResult) -> str:
    """Mean epochs of fine-tuning, with a decimal where seeds differ; 0 of the probe alone."""
    if variant.cost is None:
        return "–"
    mean = float(variant.cost.epochs)
    return f"{mean:.0f}" if mean.is_integer() else f"{mean:.1f}"


def seeds(variant: VariantResult) -> str:
    """How many seeds of a variant finished, and how many did not."""
    failed = len(variant.failed)
    return counted(len(variant.runs), "seed") + (f", {failed} failed" if failed else "")


# ---------------------------------------------------------------------------------------- terminal


def comparison_table(comparison: Comparison) -> RenderableType:
    """Scores, differences and costs, readable without color in 80 columns."""
    advice = comparison.recommendation
    sentences = [*comparison.notes, *([advice.reason] if advice else [])]
    tables = (_scores(comparison), _pairs(comparison), _costs(comparison))
    return Group(*tables, *(Text(printable(text)) for text in sentences))


def _scores(comparison: Comparison) -> Group:
    table = columns("variant", "accuracy (95 %)", "F1 (95 %)", "± seeds")
    for one in comparison.variants:
        if one.f1_macro is None:
            table.add_row(named(one.title), "no run finished", "–", "–")
            continue
        cells = (_between(one.accuracy), _between(one.f1_macro), three(one.f1_macro.deviation))
        table.add_row(named(one.title), *cells)
    return titled("Test scores", table)


def _between(score: MeanScore | None) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" if score else "–"


def _pairs(comparison: Comparison) -> Group:
    """Every pair; of many only those with the baseline and those that differ."""
    table = columns("variant", "over", "p", "points of F1 (95 %)")
    few = len(comparison.pairs) <= OPEN
    titles = {one.name: one.title for one in comparison.variants}
    baseline = comparison.finished[0].name
    for pair in comparison.pairs:
        if few or pair.first == baseline or pair.f1.significant:
            interval = f"[{signed_points(pair.f1.low)}, {signed_points(pair.f1.high)}]"
            gain = f"{signed_points(pair.f1.value)} {interval} {VERDICTS[pair.verdict][0]}"
            over = named(short(titles[pair.first], 20))
            table.add_row(named(titles[pair.second]), over, chance(pair.f1.p), gain)
    marks = "▲ ▼ significant  = no difference that matters  ? not significant"
    if any(pair.verdict == "too-small" for pair in comparison.pairs):
        marks += "  ∅ too few test images"
    return Group(titled("Differences", table), marks, "")


def _costs(comparison: Comparison) -> Group:
    tuned = any(one.cost.tuning_seconds for one in comparison.finished if one.cost)
    table = columns("variant", "seeds", "epochs", "time", *(["tuning"] if tuned else []), "trained parameters")
    for one in comparison.finished:
        if one.cost is None:
            continue
        trained = f"{one.cost.trained_parameters:,}" if one.cost.trained_parameters else "–"
        tuning = [clock(one.cost.tuning_seconds) if one.cost.tuning_seconds else "–"] if tuned else []
        table.add_row(named(one.title), str(len(one.runs)), epochs(one), clock(one.cost.seconds), *tuning, trained)
    return titled("What it takes to train once", table)
