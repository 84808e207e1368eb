"""What `upcycle scan` costs of many files, and again with what it remembers.

    python lab/scanning.py [--files 100000]

Makes that many JPEG of 64 px in ten classes, scans them twice in processes of their own, and prints a line of JSON
each: seconds, seconds of processor time, the most private memory (RssAnon, MB) of the command and of one of the
processes that decode (Linux).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, files: int) -> None:
    """Pictures of 8 x 8 noise, enlarged; no two alike to the byte."""
    for at in range(files):
        noise = np.random.default_rng(at).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / f"class{at % 10}" / f"{at:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=85)


def private(pid: int) -> int:
    """Private memory of a process in kB; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def scanned(data: Path, out: Path, cache: Path) -> dict[str, float]:
    """One scan: what it cost."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "upcycle", "scan", str(data), "--out", str(out)]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, env={**os.environ, "UPCYCLE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    )
    most = decoder = 0
    while process.poll() is None:
        most = max(most, private(process.pid))
        decoder = max([decoder, *map(private, children(process.pid))])
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": used,
        "private_mb": most / 1024,
        "decoder_private_mb": decoder / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="folder of scanning.jsonl; its readings are added to those there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder / "data", asked.files)
        for name in ("first", "again"):
            line = {"scan": name, "files": asked.files, **scanned(folder / "data", folder / name, folder / "cache")}
            print(json.dumps(line), flush=True)
            if asked.out:
                asked.out.mkdir(parents=True, exist_ok=True)
                with (asked.out / "scanning.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
