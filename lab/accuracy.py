"""Test F1 of the recipes on the photo sets in ../shared/assets, seed by seed, beside the frozen probe's.

    python lab/accuracy.py --out lab/2026-11-23-accuracy/runs \
        cats_dogs:default:0,1,2 cats_dogs:classic:0 hymenoptera:default:0,1,2

Runs that are finished are not repeated, unfinished ones go on. Beside --out it writes results.json and results.md.
"""

import argparse
import json
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

import upcycle
from upcycle.evaluation.results import Predictions
from upcycle.rundir import read_json, read_lines, write_json, write_text

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
WEIGHTS = ASSETS / "weights" / "resnet50_imagenet_pq.fp16.safetensors"
OPTIONS: dict[str, dict[str, Any]] = {"hymenoptera": {"test_split": "val"}}


def run(name: str, recipe: str, seed: int, out: Path) -> upcycle.Run:
    """The finished run of one cell, made or read."""
    path = out / f"{name}-{recipe}-{seed}"
    options = {} if (path / "config.json").exists() else {"recipe": recipe, "seed": seed, "weights": str(WEIGHTS)}
    options |= {} if not options else OPTIONS.get(name, {})
    return upcycle.train(None if not options else ASSETS / "data" / name, out=path, resume=True, **options)


def row(name: str, recipe: str, seed: int, done: upcycle.Run) -> dict[str, Any]:
    """What a run came to, as plain values."""
    known, clocks = done.evaluation, read_lines(done.directory.timings)
    chosen = known.choice.chosen if known.choice else None
    probe = known.named.get("probe_test")
    tuned = known.named.get("finetune_test", known["test"])
    return {
        "set": name,
        "recipe": recipe,
        "seed": seed,
        "test_images": known["test"].n,
        "f1": asdict(known["test"].f1_macro),
        "accuracy": asdict(known["test"].accuracy),
        "probe_f1": probe.f1_macro.value if probe else None,
        "finetune_f1": tuned.f1_macro.value,
        "chosen": chosen,
        "epochs": len(done.history.of("finetune")),
        "seconds": done.directory.status()["seconds"],
        "epoch_seconds": [clock["seconds"] for clock in clocks],
        "images_per_second": statistics.median(clock["images_per_second"] for clock in clocks),
    }


def paired(ours: Predictions, theirs: Predictions, *, draws: int = 2_000) -> dict[str, float]:
    """Difference of macro F1 on the same images, with its percentile interval over resampled images."""
    order = {digest: at for at, digest in enumerate(theirs.hashes)}
    match = [order[digest] for digest in ours.hashes]
    labels, mine, other = ours.labels, ours.predicted(), theirs.predicted()[match]
    chosen = np.random.default_rng(0).integers(0, len(labels), (draws, len(labels)))

    def difference(at: Any) -> float:
        scores = [f1_score(labels[at], made[at], average="macro", zero_division=0) for made in (mine, other)]
        return float(scores[0] - scores[1])

    low, high = np.percentile([difference(at) for at in chosen], [2.5, 97.5])
    return {"difference": difference(slice(None)), "low": float(low), "high": float(high)}


def table(rows: list[dict[str, Any]]) -> str:
    """A line a set and recipe: means over seeds, with the standard deviation."""
    lines = [
        "| set | recipe | seeds | test F1 | frozen probe's F1 | kept | epochs | wall s | images/s |",
        "|" + "---|" * 9,
    ]
    for name, recipe in dict.fromkeys((row["set"], row["recipe"]) for row in rows):
        some = [row for row in rows if (row["set"], row["recipe"]) == (name, recipe)]
        probes = [row["probe_f1"] for row in some if row["probe_f1"] is not None]
        cells = [
            name,
            recipe,
            str(len(some)),
            spread([row["f1"]["value"] for row in some]),
            spread(probes) if probes else "-",
            ", ".join(str(row["chosen"] or "-") for row in some),
            ", ".join(str(row["epochs"]) for row in some),
            ", ".join(f"{row['seconds']:.0f}" for row in some),
            ", ".join(f"{row['images_per_second']:.1f}" for row in some),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and standard deviation, each value beside them."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation} ({', '.join(f'{value:.4f}' for value in values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", metavar="SET:RECIPE:SEEDS")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    done: dict[tuple[str, str, int], upcycle.Run] = {}
    for cell in arguments.cells:
        name, recipe, seeds = cell.split(":")
        for seed in map(int, seeds.split(",")):
            done[name, recipe, seed] = run(name, recipe, seed, arguments.out)
            rows.append(row(name, recipe, seed, done[name, recipe, seed]))
    pairs = {
        f"{name}: default seed {seed} - classic seed {other}": paired(one.predictions(), two.predictions())
        for (name, recipe, seed), one in done.items()
        for (again, rival, other), two in done.items()
        if name == again and (recipe, rival) == ("default", "classic")
    }
    environment = read_json(next(iter(done.values())).directory.environment)
    results = {
        "command": " ".join(sys.argv),
        "platform": platform.platform(),
        "environment": {key: value for key, value in environment.items() if key != "command"},
        "rows": rows,
        "paired_f1": pairs,
    }
    write_json(arguments.out.parent / "results.json", results)
    text = table(rows) + "\n" + "".join(f"- {name}: {json.dumps(value)}\n" for name, value in pairs.items())
    write_text(arguments.out.parent / "results.md", text)
    print(text)


if __name__ == "__main__":
    main()
