"""A comparison as `upcycle compare` leaves it: six variants, three seeds, with everything its page reads."""

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.comparison.rundirs import write_run
from upcycle.comparison.results import About, Comparison, VariantResult
from upcycle.comparison.runs import FailedSeed, FinishedRun, VariantRuns, read_run
from upcycle.comparison.summary import summarize
from upcycle.comparison.variants import VARIANTS
from upcycle.evaluation.results import Predictions
from upcycle.rundir import RunDir, write_lines

IMAGES = 500
PETS = ("cats", "dogs")
SEEDS = (0, 1, 2)
Values = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How a variant of the example came out: skill in standard deviations of difficulty, epochs by seed, seconds."""

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


def train(
    path: Path, name: str, seed: int, classes: tuple[str, ...] = PETS, *, n: int = IMAGES, **options: Any
) -> FinishedRun:
    """The run directory of one seed of a variant, as a training leaves it."""
    way = WAYS[name]
    made = answers(way.skill, seed, classes, n)
    given = {"recipe": "default", **VARIANTS[name].options, **way.options, **options, "seed": seed}
    write_run(path, made, seconds=way.seconds * (1 + 0.04 * seed), **given)
    run = RunDir(path)
    write_lines(run.history, history(way, seed))
    return read_run(path)


def _trial(folder: Path, lr: float, loss: float) -> FinishedRun:
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
) -> Comparison:
    """A comparison of `names`, saved in `folder` with its runs."""
    groups = []
    for name in names:
        variant, tuned = VARIANTS[name], name == "constant-tuned"
        runs = tuple(train(folder / "runs" / f"{name}-seed-{seed}", name, seed, classes, n=n) for seed in seeds)
        trials = tuple(_trial(folder, lr, loss) for lr, loss in TRIALS.items()) if tuned else ()
        lr = 3e-5 if tuned else None
        groups.append(VariantRuns(name, variant.title, variant.description, runs, trials=trials, lr=lr))
    command = f"upcycle compare '{data}' --variants {','.join(names)} --seeds {len(seeds)} --out runs/compare-1"
    about = About(data, command, "2026-11-24 00:20:00 UTC")
    made = summarize(groups, folder=folder, about=about)
    made.save()
    return made


def changed(made: Comparison, name: str, **more: Any) -> Comparison:
    """The same comparison with some values of one variant replaced."""

    def one(variant: VariantResult) -> VariantResult:
        return replace(variant, **more) if variant.name == name else variant

    return replace(made, variants=tuple(map(one, made.variants)))


def without_results(made: Comparison, name: str) -> Comparison:
    """The same comparison, had every run of the variant `name` failed."""
    failed = tuple(FailedSeed(seed, "the loss is not finite between steps 4 and 5") for seed in SEEDS)
    bare = changed(made, name, runs=(), failed=failed, accuracy=None, f1_macro=None, cost=None)
    pairs = tuple(pair for pair in made.pairs if name not in (pair.first, pair.second))
    return replace(bare, pairs=pairs, recommendation=None)


def renamed(made: Comparison, titles: dict[str, str]) -> Comparison:
    """The same comparison with other titles for some variants."""
    for name, title in titles.items():
        made = changed(made, name, title=title)
    return made
