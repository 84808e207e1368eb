"""What the choice of a backbone costs after fine-tuning: `upcycle choose` beside two rules of thumb.

    python lab/choose_regret.py FOLDER --candidates resnet50=FILE,tf_efficientnet_lite0,...
        --sets NAME=DATA[:PHOTOS] ... [--threads 1]

For each set every candidate is trained by `upcycle train` as it comes, at its own image size, and tested; `choose`
races the same candidates. Regret is the best test F1 of all, less that of the one which was picked: by choose, by the
highest accuracy on ImageNet, by the end of the list, or resnet50 whatever comes. With :PHOTOS a set is a stratified
sample of so many of its images, which keep their declared split. FOLDER/regret.jsonl has every run, FOLDER/regret.md
the table.
"""

import argparse
import csv
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from upcycle.rundir import append_line, read_json, read_lines

IMAGENET = {
    "resnet50": 76.1,
    "tf_efficientnet_lite0": 74.8,
    "tf_efficientnet_lite1": 76.6,
    "tf_efficientnet_lite2": 77.5,
}
"""Top-1 accuracy of timm's tables, %."""


def sampled(data: Path, photos: int, folder: Path) -> Path:
    """A manifest of so many images of DATA/[train|val|test/]CLASS, the same share of each split and class."""
    cells = defaultdict(list)
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        *split, label = path.relative_to(data).parts[:-1]
        cells[label, *split].append(path)
    total, rows = sum(map(len, cells.values())), []
    for cell, files in cells.items():
        chosen = random.Random(0).sample(files, round(photos * len(files) / total))
        rows += [(str(path), *cell) for path in sorted(chosen)]
    file = folder / f"{data.name}-{photos}.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("path", "label", "split")[: len(rows[0])], *rows])
    return file


def upcycle(words: list[str], log: Path) -> float:
    """Seconds of one command."""
    began = time.perf_counter()
    with log.open("a") as file:
        subprocess.run([sys.executable, "-m", "upcycle", *words], check=True, stdout=file, stderr=file)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--candidates", required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept, log = asked.folder / "regret.jsonl", asked.folder / "running.log"
    names = [one.partition("=")[::2] for one in asked.candidates.split(",")]
    common = ["--threads", str(asked.threads), "--cache", str(asked.folder / "cache")]
    for one in asked.sets:
        name, _, where = one.partition("=")
        place, _, photos = where.partition(":")
        data = sampled(Path(place), int(photos), asked.folder) if photos else Path(place)
        done = {row["arch"] for row in read_lines(kept) if row["set"] == name}
        if "choose" not in done:
            out = asked.folder / f"{name}-choose"
            seconds = upcycle(["choose", str(data), "--candidates", asked.candidates, "--out", str(out), *common], log)
            found = read_json(out / "choice.json")
            picked = {"winner": found["winner"], "alike": found["alike"], "verdict": found["verdict"]}
            append_line(kept, {"set": name, "arch": "choose", "seconds": seconds, **picked, "train": found["train"]})
        for arch, weights in names:
            if arch in done:
                continue
            out = asked.folder / f"{name}-{arch}"
            given = ["--weights", weights] if weights else []
            seconds = upcycle(["train", str(data), "--arch", arch, *given, "--out", str(out), *common], log)
            scores = read_json(out / "evaluation.json")
            row = {split: scores[split]["f1_macro"]["value"] for split in ("val", "test")}
            row |= {"kept": scores.get("choice", {}).get("chosen"), "seconds": seconds}
            append_line(kept, {"set": name, "arch": arch, **row, "val_loss": scores["val"]["log_loss"]["value"]})
    (asked.folder / "regret.md").write_text(table(read_lines(kept), [arch for arch, _ in names]))


def table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Markdown."""
    lines = ["| set | " + " | ".join(names) + " | choose's winner | imagenet's best | the last | resnet50 |"]
    lines.append("|---" * (len(names) + 5) + "|")
    for one in dict.fromkeys(row["set"] for row in rows):
        tested = {row["arch"]: row["test"] for row in rows if row["set"] == one and row["arch"] != "choose"}
        if len(tested) < len(names):
            continue
        picked = next(row["winner"] for row in rows if row["set"] == one and row["arch"] == "choose")
        best = max(tested.values())
        rules = [picked, max(names, key=IMAGENET.__getitem__), names[-1], "resnet50"]
        regrets = [f"{100 * (best - tested[rule]):.1f} ({rule.removeprefix('tf_efficientnet_')})" for rule in rules]
        lines.append(f"| {one} | " + " | ".join([*(f"{tested[name]:.4f}" for name in names), *regrets]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
