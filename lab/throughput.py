"""Images a second of whole training epochs, upcycle beside its peers, from the same files in one run.

    python lab/throughput.py FOLDER --data DATA --weights FILE --torch-python PYTHON --keras-python PYTHON
        [--images 256] [--epochs 2] [--rounds 3] [--device cpu] [--cells "upcycle;fastai, guide;..."]

DATA is a folder with CLASS/* or train/CLASS/*; without it photographs are made up, and without --weights they are
random. Every cell (a tool in a setting) is a new process that trains all layers of ResNet-50, every image once an
epoch, with BatchNorm's statistics of the batch or fixed; the cells follow one another, round by round, so that each
meets the machine's moods. The peers' scripts are in lab/peers; `guide` is the setting of the tool's own guide,
`best` the fastest found (peer_settings.py has what was tried), with freed memory kept as upcycle keeps it. upcycle runs
its recipe `classic`, from the command line, with an empty cache: its first epoch includes the seconds that decoding the
training images took; once with batch statistics as the recipe has them, once with fixed ones, which it folds into the
convolutions. PYTHON are the interpreters of environments with the peers: pip
install torch torchvision timm fastai transformers accelerate lightning; pip install keras tensorflow. With `--device
cuda` all of them train on a GPU; fastai and Keras are measured on processors alone.
FOLDER/throughput.json holds every reading, FOLDER/throughput.md the table.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import photographs

from upcycle import device

PEERS = Path(__file__).parent / "peers"
SCRIPTS = {
    "PyTorch loop": "plain_torch.py",
    "timm": "timm_loop.py",
    "fastai": "fastai_learner.py",
    "HF Trainer": "hf_trainer.py",
    "Lightning": "lightning_trainer.py",
    "Keras": "keras_fit.py",
}
ON_A_GPU = ("PyTorch loop", "timm", "HF Trainer", "Lightning")
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1)}
"""What upcycle asks of glibc's allocator by itself, as variables for the peers' `best`."""
HELD_OUT = 2
"""Images of each class that upcycle validates and tests on; they are not timed."""


@dataclass(frozen=True)
class Cell:
    """A tool in a setting and a precision, with BatchNorm's statistics of the batch or fixed."""

    tool: str
    setting: str
    precision: str
    bn: str = "batch"


def lay_out(data: Path, folder: Path, images: int) -> list[str]:
    """`images` of DATA as folder/peers/CLASS and folder/ours/train/CLASS, and a few held out; returns the classes."""
    source = data / "train" if (data / "train").is_dir() else data
    classes = sorted(path.name for path in source.iterdir() if path.is_dir())
    each = images // len(classes)
    for name in classes:
        files = list(islice(sorted((source / name).iterdir()), each + 2 * HELD_OUT))
        if len(files) < each + 2 * HELD_OUT:
            raise SystemExit(f"{source / name} has {len(files)} images: {each + 2 * HELD_OUT} are needed")
        cut = {"ours/val": files[-HELD_OUT:], "ours/test": files[-2 * HELD_OUT : -HELD_OUT], "ours/train": files[:each]}
        for place, some in {**cut, "peers": files[:each]}.items():
            target = folder / (f"{place}/{name}")
            target.mkdir(parents=True)
            for file in some:
                shutil.copy(file, target)
    return classes


