"""The learning-rate range test as a job: what rates do to the loss where a training would start fine-tuning."""

import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from upcycle import __version__
from upcycle import device as machines
from upcycle.changes import changes_from_dicts
from upcycle.config import IMAGES, Config, absolute, canonical, expanded, path_or_none, read_config, read_toml
from upcycle.data.dataset import Dataset
from upcycle.data.index import Index, check_exists
from upcycle.data.splits import NAMES, Splits, read_splits, split_by
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.metrics import standard_error
from upcycle.jobs.callables import NO_CALLABLES
from upcycle.jobs.peak import tested
from upcycle.jobs.prepare import decode, fit_size, machine_of, read_index
from upcycle.jobs.resume import differences, same_network
from upcycle.jobs.run import Run
from upcycle.jobs.session import Session
from upcycle.jobs.signals import Stopping
from upcycle.jobs.stages import Begun, begin_tuning
from upcycle.jobs.start import free, name_of, removed_unless_started, reserve, spelled
from upcycle.jobs.train import computable
from upcycle.manifest import check
from upcycle.model.network import spec_of
from upcycle.model.sources import AUTO, get_weights, has_fixed_size, preprocessing_for, resolve_arch
from upcycle.options import TrainOptions
from upcycle.planning import Plan, decide
from upcycle.recipes import peak_rate, resolve
from upcycle.reporting.lr_figure import FIGURE, lr_figure, lr_table
from upcycle.reporting.progress import Display, default_show
from upcycle.reporting.style import svg
from upcycle.reporting.text import rate_text
from upcycle.rundir import RunDir, read_json, read_lines, write_json, write_text
from upcycle.training.rate_curve import FILE, LrFinding, Sweep

_OF_MACHINES = ("threads", "workers", "device", "precision", "cache")
"""Options that may be other than those of a run that is tested."""


def find_lr(
    data: Path | str | Run,
    *,
    start_lr: float = Sweep.start_lr,
    end_lr: float = Sweep.end_lr,
    num_updates: int = Sweep.num_updates,
    repeats: int = Sweep.repeats,
    out: Path | str | None = None,
    config: Path | str | None = None,
    show: Display | None = None,
    **options: Unpack[TrainOptions],
) -> LrFinding:
    """The learning rate by a range test on `data`, or on a run's images.

    The state is the one in which `train` with these options, or the run's, would begin fine-tuning. The rates are those
    of the head; other layers learn more slowly by the layer decay. Writes find_lr.json and a figure. Raises an
    UpcycleError with one line.
    """
    started, show = time.monotonic(), show or default_show()
    sweep = Sweep(start_lr, end_lr, num_updates, repeats)
    place = data.path if isinstance(data, Run) else expanded(data, f"{IMAGES}, or a run")
    file, named_out = path_or_none(config, "one TOML file"), path_or_none(out, "one folder")
    given = absolute({**(read_toml(file) if file else {}), **canonical(options)})
    run = RunDir(place) if isinstance(data, Run) or RunDir(place).is_run() else None
    if run is not None:
        images, asked = _of_run(run, given)
    else:
        check_exists(place)
        images, asked = place.resolve(), resolve(given)
    _check(asked)
    name = name_of(place, "find-lr")
    folder = named_out or free(name)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder} is not empty: give another --out")
    if images.is_dir() and folder.resolve().is_relative_to(images.resolve()):
        raise ConfigError(f"{folder} lies inside {images}, where its images are searched for: give another --out")
    folder = named_out or reserve(name)
    with removed_unless_started(folder, reserved=named_out is None):
        if crowd := machines.crowded(asked.threads):
            show.warn(crowd)
        made = _found(images, asked, run, sweep, show)
        words = ["upcycle", "find-lr", str(place.resolve()), *_spelled(sweep), *spelled(given), "--out", str(folder)]
        made = replace(
            made,
            data=str(images),
            command=shlex.join(words),
            created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            seconds=round(time.monotonic() - started, 1),
            upcycle=__version__,
        )
        write_json(folder / FILE, made.to_dict())
        write_text(folder / FIGURE, svg(lr_figure(made)))
        show.table(lr_table(made))
        show.message(f"rate: {made.peak.reason}")
        if made.suggestions and run is None:
            others = {name: value for name, value in given.items() if name != "lr"}
            train = ["upcycle", "train", str(images), "--lr", rate_text(made.lr), *spelled(others)]
            show.message(f"to train with it: {shlex.join(train)}")
        show.message(f"figure: {folder / FIGURE}")
        return made


def _spelled(sweep: Sweep) -> list[str]:
    rates = ["--start-lr", f"{sweep.start_lr:g}", "--end-lr", f"{sweep.end_lr:g}"]
    return [*rates, "--num-updates", str(sweep.num_updates), "--repeats", str(sweep.repeats)]


