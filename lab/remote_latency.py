"""Photos behind a web server that answers 50 ms late, beside the same photos in a folder: rates of a Stream.

    python lab/remote_latency.py FOLDER OUT.csv [PHOTOS]

Nothing is kept on disk between epochs, so that every photo is fetched every time. Needs aiohttp. Rows: what was done,
where the photos were, photos per second. `batches` are made and thrown away; `updates` train EfficientNet-Lite 0.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import timm
import torch

from upcycle.data.augment import Augmentation
from upcycle.data.dataset import Batches
from upcycle.data.fetching import Kept
from upcycle.data.frames import Stream, open_cache
from upcycle.data.index import Index, index_images
from upcycle.data.preprocessing import Preprocessing
from upcycle.remote import place
from upcycle.task import Task

DELAY = 0.05
SIZE = 160
BATCH = 32
REPEATS = 3
UPDATED = 96
"""Photos of an epoch of updates."""


class Late(SimpleHTTPRequestHandler):
    """Answers `DELAY` seconds after it is asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(DELAY)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve(folder: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Late, directory=folder))
    print(server.server_port, flush=True)
    server.serve_forever()


def batches(index: Index, preprocessing: Preprocessing) -> Batches:
    return Batches(
        Stream(index, preprocessing.decoding),
        index.labels,
        np.arange(len(index)),
        preprocessing=preprocessing,
        batch_size=BATCH,
        augmentation=Augmentation.of("light", mixup=0.0),
        seed=0,
        task=Task.of(index.classes),
        workers=1,
    )


def updates(classes: int) -> Callable[[object], None]:
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def update(batch: object) -> None:
        loss = torch.nn.functional.cross_entropy(model(batch.images), batch.labels)  # type: ignore[attr-defined]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def rate(made: Batches, epoch: int, use: Callable[[object], None]) -> float:
    began = time.perf_counter()
    for batch in made.epoch(epoch):
        use(batch)
    return len(made.positions) / (time.perf_counter() - began)


def first(data: Path, preprocessing: Preprocessing) -> float:
    """Scan and decode, with an empty cache folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        kept = Kept(Path(folder) / "fetched", 10**10)
        index = index_images(data, threads=1, kept=kept)
        open_cache(index, preprocessing.decoding, root=Path(folder) / "images", threads=1, kept=kept)
        return len(index) / (time.perf_counter() - began)


def manifest(folder: Path, photos: int, site: Path) -> None:
    """The first photos of each class by turns, and links to them."""
    classes = sorted(one for one in folder.rglob("*") if one.is_dir() and any(one.glob("*.jpg")))
    each = photos // len({one.name for one in classes})
    rows: list[tuple[str, str]] = []
    for name in sorted({one.name for one in classes}):
        files = sorted(file for one in classes if one.name == name for file in one.glob("*.jpg"))[:each]
        for number, file in enumerate(files):
            (site / f"{name}-{number}.jpg").symlink_to(file.resolve())
            rows.append((f"{name}-{number}.jpg", name))
    (site / "list.csv").write_text("\n".join(["path,label", *map(",".join, rows)]))


def measured(data: dict[str, Path], preprocessing: Preprocessing) -> Iterator[tuple[str, str, float]]:
    indexes = {where: index_images(path) for where, path in data.items()}
    made = {where: batches(index, preprocessing) for where, index in indexes.items()}
    pairs = zip(made["local"].epoch(0), made["remote"].epoch(0), strict=True)
    if not all(torch.equal(here.images, there.images) for here, there in pairs):
        raise SystemExit("the batches differ")
    for repeat in range(REPEATS + 1):
        for where in data:
            yield "batches", where, rate(made[where], repeat, lambda _: None)
    for _ in range(REPEATS):
        for where in data:
            yield "first scan and cache", where, first(data[where], preprocessing)
    update = updates(len(indexes["local"].classes))
    for repeat in range(REPEATS):
        for where in data:
            fewer = replace(made[where], positions=made[where].positions[:: len(made[where].positions) // UPDATED])
            yield "updates", where, rate(fewer, repeat, update)


def main(folder: str, out: str, photos: str = "512") -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, Path(out).open("w", newline="") as file:
        manifest(Path(folder), int(photos), Path(temporary))
        server = subprocess.Popen([sys.executable, __file__, "--serve", temporary], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            site = place(f"http://127.0.0.1:{int(server.stdout.readline())}/list.csv")
            writer = csv.writer(file)
            writer.writerow(["what", "where", "photos_per_second", "load"])
            found: dict[tuple[str, str], list[float]] = {}
            for what, where, speed in measured(
                {"local": Path(temporary) / "list.csv", "remote": site}, Preprocessing(size=SIZE)
            ):
                writer.writerow([what, where, f"{speed:.2f}", f"{os.getloadavg()[0]:.1f}"])
                file.flush()
                found.setdefault((what, where), []).append(speed)
        finally:
            server.kill()
            server.wait()
    for (what, where), speeds in found.items():
        ratio = statistics.median(speeds) / statistics.median(found[what, "local"])
        print(f"{what}, {where}: {statistics.median(speeds):.1f}/s ({min(speeds):.1f}..{max(speeds):.1f}), {ratio:.2f}")


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1] == "--serve" else main(*sys.argv[1:])