def ran(command: list[str], threads: int, **environment: str) -> str:
    """What a command prints; SystemExit with its last words where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed:\n{done.stderr[-2000:]}")
    return done.stdout


def upcycle(cell: Cell, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One run of `classic`: seconds of its epochs, decoding added to the first."""
    run, cache = folder / "run", folder / "cache"
    for left in (run, cache):
        shutil.rmtree(left, ignore_errors=True)
    options = {
        "--recipe": "classic",
        "--epochs": asked.epochs,
        "--rampup": 1,
        "--batch-size": asked.batch,
        "--image-size": asked.size,
        "--weights": asked.weights or "none",
        "--threads": asked.threads,
        "--device": asked.device,
        "--precision": cell.precision,
        "--bn": "frozen" if cell.bn == "fixed" else "train",
        "--cache": cache,
        "--out": run,
    }
    words = [str(word) for pair in options.items() for word in pair]
    ran([sys.executable, "-m", "upcycle", "train", str(folder / "ours"), *words], asked.threads)
    rows = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    decoding = json.loads((run / "status.json").read_text())["decoding_seconds"]
    seconds = [row["seconds"] for row in rows]
    versions = json.loads((run / "environment.json").read_text())["versions"]
    return {"images": asked.images, "epoch_seconds": [seconds[0] + decoding, *seconds[1:]], "versions": versions}


def peer(cell: Cell, folder: Path, asked: argparse.Namespace, *more: str, kept: bool) -> dict[str, Any]:
    """One run of a peer's script, with `more` words: the line it ends with. Freed memory is `kept` or given back."""
    python = asked.keras_python if cell.tool == "Keras" else asked.torch_python
    words = [python, str(PEERS / SCRIPTS[cell.tool]), str(folder / "peers"), "--setting", cell.setting]
    words += ["--epochs", str(asked.epochs), "--batch", str(asked.batch), "--size", str(asked.size)]
    words += ["--bn", cell.bn, "--threads", str(asked.threads), "--device", asked.device]
    words += ["--weights", str(asked.weights)] if asked.weights else []
    words += ["--bf16"] if cell.precision == "bf16" else []
    text = ran([*words, *more], asked.threads, **(KEPT_MEMORY if kept else {}))
    return dict(json.loads(text.splitlines()[-1]))


def cells(wanted: str, machine: device.Hardware) -> list[Cell]:
    """Those of all cells that are wanted: "all", or names like "upcycle" and "fastai, guide" with semicolons between.

    Mixed precision where the processor has it. Keras's guide fixes the statistics, and is taken in both precisions; no
    quicker setting of it was found (peer_settings.py). The quickest PyTorch loop is also taken with fixed statistics.
    """
    every = [Cell("upcycle", "classic", machine.precision, bn) for bn in ("batch", "fixed")]
    for tool in SCRIPTS if machine.device == "cpu" else ON_A_GPU:
        every.append(Cell(tool, "guide", "fp32", "fixed" if tool == "Keras" else "batch"))
        if tool != "Keras":
            every.append(Cell(tool, "best", machine.precision))
    every.append(Cell("PyTorch loop", "best", machine.precision, "fixed"))
    if machine.precision == "bf16" and machine.device == "cpu":
        every.append(Cell("Keras", "guide", "bf16", "fixed"))
    names = wanted.split(";")
    found = [cell for cell in every if {"all", cell.tool, f"{cell.tool}, {cell.setting}"} & set(names)]
    unknown = set(names) - {"all", *(cell.tool for cell in every), *(f"{cell.tool}, {cell.setting}" for cell in every)}
    if unknown:
        known = ", ".join(sorted({f"'{cell.tool}, {cell.setting}'" for cell in every}))
        raise SystemExit(f"unknown cells {', '.join(sorted(unknown))}: use all, a tool, or {known}")
    return found


def summary(cell: Cell, readings: list[dict[str, Any]]) -> dict[str, Any]:
    """Images a second of the first epoch and of the later ones: median, lowest and highest of the rounds."""
    speeds = {epoch: [rate(one, epoch) for one in readings] for epoch in ("first", "later")}
    told = {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in speeds.items()
    }
    return {**asdict(cell), "n": len(readings), **told, "readings": readings}


def spread(values: list[float], unit: str = "") -> str:
    """Median (lowest to highest), for a table."""
    middle = f"{statistics.median(values):.2f}{unit}"
    return f"{middle} ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else middle


