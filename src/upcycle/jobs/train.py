"""The main job: photos in, a fine-tuned, tested and reported classifier out.

Top to bottom: weights, data, plan, head on frozen features, fine-tuning, choice, test, report. Each
stage writes its files before the next begins; a run that is started again redoes what is cheap and
exact, and goes on from the last state it has kept.
"""

from upcycle import device as machines
from upcycle.data.index import Index
from upcycle.data.splits import Splits, write_splits
from upcycle.errors import ConfigError
from upcycle.jobs.begin import Start
from upcycle.jobs.extend import extend
from upcycle.jobs.moved import check_place, record_place
from upcycle.jobs.prepare import (
    Job,
    Prepared,
    audit,
    describe,
    digest_of,
    fit_size,
    machine_of,
    prepare,
    read_index,
    same_data,
    same_network,
    same_weights,
)
from upcycle.jobs.stages import run_stages
from upcycle.jobs.status import record_retrying, working
from upcycle.model import zoo
from upcycle.model.weights import Weights
from upcycle.reporting.names import counted
from upcycle.reporting.show import Show
from upcycle.rundir import RunDir, write_json


@machines.restored()
def run_training(start: Start, show: Show, *, index: Index | None = None, splits: Splits | None = None) -> None:
    """Do the whole job in `start.run`, from the beginning or from the last state it has kept.

    What is wrong with the request is found out before the run directory is made. `index` and `splits`
    are for a caller that has scanned and split already, as cross-validation has.
    """
    config = start.config
    check_place(start)  # before weights are downloaded for it
    machine = machine_of(config)
    machines.apply(machine, config.seed)
    arch = zoo.resolve_arch(config.arch)
    weights = zoo.get_weights(arch, config.weights)
    index = index if index is not None else read_index(start.data, config, machine, show)
    if start.run.config.exists() and not start.anew:
        same_weights(start.run, config, digest_of(weights))
    with working(start, digest_of(weights), machine, show) as work:
        preprocessing = zoo.preprocessing_for(
            arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
        )
        preprocessing = fit_size(preprocessing, index, config, fixed=zoo.has_fixed_size(arch))
        with work.timed("decoding_seconds"):
            prepared = prepare(index, preprocessing, config, machine, show, splits)
        network = _network(arch, weights, prepared)
        if start.run.has_work():
            same_data(start.run, prepared.index, prepared.splits)
            same_network(start.run, network)
            if start.moved:
                record_place(start.run, start.data)
        if start.extended:
            extend(start.run, config)
            record_retrying(start.run, config.on_divergence)
            work.tick()
            show.say(f"{counted(config.more_epochs[-1], 'more epoch')}, from the best weights so far")
        _record_data(start.run, prepared, show)
        show.say(f"{arch}, weights from {network.weights_source}; {preprocessing.describe()}")
        computer = machine.gpu or machine.processor
        show.say(f"{machine.device}, {machine.threads} threads, {machine.precision}: {computer}")
        job = Job(start.run, config, machine, network, prepared, show, work)
        try:
            work.details["stopped"] = run_stages(job, weights)
        except (RuntimeError, ValueError, AssertionError) as error:
            images = min(config.batch_size, 2)
            reason = zoo.refusal(network, images=images, training=config.bn == "train")
            if not reason:
                raise
            asked = f"{images} image{'' if images == 1 else 's'} of {preprocessing.size} px"
            raise ConfigError(
                f"{arch} cannot compute {asked} ({reason}): give another --image-size or --batch-size"
            ) from error


def _record_data(run: RunDir, prepared: Prepared, show: Show) -> None:
    """Write down and say what is trained on."""
    known = audit(prepared)
    write_json(run.audit, known.to_dict())
    write_splits(run.splits, prepared.index, prepared.splits)
    describe(prepared, known, show)


def _network(arch: str, weights: Weights | None, prepared: Prepared) -> zoo.Network:
    source, digest = (weights.source, weights.sha256) if weights else ("none: random", "")
    return zoo.Network(arch, prepared.index.classes, prepared.preprocessing, source, digest)
