"""Labels that are probably wrong: the frozen network's features, a probe that did not see the image, a finding."""

import numpy as np
import numpy.typing as npt

from upcycle import device as machines
from upcycle.audit.findings import TEST, Audited, Finding, digits, points
from upcycle.comparison.label_errors import Suspects, suspects
from upcycle.config import Config
from upcycle.data.listing import shown
from upcycle.data.splits import folds
from upcycle.data.units import components
from upcycle.errors import ConfigError, DataError
from upcycle.jobs.prepare import cache_root, decode, fit_size, machine_of, workers_for
from upcycle.model import zoo
from upcycle.model.weights import Weights
from upcycle.reporting.show import Observer
from upcycle.training.features import extract
from upcycle.training.probe import out_of_fold

FOLDS = 5


def label_errors(data: Audited, config: Config, show: Observer) -> Finding | None:
    """The images whose label a probe on frozen features speaks against, each judged by one that did not train on it.

    ConfigError or WeightsError where there are no pretrained weights; DataError where a class has too few images for
    five folds.
    """
    chances = _chances(data, config, show)
    found = suspects(chances, data.index.labels)
    return _finding(data, found, chances) if len(found) else None


def check_weights(config: Config) -> tuple[str, Weights]:
    """The architecture and its pretrained weights; ConfigError or WeightsError where there are none."""
    arch = zoo.resolve_arch(config.arch)
    weights = zoo.get_weights(arch, config.weights)
    if weights is None:
        raise ConfigError("--label-errors needs pretrained weights, and weights = none: give others")
    return arch, weights


@machines.restored()
def _chances(data: Audited, config: Config, show: Observer) -> npt.NDArray[np.float64]:
    """Out-of-fold probabilities [n, K]; the features are those of a run with the same options, shared with it."""
    index = data.index
    split = folds(index, k=FOLDS, seed=config.seed_of_split)  # first: it says soonest what is wrong
    machine = machine_of(config)
    machines.apply(machine, config.seed)
    arch, weights = check_weights(config)
    preprocessing = zoo.preprocessing_for(
        arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
    )
    preprocessing = fit_size(preprocessing, index, config, fixed=zoo.has_fixed_size(arch))
    network = zoo.Network(arch, index.classes, preprocessing, weights.source, weights.sha256)
    left, frames = decode(index, preprocessing, config, machine, show)
    if len(left) != len(index):
        kept = cache_root(config) / "images"
        raise DataError(f"an image that could be decoded before cannot be decoded now: remove {kept}, then scan again")
    model = zoo.create(network, seed=config.seed)
    for note in zoo.load_body(model, weights, arch):
        show.warn(note)
    show.say(f"label errors: {arch}, weights from {weights.source}; {preprocessing.describe()}")
    with show.progress("features") as progress:
        features = extract(
            model.to(machine.device),
            index,
            frames,
            network=network,
            machine=machine,
            folder=cache_root(config),
            workers=workers_for(frames, machine),
            progress=progress,
        )
    with show.progress("probes") as progress:
        same = components(index)
        return out_of_fold(
            features, index.labels, network.task, split, groups=same, seed=config.seed, progress=progress
        )


def _finding(data: Audited, found: Suspects, chances: npt.NDArray[np.float64]) -> Finding:
    classes, groups = data.index.classes, []
    for at, likely in zip(found.positions.tolist(), found.likely.tolist(), strict=True):
        groups.append((data.image(at, f"looks like {shown(classes[likely])}, {100 * chances[at, likely]:.0f} %"),))
    agreed = 100 * float((chances.argmax(axis=1) == data.index.labels).mean())
    effect = (
        f"A linear classifier that did not see them, right about {digits(agreed)} % of all labels, is sure of another "
        "class. The wrong ones among them are learnt as they are; others are merely hard to tell"
    )
    tested = int((data.sides == TEST).sum())
    doubtful = int((data.sides[found.positions] == TEST).sum())
    if doubtful:
        share = 100 * doubtful / tested
        effect += (
            f". Suspected test labels: {doubtful:,} of {tested:,}: were all of them wrong, a score would be off by "
            f"{points(share)}"
        )
    return Finding(
        "label-errors",
        "label looks wrong",
        "labels look wrong",
        effect,
        "Look at them, the surest first: correct what is wrong, and keep what is merely hard",
        tuple(groups),
        serious=True,
    )