def ratios(row: dict[str, Any], found: list[dict[str, Any]], epoch: str) -> list[float]:
    """How many times as fast upcycle with the same kind of statistics was, in each round that read both.

    `epoch` is "first" or "later". A reading's round is its `round`.
    """
    ours = [one for one in found if one["tool"] == "upcycle" and one["bn"] == row["bn"]]
    rates = {one["round"]: rate(one, epoch) for cell in ours for one in cell["readings"]}
    return [rates[one["round"]] / rate(one, epoch) for one in row["readings"] if one["round"] in rates]


def rate(reading: dict[str, Any], epoch: str) -> float:
    """Images a second of the "first" epoch, or the median of the "later" ones."""
    seconds = reading["epoch_seconds"]
    return float(reading["images"] / (seconds[0] if epoch == "first" else statistics.median(seconds[1:])))


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row a cell, with the ratio of upcycle to it where both have the same kind of statistics."""
    head = ["tool", "setting", "precision", "BatchNorm", "n", "first epoch, images/s", "later epochs, images/s"]
    lines = [f"| {' | '.join([*head, 'upcycle is, first epoch', 'later epochs'])} |", "|---" * (len(head) + 2) + "|"]
    for row in sorted(found, key=lambda row: -row["later"]["median"]):
        cells = [row["tool"], row["setting"], row["precision"], row["bn"], str(row["n"])]
        cells += [spread([rate(one, epoch) for one in row["readings"]]) for epoch in ("first", "later")]
        for epoch in ("first", "later"):
            times = ratios(row, found, epoch) if row["tool"] != "upcycle" else []
            cells.append(spread(times, "x") if times else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def processor_model() -> dict[str, str]:
    """Family, model and stepping of a Linux machine's processor: names alone ("AMD EPYC") leave them open."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if Path("/proc/cpuinfo").exists() else []
    known = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    return {name: known[name] for name in ("cpu family", "model", "stepping") if name in known}


def write(asked: argparse.Namespace, machine: device.Hardware, readings: dict[Cell, list[dict[str, Any]]]) -> None:
    """All readings so far and their table."""
    found = [summary(cell, values) for cell, values in readings.items() if values]
    facts = {
        "command": sys.argv,
        "processor": machine.processor,
        "model": processor_model(),
        "gpu": machine.gpu,
        "flags": machine.flags,
        "threads": machine.threads,
        "batch": asked.batch,
        "size": asked.size,
        "images": asked.images,
    }
    (asked.folder / "throughput.json").write_text(json.dumps({**facts, "cells": found}, indent=1) + "\n")
    (asked.folder / "throughput.md").write_text(table(found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--keras-python", default=sys.executable)
    parser.add_argument("--images", type=int, help="unless given, 256 on a processor, for a GPU 4096 at least")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cells", default="all")
    asked = parser.parse_args()
    machine = device.detect(threads=asked.threads, device=asked.device)
    asked.threads = machine.threads
    # an epoch of a few batches a loader worker would measure how long the first ones take
    asked.images = asked.images or (256 if machine.device == "cpu" else max(4096, 8 * asked.batch * machine.cores))
    todo = cells(asked.cells, machine)
    readings: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in todo}
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = asked.images + 2 * HELD_OUT * len(photographs.CLASSES)
        data = asked.data or photographs.write(folder / "made", made, machine.threads)
        classes = lay_out(data, folder, asked.images)
        asked.images = asked.images // len(classes) * len(classes)
        for i in range(asked.rounds):
            for cell in todo:
                if cell.tool == "upcycle":
                    one = upcycle(cell, folder, asked)
                else:
                    one = peer(
                        cell,
                        folder,
                        asked,
                        kept=cell.setting == "best",
                    )
                readings[cell].append({**one, "round": i})
                shown = ", ".join(f"{one['images'] / taken:.2f}" for taken in one["epoch_seconds"])
                print(f"round {i + 1}: {', '.join(asdict(cell).values())}: {shown} images/s", flush=True)
                write(asked, machine, readings)  # at once, so that a run that is ended early leaves what it has
    print((asked.folder / "throughput.md").read_text())


if __name__ == "__main__":
    main()
