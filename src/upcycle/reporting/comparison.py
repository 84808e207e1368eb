"""The page of a comparison, made from comparison.json and the runs that it names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upcycle.errors import RunError
from upcycle.reporting import gains, html
from upcycle.reporting.disagreements import opinion, sides
from upcycle.reporting.ladder import cost_figure, ladder_figure, overlay_figure
from upcycle.reporting.names import clock, counted, cut, short, three
from upcycle.reporting.style import Drawing
from upcycle.rundir import RunDir, read_json, read_lines, write_text

NAME = 60
"""Letters of a rung's name in tables; the whole name stands beside what the rung does."""
NAMED = 3
"""Run directories that are named when they are gone."""
FILE, PAGE = "comparison.json", "comparison.html"

Values = dict[str, Any]


def write_comparison(folder: Path) -> Path:
    """Write `figures/` and `comparison.html` of a comparison; gives the page's path.

    Curves and pictures come from the run directories that comparison.json names; one that is gone
    costs its own alone, and the page says so. RunError when comparison.json is missing or damaged.
    """
    values = read_json(folder / FILE)
    if not isinstance(values, dict) or not {"rungs", "pairs", "test", "classes"} <= values.keys():
        raise RunError(f"{folder / FILE} does not hold a comparison")
    drawings = _draw(values, folder)
    html.save_figures(drawings, folder / "figures")
    write_text(folder / PAGE, _render(values, drawings, folder))
    return folder / PAGE


def _draw(values: Values, folder: Path) -> dict[str, Drawing]:
    drawings = {"ladder": ladder_figure(values)}
    curves = [
        {"title": rung["title"], "runs": [_rows(run, folder) for run in rung["runs"]]} for rung in values["rungs"]
    ]
    if any(any(rung["runs"]) for rung in curves):
        drawings["curves"] = overlay_figure(curves)
    if any(gains.finished(rung) and gains.duration(rung) is not None for rung in values["rungs"]):
        drawings["cost"] = cost_figure(values)
    return drawings


def _rows(run: Values, folder: Path) -> list[Values]:
    """The epochs of a run's last phase; none where its directory is gone or damaged."""
    try:
        rows = read_lines(RunDir(folder / run["path"]).history)
    except (RunError, OSError):
        return []
    return [row for row in rows if isinstance(row, dict) and row.get("phase") == run.get("phase") and _is_whole(row)]


def _is_whole(row: Values) -> bool:
    return all(isinstance(row.get(name), int | float | None) for name in ("val_loss", "val_accuracy"))


# --------------------------------------------------------------------------------------------- page


def _render(values: Values, drawings: dict[str, Drawing], folder: Path) -> str:
    steps = [pair for pair in values["pairs"] if "step" in pair["kinds"]]
    disagreements = _disagreements(steps, values, folder)
    differ, partial = _options(values)
    return html.render(
        "comparison.html",
        values=values,
        title=_title(values),
        gains=gains,
        tiles=_tiles(values, steps),
        figures=html.inlined(drawings),
        rows=[_row(rung, values) for rung in values["rungs"]],
        steps=steps,
        others=[pair for pair in values["pairs"] if "step" not in pair["kinds"]],
        titles={name: short(title, NAME) for name, title in gains.titles(values).items()},
        disagreements=disagreements,
        thumbnails=_thumbnails(disagreements),
        tuned=[rung for rung in values["rungs"] if rung.get("tuned")],
        failed=[rung for rung in values["rungs"] if rung["failed"]],
        gone=cut(_gone(values, folder), NAMED),
        differ=differ,
        partial=partial,
        machine=html.settings({k: v for k, v in (values.get("environment") or {}).items() if k != "versions"}),
        versions=html.settings((values.get("environment") or {}).get("versions") or {}),
        command=html.command(values.get("command")),
    )


