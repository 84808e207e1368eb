"""This checkout beside an earlier one, in turn: seconds, memory, images/s; and the probe's test F1 on equal splits.

    python lab/against.py CHECKOUT --weights FILE --data DATA [--rounds 9] [--kinds help plan scan throughput]
    python lab/against.py CHECKOUT --weights FILE --f1 NAME=DATA:SIZE [...] [--splits 5]
    python lab/against.py . --environment OMP_WAIT_POLICY=PASSIVE --weights FILE --data DATA --kinds throughput

The first round is not counted, and every other one begins with the other side. Ratios are CHECKOUT's to this one's, so
that more than 1 is better now (images/s: this one's to CHECKOUT's), with the mean's 95 % interval. "throughput" is a
command of two epochs of ResNet-50 at 128 px without a probe. `--environment` is set for this checkout alone. `--f1`
splits all images of a set, by the seeds from 0.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from scipy.stats import t as student

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("help", "plan", "scan", "throughput")
PICTURES = (".jpg", ".jpeg", ".png")


def run(checkout: Path, words: list[str], own: Mapping[str, str], folder: Path) -> tuple[float, float]:
    """Seconds and the most memory, MB, of a command by the code of a checkout; CalledProcessError where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), **own}
    with (folder / "log").open("w") as log:
        started = time.perf_counter()
        command = [sys.executable, "-m", "upcycle", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise subprocess.CalledProcessError(status, command, (folder / "log").read_text()[-500:])
    return seconds, usage.ru_maxrss / 1024


def words_of(kind: str, checkout: Path, asked: argparse.Namespace, out: Path) -> list[str]:
    """The command of a kind; earlier versions trained the probe by epochs."""
    if kind == "help":
        return ["train", "--help"]
    if kind == "plan":
        return ["plan", "--epochs", "3"]
    if kind == "scan":
        return ["scan", str(asked.data.resolve()), "--out", str(out)]
    by_epochs = "head_epochs:" in (checkout / "src" / "upcycle" / "config.py").read_text()
    probe = ["--head-epochs", "0"] if by_epochs else ["--no-probe"]
    training = ["--weights", str(asked.weights.resolve()), "--epochs", "2", "--image-size", "128", *probe]
    return ["train", str(asked.data.resolve()), *training, "--out", str(out), "--cache", str(out.parent / "cache")]


def reading(
    kind: str, checkout: Path, own: Mapping[str, str], asked: argparse.Namespace, folder: Path
) -> dict[str, float]:
    """One reading of a kind."""
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    seconds, memory = run(checkout, words_of(kind, checkout, asked, out), own, folder)
    found = {"seconds": seconds}
    if kind in ("scan", "throughput"):  # what the others take is less than this script, whose peak they begin with
        found["MB"] = memory
    if kind == "throughput":
        rows = map(json.loads, (out / "timings.jsonl").read_text().splitlines())
        found["images/s"] = statistics.mean(row["images_per_second"] for row in rows)
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """The mean and the ends of its 95 % interval."""
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), statistics.mean(values) - half, statistics.mean(values) + half


def in_turn(asked: argparse.Namespace, own: Mapping[str, str], folder: Path) -> None:
    """Print a row for each kind and quantity."""
    print(f"| kind | | before | now | ratio, {asked.rounds} rounds |\n{'|---' * 5}|")
    sides = {"before": (asked.checkout, {}), "now": (ROOT, own)}
    places = {side: folder / side for side in sides}
    for place in places.values():
        place.mkdir()
    for kind in asked.kinds:
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for number in range(asked.rounds + 1):
            for side in sorted(sides, reverse=number % 2 == 1):
                made = reading(kind, *sides[side], asked, places[side])
                found[side] += [made] if number else []
        for what in found["now"][0]:
            before, now = ([one[what] for one in found[side]] for side in ("before", "now"))
            ratios = [b / n if what != "images/s" else n / b for b, n in zip(before, now, strict=True)]
            mean, low, high = interval(ratios)
            medians = f"{statistics.median(before):.3g} | {statistics.median(now):.3g}"
            print(f"| {kind} | {what} | {medians} | {mean:.3f} [{low:.3f}, {high:.3f}] |", flush=True)


def probes(asked: argparse.Namespace, folder: Path) -> None:
    """Print the probe's test F1 and log loss on splits of all images of each set."""
    print(f"| set | splits | F1 before | now | change | change of log loss |\n{'|---' * 6}|")
    for given in asked.f1:
        name, _, rest = given.partition("=")
        data, size = rest.rsplit(":", 1)
        files = sorted(file.resolve() for file in Path(data).rglob("*") if file.suffix.lower() in PICTURES)
        manifest = folder / f"{name}.csv"
        with manifest.open("w", newline="") as out:
            csv.writer(out).writerows([("path", "label"), *((str(file), file.parent.name) for file in files)])
        tests: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
        for seed in range(asked.splits):
            for side, checkout in (("before", asked.checkout), ("now", ROOT)):
                made = folder / f"{name}-{side}-{seed}"
                options = ["--weights", str(asked.weights.resolve()), "--recipe", "probe", "--image-size", size]
                place = ["--seed", str(seed), "--out", str(made), "--cache", str(folder / f"cache-{side}")]
                run(checkout, ["train", str(manifest), *options, *place], {}, folder)
                scores = json.loads((made / "evaluation.json").read_text())["test"]
                tests[side].append({name: scores[name]["value"] for name in ("f1_macro", "log_loss")})
        cells = [name, str(asked.splits)]
        for score in ("f1_macro", "log_loss"):
            before, now = ([one[score] for one in tests[side]] for side in ("before", "now"))
            changes = [n - b for b, n in zip(before, now, strict=True)]
            error = statistics.stdev(changes) / len(changes) ** 0.5
            cells += [f"{statistics.mean(before):.4f}", f"{statistics.mean(now):.4f}"] if score == "f1_macro" else []
            cells.append(f"{statistics.mean(changes):+.4f} ± {error:.4f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Read, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--environment", nargs="*", default=())
    parser.add_argument("--f1", nargs="+")
    parser.add_argument("--splits", type=int, default=5)
    asked = parser.parse_args()
    asked.checkout = asked.checkout.resolve()
    own = dict(word.split("=", 1) for word in asked.environment)
    with tempfile.TemporaryDirectory() as temporary:
        probes(asked, Path(temporary)) if asked.f1 else in_turn(asked, own, Path(temporary))


if __name__ == "__main__":
    main()
