"""Run directories as upcycle train leaves them, with answers that a test decides."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from upcycle.evaluation.metrics import measure
from upcycle.evaluation.results import Predictions
from upcycle.recipes import resolve
from upcycle.rundir import RunDir, append_line, write_json


def predictions(
    right: Sequence[int] | np.ndarray, *, classes: tuple[str, ...] = ("cats", "dogs"), first: int = 0, shuffle: int = 0
) -> Predictions:
    """A test set whose images are numbered from `first`; those marked 1 are answered right."""
    hits = np.asarray(right, dtype=bool)
    order = np.random.default_rng(shuffle).permutation(len(hits)) if shuffle else np.arange(len(hits))
    numbers, labels = (first + order), (first + order) % 2
    said = np.where(hits[order], labels, 1 - labels)
    return Predictions(
        classes=classes,
        paths=tuple(f"test/{classes[label]}/{number:04}.jpg" for number, label in zip(numbers, labels, strict=True)),
        hashes=tuple(hashlib.sha256(str(number).encode()).hexdigest() for number in numbers),
        groups=("",) * len(hits),
        labels=labels,
        logits=np.where(said == 1, 2.0, -2.0)[:, None].astype(np.float32),
    )


def write_run(
    path: Path, made: Predictions, *, seconds: float = 60.0, status: dict[str, Any] | None = None, **options: Any
) -> Path:
    """A finished run of `options` whose model answered `made`."""
    run, config = RunDir(path), resolve(options)
    run.set_status("finished", seconds=seconds, stopped="ran all 3 epochs", **(status or {}))
    write_json(run.config, {**config.to_dict(), "data": "/photos", "weights_sha256": "a" * 64})
    write_json(run.environment, {"processor": "a processor", "device": "cpu", "threads": 2, "precision": "bf16"})
    counts = {"parameters": 23_000_000, "trained_parameters": 22_000_000}
    seen = {"size": config.image_size or 224, "crop_pct": config.crop_pct or 0.875}
    write_json(run.model, {"arch": config.arch, "preprocessing": seen, **counts})
    for epoch in range(1, 4):
        losses = {"loss": 0.5 / epoch, "val_loss": 0.6 / epoch}
        scores = {"accuracy": 0.9, "val_accuracy": 0.9, "val_f1_macro": 0.9}
        facts = {"phase": "finetune", "epoch": epoch, "step": 10 * epoch, "lr": 1e-4, "momentum": 0.9, "best": True}
        append_line(run.history, facts | losses | scores)
    made.save(run.predictions("test"))
    write_json(run.evaluation, {"test": measure(made, n_boot=50).to_dict()})
    return path
