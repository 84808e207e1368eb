"""The probe: one linear head on the frozen network's features, the mean of logistic and of ridge regression.

It takes seconds, and fine-tuning has to beat it. Held-out images choose how many of the last stages it reads, and the
strength of each penalty.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.data.splits import Splits
from upcycle.device import seed_for
from upcycle.history import ProbeResult
from upcycle.task import Task
from upcycle.training.logistic import best_heads, heads_at
from upcycle.training.loss import Loss, score
from upcycle.training.ridge import best_ridge, ridge_at
from upcycle.training.rows import Features, Labels, Split

_FEW = 200
"""With fewer validation images than this, held-out folds of the training images help to choose."""
_FOLDS = 4
_MOST_TARGETS = 2**28
"""Images times classes up to which ridge regression has room; it cannot weight classes either."""
_SOME = 1000
"""Training images, at most, by which the stages are chosen."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear head for raw features: `weight` [outputs, D], `bias` [outputs], and how it was found.

    D is the width of the last `result.stages`.
    """

    weight: Tensor
    bias: Tensor
    result: ProbeResult
    factor: float = 1.0
    """What the scores of ridge regression are multiplied by."""


def train_probe(
    train: Split,
    val: Split,
    *,
    loss: Loss,
    seed: int,
    widths: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Half the mean of three logistic heads, the best of each scaling, and half ridge regression: one linear head.

    With class weights ridge regression is left out.

    `widths` has the number of features of each stage, the last stage first; () for one stage. The head reads the last
    stage, the last two and so on, whichever give ridge regression the lowest held-out loss. Few held-out images cannot
    tell the best scaling. Features are divided by one number per stage, which keeps their geometry and wins with few
    images; by their own deviation, which can win with many; or by the geometric mean of both. Held out are the
    validation images and, where they are few, each fold of the training images: the best of many heads on thirty images
    is mostly luck. `progress` gets the strengths done, and their number.
    """
    widths = tuple(widths) or (train.features.shape[1],)
    mean, scalings = scales(train, widths)
    losses = _losses_by_stages(train, val, widths, mean, scalings["between"], loss.task, seed)
    stages = 1 + losses.index(min(losses)) if losses else 1
    width = sum(widths[:stages])
    learned = learners(train, val, seed)
    read = train.first(width), val.first(width)
    own = {name: divisors[:width] for name, divisors in scalings.items()}
    heads = best_heads(*read, scalings=own, mean=mean[:width], learned=learned, loss=loss, progress=progress)
    classes = len(loss.task.classes)
    ridge = None
    if loss.weights is None and len(train) * classes <= _MOST_TARGETS:
        ridge = best_ridge(*read, mean=mean[:width], divisors=own["between"], learned=learned, classes=classes)
    pairs = [(one.weight, one.bias) for one in heads]
    weight, bias = _mean(pairs, (ridge.weight, ridge.bias) if ridge else None, loss.task)
    logits = torch.cat([some @ weight + bias for some in read[1].chunks()])
    scores = score(logits, torch.from_numpy(val.labels.astype(np.int64)), loss.task)
    strengths = {one.scaling: one.strength for one in heads}
    strengths |= {"ridge": ridge.penalty} if ridge else {}
    result = ProbeResult(strengths, scores.loss, scores.accuracy, scores.f1_macro, stages, losses)
    return Probe(weight.T.contiguous(), bias, result, ridge.factor if ridge else 1.0)


def refitted(probe: Probe, every: Split, *, loss: Loss, widths: Sequence[int] = ()) -> Probe:
    """The probe with all that held-out images chose, trained on `every` image, those among them.

    As scikit-learn's GridSearchCV refits; `result` stays that of the probe which they judged.
    """
    widths = tuple(widths) or (every.features.shape[1],)
    widths = widths[: probe.result.stages]
    read = every.first(sum(widths))
    mean, scalings = scales(read, widths)
    strengths = dict(probe.result.strengths)
    weights, biases = heads_at(read, strengths, scalings=scalings, mean=mean, loss=loss)
    ridge = None
    if "ridge" in strengths:
        classes, between = len(loss.task.classes), scalings["between"]
        ridge = ridge_at(read, strengths["ridge"], probe.factor, mean=mean, divisors=between, classes=classes)
    weight, bias = _mean(list(zip(weights, biases, strict=True)), ridge, loss.task)
    return replace(probe, weight=weight.T.contiguous(), bias=bias)