def _of_run(run: RunDir, given: Mapping[str, Any]) -> tuple[Path, Config]:
    """A run's images and configuration; ConfigError for options that would make it another run."""
    other = next((name for name in given if name not in _OF_MACHINES), None)
    if other is not None:
        raise ConfigError(f"{run.root} has options of its own: leave {other} out, or name its images in place of it")
    check(run)
    config, recorded = read_config(run.config), read_json(run.config)
    if config.folds:
        raise ConfigError(f"{run.root} is a cross-validation: give one of its folds, such as {run.root / 'fold-1'}")
    images = Path(str(recorded.get("data", "")))
    check_exists(images)
    return images, resolve({**config.to_dict(), **given})


def _check(config: Config) -> None:
    """ConfigError for a configuration that has no rate to find."""
    if not config.tunes:
        why = "epochs = 0" if not config.epochs else "fine_tune = never"
        raise ConfigError(f"{why} trains the probe alone, without a learning rate: find-lr is for fine-tuning")
    if config.arch == AUTO:
        raise ConfigError("--arch auto trains probes to choose: run `upcycle choose`, then name the architecture here")
    if config.folds:
        raise ConfigError("find-lr takes no folds: it tests one training split")
    if config.probe and config.weights == "none":
        raise ConfigError("a probe needs pretrained weights, and weights = none: leave probe out")
    NO_CALLABLES.check(config)


@machines.restored()
def _found(images: Path, asked: Config, run: RunDir | None, sweep: Sweep, show: Display) -> LrFinding:
    """What the test finds: all up to it is done as `train` does, in a run directory that is thrown away."""
    fixed = {"lr": peak_rate(asked), "fine_tune": "always", "views": "none"}  # no view decides how training starts
    config = asked.model_copy(update=fixed)
    machine = machine_of(config)
    machines.apply(machine, config.seed)
    arch = resolve_arch(config.arch)
    weights = get_weights(arch, config.weights)
    if run is not None and read_json(run.config).get("weights_sha256", "") != (weights.sha256 if weights else ""):
        raise RunError(f"{run.root} was started with other weights than {config.weights} has now: give those back")
    index = read_index(images, config, machine, show)
    preprocessing = preprocessing_for(
        arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
    )
    preprocessing = fit_size(preprocessing, index, config, fixed=has_fixed_size(arch))
    budget = Plan(changes=changes_from_dicts(read_lines(run.events))).budget if run else None
    if budget is not None:  # a deadline may have chosen smaller images
        preprocessing = replace(preprocessing, size=budget.image_size)
    data = decode(index, preprocessing, config, machine, show)
    data = replace(data, splits=split_by(config, data.index) if run is None else _recorded_splits(run, data.index))
    network = spec_of(arch, data.index.classes, data.preprocessing, weights)
    if run is not None:
        same_network(run, network)
    show.message(f"{arch}, weights from {network.weights_source}; {data.preprocessing.describe()}")
    with tempfile.TemporaryDirectory() as place, computable(network, config):
        session = Session(_new_run(Path(place)), config, machine, show, Stopping())
        begun = begin_tuning(session, data, network, weights)
        _warn_if_skipped(asked, data, begun, show)
        rate, reason = begun.fallback
        return tested(session, data, begun.model, sweep, fallback=rate, fallback_reason=reason)


def _new_run(place: Path) -> RunDir:
    run = RunDir(place)
    run.set_status("running")
    return run


def _recorded_splits(run: RunDir, index: Index) -> Splits:
    """The split that a run has recorded; RunError where `index` has other images."""
    known = {row.path: row.split for row in read_splits(run.splits)}
    sides: dict[str, list[int]] = {name: [] for name in NAMES}
    for at in range(len(index)):
        if index.path(at) in known:
            sides.get(known[index.path(at)], []).append(at)
    splits = Splits(*(np.array(sides[name], np.int64) for name in NAMES))
    if told := differences(run, index, splits):
        raise RunError(f"the images are not those {run.root} was started with ({told}): name their folder instead")
    return splits


def _warn_if_skipped(asked: Config, data: Dataset, begun: Begun, show: Display) -> None:
    """Say where a training would stop before the updates that are tested."""
    if begun.probed is None:
        return
    decision = decide(
        asked,
        loss=begun.probed.probe.result.val_loss,
        error=standard_error(begun.probed.plain),
        images=len(begun.probed.plain),
        classes=len(data.index.classes),
        steps_per_epoch=begun.planned[0].steps_per_epoch,
    )
    if decision.skip:
        show.warn(f"train would not fine-tune here ({decision.reason}): the test is for --fine-tune always")
