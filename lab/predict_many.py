"""`upcycle predict RUN --list FILE --out TABLE` over many small files: peak memory, speed, and a kill in the middle.

    python lab/predict_many.py [--files 10000 100000] [--kill 100000] [--folder /tmp/predict-many]

Trains timm's test_resnet for an epoch at 32 pixels on drawn images, from weights drawn at random, and writes JPEGs of
64 pixels. For each number of files: seconds, images/s and the highest memory of the process (VmHWM) and of those that
decode. For `--kill`: the command is killed by SIGKILL halfway, run again, and its table compared with that of the
uninterrupted one, so that number is one of `--files`. Prints one JSON line per reading and removes the folder.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

import upcycle
from upcycle.reporting.progress import Silent

ARCH = "test_resnet"


def draw(at: int, side: int = 64) -> Image.Image:
    """Stripes across or down, in any color, with noise."""
    random = np.random.default_rng(at)
    y, x = np.mgrid[0:side, 0:side]
    mask = np.sin(2 * np.pi * (x, y)[at % 2] / random.integers(6, 12)) > 0
    ink, paper = random.integers(0, 100, 3), random.integers(150, 256, 3)
    pixels = np.where(mask[..., None], ink, paper) + random.normal(0, 12, (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def train(folder: Path) -> Path:
    """A run of two classes."""
    for split, count in {"train": 64, "val": 32, "test": 32}.items():
        for at in range(count):
            path = folder / "photos" / split / ("across", "down")[at % 2] / f"{at}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(at + 1000 * len(split)).save(path)
    options = {
        "arch": ARCH,
        "weights": "none",
        "probe": False,
        "image_size": 32,
        "epochs": 1,
        "threads": 1,
        "device": "cpu",
    }
    run = upcycle.train(folder / "photos", out=folder / "run", show=Silent(), **options)
    return run.path


def write(folder: Path, count: int) -> None:
    """JPEGs in folders of a thousand, the content of 2,000 drawings."""
    contents = []
    for at in range(2000):
        draw(at).save(folder / "one.jpg", quality=90)
        contents.append((folder / "one.jpg").read_bytes())
    for at in range(count):
        path = folder / "files" / f"{at // 1000:04}" / f"{at:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[at % 2000])


def listed(folder: Path, count: int) -> Path:
    path = folder / f"list-{count}.txt"
    names = (folder / "files" / f"{at // 1000:04}" / f"{at:07}.jpg" for at in range(count))
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def peak(pid: int) -> int:
    """Highest memory in kB so far; 0 of a process that has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def predict(run: Path, files: Path, out: Path, kill_at: int = 0) -> dict[str, object]:
    """One command; killed once so many parts are whole."""
    words = [sys.executable, "-m", "upcycle", "predict", run, "--list", files, "--out", out, "--threads", "1"]
    began, highest = time.perf_counter(), 0
    process = subprocess.Popen(list(map(str, words)))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    decoding = 0
    while process.poll() is None:
        highest = max(highest, peak(process.pid))
        with contextlib.suppress(OSError):
            decoding = max([decoding, *(peak(int(child)) for child in children.read_text().split())])
        parts = len(list(out.with_name(f"{out.name}.partial").glob("0*")))
        if kill_at and parts >= kill_at:
            process.kill()
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 1),
        "code": process.returncode,
        "peak_mb": highest // 1024,
        "decoder_mb": decoding // 1024,
    }


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kill", type=int, default=100_000)
    parser.add_argument("--kind", default="parquet")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/predict-many"))
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True)
    try:
        versions = {name: version(name) for name in ("torch", "timm", "pyarrow", "Pillow")}
        about = {
            "python": platform.python_version(),
            **versions,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        print(json.dumps(about), flush=True)
        run = train(folder)
        write(folder, max([*options.files, options.kill]))
        digests = {}
        for count in options.files:
            out = folder / f"{count}.{options.kind}"
            reading = predict(run, listed(folder, count), out)
            digests[count] = digest(out)
            speed = round(count / float(str(reading["seconds"])))
            print(json.dumps({"files": count, **reading, "images_per_second": speed}), flush=True)
        if options.kill:
            out = folder / f"killed.{options.kind}"
            files = listed(folder, options.kill)
            first = predict(run, files, out, kill_at=max(1, options.kill // 2048 // 2))
            parts = len(list(out.with_name(f"{out.name}.partial").glob("0*")))
            second = predict(run, files, out)
            same = digest(out) == digests[options.kill]
            print(json.dumps({"killed": first, "parts": parts, "resumed": second, "same_bytes": same}), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
