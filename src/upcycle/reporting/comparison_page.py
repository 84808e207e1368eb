"""The page of a comparison, and its tables for a terminal."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from upcycle.comparison.results import Comparison, MeanScore, VariantResult, Verdict
from upcycle.comparison.runs import read_history
from upcycle.errors import RunError
from upcycle.history import Row
from upcycle.reporting import html
from upcycle.reporting.comparison_figures import overlay_figure, scores_figure
from upcycle.reporting.names import clock, counted, cut, printable, short, three
from upcycle.reporting.style import Drawing, save, svg
from upcycle.reporting.tables import columns, named, titled
from upcycle.rundir import RunDir, write_text

NAME = 60
"""Letters of a variant's name in tables; the whole name stands beside its description."""
NAMED = 3
"""Run directories that are named when they are missing."""
OPEN = 15
"""Pairs that are shown at once; more are folded away."""


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
    return html.render(
        "comparison.html",
        comparison=comparison,
        title=_title(comparison),
        tiles=_tiles(comparison),
        figures=html.inlined(documents),
        titles={one.name: short(one.title, NAME) for one in comparison.variants},
        verdicts=VERDICTS,
        words=_HELPERS,
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


def _title(comparison: Comparison) -> str:
    name = Path(comparison.about.data or "").name
    return f"Variants compared on {name}" if name else "Variants compared"


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


def time_once(variant: VariantResult) -> str:
    """How long training once takes."""
    return clock(variant.cost.seconds if variant.cost else None)


def seeds(variant: VariantResult) -> str:
    """How many seeds of a variant finished, and how many did not."""
    failed = len(variant.failed)
    return counted(len(variant.runs), "seed") + (f", {failed} failed" if failed else "")


_HELPERS = {
    "points": signed_points,
    "chance": chance,
    "epochs": epochs,
    "time_once": time_once,
    "seeds": seeds,
}


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
        table.add_row(named(one.title), str(len(one.runs)), epochs(one), time_once(one), *tuning, trained)
    return titled("What it takes to train once", table)
