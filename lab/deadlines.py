"""Whether runs end on time, how much of it they use, and what F1 a deadline costs beside the same time simply cut.

    python lab/deadlines.py late FOLDER --data DATA --weights FILE [--deadline 90s] [--runs 20] [--quiet] [--threads 1]
    python lab/deadlines.py cut FOLDER --data DATA --weights FILE --deadlines 60s,90s,150s [--seeds 2] [--threads 1]

`late` trains again and again with a deadline, each a process of its own that is timed from outside. Unless --quiet, a
second process computes on one core at a time, drawn at random, for 2 to 10 seconds, and rests as long.
FOLDER/late.jsonl has each run.

`cut` trains with each deadline, and once without, whose best weights are kept after every epoch: those of the last
epoch within a deadline are what one has who cuts there, without the time of a test. FOLDER/cut.jsonl has both.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import upcycle
from upcycle.history import Row
from upcycle.jobs.clock import parse_duration
from upcycle.rundir import append_line, read_json, read_lines

THIEF = """
import os, random, time
draw = random.Random({seed})
cores = sorted(os.sched_getaffinity(0))
while True:
    os.sched_setaffinity(0, [draw.choice(cores)])
    end = time.monotonic() + draw.uniform(2, 10)
    while time.monotonic() < end:
        sum(range(10000))
    time.sleep(draw.uniform(2, 10))
"""


def words(asked: argparse.Namespace, seed: int) -> list[str]:
    """The options of a training."""
    own = ["--weights", str(asked.weights)] if asked.weights else []
    return [*own, "--threads", str(asked.threads), "--cache", str(asked.folder / "cache"), "--seed", str(seed)]


def timed(asked: argparse.Namespace, out: Path, deadline: str, seed: int) -> dict[str, object]:
    """A training with a deadline, timed from outside."""
    command = [sys.executable, "-m", "upcycle", "train", str(asked.data), *words(asked, seed), *asked.options.split()]
    began = time.perf_counter()
    with (asked.folder / "running.log").open("a") as log:
        done = subprocess.run([*command, "--out", str(out), "--deadline", deadline], stdout=log, stderr=log)
    seconds = time.perf_counter() - began
    changes = read_lines(out / "plan.jsonl")
    budget = changes[0] if changes else {}
    return {
        "deadline": deadline,
        "seed": seed,
        "exit": done.returncode,
        "seconds": round(seconds, 2),
        "used": round(seconds / parse_duration(deadline, "deadline"), 4),
        "image_size": budget.get("image_size"),
        "planned": budget.get("steps"),
        "replans": sum(change["event"] == "replan" for change in changes),
        "updates": upcycle.Run(out).history.rows[-1].step if len(upcycle.Run(out).history) else 0,
        "f1": read_json(out / "evaluation.json")["test"]["f1_macro"]["value"],
    }


def late(asked: argparse.Namespace) -> None:
    kept = asked.folder / "late.jsonl"
    for number in range(len(read_lines(kept)), asked.runs):
        thief = None
        if not asked.quiet:
            thief = subprocess.Popen([sys.executable, "-c", THIEF.format(seed=number)])
        try:
            row = timed(asked, asked.folder / f"run-{number}", asked.deadline, number)
        finally:
            if thief:
                thief.kill()
        append_line(kept, {"thief": not asked.quiet, "load": os.getloadavg()[0], **row})
    rows = read_lines(kept)
    times = parse_duration(asked.deadline, "deadline")
    print(f"{sum(row['seconds'] > times for row in rows)} of {len(rows)} late at {asked.deadline}")
    used = sorted(row["used"] for row in rows)
    print(f"used: median {median(used):.3f}, {used[0]:.3f} to {used[-1]:.3f}")


class Keeper:
    """Keeps the best weights after every epoch, and when that was."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.began, self.ended = folder, time.monotonic(), list[float]()
        self.run: Path | None = None

    def started(self, run: upcycle.Run) -> None:
        self.run = run.path

    def epoch(self, row: Row) -> None:
        assert self.run is not None
        self.ended.append(time.monotonic() - self.began)
        shutil.copy(self.run / "checkpoints" / "best.safetensors", self.folder / f"epoch-{row.epoch}.safetensors")


def cut(asked: argparse.Namespace) -> None:
    kept = asked.folder / "cut.jsonl"
    done = {(row["way"], row["deadline"], row["seed"]) for row in read_lines(kept)}
    for seed in range(asked.seeds):
        for deadline in asked.deadlines.split(","):
            if ("deadline", deadline, seed) not in done:
                row = timed(asked, asked.folder / f"deadline-{deadline}-{seed}", deadline, seed)
                append_line(kept, {"way": "deadline", **row})
        if any(way == "cut" and of == seed for way, _, of in done):
            continue
        out, weights = asked.folder / f"full-{seed}", asked.folder / f"weights-{seed}"
        weights.mkdir(exist_ok=True)
        keeper = Keeper(weights)
        options = {"weights": str(asked.weights)} if asked.weights else {}
        upcycle.train(
            asked.data,
            out=out,
            observers=[keeper],
            threads=asked.threads,
            cache=str(asked.folder / "cache"),
            seed=seed,
            fine_tune="always",
            **options,
        )
        whole = upcycle.Run(out).evaluation
        append_line(kept, {"way": "whole", "deadline": "", "seed": seed, "f1": whole.test.f1_macro.value})
        for deadline in asked.deadlines.split(","):
            within = [at for at, ended in enumerate(keeper.ended, 1) if ended <= parse_duration(deadline, "deadline")]
            f1 = None
            if within:
                copy = asked.folder / f"cut-{deadline}-{seed}"
                shutil.copytree(out, copy, dirs_exist_ok=True)
                (copy / "manifest.json").unlink()
                shutil.copy(weights / f"epoch-{within[-1]}.safetensors", copy / "checkpoints" / "best.safetensors")
                f1 = upcycle.evaluate(copy).f1_macro.value
            epochs = within[-1] if within else 0
            append_line(kept, {"way": "cut", "deadline": deadline, "seed": seed, "epochs": epochs, "f1": f1})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["late", "cut"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--deadline", default="90s")
    parser.add_argument("--deadlines", default="60s,90s,150s")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--options", default="--fine-tune always", help="more options of the training")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    random.seed(0)
    (late if asked.what == "late" else cut)(asked)


if __name__ == "__main__":
    main()
