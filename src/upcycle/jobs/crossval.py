"""Cross-validation: K whole runs, every image tested once, and metrics of all of them together."""

from dataclasses import replace

import numpy as np

from upcycle.data.index import Index
from upcycle.data.splits import folds
from upcycle.evaluation.metrics import evaluate
from upcycle.evaluation.predictions import Predictions, read
from upcycle.evaluation.results import FoldScores, RunEvaluation
from upcycle.jobs.prepare import decodable, fit_size, machine_of, read_index
from upcycle.jobs.resume import check_place, record_place, same_data, same_network, same_weights
from upcycle.jobs.session import open_session
from upcycle.jobs.start import Start
from upcycle.jobs.train import run_training
from upcycle.manifest import check
from upcycle.model.sources import get_weights
from upcycle.model.spec import ModelSpec, has_fixed_size, preprocessing_for, resolve_arch
from upcycle.reporting.progress import Observer
from upcycle.reporting.tables import evaluation_table
from upcycle.rundir import RunDir, read_json, write_json
from upcycle.task import Task


def cross_validate(start: Start, show: Observer, *, index: Index | None = None) -> None:
    """Train `config.folds` models, each tested on images the others trained on, in RUN/fold-1, fold-2, ...

    RUN itself gets the predictions of all images, each by the model that had not seen it, and their
    metrics. The intervals treat those as one model's; they say nothing of the spread between models,
    which is shown fold by fold. Folds that are finished are not repeated; RunError where the images, the
    weights or their input are no longer theirs.
    """
    config, run = start.config, start.run
    check_place(start)
    machine = machine_of(config)
    arch = resolve_arch(config.arch)
    weights = get_weights(arch, config.weights)
    digest, source = (weights.sha256, weights.source) if weights else ("", "")
    preprocessing = preprocessing_for(
        arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
    )
    del weights  # each fold reads its own
    index = index if index is not None else read_index(start.data, config, machine, show)
    with open_session(start, "", machine, show) as session:
        index = decodable(index, config, machine, show)
        split = folds(index, k=config.folds, seed=config.seed_of_split, val_fraction=config.val_fraction)
        parts = [RunDir(run.root / f"fold-{number}") for number in range(1, config.folds + 1)]
        fitted = fit_size(preprocessing, index, config, fixed=has_fixed_size(arch))
        network = ModelSpec(arch, Task.of(index.classes), fitted, source, digest)
        for fold, splits in zip(parts, split, strict=True):
            if fold.config.exists():
                same_weights(fold, config, digest)
                same_data(fold, index, splits)
                same_network(fold, network)
        if start.moved:
            for part in (*(fold for fold in parts if fold.config.exists()), run):
                record_place(part, start.data)
        for number, (fold, splits) in enumerate(zip(parts, split, strict=True), 1):
            show.message(f"fold {number} of {config.folds}")
            if not (fold.is_run() and fold.status()["state"] == "finished"):
                single = config.model_copy(update={"folds": 0})
                run_training(replace(start, config=single, run=fold, fresh=False), show, index=index, splits=splits)
        session.details["folds"] = config.folds
        _write_pooled(run, config.folds, config.seed, show)


def _write_pooled(run: RunDir, count: int, seed: int, show: Observer) -> None:
    parts = [RunDir(run.root / f"fold-{number}") for number in range(1, count + 1)]
    for part in parts:
        check(part)
    pooled = _pool([read(part.predictions("test")) for part in parts])
    pooled.save(run.predictions("test"))
    evaluation = evaluate(pooled, seed=seed)
    scores = [RunEvaluation.from_dict(read_json(part.evaluation))["test"].f1_macro.value for part in parts]
    folds = FoldScores(tuple(scores), float(np.mean(scores)), float(np.std(scores, ddof=1)))
    write_json(run.evaluation, RunEvaluation({"test": evaluation}, folds=folds).to_dict())
    show.table(evaluation_table(evaluation))
    show.message(
        f"test F1 by fold: {', '.join(f'{score:.4f}' for score in scores)} "
        f"(mean {folds.mean:.4f}, standard deviation {folds.deviation:.4f})"
    )


def _pool(parts: list[Predictions]) -> Predictions:
    return Predictions(
        classes=parts[0].classes,
        paths=tuple(path for part in parts for path in part.paths),
        hashes=tuple(digest for part in parts for digest in part.hashes),
        groups=tuple(group for part in parts for group in part.groups),
        labels=np.concatenate([part.labels for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
    )
