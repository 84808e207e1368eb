"""The main job: photos in, a fine-tuned, tested and reported classifier out.

Top to bottom: network, data, plan, head on frozen features, fine-tuning, choice, test, report. Each
stage writes its files before the next begins; a run that is started again redoes what is cheap and
exact, and goes on from its last finished epoch.
"""

import time
from pathlib import Path

from upcycle import device as machines
from upcycle.config import Config
from upcycle.data.folder import Index
from upcycle.data.splits import Splits, write_splits
from upcycle.device import Machine
from upcycle.errors import RunError, UpcycleError
from upcycle.job.prepare import Job, audit, describe, fit_size, prepare, read_index, same_data
from upcycle.job.stages import run_stages
from upcycle.model import zoo
from upcycle.model.weights import Weights
from upcycle.output.report import write_report
from upcycle.output.show import Show
from upcycle.rundir import RunDir, read_json, write_json


def train(
    data: Path,
    config: Config,
    run: RunDir,
    show: Show,
    *,
    command: str,
    given: tuple[Index, Splits] | None = None,
) -> None:
    """Do the whole job in `run`, from the beginning or from its last finished epoch.

    `given` is for a caller that has scanned and split already, as cross-validation has.
    """
    began = time.monotonic()
    machine = machines.detect(precision=config.precision, threads=config.threads, device=config.device)
    machines.apply(machine, config.seed)
    arch = zoo.resolve_arch(config.arch)
    weights = zoo.get_weights(arch, config.weights)
    earlier = _begin(run, data, config, weights, command, machine)
    try:
        job = _prepare(run, data, config, machine, arch, weights, show, given)
        stopped = run_stages(job, weights)
    except KeyboardInterrupt:
        run.set_status("interrupted", seconds=earlier + time.monotonic() - began)
        raise
    except UpcycleError as error:
        run.set_status("failed", error=str(error), seconds=earlier + time.monotonic() - began)
        raise
    seconds = earlier + time.monotonic() - began
    run.set_status("finished", seconds=seconds, stopped=stopped)
    write_report(run)
    show.say(f"finished in {seconds:.0f} s; report: {run.report}")


def _begin(run: RunDir, data: Path, config: Config, weights: Weights | None, command: str, machine: Machine) -> float:
    """Write what a run is known by before it does anything; returns the seconds spent on it earlier."""
    digest = weights.sha256 if weights is not None else ""
    seconds = 0.0
    if run.config.exists():
        if read_json(run.config).get("weights_sha256", "") != digest:
            raise RunError(f"{run.root} was begun with other weights than {config.weights} holds now: give a new --out")
        seconds = float(run.status().get("seconds") or 0.0)
    else:
        write_json(run.config, {**config.to_dict(), "data": str(data), "weights_sha256": digest})
        started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        write_json(run.environment, {**machines.environment(machine), "command": command, "started": started})
    run.set_status("running", seconds=seconds)
    return seconds


def _prepare(
    run: RunDir,
    data: Path,
    config: Config,
    machine: Machine,
    arch: str,
    weights: Weights | None,
    show: Show,
    given: tuple[Index, Splits] | None,
) -> Job:
    """Everything up to the plan, written down and said."""
    preprocessing = zoo.preprocessing_for(arch, weights, input_file=config.input, image_size=config.image_size)
    index = given[0] if given else read_index(data, config, machine, show)
    preprocessing = fit_size(preprocessing, index, config, fixed=zoo.has_fixed_size(arch))
    prepared = prepare(index, preprocessing, config, machine, show, given[1] if given else None)
    same_data(run, prepared)
    known = audit(prepared)
    write_json(run.audit, known)
    write_splits(run.splits, prepared.index, prepared.splits)
    describe(prepared, known, show)
    source, digest = (weights.source, weights.sha256) if weights else ("none: random", "")
    network = zoo.Network(arch, prepared.index.classes, preprocessing, source, digest)
    show.say(f"{arch}, weights from {source}; {preprocessing.describe()}")
    show.say(f"{machine.device}, {machine.threads} threads, {machine.precision}: {machine.processor}")
    return Job(run, config, machine, network, prepared, show)
