"""What single parts of upcycle bring, on and off in turn: folded BatchNorm, batches, the probe of an earlier checkout.

    python lab/parts.py --out FOLDER [--rounds 5] [--size 224] [--batch 32]
        [--against CHECKOUT [--data DATA --weights FILE]]

Folding: ResNet-50 with random statistics on one batch in memory, in one process: a forward pass, an update with the
lower half frozen, and one of all layers with fixed statistics; weights folded at each pass or once for all. Batches,
from made-up frames of 256 x 341, in passes of ten: made by a thread ahead, or on demand. The probe: seconds to train it
on made-up features [n, 2048], 208 images with 36 for validation (so that held-out folds count) and 3,000 with 640;
CHECKOUT is a clone at an earlier commit, whose src is imported instead. With DATA, the seconds in which a run computes
its features, by both. Prints a row as soon as it is known: medians,
the lowest and highest, and the same of the ratios of neighbours; FOLDER/parts.json has every reading.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from upcycle import device
from upcycle.data.augment import Augmentation
from upcycle.data.dataset import Batches, eval_batches
from upcycle.data.preprocessing import Preprocessing
from upcycle.evaluation.forward import forward as forward_pass
from upcycle.model.folding import fold, folded_once
from upcycle.model.network import Network
from upcycle.task import Task
from upcycle.training.optim import freeze_parameters, frozen_names, set_training_mode

PASS = 10
"""Batches of a pass."""
ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import sys, time
import numpy as np, torch
from upcycle import device
from upcycle.task import Task
from upcycle.training.loss import Loss
from upcycle.training.probe import Split, train_probe
device.apply(device.detect(device="cpu"), seed=0)
images, held, classes = map(int, sys.argv[1:])
random, labels = np.random.default_rng(0), (np.arange(images + held) % classes).astype(np.int32)
hidden = random.normal(0, 1, (classes, 16))[labels] + 1.2 * random.normal(0, 1, (images + held, 16))
mixing = random.normal(0, 1, (16, 2048)) * np.exp(random.normal(0, 0.7, 2048))
features = np.maximum(hidden @ mixing + random.normal(0, 0.5, (images + held, 2048)), 0).astype(np.float32)
train, val = (Split(features, at, labels[at]) for at in np.split(np.arange(images + held), [images]))
loss = Loss(Task.of([str(number) for number in range(classes)]))
began = time.perf_counter()
train_probe(train, val, loss=loss, seed=0)
print(time.perf_counter() - began)
"""


def network() -> nn.Module:
    """ResNet-50 whose statistics are none that folding could leave out."""
    import timm

    torch.manual_seed(0)
    model: nn.Module = timm.create_model("resnet50", num_classes=2).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def forward(machine: device.Hardware, images: torch.Tensor) -> Callable[[bool], None]:
    """A forward pass with folding on or off."""
    models = network().eval(), network().eval()
    fold(models[True])

    def once(on: bool) -> None:
        with torch.inference_mode(), device.autocast(machine):
            models[on](images)

    return once


def keeping(machine: device.Hardware, images: torch.Tensor) -> Callable[[bool], None]:
    """A forward pass with weights folded for it, or for all passes."""
    model = network().eval()
    fold(model)

    def once(on: bool) -> None:
        with torch.inference_mode(), device.autocast(machine), folded_once(model) if on else nullcontext():
            for _ in range(PASS):
                model(images)

    return once


