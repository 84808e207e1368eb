"""A million photos: made, and what each stage of the work on them costs.

python lab/million.py make N FOLDER          N distinct small JPEGs of 64 px in 10 classes
python lab/million.py measure STAGE FOLDER   one stage, in this process
python lab/million.py all FOLDER...          every stage of every folder, a process each, as CSV
"""

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat", "cow", "dog", "eel", "emu", "fly", "fox", "owl")
SIDE = 64
IN_FOLDER = 10_000
"""Files of one folder."""
WEIGHTS = Path(os.environ.get("MILLION_WEIGHTS", "/tmp/millionD/tiny.safetensors"))


def _bases(number: int, rng: np.random.Generator) -> np.ndarray:
    """A pattern of each of 64 turns of a class: stripes of its own direction, width and color, [64, 64, 64, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = np.pi * number / len(CLASSES)
    along = x * np.cos(angle) + y * np.sin(angle)
    color = 0.5 + 0.5 * np.cos(2 * np.pi * (number / len(CLASSES) + np.arange(3) / 3))
    turns = rng.random(64)[:, None, None]
    waves = 0.5 + 0.4 * np.sin(2 * np.pi * ((2 + number % 3) * along[None] + turns))
    return (255 * waves[..., None] * (0.4 + 0.6 * color)).astype(np.uint8)


def make(count: int, folder: Path) -> None:
    """Write `count` photos: a class's stripes, a patch of noise and a random brightness make each its own."""
    rng = np.random.default_rng(7)
    bases = [_bases(number, rng) for number in range(len(CLASSES))]
    done, begun = 0, time.time()
    for part in range(0, count, len(CLASSES) * IN_FOLDER):
        for number, name in enumerate(CLASSES):
            own = folder / name / f"{part // (len(CLASSES) * IN_FOLDER):03d}"
            own.mkdir(parents=True, exist_ok=True)
            for i in range(min(IN_FOLDER, (count - part) // len(CLASSES))):
                pixels = bases[number][rng.integers(64)].copy()
                top, left = rng.integers(0, SIDE - 24, 2)
                pixels[top : top + 24, left : left + 24] = rng.integers(0, 256, (24, 24, 3), np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "JPEG", quality=80)
                (own / f"IMG_{part // len(CLASSES) + i:06d}.jpg").write_bytes(file.getvalue())
                done += 1
            print(f"{done:,} of {count:,} after {time.time() - begun:.0f} s", flush=True)


# ------------------------------------------------------------------------------------------- stages


SIZE, BATCH = 64, 256


def _listing(data: Path, _: Path) -> None:
    from upcycle.data.index import listing_of

    _print(rows=len(listing_of(data).rows))


def _scan(data: Path, work: Path) -> None:
    from upcycle.data.index import index_images
    from upcycle.data.index_file import index_to_bytes

    index = index_images(data, threads=1, memory=work / "cache" / "scans")
    (work / "index").write_bytes(index_to_bytes(index))


def _split(_: Path, work: Path) -> None:
    from upcycle.data.splits import read_splits, split, write_splits

    index = _index(work)
    began = time.perf_counter()
    splits = split(index, seed=0)
    drawn = time.perf_counter()
    write_splits(work / "splits.csv", index, splits)
    written = time.perf_counter()
    del splits
    read_splits(work / "splits.csv")
    ended = time.perf_counter()
    _print(draw=drawn - began, write=written - drawn, read=ended - written)


def _decode(_: Path, work: Path) -> None:
    from upcycle.data.frames import open_cache

    open_cache(_index(work), _preprocessing().decoding, root=work / "cache" / "images", threads=1)


def _preprocessing() -> Any:
    """As the runs have it, so that they find the decoded images."""
    from upcycle.model.sources import get_weights, preprocessing_for

    weights = get_weights("test_resnet", str(WEIGHTS))
    return preprocessing_for("test_resnet", weights, input_file=None, image_size=SIZE, crop_pct=None)


def _epoch(_: Path, work: Path) -> None:
    from dataclasses import replace

    from upcycle import device
    from upcycle.config import Config
    from upcycle.data.dataset import Dataset
    from upcycle.data.frames import open_cache
    from upcycle.data.splits import split

    index, preprocessing = _index(work), _preprocessing()
    frames, _ = open_cache(index, preprocessing.decoding, root=work / "cache" / "images", threads=1)
    dataset = Dataset(index, frames, preprocessing, split(index, seed=0))
    batches = dataset.batches(Config(batch_size=BATCH), device.detect(threads=1))
    began = time.perf_counter()
    batches._order(0)
    ordered = time.perf_counter()
    middle = batches.epoch(1, len(batches) // 2)
    next(middle)
    ended = time.perf_counter()
    made = sum(len(batch.labels) for _, batch in zip(range(100), replace(batches).epoch(0), strict=False))
    _print(order=ordered - began, middle=ended - ordered, images_per_second=made / (time.perf_counter() - ended))


def _index(work: Path) -> Any:
    from upcycle.data.index_file import index_from_bytes

    return index_from_bytes((work / "index").read_bytes())


def _print(**values: float) -> None:
    print(json.dumps(values))


STAGES = {
    "listing": _listing,
    "first scan": _scan,
    "second scan": _scan,
    "split": _split,
    "decode": _decode,
    "epoch": _epoch,
}
UNTIL_STEP = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
from upcycle.cli import main
sys.exit(main(sys.argv[1:]) or 9)
"""


@dataclass
class Cost:
    """Seconds of one process, and the most it held privately (RssAnon) and in all (VmHWM), bytes."""

    seconds: float
    private: int
    peak: int
    said: str
    code: int


def watched(command: list[str], *, until: Callable[[], bool] | None = None) -> Cost:
    """What a process costs, read 50 times a second; killed (SIGKILL) once `until` says so."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        private = peak = 0
        while process.poll() is None:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                found = dict(re.findall(r"^(RssAnon|VmHWM):\s+(\d+) kB", status, re.M))
                private = max(private, 1024 * int(found.get("RssAnon", 0)))
                peak = max(peak, 1024 * int(found.get("VmHWM", 0)))
            if until is not None and until():
                process.kill()
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        output.seek(0)
        return Cost(seconds, private, peak, output.read(), process.returncode)


def commands(data: Path, work: Path, count: int) -> Iterator[tuple[str, list[str], Callable[[], bool] | None]]:
    """Each stage's name and command, and when it is to be killed."""
    upcycle = [sys.executable, "-m", "upcycle"]
    for name in STAGES:
        yield name, [sys.executable, __file__, "stage", name, str(data), str(work)], None
    common = ["--threads", "1", "--cache", str(work / "cache")]
    yield "audit", [*upcycle, "scan", str(data), "--out", str(work / "scan"), *common], None
    for name, probe in (("", "--no-probe"), (" with probe", "--probe")):
        run = work / f"run{probe}"
        # an epoch of a million is enough; of a thousand there must be time to kill it
        epochs = max(1, round(60_000 / count))
        options = [*common, "--arch", "test_resnet", "--weights", str(WEIGHTS), "--image-size", str(SIZE)]
        options += [
            "--batch-size",
            str(BATCH),
            "--epochs",
            str(epochs),
            "--min-updates",
            "0",
            "--checkpoint-every",
            "5",
        ]
        options += ["--lr", "0.001", probe]

        def kept(run: Path = run) -> bool:
            return any((run / "checkpoints" / "last").glob("*.safetensors"))

        yield f"train{name}, killed", [*upcycle, "train", str(data), "--out", str(run), *options], kept
        again = ["train", "--out", str(run), "--resume"]
        for time_ in ("", ", again"):
            yield f"resume{name} to its next update{time_}", [sys.executable, "-c", UNTIL_STEP, *again], None
        yield f"resume{name} to its end", [*upcycle, *again], None
    run = work / "run--no-probe"
    yield "evaluate", [*upcycle, "evaluate", str(run), "--threads", "1"], None
    yield (
        "predict",
        [*upcycle, "predict", str(run), str(data), "--out", str(work / "all.parquet"), "--threads", "1"],
        None,
    )
    yield "report", [*upcycle, "report", str(run)], None


def measure(data: Path, work: Path, only: Sequence[str]) -> None:
    """Print a row of CSV for each stage."""
    count = int(data.name)
    work.mkdir(parents=True, exist_ok=True)
    for name, command, until in commands(data, work, count):
        if only and name not in only:
            continue
        cost = watched(command, until=until)
        failed = cost.code not in ((-9,) if until else (0,))
        said = cost.said.strip().split("\n")[-1] if name in STAGES or failed else ""
        row = [
            count,
            name,
            f"{cost.seconds:.2f}",
            cost.private // 2**20,
            cost.peak // 2**20,
            cost.code,
            said,
            round(os.getloadavg()[0], 1),
        ]
        writer = csv.writer(sys.stdout)
        writer.writerow(row)
        sys.stdout.flush()
        if failed:
            (work / f"{name}.failed").write_text(cost.said)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", count, folder]:
            make(int(count), Path(folder))
        case ["stage", name, data, work]:
            STAGES[name](Path(data), Path(work))
        case ["measure", data, work, *only]:
            measure(Path(data), Path(work), only)