def _losses_by_stages(
    train: Split, val: Split, widths: Sequence[int], mean: Tensor, divisors: Tensor, task: Task, seed: int
) -> tuple[float, ...]:
    """The held-out loss of ridge regression on the last stage, the last two and so on, trained on 1,000 images at most.

    () with one stage.
    """
    if len(widths) == 1:
        return ()
    most = max(_SOME, 2 * len(task.classes))
    if len(train) > most:
        generator = torch.Generator().manual_seed(seed_for(seed, "probe stages"))
        train = train.some(np.sort(torch.randperm(len(train), generator=generator)[:most].numpy()))
    learned, classes = learners(train, val, seed), len(task.classes)
    sums = np.cumsum(widths).tolist()
    return tuple(
        best_ridge(
            train.first(width),
            val.first(width),
            mean=mean[:width],
            divisors=divisors[:width],
            learned=learned,
            classes=classes,
        ).loss
        for width in sums
    )


def learners(train: Split, val: Split, seed: int) -> Tensor:
    """A mask [n, F] of the training images of F heads: all, then, with few validation images, all but each fold."""
    whole = torch.ones(len(train), 1, dtype=torch.bool)
    return torch.cat([whole, *(_without_folds(train, seed) if len(val) < _FEW else ())], dim=1)


def _mean(
    heads: Sequence[tuple[Tensor, Tensor]], ridge: tuple[Tensor, Tensor] | None, task: Task
) -> tuple[Tensor, Tensor]:
    """Half of the logistic heads' mean and half of ridge's, or the former alone."""
    weight, bias = (torch.stack(parts).mean(dim=0) for parts in zip(*heads, strict=True))
    if ridge is None:
        return weight, bias
    of_ridge, level = ridge
    if task.outputs == 1:
        of_ridge, level = of_ridge[:, 1:] - of_ridge[:, :1], level[1:] - level[:1]
    return (weight + of_ridge) / 2, (bias + level) / 2


def out_of_fold(
    features: Features,
    labels: Labels,
    task: Task,
    folds: Sequence[Splits],
    *,
    groups: Labels,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Probabilities [n, K] of every class, each image's from the probe of the fold that tests it.

    `features` [n, D] are those of the frozen network. `folds` keep the images of `groups` [n] on one side, so no probe
    has learned an image's label from its copy.
    """
    found = np.full((len(labels), len(task.classes)), np.nan)
    for number, fold in enumerate(folds, 1):
        train, val = (Split(features, side, labels[side], groups[side]) for side in (fold.train, fold.val))
        probe = train_probe(train, val, loss=Loss(task), seed=seed)
        held = Split(features, fold.test, labels[fold.test])
        logits = torch.cat([some @ probe.weight.T + probe.bias for some in held.chunks()])
        found[fold.test] = task.probabilities(logits.numpy())
        if progress is not None:
            progress(number, len(folds))
    return found


def _without_folds(train: Split, seed: int) -> list[Tensor]:
    """Masks [n, 1] of the training images without each fold; folds are stratified by class, and groups stay whole."""
    labels = train.labels
    generator = torch.Generator().manual_seed(seed_for(seed, "probe folds"))
    order = torch.randperm(len(labels), generator=generator).numpy()
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    groups = train.groups[by_class] if train.groups is not None else np.arange(len(labels))
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    fold[by_class] = np.argsort(np.argsort(first))[group] % _FOLDS  # dealt in the order they are met
    masks = [fold != number for number in range(_FOLDS)]
    classes = len(np.unique(labels))
    return [
        torch.from_numpy(mask)[:, None] for mask in masks if not mask.all() and len(np.unique(labels[mask])) == classes
    ]


def scales(train: Split, widths: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean [D] of each feature and, by the name of each scaling, its divisors [D]."""
    mean = sum((part.double().sum(dim=0) for part in train.chunks()), torch.zeros(())) / len(train)
    squares = sum(((part.double() - mean).square().sum(dim=0) for part in train.chunks()), torch.zeros(())) / len(train)
    each = squares.sqrt() + 1e-6
    common = torch.cat([stage.mean().sqrt().expand_as(stage) + 1e-6 for stage in torch.split(squares, list(widths))])
    found = {"common": common, "between": (common * each).sqrt(), "each": each}
    return mean.float(), {name: divisors.float() for name, divisors in found.items()}