def _gone(values: Values, folder: Path) -> list[str]:
    """The names of runs whose curves or answers are not there any more."""
    runs = [RunDir(folder / run["path"]) for rung in values["rungs"] for run in rung["runs"]]
    there = [all(map(os.path.exists, (run.history, run.predictions("test")))) for run in runs]  # whatever the name
    return [short(run.root.name, NAME) for run, kept in zip(runs, there, strict=True) if not kept]


def _title(values: Values) -> str:
    name = Path(str(values["data"])).name if values.get("data") else ""
    return f"What each choice bought on {name}" if name else "What each choice bought"


def _tiles(values: Values, steps: Sequence[Values]) -> list[Values]:
    """The headline numbers."""
    there = [rung for rung in values["rungs"] if gains.finished(rung)]
    best = max(there, key=lambda rung: rung["f1_macro"]["value"], default=None)
    advice = values.get("recommendation") or {}
    gained, lost = (sum(step["verdict"] == kind for step in steps) for kind in ("gain", "loss"))
    tiles = []
    if best is not None:
        value = three(best["f1_macro"]["value"])
        tiles.append({"name": "Best test F1", "value": value, "note": short(best["title"], NAME)})
    chosen = next((rung for rung in there if rung["name"] == advice.get("rung")), None)
    if chosen is not None:
        note = f"{short(chosen['title'], NAME)}, F1 {three(chosen['f1_macro']['value'])}"
        tiles.append({"name": "Recommended takes", "value": clock(gains.duration(chosen)), "note": note})
    note = f"{counted(gained, 'gain')}, {counted(lost, 'loss', 'losses')}"
    tiles.append({"name": "Steps that are real", "value": f"{gained + lost} of {len(steps)}", "note": note})
    tiles.append({"name": "Test images", "value": f"{values['test']['images']:,}", "note": _units(values["test"])})
    return tiles


def _units(test: Values) -> str:
    same = test["units"] == test["images"]
    return "all independent" if same else f"{test['units']:,} independent groups"


def _row(rung: Values, values: Values) -> Values:
    """A row of the table: a rung with its two gains."""
    step, climb = gains.step_to(values, rung["name"]), gains.climb_to(values, rung["name"])
    chosen = rung["name"] == (values.get("recommendation") or {}).get("rung")
    return {"rung": rung, "step": step, "climb": climb, "chosen": chosen}


def _options(values: Values) -> tuple[list[Values], list[Values]]:
    """Options with different values, and those that only some rungs make use of; each rung's value as text."""
    names = [rung["name"] for rung in values["rungs"]]
    differ: list[Values] = []
    partial: list[Values] = []
    for option, by_rung in (values.get("options") or {}).items():
        texts = [html.setting(by_rung[name]) if name in by_rung else "–" for name in names]
        kinds = differ if len(set(texts) - {"–"}) > 1 else partial
        kinds.append({"option": option, "texts": texts})
    return differ, partial


# ------------------------------------------------------------------------------------ disagreements


def _disagreements(steps: Sequence[Values], values: Values, folder: Path) -> list[Values]:
    """For each step the images that one side gets right and the other wrong, where the runs can still be read.

    Both sides have the seeds that the step compares: the average of many models is better than one of them.
    """
    places = {(rung["name"], run["seed"]): folder / run["path"] for rung in values["rungs"] for run in rung["runs"]}
    found = []
    for step in (step for step in steps if not step.get("same_runs")):
        one, two = (
            opinion([places[step[side], seeds[at]] for seeds in step["seeds"] if (step[side], seeds[at]) in places])
            for at, side in enumerate(("first", "second"))
        )
        both = sides(one, two) if one is not None and two is not None else None
        if both is not None and one is not None and two is not None:
            found.append({"step": step, "sides": both, "folders": [*one.folders, *two.folders]})
    return found


def _thumbnails(disagreements: Sequence[Values]) -> dict[str, str | None]:
    """The small picture of every image that is shown, kept by the run that got it wrong."""
    return {
        item.sha256: html.thumbnail(found["folders"], item.sha256)
        for found in disagreements
        for side in (found["sides"].only_first, found["sides"].only_second)
        for item in side.items
    }
