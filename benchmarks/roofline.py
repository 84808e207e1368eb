"""What this machine's arithmetic and memory can do, and what part of it training ResNet-50 reaches.

    python benchmarks/roofline.py [--out FOLDER] [--threads 2] [--batch 32] [--size 224]

Matrix products of 4096 x 4096 in fp32 and, where the processor has it, bf16; a copy between two arrays larger than any
cache; training of ResNet-50 (batch statistics, Adam, channels_last) on one batch in memory, all in one process, in
turn, `rounds` times. A training image is 24.6 GFLOP at 224 px: three times the forward pass's 4.1 G multiply-adds.
With --out it also writes where one update's time goes by operator (profile.svg, profile.json).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from upcycle import device

GFLOP_224 = 24.6
PARTS = {
    "convolution_backward": "convolution, backward",
    "mkldnn_convolution": "convolution, forward",
    "native_batch_norm_backward": "batch norm, backward",
    "native_batch_norm": "batch norm, forward",
    "threshold_backward": "ReLU, backward",
    "clamp_min_": "ReLU, forward",
}


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `repeats` calls after one that is not counted."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def product(dtype: torch.dtype, side: int = 4096) -> float:
    """GFLOP/s of a matrix product."""
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    return 2 * side**3 / seconds(lambda: a @ b, 3) / 1e9


def copy(megabytes: int = 512) -> float:
    """GB/s read and written by a copy of `megabytes`."""
    source, target = torch.ones(megabytes * 2**18), torch.zeros(megabytes * 2**18)
    return 2 * megabytes * 2**20 / seconds(lambda: target.copy_(source), 5) / 1e9


def update(precision: str, batch: int, size: int) -> Callable[[], None]:
    """One update of every layer of ResNet-50 on a batch that stays in memory."""
    import timm

    model = timm.create_model("resnet50", num_classes=2).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 2

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def shares(step: Callable[[], None]) -> dict[str, float]:
    """The part of one update's time that each kind of operator takes; they add up to 1."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    total, known = 0.0, dict.fromkeys([*PARTS.values(), "the rest"], 0.0)
    for row in seen.key_averages():
        total += row.self_cpu_time_total
        known[PARTS.get(row.key.removeprefix("aten::"), "the rest")] += row.self_cpu_time_total
    return {name: value / total for name, value in known.items()}


def measure(machine: device.Machine, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, every reading beside them."""
    has_bf16 = bool(set(machine.flags) & device.BF16_FLAGS)
    step = update(machine.precision, batch, size)
    work: dict[str, Callable[[], float]] = {"fp32_gflops": lambda: product(torch.float32), "copy_gb_s": copy}
    if has_bf16:
        work["bf16_gflops"] = lambda: product(torch.bfloat16)
    work["images_per_second"] = lambda: batch / seconds(step, 2)
    readings: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, one in work.items():
            readings[name].append(one())
    found: dict[str, Any] = {name: statistics.median(values) for name, values in readings.items()}
    gflops = GFLOP_224 * (size / 224) ** 2 * found["images_per_second"]
    found["training_gflops"] = gflops
    found["fraction"] = gflops / found["bf16_gflops" if machine.precision == "bf16" else "fp32_gflops"]
    return {**found, "readings": readings, "shares": shares(step), "precision": machine.precision}


def draw(found: dict[str, Any], file: Path) -> None:
    """The shares as one bar each, the largest on top."""
    from matplotlib.figure import Figure

    names = sorted(found["shares"], key=found["shares"].get)
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(names, [100 * found["shares"][name] for name in names], color="#3b6ea5")
    axes.bar_label(bars, fmt="%.0f %%", padding=3)
    axes.set_xlabel("part of one update's time, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    machine = device.detect(threads=asked.threads, device="cpu")
    device.apply(machine, seed=0)
    found = measure(machine, asked.batch, asked.size, asked.rounds)
    found |= {"batch": asked.batch, "size": asked.size, "processor": machine.processor, "flags": machine.flags}
    found |= {"threads": machine.threads, "versions": device.environment(machine)["versions"]}
    print(json.dumps({name: value for name, value in found.items() if name not in {"readings", "versions"}}, indent=1))
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "roofline.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, asked.out / "profile.svg")


if __name__ == "__main__":
    main()
