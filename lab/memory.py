"""Private memory of a run against its number of images: how much each image costs once decoding is on disk.

    python lab/memory.py --out FOLDER [--counts 1000,10000,100000] [--recipe default]

Makes noise JPEGs of 64 px in two classes, once, runs `upcycle train` on each number of them with a tiny network for
the same number of updates (an allocator needs some hundreds to reach its peak) and an empty cache, and samples RssAnon
+ RssShmem 20 times a second, of the process and of those together that it has started to decode. Mapped files (the
cache, the features) are the system's to drop and are not counted. Prints a line a run and writes FOLDER/memory.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scanning
from PIL import Image

FIELDS = ("RssAnon", "RssShmem")
COMMON = "--arch test_resnet --weights none --image-size 64 --batch-size 256 --device cpu"


def make(folder: Path, count: int) -> Path:
    """`folder` with `count` images, half of each class; what is there already is kept."""
    pixels = np.random.default_rng(count)
    for i in range(count):
        file = folder / ("light" if i % 2 else "dark") / f"{i // 1000:03}" / f"{i:06}.jpg"
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = pixels.integers(0, 128, (64, 64, 3), dtype=np.uint8) + np.uint8(127 * (i % 2))
        Image.fromarray(noise).save(file, quality=50)
    return folder


def private(pid: int) -> int:
    """Bytes of a process that are nobody else's and on no disk; 0 once it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines())
    return sum(int(words[1]) * 1024 for words in lines if words[0].rstrip(":") in FIELDS)


def measure(command: list[str]) -> tuple[int, int, float]:
    """Peak private bytes of a command, of its children together, and its seconds; CalledProcessError where it fails."""
    began, peak, children = time.perf_counter(), 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, private(process.pid))
            children = max(children, sum(map(private, scanning.children(process.pid))))
            time.sleep(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak, children, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--recipe", default="default")
    asked = parser.parse_args()
    rows = []
    counts = [int(count) for count in asked.counts.split(",")]
    for count in counts:
        data = make(asked.out / f"images-{count}", count)
        run = asked.out / "runs" / f"{asked.recipe}-{count}-{time.time_ns()}"
        epochs = str(max(counts) // count)
        words = ["train", str(data), "--recipe", asked.recipe, "--epochs", epochs, "--out", str(run), *COMMON.split()]
        with tempfile.TemporaryDirectory() as cache:
            peak, children, seconds = measure([sys.executable, "-m", "upcycle", *words, "--cache", cache])
        told = {"peak_private_mb": round(peak / 1e6, 1), "decoders_mb": round(children / 1e6, 1)}
        rows.append({"images": count, **told, "seconds": round(seconds, 1)})
        print(rows[-1], flush=True)
    (asked.out / "memory.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