def frames() -> list[np.ndarray]:
    """Decoded images, uint8 [256, 341, 3], as the cache holds them."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (256, 341, 3), dtype=np.uint8) for _ in range(64)]


def evaluating(machine: device.Hardware, batch: int, size: int) -> Callable[[bool], None]:
    """Forward passes of ten batches; made ahead by a thread, or on demand."""
    model, decoded, positions = Network(network(), machine), frames(), np.arange(PASS * batch) % 64
    fold(model.body)

    def once(on: bool) -> None:
        workers = 0 if on else 1
        batches = eval_batches(
            decoded, positions, preprocessing=Preprocessing(size=size), batch_size=batch, workers=workers
        )
        forward_pass(model, batches)

    return once


def training(machine: device.Hardware, batch: int, size: int) -> Callable[[bool], None]:
    """Ten updates, lower half frozen, with augmented batches; made ahead by a thread, or on demand."""
    positions, step = np.arange(PASS * batch) % 64, update(machine, torch.empty(batch), "auto")
    made = {
        on: Batches(
            frames(),
            positions % 2,
            positions,
            preprocessing=Preprocessing(size=size),
            batch_size=batch,
            augmentation=Augmentation.of("light"),
            seed=0,
            task=Task.of("ab"),
            workers=0 if on else 1,
        )
        for on in (False, True)
    }

    def once(on: bool) -> None:
        for some in made[on].epoch(0):
            step(True, some.images)

    return once


def update(machine: device.Hardware, images: torch.Tensor, freeze: str) -> Callable[..., None]:
    """An update with fixed statistics, folding on or off."""
    models = network(), network()
    fold(models[True])
    optimizers = []
    for model in models:
        frozen = frozen_names(model, freeze)
        freeze_parameters(model, frozen)
        set_training_mode(model, frozen=frozen, bn="frozen")
        trained = [one for one in model.parameters() if one.requires_grad]
        optimizers.append(torch.optim.AdamW(trained, 1e-5, fused=True))
    labels = torch.arange(len(images)) % 2

    def once(on: bool, images: torch.Tensor = images) -> None:
        with device.autocast(machine):
            logits = models[on](images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizers[on].step()
        optimizers[on].zero_grad()

    return once


def seconds(work: Callable[[bool], None], on: bool) -> float:
    """Of three calls, the mean."""
    began = time.perf_counter()
    for _ in range(3):
        work(on)
    return (time.perf_counter() - began) / 3


def probe(checkout: Path, *numbers: int) -> float:
    """Seconds of one training of the probe by the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, "-c", PROBE, *map(str, numbers)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def features(checkout: Path, asked: argparse.Namespace) -> float:
    """Seconds in which a run of the recipe `probe`, by the code of a checkout, computes the features of DATA."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", str(asked.data), "--recipe", "probe", "--image-size", str(asked.size)]
        words += ["--weights", str(asked.weights), "--cache", f"{folder}/cache", "--out", f"{folder}/run"]
        subprocess.run([sys.executable, "-m", "upcycle", *words], check=True, capture_output=True, env=environment)
        return float(json.loads(Path(folder, "run", "status.json").read_text())["features_seconds"])


def in_turn(off: Callable[[], float], on: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Readings of both, one after the other; the ratio is how much less the second takes."""
    pairs = [(off(), on()) for _ in range(rounds)]
    return {"off": [pair[0] for pair in pairs], "on": [pair[1] for pair in pairs], "ratios": [a / b for a, b in pairs]}


def spread(values: list[float], form: str) -> str:
    """Median (lowest to highest)."""
    return " ".join(
        (f"{statistics.median(values):{form}}", f"({min(values):{form}} to {max(values):{form}})"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    asked = parser.parse_args()
    machine = device.detect(device="cpu")
    device.apply(machine, seed=0)
    images = torch.randn(asked.batch, 3, asked.size, asked.size).to(memory_format=torch.channels_last)
    work: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {}
    for name, once in (
        ("BatchNorm folded, forward", forward(machine, images)),
        ("BatchNorm folded, training, lower half frozen", update(machine, images, "auto")),
        ("BatchNorm folded, training, all layers", update(machine, images, "none")),
        ("folded once for all passes, forward", keeping(machine, images)),
        ("batches on demand, forward", evaluating(machine, asked.batch, asked.size)),
        ("batches on demand, training, lower half frozen", training(machine, asked.batch, asked.size)),
    ):
        work[name] = (partial(seconds, once, False), partial(seconds, once, True))
    for numbers in ((208, 36, 2), (3000, 640, 5)) if asked.against else ():
        work[f"probe, {numbers[0]:,} images"] = (
            partial(probe, asked.against, *numbers),
            partial(probe, ROOT, *numbers),
        )
    if asked.against and asked.data:
        work[f"features of {asked.data.name}, {asked.size} px"] = (
            partial(features, asked.against, asked),
            partial(features, ROOT, asked),
        )
    facts = {"command": sys.argv, **device.environment(machine), "size": asked.size, "batch": asked.batch}
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    print("| part | n | off, or before | on, or now | ratio |\n|---|---|---|---|---|")
    for name, (off, on) in work.items():
        if not name.startswith("features"):  # its minutes need no warming up
            off(), on()
        row = in_turn(off, on, asked.rounds)
        unit = "s" if name.startswith(("probe", "features")) else "images/s"
        count = asked.batch * (PASS if name.startswith("batches") else 1)
        cells = [spread([one if unit == "s" else count / one for one in row[side]], ".3g") for side in ("off", "on")]
        ratio = spread(row["ratios"], ".2f")
        print(f"| {name} | {asked.rounds} | {cells[0]} {unit} | {cells[1]} {unit} | {ratio} |", flush=True)
        found[name] = row
        (asked.out / "parts.json").write_text(json.dumps({**facts, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
