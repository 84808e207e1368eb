"""What a training would do, without it: the images and their split, the plan, and an estimate of the time.

Nothing is written but the cache of decoded images. What updates and forward passes take is measured on a few batches.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from upcycle import device as machines
from upcycle.config import AUTO_RATE, Config
from upcycle.data.dataset import Dataset
from upcycle.data.splits import NAMES, folds, split_by
from upcycle.errors import ConfigError
from upcycle.jobs.prepare import audit_dataset, decode, describe, fit_size, machine_of, read_index
from upcycle.jobs.resume import check_place
from upcycle.jobs.speed import seconds_per_image, seconds_per_update
from upcycle.jobs.stages import without_probe
from upcycle.jobs.start import Start, begin, free
from upcycle.jobs.train import computable
from upcycle.model.network import Network, create, load_body, spec_of
from upcycle.model.sources import AUTO, get_weights, has_fixed_size, preprocessing_for, resolve_arch
from upcycle.planning import epochs_for, phases
from upcycle.reporting.progress import Display
from upcycle.reporting.text import clock, columns, named, titled
from upcycle.training.rate_curve import Sweep

_NEAR, _FAR = "near the features", "far from the features"
MOST_CLASSES = 20
"""Classes that a terminal shows."""


@dataclass(frozen=True)
class Stage:
    """A part of a training; `seconds` is an estimate, `epochs` and `updates` are 0 where it makes none.

    `images_per_second`: of updates, or of forward passes where there are no updates.
    """

    name: str
    epochs: int
    updates: int
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """What a training would do. `images`: of each class, by split. `seconds`: the least and the most, estimated.

    Where the probe decides on fine-tuning, `stages` has one for each way it may decide, of which one is done.
    """

    arch: str
    weights: str
    image_size: int
    batch_size: int
    images: dict[str, dict[str, int]]
    folds: int
    stages: tuple[Stage, ...]
    decides: str
    seconds: tuple[float, float]

    @property
    def time(self) -> str:
        """The least and the most time, in words."""
        return " to ".join(dict.fromkeys(map(clock, self.seconds)))

    @property
    def training_images(self) -> int:
        """Images of the training split, of one fold."""
        return sum(counts["train"] for counts in self.images.values())

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    def table(self) -> RenderableType:
        """Images and stages, for a terminal."""
        images = columns("class", *NAMES)
        for name, counts in list(self.images.items())[:MOST_CLASSES]:
            images.add_row(named(name), *(f"{counts[split]:,}" for split in NAMES))
        stages = columns("stage", "epochs", "updates", "images/s", "about")
        for one in self.stages:
            numbers = (f"{number:,}" if number else "–" for number in (one.epochs, one.updates))
            stages.add_row(one.name, *numbers, f"{one.images_per_second:.3g}", clock(one.seconds))
        more = len(self.images) - MOST_CLASSES
        title = "Images" + (f" of the first {MOST_CLASSES} classes, {more:,} more" if more > 0 else "")
        return Group(titled(title, images), titled("Stages of one fold" if self.folds else "Stages", stages))


def dry_run(data: Path | None, options: Mapping[str, Any], *, out: Path | None, show: Display) -> DryRun:
    """What `train` would do with these options, shown; the errors are those of `train`."""
    found = measure(data, options, out=out, show=show)
    show.table(found.table())
    if found.decides:
        show.message(found.decides)
    show.message(f"estimated time: {found.time}, by a few batches measured here; the decoded images are cached")
    return found


@machines.restored()
def measure(data: Path | None, options: Mapping[str, Any], *, out: Path | None = None, show: Display) -> DryRun:
    """What `train` would do with these options; the errors are those of `train`."""
    begun = begin(data, options, out=out or free("dry-run"), resume=False)
    for line in begun.warnings:
        show.warn(line)
    if begun.config.arch == AUTO:
        raise ConfigError("--arch auto trains probes to choose: run `upcycle choose`, then name the architecture here")
    return _measured(begun, show)


def _measured(begun: Start, show: Display) -> DryRun:
    config = begun.config
    check_place(begun)
    machine = machine_of(config)
    machines.apply(machine, config.seed)
    arch = resolve_arch(config.arch)
    weights = get_weights(arch, config.weights)
    index = read_index(begun.data, config, machine, show)
    preprocessing = preprocessing_for(
        arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
    )
    preprocessing = fit_size(preprocessing, index, config, fixed=has_fixed_size(arch))
    decoded = decode(index, preprocessing, config, machine, show)
    if config.folds:
        split = folds(decoded.index, k=config.folds, seed=config.seed_of_split, val_fraction=config.val_fraction)[0]
    else:
        split = split_by(config, decoded.index)
    dataset = replace(decoded, splits=split)
    network = spec_of(arch, dataset.index.classes, dataset.preprocessing, weights)
    describe(dataset, audit_dataset(dataset), show)
    show.message(f"{arch}, weights from {network.weights_source}; {preprocessing.describe()}")
    with computable(network, config):
        model = create(network, machine, seed=config.seed)
        for note in load_body(model, weights, network.arch) if weights is not None else ():
            show.warn(note)
        return _planned(begun, dataset, model.to(machine.device), machine, network.weights_source, show)


def _planned(
    begun: Start, data: Dataset, model: Network, machine: machines.Hardware, source: str, show: Display
) -> DryRun:
    config, counts = begun.config, {name: len(data.splits.of(name)) for name in NAMES}
    if warning := without_probe(config, config.arch, model):
        show.warn(warning)
    probed = config.probe and model.has_linear_head
    forward = seconds_per_image(data, model, machine)
    held_out = (counts["val"] + counts["test"]) * forward
    probe = Stage("probe", 0, 0, 1 / forward, sum(counts.values()) * forward)
    tuned = []
    for phase in phases(config, counts["train"]):
        far_freeze = "none" if config.freeze == "auto" else config.freeze
        ways = {_NEAR: config.freeze, _FAR: far_freeze} if probed else {"": config.freeze}
        for way, freeze in ways.items():
            epochs = epochs_for(config, phase.steps_per_epoch, far=way == _FAR) if probed else phase.epochs
            update = seconds_per_update(config, data, model, machine, phase, freeze)
            tested = _tested_images(config) * (update / config.batch_size + forward)
            seconds = tested + epochs * (phase.steps_per_epoch * update + counts["val"] * forward) + 2 * held_out
            name = f"{phase.name}, {way}" if way else phase.name
            speed = counts["train"] / (phase.steps_per_epoch * update)
            tuned.append(Stage(name, epochs, epochs * phase.steps_per_epoch, speed, seconds))
    first = probe.seconds if probed else 0.0
    skips = probed and (config.fine_tune == "auto" or not tuned)
    possible = [first + one.seconds for one in tuned] + ([first + held_out] if skips else [])
    runs = max(1, config.folds)
    what = ["whether fine-tuning is worth it"] if tuned and config.fine_tune == "auto" else []
    what += ["epochs", "frozen layers", "peak rate"] if tuned else []
    what += ["the layers its head reads"] if config.probe_layers == "auto" else []
    labels = data.index.labels
    return DryRun(
        arch=config.arch,
        weights=source,
        image_size=data.preprocessing.size,
        batch_size=config.batch_size,
        images={
            name: {split: int(np.sum(labels[data.splits.of(split)] == at)) for split in NAMES}
            for at, name in enumerate(data.index.classes)
        },
        folds=config.folds,
        stages=(*([probe] if probed else []), *tuned),
        decides=f"the probe decides: {', '.join(what)}" if probed and what else "",
        seconds=(runs * min(possible), runs * max(possible)),
    )


def _tested_images(config: Config) -> int:
    """Those that a range test trains on, where there is one, if the loss never explodes."""
    sweep = Sweep()
    return sweep.repeats * sweep.num_updates * config.batch_size if config.lr == AUTO_RATE else 0
