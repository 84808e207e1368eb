"""What decoding costs: the first reading of a folder's images and the later ones, upcycle beside torchvision's loader.

    python lab/decoding.py DATA --out FOLDER [--rounds 5] [--threads 2] [--side 256]

In turn, in one process: upcycle's decoding of every file into a new cache (processes that decode started anew, files
already scanned), a whole pass over that cache in batches at 224 px, and torchvision's `ImageFolder` with Resize(side)
and CenterCrop(224) under a DataLoader of as many processes, which decodes in each epoch; every other round the other
way round. The files are in the system's memory from the scan on. Prints images a second, medians (lowest to highest),
and the bytes of the files and of the cache; FOLDER/decoding.json has every reading.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets, transforms

from upcycle import device
from upcycle.data import isolation
from upcycle.data.dataset import eval_batches
from upcycle.data.frames import Cache, open_cache
from upcycle.data.index import Index, index_images
from upcycle.data.preprocessing import Decoding, Preprocessing

BATCH = 32
CROP = 224


def first(index: Index, side: int, threads: int, root: Path) -> tuple[float, Cache]:
    """Seconds to decode every image into a new file, and that file."""
    isolation.DECODERS.close()
    began = time.perf_counter()
    built, failures = open_cache(index, Decoding(side, "bilinear"), root=root, threads=threads)
    if failures:
        raise SystemExit(f"{len(failures)} files cannot be decoded: give a folder of whole images")
    return time.perf_counter() - began, built


def later(frames: Cache) -> float:
    """Seconds of a pass over the decoded images, cropped, normalized and in batches."""
    began = time.perf_counter()
    batches = eval_batches(frames, np.arange(len(frames)), preprocessing=Preprocessing(size=CROP), batch_size=BATCH)
    for _ in batches:
        pass
    return time.perf_counter() - began


def torchvision(data: Path, side: int, threads: int) -> float:
    """Seconds of one epoch of torchvision's own pipeline."""
    steps = [transforms.Resize(side), transforms.CenterCrop(CROP), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    images = datasets.ImageFolder(data, transforms.Compose(steps))
    began = time.perf_counter()
    for _ in torch.utils.data.DataLoader(images, BATCH, num_workers=threads):
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=256)
    asked = parser.parse_args()
    machine = device.detect(threads=asked.threads, device="cpu")
    device.apply(machine)
    index = index_images(asked.data, threads=asked.threads)
    readings: dict[str, list[float]] = {"first, into the cache": [], "later, from the cache": [], "torchvision": []}
    sizes = {"files": sum(index.file(i).stat().st_size for i in range(len(index)))}
    for i in range(asked.rounds):
        theirs = [torchvision(asked.data, asked.side, asked.threads)] if i % 2 else []
        with tempfile.TemporaryDirectory() as temporary:
            seconds, frames = first(index, asked.side, asked.threads, Path(temporary))
            sizes["cache"] = frames.path.stat().st_size
            passed = (seconds, later(frames))
        theirs = theirs or [torchvision(asked.data, asked.side, asked.threads)]
        for values, taken in zip(readings.values(), (*passed, *theirs), strict=True):
            values.append(len(index) / taken)
    print(f"{len(index)} images of {sizes['files'] / 1e6:.0f} MB; the cache takes {sizes['cache'] / 1e6:.0f} MB")
    for name, values in readings.items():
        spread = f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
        print(f"{name}: {spread} images/s, n = {len(values)}")
    facts = {"command": sys.argv, "images": len(index), "bytes": sizes, "images_per_second": readings}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "decoding.json").write_text(json.dumps({**facts, **device.environment(machine)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
