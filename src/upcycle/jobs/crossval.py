"""Cross-validation: K whole runs, every image tested once, and metrics of all of them together."""

from dataclasses import replace

from upcycle.data.index import Index
from upcycle.data.splits import folds
from upcycle.jobs.prepare import decodable, fit_size, machine_of, read_index
from upcycle.jobs.results import write_pooled
from upcycle.jobs.resume import check_place, record_place, same_data, same_network, same_weights
from upcycle.jobs.session import open_session
from upcycle.jobs.start import Start
from upcycle.jobs.train import run_training
from upcycle.model.network import spec_of
from upcycle.model.sources import get_weights, has_fixed_size, preprocessing_for, resolve_arch
from upcycle.reporting.progress import Display
from upcycle.rundir import RunDir


def cross_validate(start: Start, show: Display, *, index: Index | None = None) -> None:
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
    digest = weights.sha256 if weights else ""
    preprocessing = preprocessing_for(
        arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
    )
    index = index if index is not None else read_index(start.data, config, machine, show)
    with open_session(start, "", machine, show) as session:
        index = decodable(index, config, machine, show)
        split = folds(index, k=config.folds, seed=config.seed_of_split, val_fraction=config.val_fraction)
        parts = [RunDir(run.root / f"fold-{number}") for number in range(1, config.folds + 1)]
        fitted = fit_size(preprocessing, index, config, fixed=has_fixed_size(arch))
        network = spec_of(arch, index.classes, fitted, weights)
        del weights  # each fold reads its own
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
        write_pooled(session, parts)
