"""The main job: photos in, a fine-tuned, tested and reported classifier out; and cross-validation, K of them.

Top to bottom: weights, data, plan, head on frozen features, fine-tuning, choice, test, report. Each
stage writes its files before the next one; a run that is resumed redoes what is cheap and exact, and
continues from its last checkpoint.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from upcycle import device as machines
from upcycle.config import Config
from upcycle.data.dataset import Dataset
from upcycle.data.index import Index
from upcycle.data.splits import Splits, folds, write_splits
from upcycle.errors import ConfigError
from upcycle.jobs.deadline import fit_deadline
from upcycle.jobs.follow import share_data
from upcycle.jobs.prepare import audit_dataset, decodable, describe, fit_size, machine_of, prepare, read_index
from upcycle.jobs.results import write_pooled
from upcycle.jobs.resume import check_place, record_place, recorded_audit, same_data, same_network, same_weights
from upcycle.jobs.session import Session, open_session
from upcycle.jobs.stages import run_stages
from upcycle.jobs.start import Start
from upcycle.model.network import ModelSpec, cannot_compute, spec_of
from upcycle.model.sources import get_weights, has_fixed_size, preprocessing_for, resolve_arch
from upcycle.reporting.progress import Display
from upcycle.rundir import RunDir, write_json
from upcycle.world import ALONE, World


@machines.restored()
def run_training(
    start: Start,
    show: Display,
    *,
    index: Index | None = None,
    splits: Splits | None = None,
    world: World = ALONE,
) -> None:
    """Do the whole job in `start.run`, from the start or from its last checkpoint, as rank 0 of a `world`.

    What is wrong with the request is found out before the run directory is made. `index` and `splits`
    are for a caller that has scanned and split already, as cross-validation has.
    """
    config = start.config
    check_place(start)  # before weights are downloaded for it
    machine = machine_of(config)
    machines.apply(machine, config.seed)
    arch = resolve_arch(config.arch)
    weights = get_weights(arch, config.weights)
    digest = weights.sha256 if weights is not None else ""
    index = index if index is not None else read_index(start.data, config, machine, show)
    if start.run.config.exists() and not start.fresh:
        same_weights(start.run, config, digest)
    with open_session(start, digest, machine, show) as session:
        session.stopping.repeated = not world.alone
        preprocessing = preprocessing_for(
            arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
        )
        fixed = has_fixed_size(arch)
        preprocessing = fit_size(preprocessing, index, config, fixed=fixed)
        asked = spec_of(arch, index.classes, preprocessing, weights)
        preprocessing = fit_deadline(session, asked, index, fresh=start.fresh, fixed=fixed)
        config = session.config
        with session.timed("decoding_seconds"):
            dataset = prepare(index, preprocessing, config, machine, show, splits)
        network = spec_of(arch, dataset.index.classes, dataset.preprocessing, weights)
        resumed = start.run.has_work()
        if resumed:
            same_data(start.run, dataset.index, dataset.splits)
            same_network(start.run, network)
            if start.moved:
                record_place(start.run, start.data)
        _record_data(session, dataset, known=resumed and not start.moved)
        show.message(f"{arch}, weights from {network.weights_source}; {preprocessing.describe()}")
        computer = machine.gpu or machine.processor
        show.message(f"{machine.device}, {machine.threads} threads, {machine.precision}: {computer}")
        if not world.alone:
            show.message(f"{world.size} processes, each on its part of every batch")
        dataset = share_data(world, dataset, index, network, config)
        with computable(network, config):
            session.details["stopped"] = run_stages(session, dataset, network, weights)


@contextlib.contextmanager
def computable(network: ModelSpec, config: Config) -> Iterator[None]:
    """ConfigError in place of what the libraries raise for a network that cannot compute images of this size."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        images, size = min(config.batch_size, 2), network.preprocessing.size
        reason = cannot_compute(network, images=images, training=config.bn == "train")
        if not reason:
            raise
        asked = f"{images} image{'' if images == 1 else 's'} of {size} px"
        raise ConfigError(
            f"{network.arch} cannot compute {asked} ({reason}): give another --image-size or --batch-size"
        ) from error


def _record_data(session: Session, dataset: Dataset, *, known: bool) -> None:
    """Record and report what is trained on; where it is `known`, as it was recorded."""
    run = session.run
    audit = recorded_audit(run, dataset.index) if known and run.splits.exists() else None
    if audit is None:
        audit = audit_dataset(dataset)
        write_json(run.audit, audit.to_dict())
        write_splits(run.splits, dataset.index, dataset.splits)
    describe(dataset, audit, session.show)


def cross_validate(start: Start, show: Display, *, index: Index | None = None, world: World = ALONE) -> None:
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
                one = replace(start, config=single, run=fold, fresh=False)
                run_training(one, show, index=index, splits=splits, world=world)
        session.details["folds"] = config.folds
        write_pooled(session, parts)
