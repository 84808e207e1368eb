"""Labels that are probably wrong: the frozen network's features, a probe that did not see the image, a finding.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", arXiv
1911.00068): an image counts as confidently of the class whose probability, by a model that did not train on it, is
above that class's own threshold, the mean probability of the class among the images labelled so. Where that class is
not the label, the label is suspected. The thresholds make up for classes that the model is generally less sure of.
"""

import numpy as np
import numpy.typing as npt

from upcycle import device as machines
from upcycle.audit.findings import TEST, Audited, Finding, percentage_points, two_digits
from upcycle.config import Config
from upcycle.data.splits import components, folds
from upcycle.errors import ConfigError, shown
from upcycle.jobs.prepare import changed_since, decode, fit_size, machine_of
from upcycle.jobs.probe import features_of, learned_from, widen
from upcycle.model.network import create, load_body, spec_of
from upcycle.model.sources import get_weights, has_fixed_size, preprocessing_for, resolve_arch
from upcycle.model.weights import Weights
from upcycle.reporting.progress import Display
from upcycle.training.probe import out_of_fold

_FOLDS = 5


def suspects(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of the images whose `labels` [n] their out-of-fold `probabilities` [n, K] contradict, the surest first.

    And the class that each looks like. A class without any image is never likely.
    """
    chances, given = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    everything = np.arange(len(given))
    classes = chances.shape[1]
    counts = np.bincount(given, minlength=classes)
    sums = np.bincount(given, weights=chances[everything, given], minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(chances >= thresholds, chances, -1.0)
    likely = confident.argmax(axis=1)
    counted = confident[everything, likely] >= 0
    margins = chances[everything, given] - chances[everything, likely]
    found = np.flatnonzero(counted & (likely != given))
    found = found[np.argsort(margins[found], kind="stable")]
    return found, likely[found]


def find_label_errors(data: Audited, config: Config, show: Display) -> Finding | None:
    """The images whose label a probe on frozen features contradicts, each judged by one that did not train on it.

    ConfigError or WeightsError where there are no pretrained weights; DataError where a class has too few images for
    five folds.
    """
    chances = _chances(data, config, show)
    classes, groups = data.index.classes, []
    suspected, looks = suspects(chances, data.index.labels)
    for at, likely in zip(suspected.tolist(), looks.tolist(), strict=True):
        groups.append((data.image(at, f"looks like {shown(classes[likely])}, {100 * chances[at, likely]:.0f} %"),))
    agreed = 100 * float((chances.argmax(axis=1) == data.index.labels).mean())
    effect = (
        f"A linear classifier that was not trained on them, right about {two_digits(agreed)} % of all labels, is sure "
        "of another class. The wrong ones among them are learned as they are; others are merely difficult"
    )
    tested = int((data.sides == TEST).sum())
    doubtful = int((data.sides[suspected] == TEST).sum())
    if doubtful:
        off = percentage_points(100 * doubtful / tested)
        effect += f". Suspected test labels: {doubtful:,} of {tested:,}; if all are wrong, a score is off by {off}"
    return Finding.counted(
        "label-errors",
        groups,
        "suspected label error(s)",
        effect,
        "Check them, the surest first: correct what is wrong, and keep what is merely difficult",
        serious=True,
    )


def check_weights(config: Config) -> tuple[str, Weights]:
    """The architecture and its pretrained weights; ConfigError or WeightsError where there are none."""
    arch = resolve_arch(config.arch)
    weights = get_weights(arch, config.weights)
    if weights is None:
        raise ConfigError("--label-errors needs pretrained weights, and weights = none: give others")
    return arch, weights


@machines.restored()
def _chances(data: Audited, config: Config, show: Display) -> npt.NDArray[np.float64]:
    """Out-of-fold probabilities [n, K] by the last stage's features.

    The features of all stages are computed: those of a run with the same options, shared with it.
    """
    index = data.index
    split = folds(index, k=_FOLDS, seed=config.seed_of_split)  # first: it finds out soonest what is wrong
    machine = machine_of(config)
    machines.apply(machine, config.seed)
    arch, weights = check_weights(config)
    preprocessing = preprocessing_for(
        arch, weights, input_file=config.input, image_size=config.image_size, crop_pct=config.crop_pct
    )
    preprocessing = fit_size(preprocessing, index, config, fixed=has_fixed_size(arch))
    network = spec_of(arch, index.classes, preprocessing, weights)
    dataset = decode(index, preprocessing, config, machine, show)
    if len(dataset) != len(index):
        raise changed_since(config)
    model = create(network, machine, seed=config.seed)
    for note in load_body(model, weights, arch):
        show.warn(note)
    show.message(f"label errors: {arch}, weights from {weights.source}; {preprocessing.describe()}")
    model = model.to(machine.device)
    network, widths = widen(model, network, config)
    features = features_of(model, dataset, network, config, machine, show, known=learned_from(data.splits))
    with show.progress("probes") as progress:
        same = components(index)
        return out_of_fold(
            features[:, : widths[0] if widths else None],
            index.labels,
            network.task,
            split,
            groups=same,
            seed=config.seed,
            progress=progress,
        )
