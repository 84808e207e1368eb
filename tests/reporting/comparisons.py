"""A comparison as `upcycle compare` leaves it: six rungs, three seeds, with everything their page reads."""

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.comparison.rundirs import write_run
from tests.reporting.pages import picture
from upcycle.comparison.compare import compare
from upcycle.comparison.ladder import RUNGS
from upcycle.comparison.runs import Group, Run, read_run
from upcycle.evaluation.predictions import Predictions
from upcycle.rundir import RunDir, read_json, write_bytes, write_json, write_lines

IMAGES = 500
PETS = ("cats", "dogs")
SEEDS = (0, 1, 2)
Values = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How a rung of the example came out: skill in standard deviations of difficulty, epochs by seed, seconds."""

    skill: float
    epochs: tuple[int, ...]
    seconds: float
    phase: str = "train"
    loss: tuple[float, float] = (0.6, 0.1)
    options: Values = field(default_factory=dict)


WAYS = {
    "simple-cnn": Way(0.95, (19, 24, 33), 812.0, loss=(0.69, 0.42)),
    "probe": Way(1.95, (0,), 71.0),
    "constant": Way(1.6, (8, 11, 9), 1460.0, loss=(0.22, 0.13)),
    "constant-tuned": Way(1.95, (12, 9, 14), 1630.0, loss=(0.2, 0.07), options={"lr": 3e-5}),
    "classic": Way(2.05, (26, 34, 30), 2836.0, loss=(0.31, 0.058)),
    "default": Way(2.4, (3, 3, 3), 466.0, phase="finetune", loss=(0.09, 0.041)),
}
TRIALS = {1e-5: 0.081, 3e-5: 0.066, 1e-4: 0.094, 3e-4: 0.31}


def answers(skill: float, seed: int, classes: tuple[str, ...] = PETS, n: int = IMAGES) -> Predictions:
    """What a model of some skill says of images of unequal difficulty; the same images for every model."""
    hard = np.random.default_rng(7).normal(size=n)
    own = np.random.default_rng((int(100 * skill), seed))
    labels = np.arange(n) % len(classes)
    margin = 2.4 * (skill - hard + 0.25 * own.normal(size=n))
    logits = own.normal(0, 0.3, (n, len(classes)))
    logits[np.arange(n), labels] += margin
    if len(classes) == 2:
        logits = logits[:, 1:] - logits[:, :1]
    hashes = tuple(hashlib.sha256(str(at).encode()).hexdigest() for at in range(n))
    paths = tuple(f"test/{classes[label]}/image_{at:04}.jpg" for at, label in enumerate(labels))
    return Predictions(classes, paths, hashes, ("",) * n, labels, logits.astype(np.float32))


def history(way: Way, seed: int) -> list[Values]:
    """Rows of an ordinary training: quick at first, a wobble, a little worse after the best."""
    epochs, (high, low) = way.epochs[seed % len(way.epochs)], way.loss
    rows: list[Values] = []
    for epoch in range(1, epochs + 1):
        part = epoch / epochs
        loss = low + (high - low) * math.exp(-4 * part) + 0.12 * low * math.sin(7 * epoch + seed) + 0.1 * low * part
        row = {"phase": way.phase, "epoch": epoch, "step": 10 * epoch, "lr": 1e-4, "momentum": 0.9, "best": False}
        held = {"val_loss": loss, "val_accuracy": 1 - 0.42 * loss, "val_f1_macro": 1 - 0.42 * loss}
        rows.append({**row, "loss": 0.8 * loss, "accuracy": 1 - 0.3 * loss, **held})
    return rows


def train(path: Path, name: str, seed: int, classes: tuple[str, ...] = PETS, *, n: int = IMAGES, **options: Any) -> Run:
    """The run directory of one seed of a rung, as a training leaves it, thumbnails of its mistakes included."""
    way = WAYS[name]
    made = answers(way.skill, seed, classes, n)
    given = {"recipe": "default", **RUNGS[name].options, **way.options, **options, "seed": seed}
    write_run(path, made, seconds=way.seconds * (1 + 0.04 * seed), **given)
    run = RunDir(path)
    write_lines(run.history, history(way, seed))
    for at in np.flatnonzero(made.predicted() != made.labels):
        write_bytes(run.thumbnails / f"{made.hashes[at]}.jpg", picture(int(at)))
    return read_run(path)


def _trial(folder: Path, lr: float, loss: float) -> Run:
    run = RunDir(train(folder / "runs" / f"constant-tuned-rate-{lr:g}-seed-0", "constant-tuned", 0, lr=lr).path)
    write_lines(run.history, [{**row, "val_loss": loss + 0.1 / row["epoch"]} for row in history(WAYS["classic"], 0)])
    return read_run(run.root)


def write_example(
    folder: Path,
    names: tuple[str, ...] = tuple(WAYS),
    *,
    seeds: tuple[int, ...] = SEEDS,
    classes: tuple[str, ...] = PETS,
    data: str = "/home/anna/photos/cats_dogs",
    n: int = IMAGES,
) -> Path:
    """A comparison of `names`, written down in `folder` with its runs; gives `folder`."""
    groups = []
    for name in names:
        rung, tuned = RUNGS[name], name == "constant-tuned"
        groups.append(
            Group(
                name,
                rung.title,
                rung.does,
                tuple(train(folder / "runs" / f"{name}-seed-{seed}", name, seed, classes, n=n) for seed in seeds),
                trials=tuple(_trial(folder, lr, loss) for lr, loss in TRIALS.items()) if tuned else (),
                lr=3e-5 if tuned else None,
            )
        )
    command = f"upcycle compare '{data}' --rungs {','.join(names)} --seeds {len(seeds)} --out runs/compare-1"
    facts = {"data": data, "command": command, "created": "2026-11-24 00:20:00 UTC"}
    write_json(folder / "comparison.json", compare(groups, folder=folder, facts=facts))
    return folder


def read_example(folder: Path) -> Values:
    """What its comparison.json holds."""
    values: Values = read_json(folder / "comparison.json")
    return values


def without_results(values: Values, name: str) -> Values:
    """The same comparison, had every run of the rung `name` failed."""
    gone = dict.fromkeys(
        ("accuracy", "f1_macro", "epochs", "seconds", "tuning_seconds", "trained_parameters", "parameters")
    )
    failed = [{"seed": seed, "reason": "the loss is not finite between steps 4 and 5"} for seed in SEEDS]
    rungs = [
        {**rung, **gone, "seeds": [], "runs": [], "failed": failed} if rung["name"] == name else rung
        for rung in values["rungs"]
    ]
    pairs = [pair for pair in values["pairs"] if name not in (pair["first"], pair["second"])]
    return {**values, "rungs": rungs, "pairs": pairs}


def renamed(values: Values, titles: dict[str, str]) -> Values:
    """The same comparison with other words for some rungs, in every sentence too."""
    known = {rung["name"]: rung["title"] for rung in values["rungs"]}
    swap = {known[name]: title for name, title in titles.items()}

    def said(text: str) -> str:
        for old, new in swap.items():
            text = text.replace(old, new)
        return text

    return {
        **values,
        "rungs": [{**rung, "title": titles.get(rung["name"], rung["title"])} for rung in values["rungs"]],
        "pairs": [{**pair, "says": said(pair["says"])} for pair in values["pairs"]],
        "says": [said(text) for text in values["says"]],
    }
