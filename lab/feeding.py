"""How near training on images comes to the same loop on a batch that is on the device already, and to its arithmetic.

    python lab/feeding.py FOLDER [--data DATA] [--images 4096] [--device auto] [--precision auto]
        [--batches 32,128] [--size 224] [--bn train] [--rounds 5]

DATA is a folder as upcycle takes it, of which all images are used; without it so many photographs are made up. All
layers of ResNet-50 (random weights, Adam as in `classic`, augmentation `light`) are trained by upcycle's own loop, in
one process and in turn: an epoch of images from the decoded cache, as many updates on one batch that stays on the
device, and a matrix product in the precision of training (4096 x 4096 on a processor, 8192 x 8192 on a GPU). A training
image is 24.6 GFLOP at 224 px. Prints a row a batch size: medians (lowest to highest), and of the ratios of neighbours;
FOLDER/feeding.json has every reading, FOLDER/feeding.md the table.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import photographs
import roofline

from upcycle import device
from upcycle.data.augment import Augmentation, Frames
from upcycle.data.dataset import Batch, Batches
from upcycle.data.frames import open_cache
from upcycle.data.index import Index, index_images
from upcycle.data.preprocessing import Decoding, Preprocessing
from upcycle.model.network import ModelSpec, create
from upcycle.planning import phases
from upcycle.recipes import resolve
from upcycle.task import Task
from upcycle.training.loop import Setting, State, Totals, start, train_epoch
from upcycle.training.loss import Loss


@dataclass(frozen=True, eq=False)
class Resident:
    """One batch, given as many times as an epoch has batches."""

    batch: Batch
    count: int

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The same batch again and again."""
        del epoch
        return (self.batch for _ in range(start, self.count))


def settings(
    asked: argparse.Namespace, batch: int, index: Index, frames: Frames, machine: device.Hardware
) -> tuple[State, Setting, Setting]:
    """A network to train, on images and on a batch that stays where it is."""
    seen = Preprocessing(size=asked.size)
    config = resolve(
        {"recipe": "classic", "epochs": 2 * asked.rounds + 2, "rampup": 1, "batch_size": batch, "bn": asked.bn}
    )
    network = ModelSpec("resnet50", Task.of(index.classes), seen, "none", "")
    model = create(network, seed=0).to(machine.device)
    batches = Batches(
        frames,
        index.labels,
        np.arange(len(index)),
        preprocessing=seen,
        batch_size=batch,
        augmentation=Augmentation.of("light"),
        seed=0,
        task=network.task,
        device=machine.device,
        workers=machine.feeders,
    )
    resident = Resident(next(iter(batches.epoch(0))), len(batches))
    (phase,) = phases(config, len(index))
    made = [
        Setting(config, phase, some, network.task, Loss(network.task), machine, frozen=frozenset())
        for some in (batches, cast(Batches, resident))
    ]
    return start(model, config), made[0], made[1]


def speed(state: State, setting: Setting) -> float:
    """Images a second of one epoch."""
    epoch = train_epoch(state, setting)
    while True:
        try:
            next(epoch)
        except StopIteration as end:
            totals = cast(Totals, end.value)
            return totals.images / totals.seconds


def measure(asked: argparse.Namespace, batch: int, index: Index, frames: Frames, machine: device.Hardware) -> list[Any]:
    """Readings of a batch size, a round each: images a second from the cache and of one batch, and TFLOP/s."""
    state, fed, resident = settings(asked, batch, index, frames, machine)
    dtype, side = device.computed_in(machine), 4096 if machine.device == "cpu" else 8192
    speed(state, fed), speed(state, resident)
    return [
        {
            "images": speed(state, fed),
            "one_batch": speed(state, resident),
            "product_tflops": roofline.product(dtype, side, machine) / 1000,
        }
        for _ in range(asked.rounds)
    ]


def row(batch: int, size: int, readings: list[dict[str, float]]) -> str:
    """A row of the table."""
    gflop = roofline.GFLOP_224 * (size / 224) ** 2
    columns = [
        [one["images"] for one in readings],
        [one["one_batch"] for one in readings],
        [one["images"] / one["one_batch"] for one in readings],
        [one["product_tflops"] for one in readings],
        [one["images"] * gflop / 1000 / one["product_tflops"] for one in readings],
    ]
    cells = [f"{statistics.median(some):.3g} ({min(some):.3g} to {max(some):.3g})" for some in columns]
    return f"| {batch} | {len(readings)} | {' | '.join(cells)} |"


HEAD = (
    "| batch | n | from images, images/s | one batch, images/s | share | matrix product, TFLOP/s | share of it |\n"
    "|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batches", default="32,128")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bn", choices=("train", "frozen"), default="train")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    machine = device.detect(device=asked.device, precision=asked.precision)
    device.apply(machine, seed=0)
    facts = {"command": sys.argv, **device.environment(machine), "size": asked.size, "bn": asked.bn}
    asked.folder.mkdir(parents=True, exist_ok=True)
    lines, found = [HEAD], {}
    print(HEAD)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        index = index_images(asked.data or photographs.write(root / "images", asked.images, machine.threads))
        side = Preprocessing(size=asked.size).resize_to
        frames, failures = open_cache(index, Decoding(side, "bilinear"), root=root, threads=machine.threads)
        index, frames = index.without(failures), frames.without(failures)
        for batch in map(int, asked.batches.split(",")):
            found[batch] = measure(asked, batch, index, frames, machine)
            lines.append(row(batch, asked.size, found[batch]))
            print(lines[-1], flush=True)
            kept = {**facts, "images": len(index), "readings": found}
            (asked.folder / "feeding.json").write_text(json.dumps(kept, indent=1) + "\n")
    where = f"{machine.gpu or machine.processor}, {machine.threads} threads, {machine.precision}, {asked.size} px"
    (asked.folder / "feeding.md").write_text(f"{where}, BatchNorm {asked.bn}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
