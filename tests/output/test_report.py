import hashlib
import io
import json
import math
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from upcycle.errors import RunError
from upcycle.evaluation.metrics import evaluate, paired_log_loss
from upcycle.evaluation.predictions import Predictions
from upcycle.output.report import write_report
from upcycle.rundir import RunDir, append_line, write_bytes, write_json

CHROMIUM = Path("/usr/bin/chromium")
PETS = ("cats", "dogs")
FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")
HOSTILE = ("<script>alert(1)</script>", 'quo"te\'s & $x^2$\nnext\u202eline')


# ------------------------------------------------------------------------- a realistic run directory


def picture(seed: int, side: int = 160) -> bytes:
    """A thumbnail-sized JPEG: smooth blobs, another one for every seed."""
    small = np.random.default_rng(seed).integers(30, 230, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def predicted(classes: tuple[str, ...], n: int, *, margin: float, seed: int) -> Predictions:
    """Logits that are mostly right: the larger `margin`, the fewer mistakes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    logits = rng.normal(0, 1.6, (n, len(classes)))
    logits[np.arange(n), labels] += margin
    if len(classes) == 2:
        logits = logits[:, 1:] - logits[:, :1]
    hashes = tuple(hashlib.sha256(f"{seed} {at}".encode()).hexdigest() for at in range(n))
    paths = tuple(f"test/{classes[label]}/image_{at:04}.jpg" for at, label in enumerate(labels))
    return Predictions(classes, paths, hashes, ("",) * n, labels, logits.astype(np.float32))


def cycle(steps: int, peak: float, first: int) -> list[dict[str, float]]:
    def at(step: int) -> float:
        part = step / (steps - 1)
        return part / 0.3 if part < 0.3 else 0.5 + 0.5 * math.cos(math.pi * (part - 0.3) / 0.7)

    return [
        {"step": first + step, "lr": peak * (0.04 + 0.96 * at(step)), "momentum": 0.95 - 0.1 * at(step)}
        for step in range(steps)
    ]


PHASES = (("head", 20, 4, 3e-2), ("finetune", 6, 15, 3e-4))


def write_training(run: RunDir) -> None:
    phases, step = [], 0
    for name, epochs, steps, peak in PHASES:
        rates = cycle(epochs * steps, peak, step)
        phases.append(
            {"name": name, "epochs": epochs, "steps_per_epoch": steps, "per": "step", "rates": rates}
        )
        high, low = (0.66, 0.12) if name == "head" else (0.15, 0.05)
        for epoch in range(1, epochs + 1):
            step += steps
            loss = low + (high - low) * math.exp(-3.5 * epoch / epochs)
            wobble = 0.008 * math.sin(5 * epoch)
            clock = {"phase": name, "epoch": epoch, "seconds": 0.3 if name == "head" else 14.2 + epoch / 10}
            append_line(run.timings, {**clock, "images_per_second": 1460.0 if name == "head" else 33.8})
            row = {"phase": name, "epoch": epoch, "step": step, "lr": rates[epoch * steps - 1]["lr"]}
            values = {"loss": loss, "accuracy": 1 - 0.4 * loss, "momentum": 0.9, "val_f1_macro": 0.9}
            held = {"val_loss": loss + 0.03 + wobble, "val_accuracy": 0.985 - 0.42 * loss - wobble}
            append_line(run.history, {**row, **values, **held, "best": epoch in (1, 2, epochs - 1)})
    write_json(run.plan, {"phases": phases})


def write_audit(run: RunDir, classes: tuple[str, ...]) -> None:
    per_class = {"train": 24, "val": 12, "test": 160 // len(classes)}
    splits = {
        split: {name: count + (split == "train") * at for at, name in enumerate(classes)}
        for split, count in per_class.items()
    }
    totals = {name: sum(counts[name] for counts in splits.values()) for name in classes}
    folder = f"train/{classes[0]}"
    write_json(
        run.audit,
        {
            "images": sum(totals.values()),
            "classes": totals,
            "splits": splits,
            "quarantined": [
                {"path": f"{folder}/broken 1.jpg", "reason": "the file is cut short (41 of 812 bytes)"},
                {"path": f"{folder}/notes.png", "reason": "not an image"},
            ],
            "duplicates": [[f"{folder}/a_{at}.jpg", f"{folder}/a_{at} (copy).jpg"] for at in range(23)],
            "conflicts": [
                [
                    {"path": f"{folder}/x.jpg", "label": classes[0]},
                    {"path": f"train/{classes[1]}/x.jpg", "label": classes[1]},
                ]
            ],
            "leaks": [],
            "warnings": [
                f"the training set has only {per_class['train']} images of {classes[0]}",
                "2 files could not be read and are not used",
            ],
        },
    )


def write_machine(run: RunDir, classes: tuple[str, ...], data: str) -> None:
    preprocessing = {"size": 224, "crop_pct": 0.875, "interpolation": "bilinear", "mean": [0.485, 0.456, 0.406]}
    weights = {"source": "resnet50_imagenet.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}
    write_json(
        run.model,
        {
            "arch": "resnet50",
            "classes": list(classes),
            "preprocessing": preprocessing,
            "weights": weights,
            "parameters": 23_510_081,
            "trained_parameters": 14_966_785,
            "outputs": 1 if len(classes) == 2 else len(classes),
        },
    )
    options = {"recipe": "default", "arch": "resnet50", "epochs": 6, "batch_size": 32, "image_size": None}
    rates = {"lr": 3e-4, "pct_start": 0.25, "moms": [0.95, 0.85, 0.95], "layer_decay": 0.6, "mixup": 0.0}
    write_json(run.config, {**options, **rates, "monitor": "val_loss", "seed": 0, "data": data})
    write_json(
        run.environment,
        {
            "command": f"upcycle train '{data}' --recipe default --epochs 6 --out runs/first",
            "versions": {"python": "3.11.9", "upcycle": "0.1.0", "torch": "2.11.0", "timm": "1.0.31"},
            "processor": "Intel(R) Xeon(R) Platinum 8481C",
            "cores": 2,
            "threads": 2,
            "precision": "bf16",
            "device": "cpu",
            "memory_gb": 23.4,
            "started": "2026-03-02 10:15:00 UTC",
        },
    )


def write_scores(run: RunDir, classes: tuple[str, ...], margin: float) -> Predictions:
    test = predicted(classes, 160, margin=margin, seed=1)
    val = predicted(classes, 40, margin=margin, seed=2)
    probe = predicted(classes, 160, margin=margin - 0.7, seed=1)
    for name, split in (("test", test), ("val", val), ("probe_test", probe)):
        split.save(run.predictions(name))
    paired = paired_log_loss(predicted(classes, 40, margin=margin - 0.7, seed=2), val)
    says = "Fine-tuning was kept: its validation log loss is lower by more than one standard error."
    choice = {"chosen": "finetune", "mean_difference": paired.mean_difference, "says": says}
    scores = {
        name: evaluate(split, n_boot=200).to_dict()
        for name, split in (("test", test), ("val", val), ("probe_test", probe))
    }
    write_json(run.evaluation, {**scores, "choice": {**choice, "standard_error": paired.standard_error}})
    return test


def sample_run(
    root: Path,
    classes: tuple[str, ...] = PETS,
    *,
    margin: float = 4.5,
    data: str = "photos/cats_dogs",
    thumbnails: list[bytes] | None = None,
) -> RunDir:
    """A finished two-phase run on 160 test images, with a thumbnail of every mistake."""
    run = RunDir(root)
    root.mkdir(parents=True)
    write_machine(run, classes, data)
    write_audit(run, classes)
    write_training(run)
    test = write_scores(run, classes, margin)
    for at in np.flatnonzero(test.predicted() != test.labels):
        content = thumbnails[at % len(thumbnails)] if thumbnails else picture(int(at))
        write_bytes(run.thumbnails / f"{test.hashes[at]}.jpg", content)
    run.set_status("finished", stopped="all 6 epochs done", seconds=151.3)
    return run


if __name__ == "__main__":
    import sys
    photos = [Path(p).read_bytes() for p in sys.argv[2:]]
    out=Path(sys.argv[1]); shutil.rmtree(out, ignore_errors=True)
    import time
    for name, kw in dict(two=dict(), five=dict(classes=FLOWERS, margin=3.2, data="flowers5"), hostile=dict(classes=HOSTILE), many=dict(classes=tuple(f"species {i:02}" for i in range(40)),margin=4)).items():
        run=sample_run(out/name, thumbnails=photos or None, **kw)
        t=time.time(); p=write_report(run); print(p, round(time.time()-t,2), p.stat().st_size//1024, "KB")
