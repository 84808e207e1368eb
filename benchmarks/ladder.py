"""Keep comparisons of `upcycle compare` in a dated folder: comparison.json, figures and page, and one table of all.

    python benchmarks/ladder.py FOLDER NAME=COMPARISON [NAME=COMPARISON ...]

COMPARISON is the --out of `upcycle compare`. The pages are made anew from copies of the runs without their
thumbnails: photographs of the data sets are not kept. FOLDER/results.md is written from the kept files.
FOLDER/NAME/runs.tar.xz holds what a comparison reads of each run and each trial of a rate, without weights. Unpacked
(`tar -xJf runs.tar.xz -C OUT/runs`), the runs can be compared again (`upcycle compare OUT/runs/*`), or the grid gone on
with: `upcycle compare DATA ... --out OUT --resume` takes those that are there.
"""

import argparse
import lzma
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from upcycle.reporting import gains
from upcycle.reporting.comparison import write_comparison
from upcycle.reporting.names import clock
from upcycle.rundir import read_json, write_json, write_text

READ = ("history.jsonl", "status.json", "predictions")
"""What the page reads of a run."""
COMPARED = ("config", "model", "status", "environment", "evaluation")
"""What a comparison reads of a run: stems of JSON files."""
LINES = ("splits.csv", "history.jsonl", "timings.jsonl", "predictions/test.csv")
"""The same: files of lines."""


def keep(comparison: Path, kept: Path) -> None:
    """Copy one comparison to `kept`, its page without pictures."""
    values = read_json(comparison / "comparison.json")
    with tempfile.TemporaryDirectory() as temporary:
        bare = Path(temporary)
        for rung in values["rungs"]:
            for run in rung["runs"]:
                name = f"{rung['name']}-{run['seed']}"
                (bare / "runs" / name).mkdir(parents=True)
                for part in READ:
                    source = comparison / run["path"] / part
                    (shutil.copytree if source.is_dir() else shutil.copy)(source, bare / "runs" / name / part)
                run["path"] = f"runs/{name}"
        write_json(bare / "comparison.json", values)
        write_comparison(bare)
        shutil.rmtree(kept, ignore_errors=True)
        (kept / "figures").mkdir(parents=True)
        pack(comparison, kept / "runs.tar.xz")
        for file in ("comparison.json", "comparison.html", *(f"figures/{path.name}" for path in _svg(bare))):
            shutil.copy(bare / file, kept / file)


def pack(comparison: Path, archive: Path) -> None:
    """Write what comparisons read of the runs, under the runs' names, without what tells who packed it and when."""

    def bare(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    runs = [run for run in sorted((comparison / "runs").iterdir()) if (run / "predictions/test.csv").exists()]
    with tarfile.open(archive, "w:xz", preset=9 | lzma.PRESET_EXTREME) as packed:
        # one kind of file after another: the same images' lines lie near each other and pack well
        for part in (*LINES, *(f"{stem}.json" for stem in COMPARED)):
            for run in runs:
                if (run / part).exists():  # a probe has no timings
                    packed.add(run / part, f"{run.name}/{part}", filter=bare)


def _svg(folder: Path) -> list[Path]:
    return sorted((folder / "figures").glob("*.svg"))


def table(values: dict[str, Any]) -> list[str]:
    """The ladder as a Markdown table, and its sentences."""
    lines = [
        "| rung | seeds | accuracy, % | test F1 | spread | over the one before | real? | epochs | time | tuning |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rung in values["rungs"]:
        if not gains.finished(rung):
            lines.append(f"| {rung['name']} | 0 | - | no run finished | | | | | | |")
            continue
        f1, step = rung["f1_macro"], gains.step_to(values, rung["name"])
        cells = [
            rung["name"],
            str(len(rung["seeds"])),
            f"{100 * rung['accuracy']['value']:.1f}",
            f"{f1['value']:.3f} [{f1['low']:.3f}, {f1['high']:.3f}]",
            "-" if f1["spread"] is None else f"{f1['spread']:.4f}",
            *(_step(step) if step else ("", "")),
            gains.epochs_words(rung),
            gains.once_words(rung),
            clock(rung["tuning_seconds"]) if rung["tuning_seconds"] else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    sentences = [pair["says"] for pair in values["pairs"] if "step" in pair["kinds"]]
    advice = [values["recommendation"]["says"]] if values.get("recommendation") else []
    return [*lines, "", *(f"- {text}" for text in [*sentences, *values["says"], *advice])]


def _step(pair: dict[str, Any]) -> tuple[str, str]:
    low, high = pair["f1_difference"]["interval"]
    gained = f"{100 * pair['f1_difference']['value']:+.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return gained, f"{pair['verdict']}, corrected p {gains.chance(pair['holm']['p'])}"


def main() -> None:
    """Keep what was asked for, then write the table of everything in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("comparisons", nargs="*", metavar="NAME=COMPARISON")
    asked = parser.parse_args()
    for text in asked.comparisons:
        name, _, place = text.partition("=")
        keep(Path(place), asked.folder / name)
    lines = ["# What each choice bought", ""]
    for file in sorted(asked.folder.glob("*/comparison.json")):
        values = read_json(file)
        lines += [f"## {file.parent.name}", "", f"    {values['command']}", "", *table(values), ""]
        machine = values["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
        lines += [
            f"{machine.get('processor')}, {machine.get('threads')} threads, {machine.get('precision')}; {versions}",
            "",
        ]
    write_text(asked.folder / "results.md", "\n".join(lines))


if __name__ == "__main__":
    main()
