"""Cross-validation: K whole runs, every image tested once, and metrics of all of them together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from upcycle import device as machines
from upcycle.config import Config
from upcycle.data.splits import folds
from upcycle.evaluation.metrics import evaluate
from upcycle.evaluation.predictions import Predictions, read
from upcycle.job.begin import command as command_of
from upcycle.job.prepare import decodable, read_index
from upcycle.job.train import train
from upcycle.output.show import Show
from upcycle.output.terminal import table
from upcycle.rundir import RunDir, read_json, write_json


def cross_validate(
    data: Path, config: Config, run: RunDir, show: Show, *, command: str, options: Mapping[str, Any]
) -> None:
    """Train `config.folds` models, each tested on images the others trained on, in RUN/fold-1, fold-2, ...

    RUN itself gets the predictions of all images, each by the model that had not seen it, and their
    metrics. The intervals treat those as one model's; they say nothing of the spread between models,
    which is shown fold by fold. Folds that are finished are not repeated.
    """
    machine = machines.detect(precision=config.precision, threads=config.threads, device=config.device)
    if not run.config.exists():
        write_json(run.config, {**config.to_dict(), "data": str(data), "weights_sha256": ""})
        write_json(run.environment, {**machines.environment(machine), "command": command})
    run.set_status("running")
    index = decodable(read_index(data, config, machine, show), config, machine, show)
    single = config.model_copy(update={"folds": 0})
    parts: list[Predictions] = []
    scores: list[float] = []
    for number, splits in enumerate(
        folds(index, k=config.folds, seed=config.seed, val_fraction=config.val_fraction), 1
    ):
        fold = RunDir(run.root / f"fold-{number}")
        show.say(f"fold {number} of {config.folds}")
        if not (fold.status_file.exists() and fold.status()["state"] == "finished"):
            own = command_of(data, {**options, "folds": config.folds}, run.root)
            train(data, single, fold, show, command=own, given=(index, splits))
        parts.append(read(fold.predictions("test")))
        scores.append(float(read_json(fold.evaluation)["test"]["f1_macro"]["value"]))
    pooled = _pool(parts)
    pooled.save(run.predictions("test"))
    known = evaluate(pooled, seed=config.seed).to_dict()
    spread = {"f1_macro": scores, "mean": float(np.mean(scores)), "deviation": float(np.std(scores, ddof=1))}
    write_json(run.evaluation, {"test": known, "folds": spread})
    run.set_status("finished", folds=config.folds)
    show.table(table(known))
    show.say(
        f"test F1 by fold: {', '.join(f'{score:.4f}' for score in scores)} "
        f"(mean {spread['mean']:.4f}, standard deviation {spread['deviation']:.4f})"
    )


def _pool(parts: list[Predictions]) -> Predictions:
    first = parts[0]
    return Predictions(
        classes=first.classes,
        paths=tuple(path for part in parts for path in part.paths),
        hashes=tuple(digest for part in parts for digest in part.hashes),
        groups=tuple(group for part in parts for group in part.groups),
        labels=np.concatenate([part.labels for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
    )
