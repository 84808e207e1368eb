"""What stopping costs: a whole cycle, one that patience cuts, and one whose rate goes down before it stops.

    python lab/stopping_study.py FOLDER --data DATA [--photos 800] [--size 80] [--seeds 5] [--epochs 15] [--patience 2]

DATA/CLASS/* is sampled and split by class; 30 % of the training labels are changed to another class, those of
validation and test images are not. Each way trains all layers from a new head. FOLDER/stopping.jsonl has of each run
the updates made, and F1 and log loss of the test images by the weights of the best epoch.
"""

import argparse
import csv
import random
from pathlib import Path
from statistics import mean, stdev

import upcycle
from upcycle.rundir import append_line, read_lines

CHANGED = 0.3
WAYS: dict[str, dict[str, object]] = {
    "whole": {},
    "cut": {"cooldown": 0.0},
    "1-sqrt, fifth": {"cooldown": 0.2, "cooldown_shape": "1-sqrt"},
    "linear, fifth": {"cooldown": 0.2, "cooldown_shape": "linear"},
    "1-sqrt, tenth": {"cooldown": 0.1, "cooldown_shape": "1-sqrt"},
    "linear, tenth": {"cooldown": 0.1, "cooldown_shape": "linear"},
}


def noisy(data: Path, photos: int, seed: int, folder: Path) -> Path:
    """A manifest of a stratified sample with a part of the training labels changed."""
    draw = random.Random(seed)
    classes = sorted(path.name for path in data.iterdir() if path.is_dir())
    files = {name: sorted((data / name).iterdir()) for name in classes}
    total, rows = sum(map(len, files.values())), []
    for name in classes:
        chosen = draw.sample(files[name], round(photos * len(files[name]) / total))
        for at, path in enumerate(chosen):
            split = "val" if at < 0.2 * len(chosen) else "test" if at < 0.45 * len(chosen) else "train"
            wrong = split == "train" and draw.random() < CHANGED
            label = draw.choice([other for other in classes if other != name]) if wrong else name
            rows.append((str(path), label, split))
    file = folder / f"noisy-{seed}.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("path", "label", "split"), *rows])
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--arch", default="tf_efficientnet_lite0")
    parser.add_argument("--photos", type=int, default=800)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--patience", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept = asked.folder / "stopping.jsonl"
    done = {(row["way"], row["seed"]) for row in read_lines(kept)}
    for seed in range(asked.seeds):
        data = noisy(asked.data, asked.photos, seed, asked.folder)
        for way, options in WAYS.items():
            if (way, seed) in done:
                continue
            patience = {} if way == "whole" else {"patience": asked.patience}
            run = upcycle.train(
                data,
                out=asked.folder / "runs" / f"{way.replace(', ', '-')}-{seed}",
                arch=asked.arch,
                epochs=asked.epochs,
                image_size=asked.size,
                seed=seed,
                freeze="none",
                probe=False,
                checkpoint_every=0,
                threads=asked.threads,
                cache=str(asked.folder / "cache"),
                **patience,
                **options,
            )
            tuned = run.evaluation["test"]
            last = run.history.rows[-1]
            row = {"way": way, "seed": seed, "updates": last.step, "f1": tuned.f1_macro.value}
            ends = {"last_val_loss": last.val_loss, "last_val_f1": last.val_f1_macro, "last_best": last.best}
            append_line(kept, {**row, "log_loss": tuned.log_loss.value, "epochs": len(run.history), **ends})
    rows = read_lines(kept)
    whole = {row["seed"]: row for row in rows if row["way"] == "whole"}
    print("| way | updates | F1 | less than the whole cycle, paired | log loss | val loss, F1 of the last epoch |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        own = [row for row in rows if row["way"] == way]
        less = [row["f1"] - whole[row["seed"]]["f1"] for row in own]
        spread = stdev(less) / len(less) ** 0.5 if len(less) > 1 else 0.0
        print(
            f"| {way} | {mean(row['updates'] for row in own):.0f} | {mean(row['f1'] for row in own):.4f} | "
            f"{100 * mean(less):+.2f} ± {100 * spread:.2f} | {mean(row['log_loss'] for row in own):.4f} | "
            f"{mean(row['last_val_loss'] for row in own):.3f}, {mean(row['last_val_f1'] for row in own):.3f} |"
        )


if __name__ == "__main__":
    main()
