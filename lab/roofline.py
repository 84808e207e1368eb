"""What this machine's arithmetic and memory can do, and what part of it training ResNet-50 reaches.

    python lab/roofline.py [--out FOLDER] [--threads 2] [--batch 32] [--size 224]

Matrix products of 4096 x 4096 in fp32 and, where the processor has it, bf16; a copy between two arrays larger than any
cache; training of ResNet-50 (batch statistics, Adam, channels_last) on one batch in memory, all in one process, in
turn, `rounds` times. A training image is 24.6 GFLOP at 224 px: three times the forward pass's 4.1 G multiply-adds.
With --out it also draws where the time of an update goes by operator (profile.svg): in processes as torch comes (fp32,
contiguous, glibc's allocator as it is) and in processes as upcycle sets them up, in turn, five updates each.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from upcycle import device

GFLOP_224 = 24.6
UPDATES = 5
PARTS = {
    "convolution_backward": "convolution, backward",
    "mkldnn_convolution": "convolution, forward",
    "native_batch_norm_backward": "batch norm, backward",
    "native_batch_norm": "batch norm, forward",
    "threshold_backward": "ReLU, backward",
    "clamp_min_": "ReLU, forward",
}


def seconds(work: Callable[[], Any], repeats: int, machine: device.Hardware | None = None) -> float:
    """Median seconds of `repeats` calls after one that is not counted; what a GPU has queued is waited for."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if machine is not None and machine.device != "cpu":
            (torch.cuda if machine.device == "cuda" else torch.mps).synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def product(dtype: torch.dtype, side: int = 4096, machine: device.Hardware | None = None) -> float:
    """GFLOP/s of a matrix product, on the machine's device; on a GPU of fifty, one after the other."""
    where = machine.device if machine else "cpu"
    a, b = (torch.randn(side, side, device=where).to(dtype) for _ in range(2))
    made, times = torch.empty_like(a), 1 if where == "cpu" else 50

    def work() -> None:
        for _ in range(times):
            torch.mm(a, b, out=made)

    return times * 2 * side**3 / seconds(work, 3, machine) / 1e9


def copy(megabytes: int = 512) -> float:
    """GB/s read and written by a copy of `megabytes`."""
    source, target = torch.ones(megabytes * 2**18), torch.zeros(megabytes * 2**18)
    return 2 * megabytes * 2**20 / seconds(lambda: target.copy_(source), 5) / 1e9


def update(precision: str, batch: int, size: int, layout: torch.memory_format) -> Callable[[], None]:
    """One update of every layer of ResNet-50 on a batch that stays in memory."""
    import timm

    model = timm.create_model("resnet50", num_classes=2).to(memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=layout == torch.channels_last)
    images = torch.randn(batch, 3, size, size).to(memory_format=layout)
    labels = torch.arange(batch) % 2

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def parts(step: Callable[[], None], batch: int) -> dict[str, float]:
    """Milliseconds an image that each kind of operator takes, the mean of five updates after two."""
    step()
    step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(UPDATES):
            step()
    known = dict.fromkeys([*PARTS.values(), "the rest"], 0.0)
    for row in seen.key_averages():
        known[PARTS.get(row.key.removeprefix("aten::"), "the rest")] += row.self_cpu_time_total / 1e3 / batch / UPDATES
    return known


def profiled(setting: str, asked: argparse.Namespace, machine: device.Hardware) -> dict[str, float]:
    """The parts in a setting; "torch" as it comes, or "upcycle"."""
    if setting == "torch":
        torch.set_num_threads(machine.threads)
        return parts(update("fp32", asked.batch, asked.size, torch.contiguous_format), asked.batch)
    device.apply(machine, seed=0)
    return parts(update(machine.precision, asked.batch, asked.size, torch.channels_last), asked.batch)


def elsewhere(setting: str, asked: argparse.Namespace) -> dict[str, float]:
    """The same in a new process, as what is set for the allocator is set for good."""
    words = [sys.executable, __file__, "--profile", setting, "--threads", str(asked.threads)]
    words += ["--batch", str(asked.batch), "--size", str(asked.size)]
    return dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def measure(machine: device.Hardware, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, every reading beside them."""
    has_bf16 = bool(set(machine.flags) & device.BF16_FLAGS)
    step = update(machine.precision, batch, size, torch.channels_last)
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
    return {**found, "readings": readings, "precision": machine.precision}


def draw(found: dict[str, dict[str, float]], file: Path) -> None:
    """Milliseconds an image of each part: both settings one under the other, the largest part on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.add_subplot()
    before = next(iter(found.values()))
    names = sorted(before, key=before.__getitem__)
    for shift, color, (setting, values) in zip((0.2, -0.2), ("#b9b9b9", "#3b6ea5"), found.items(), strict=True):
        label = f"{setting}: {sum(values.values()):.0f} ms"
        places = [at + shift for at in range(len(names))]
        bars = axes.barh(places, [values[name] for name in names], height=0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("milliseconds an image, training of all layers")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", choices=("torch", "upcycle"), help="print that profile alone")
    asked = parser.parse_args()
    machine = device.detect(threads=asked.threads, device="cpu")
    if asked.profile:
        print(json.dumps(profiled(asked.profile, asked, machine)))
        return
    device.apply(machine, seed=0)
    found = measure(machine, asked.batch, asked.size, asked.rounds)
    found |= {"batch": asked.batch, "size": asked.size, "processor": machine.processor, "flags": machine.flags}
    found |= {"threads": machine.threads, "versions": device.environment(machine)["versions"]}
    print(json.dumps({name: value for name, value in found.items() if name not in {"readings", "versions"}}, indent=1))
    if asked.out:
        profiles = {"torch": f"as torch comes, fp32, n = {asked.rounds}"}
        profiles["upcycle"] = f"upcycle, {machine.precision}, n = {asked.rounds}"
        rounds = [{setting: elsewhere(setting, asked) for setting in profiles} for _ in range(asked.rounds)]
        found["profile_ms"] = rounds
        drawn = {
            label: {part: statistics.median(one[setting][part] for one in rounds) for part in rounds[0][setting]}
            for setting, label in profiles.items()
        }
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "roofline.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(drawn, asked.out / "profile.svg")


if __name__ == "__main__":
    main()
