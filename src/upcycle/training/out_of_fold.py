"""What a probe says of every image that it was not trained on."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from upcycle.config import Config
from upcycle.data.splits import Splits
from upcycle.recipes import phases
from upcycle.task import Task
from upcycle.training.loss import Loss
from upcycle.training.probe import Split, train_probe


def out_of_fold(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    task: Task,
    folds: Sequence[Splits],
    *,
    tied: npt.NDArray[np.int32],
    config: Config,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Probabilities [n, K] of every class, each image's from the probe of the fold that tests it.

    `features` [n, D] are those of the frozen network. `folds` keep copies and groups on one side, so no probe has
    learnt an image's label from its copy; `tied` [n] numbers them alike, for the folds within.
    """
    probabilities = np.full((len(labels), len(task.classes)), np.nan)
    for number, fold in enumerate(folds):
        train, val = (Split(features, side, labels[side], tied[side]) for side in (fold.train, fold.val))
        probe = train_probe(train, val, phase=phases(config, len(train))[0], loss=Loss(task), seed=config.seed)
        held = Split(features, fold.test, labels[fold.test])
        logits = [some.numpy() @ probe.weight.numpy().T + probe.bias.numpy() for some in held.chunks()]
        probabilities[fold.test] = task.probabilities(np.concatenate(logits))
        if progress is not None:
            progress(number + 1, len(folds))
    return probabilities
