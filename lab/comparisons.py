"""Keep comparisons of `upcycle compare` in a dated folder: comparison.json, figures and page, and one table of all.

    python benchmarks/comparisons.py FOLDER NAME=COMPARISON [NAME=COMPARISON ...]

COMPARISON is the --out of `upcycle compare`. FOLDER/results.md is written from the kept files.
FOLDER/NAME/runs.tar.xz holds what a comparison reads of each run, without weights. Unpacked
(`tar -xJf runs.tar.xz -C OUT/runs`), the runs can be compared again: `upcycle compare OUT/runs/*`.
"""

import argparse
import lzma
import shutil
import tarfile
from pathlib import Path

from upcycle.comparison.results import Comparison, VariantResult, read_comparison
from upcycle.reporting.comparison_page import chance, epochs, signed_points
from upcycle.reporting.text import clock
from upcycle.rundir import write_text

COMPARED = ("config", "model", "status", "environment", "evaluation")
"""What a comparison reads of a run: stems of JSON files."""
LINES = ("splits.csv", "history.jsonl", "timings.jsonl", "predictions/test.csv")
"""The same: files of lines."""


def keep(comparison: Path, kept: Path) -> None:
    """Copy one comparison to `kept`."""
    shutil.rmtree(kept, ignore_errors=True)
    (kept / "figures").mkdir(parents=True)
    pack(comparison, kept / "runs.tar.xz")
    figures = (f"figures/{path.name}" for path in sorted((comparison / "figures").glob("*.svg")))
    for file in ("comparison.json", "comparison.html", *figures):
        shutil.copy(comparison / file, kept / file)


def pack(comparison: Path, archive: Path) -> None:
    """Write what comparisons read of the runs, under the runs' names, without who packed it and when."""

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


def table(made: Comparison) -> list[str]:
    """The comparison as a Markdown table, its pairs and its notes."""
    lines = ["| variant | seeds | accuracy, % | test F1 | gain over baseline | epochs | time |", "|" + "---|" * 7]
    lines += [_row(made, one) for one in made.variants]
    lines.append("")
    for pair in made.pairs:
        gain = f"{signed_points(pair.f1.value)} ({signed_points(pair.f1.low)} to {signed_points(pair.f1.high)})"
        lines.append(f"- {pair.first} -> {pair.second}: {gain}, {pair.verdict}, corrected p {chance(pair.f1.p)}")
    advice = [made.recommendation.reason] if made.recommendation else []
    return [*lines, "", *(f"- {text}" for text in [*made.notes, *advice])]


def _row(made: Comparison, one: VariantResult) -> str:
    if one.f1_macro is None or one.accuracy is None:
        return f"| {one.name} | 0 | - | no run finished | | | |"
    gain = made.over_baseline(one.name)
    cells = [
        one.name,
        str(len(one.runs)),
        f"{100 * one.accuracy.value:.1f}",
        f"{one.f1_macro.value:.3f} [{one.f1_macro.low:.3f}, {one.f1_macro.high:.3f}]",
        signed_points(gain.f1.value) if gain else "baseline",
        epochs(one),
        clock(one.cost.seconds if one.cost else None),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Keep what was asked for, then write the table of everything in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("comparisons", nargs="*", metavar="NAME=COMPARISON")
    asked = parser.parse_args()
    for text in asked.comparisons:
        name, _, place = text.partition("=")
        keep(Path(place), asked.folder / name)
    lines = ["# Comparisons", ""]
    for file in sorted(asked.folder.glob("*/comparison.json")):
        made = read_comparison(file.parent)
        lines += [f"## {file.parent.name}", "", f"    {made.about.command}", "", *table(made), ""]
        lines += [f"Trained on {'; '.join(made.machines)}", ""]
    write_text(asked.folder / "results.md", "\n".join(lines))


if __name__ == "__main__":
    main()
