"""Made-up photographs, for machines that have none: soft shapes with grain, JPEGs of 500 x 375 in two classes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
CLASSES = ("cold", "warm")


def write(folder: Path, count: int, threads: int) -> Path:
    """`folder` with `count` JPEGs as CLASS/NUMBER.jpg, as many of each class, the same ones every time."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda number: _one(folder, number), range(count)))
    return folder


def _one(folder: Path, number: int) -> None:
    """One of them, of some 30 KB: warm ones have more red."""
    random = np.random.default_rng(number)
    kind = number % len(CLASSES)
    shapes = random.integers(0, 200, (12, 16, 3)) + np.array([40 * kind, 0, 40 * (1 - kind)])
    soft = Image.fromarray(shapes.clip(0, 255).astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (SIZE[1], SIZE[0], 1))
    pixels = (np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / CLASSES[kind] / f"{number:06}.jpg", quality=85)
