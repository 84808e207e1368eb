"""A million photos, beside a thousand, ten thousand and a hundred thousand: seconds and memory of each stage.

    python lab/million.py make 1000 /tmp/million/1000
    python lab/million.py measure /tmp/million/1000 /tmp/million/10000 ... > lab/2026-12-01-million/stages.csv

Photos are generated: JPEGs of 64 px and about 2 kB, ten classes of one color and period of stripes each, with noise, all
different. Each stage is a process of its own; memory is its peak of private pages (RssAnon), sampled 50 times a second.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SIDE, FOLDER = 10, 64, 1000
CACHE = Path("/tmp/million/cache")
STAGES = ("listing", "first scan", "second scan", "split", "order of an epoch", "first batches")


def make(count: int, folder: Path) -> None:
    """Write so many photos, 1,000 a folder below each class's."""
    random = np.random.default_rng(count)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    stripes = [np.sin(2 * np.pi * (x * np.cos(kind) + y * np.sin(kind)) / (5 + kind)) > 0 for kind in range(CLASSES)]
    noise = random.integers(0, 40, (4096, 8, 8, 3), dtype=np.uint8)
    for number in range(count):
        kind = number % CLASSES
        place = folder / f"class-{kind}" / f"{number // (FOLDER * CLASSES):04d}"
        if number % (FOLDER * CLASSES) < CLASSES:
            place.mkdir(parents=True, exist_ok=True)
        ink = 60 + (number * 7919 % 97, number * 104729 % 89, number * 1299709 % 83) @ np.eye(3)
        pixels = np.where(stripes[kind][..., None], ink, 200.0).astype(np.uint8)
        at = number % 49
        row, column = 8 * (at // 7), 8 * (at % 7)
        pixels[row : row + 8, column : column + 8] = noise[number % 4096]
        pixels[:2, :20] = (
            np.unpackbits(np.frombuffer(number.to_bytes(5, "big"), np.uint8)).reshape(2, 20)[..., None] * 255
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
        (place / f"{number:07d}.jpg").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(int(sys.argv[2]), Path(sys.argv[3]))
