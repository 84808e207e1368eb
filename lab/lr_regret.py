"""What a learning-rate finder costs: the scores of a grid of rates, less those at the rate that each rule picks.

    python lab/lr_regret.py FOLDER --grid FOLDER/grid.jsonl --weights FILE --sets NAME=DATA[:PHOTOS[:SIZE]] ...

The grid is that of lab/rate_grid.py, whose --sets, --half and --epochs this takes. For each set, with the upper half of
the network trained and with all layers, and for each seed of the grid, `find_lr` runs once. Regret is the best value of
the grid, the mean over its seeds, less the value at the pick, interpolated in the logarithm of the rate: points of test
F1, and thousandths of a nat of validation loss. A pick beyond the grid has the value of its end; a rate at which a
seed diverged has the worst value of the others. `adapted` is the rate by the probe's loss, which takes a rule's place
where there is no usable valley, marked *. FOLDER/lr_regret.jsonl has every finding, FOLDER/lr_regret.md the table.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from choose_regret import sampled

import upcycle
from upcycle.reporting.progress import Silent
from upcycle.rundir import append_line, read_lines
from upcycle.training.rate_curve import RULES

FIXED = 1e-3
SCORES = {"test_f1": (100.0, 1), "val_loss": (1000.0, -1)}
"""The factor that regret is shown with, and whether more is better."""
PICKS = (*RULES, "adapted", "fixed")


def tested(data: Path, freeze: str, seed: int, size: int, asked: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The rates of one finding, by rule, with their intervals."""
    found = upcycle.find_lr(
        data,
        num_updates=asked.num_updates,
        repeats=asked.repeats,
        out=out,
        show=Silent(),
        weights=str(asked.weights),
        threads=asked.threads,
        cache=str(asked.folder / "cache"),
        freeze=freeze,
        seed=seed,
        epochs=asked.epochs,
        image_size=size,
    )
    picks = {one.rule: [one.lr, one.low, one.high] for one in found.suggestions}
    return {"picks": picks, "adapted": found.fallback, "reason": found.peak.reason, "seconds": found.seconds}


def values(rows: list[dict[str, Any]], score: str) -> tuple[list[float], list[float]]:
    """The rates of a grid and the mean score of each over its seeds; the worst where one of them diverged."""
    rates = sorted({row["lr"] for row in rows})
    by_rate = [[row.get(score, math.nan) for row in rows if row["lr"] == rate] for rate in rates]
    means = [float(np.mean(one)) for one in by_rate]
    finite = [mean for mean in means if math.isfinite(mean)]
    worst = min(finite) if SCORES[score][1] > 0 else max(finite)
    return rates, [mean if math.isfinite(mean) else worst for mean in means]


def regret(rows: list[dict[str, Any]], score: str, rate: float) -> float:
    """The best score of the grid less that at `rate`, in the units of the table."""
    factor, sign = SCORES[score]
    rates, means = values(rows, score)
    there = float(np.interp(math.log(rate), np.log(rates), means))
    return factor * sign * ((max if sign > 0 else min)(means) - there)


def picked(row: dict[str, Any], rule: str) -> tuple[float, str]:
    """The rate of a rule, and the rate with its interval as text."""
    if rule == "fixed":
        return FIXED, f"{FIXED:.1e}"
    if rule == "adapted" or not row["picks"]:
        return row["adapted"], f"{row['adapted']:.1e}{'' if rule == 'adapted' else '*'}"
    lr, low, high = row["picks"][rule]
    return lr, f"{lr:.1e}" + (f" ({low:.0e} to {high:.0e})" if low is not None and math.isfinite(low) else "")


def table(grid: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """Markdown: regret in F1, in validation loss, and the pick of each rule; the mean of each rule last."""
    lines = [f"| set, freeze, seed | {' | '.join(PICKS)} |", "|---" * (len(PICKS) + 1) + "|"]
    every: dict[str, list[list[float]]] = {rule: [] for rule in PICKS}
    for row in found:
        own = [one for one in grid if (one["set"], one["freeze"]) == (row["set"], row["freeze"])]
        if not any("test_f1" in one for one in own):
            continue
        cells = []
        for rule in PICKS:
            rate, text = picked(row, rule)
            both = [regret(own, score, rate) for score in SCORES]
            every[rule].append(both)
            cells.append(f"{both[0]:.1f}, {both[1]:.0f} at {text}")
        lines.append(f"| {row['set']}, {row['freeze']}, {row['seed']} | {' | '.join(cells)} |")
    means = ["{:.1f}, {:.0f}".format(*np.mean(every[rule], axis=0)) if every[rule] else "–" for rule in PICKS]
    worst = ["{:.1f}, {:.0f}".format(*np.max(every[rule], axis=0)) if every[rule] else "–" for rule in PICKS]
    return "\n".join([*lines, f"| mean | {' | '.join(means)} |", f"| worst | {' | '.join(worst)} |"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--half", default="layer2", help="the last layer of the lower half")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--num-updates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept, grid = asked.folder / "lr_regret.jsonl", read_lines(asked.grid)
    done = {(row["set"], row["freeze"], row["seed"]) for row in read_lines(kept)}
    for one in asked.sets:
        name, _, where = one.partition("=")
        place, photos, size = (*where.split(":"), "", "")[:3]
        data = sampled(Path(place), int(photos), asked.folder) if photos else Path(place)
        for freeze in (asked.half, "none"):
            seeds = {row["seed"] for row in grid if (row["set"], row["freeze"]) == (name, freeze)}
            for seed in sorted(seeds):
                if (name, freeze, seed) not in done:
                    out = asked.folder / "findings" / f"{name}-{freeze}-{seed}"
                    found = tested(data, freeze, seed, int(size or 224), asked, out)
                    append_line(kept, {"set": name, "freeze": freeze, "seed": seed, **found})
    made = table(grid, read_lines(kept))
    (asked.folder / "lr_regret.md").write_text(made)
    print(made, end="")


if __name__ == "__main__":
    main()
