"""Training on photos that answer 50 ms late, beside the same on local files: images per second, A B A B.

    python lab/remote_latency.py DATA > lab/2026-12-01-remote/latency.csv

Photos are decoded when they are needed (no cache of decoded images, nothing kept on disk), as where they fit no disk.
EfficientNet-Lite 0 at 96 px, all layers, batches of 32, one thread. "one by one" is without fetching ahead.
"""

import csv
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.stores import serving

from upcycle.data import fetching
from upcycle.data.dataset import Dataset
from upcycle.data.frames import Stream
from upcycle.data.index import Index, index_images
from upcycle.data.splits import split_by
from upcycle.device import apply
from upcycle.jobs.finetune import class_loss
from upcycle.jobs.prepare import machine_of
from upcycle.model.network import create, spec_of
from upcycle.model.sources import get_weights, preprocessing_for
from upcycle.planning import phases
from upcycle.recipes import resolve
from upcycle.remote import place
from upcycle.training.loop import Setting, start, train_step
from upcycle.training.optim import set_training_mode

TURNS, UPDATES, DELAY = 4, 20, 0.05


def rate(index: Index) -> float:
    """Images per second of updates after the first two."""
    config = resolve({"arch": "tf_efficientnet_lite0", "image_size": 96, "threads": 1, "freeze": "none"})
    machine = machine_of(config)
    apply(machine, 0)
    weights = get_weights(config.arch, "auto")
    preprocessing = preprocessing_for(config.arch, weights, input_file=None, image_size=96, crop_pct=None)
    data = Dataset(index, Stream(index, preprocessing.decoding), preprocessing)
    data = replace(data, splits=split_by(config, index))
    model = create(spec_of(config.arch, index.classes, preprocessing, weights), machine)
    setting = Setting(
        config=config,
        phase=phases(config, len(data.splits.train))[-1],
        batches=replace(data.batches(config, machine), workers=0),
        task=data.task,
        loss=class_loss(config, data, device="cpu"),
        machine=machine,
        frozen=frozenset(),
    )
    set_training_mode(model.body, frozen=frozenset(), bn="frozen")
    state, images, began = start(model, config), 0, 0.0
    for at, batch in enumerate(setting.batches.epoch(0)):
        train_step(state, batch, setting)[0].item()
        if at == 1:
            began = time.perf_counter()
        elif at > 1:
            images += len(batch.labels)
        if at == UPDATES + 1:
            break
    return images / (time.perf_counter() - began)


def scanned(data: Path) -> tuple[Index, float]:
    began = time.perf_counter()
    return index_images(data, threads=2), time.perf_counter() - began


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        site = Path(shutil.copytree(sys.argv[1], Path(folder) / "photos"))
        files = [file for file in sorted(site.rglob("*")) if file.is_file() and file.suffix in (".jpg", ".png")]
        rows = [f"{file.relative_to(site)},{file.parent.name}" for file in files]
        (site / "list.csv").write_text("\n".join(["path,label", *rows]))
        with serving(site, delay=DELAY) as web:
            local, local_seconds = scanned(site / "list.csv")
            far, far_seconds = scanned(place(f"{web.address}/list.csv"))
            found: dict[str, list[float]] = {"local": [], "50 ms": []}
            for _ in range(TURNS):
                found["local"].append(rate(local))
                found["50 ms"].append(rate(far))
            fetching.THREADS, fetching.WINDOW = 1, 1
            found["50 ms, one by one"] = [rate(far)]
    writer = csv.writer(sys.stdout)
    writer.writerow(["photos", "images per second", "least", "most", "turns", "seconds of the first scan"])
    for name, rates in found.items():
        seconds = {"local": local_seconds, "50 ms": far_seconds}.get(name)
        numbers = [round(one, 1) for one in (statistics.median(rates), min(rates), max(rates))]
        writer.writerow([name, *numbers, len(rates), round(seconds, 1) if seconds else ""])
