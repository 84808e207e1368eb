"""The table that tells images unlike the training photos: made of a run's chosen model, and read beside it."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.data.dataset import Dataset
from upcycle.data.splits import components
from upcycle.errors import RunError
from upcycle.evaluation.forward import predict_logits
from upcycle.evaluation.novelty import LEAN_SAMPLE, MOST_CALIBRATED, MOST_FITTED, Features, Novelty, read_novelty
from upcycle.jobs.session import Session
from upcycle.model.network import Network
from upcycle.rundir import RunDir

_Positions = npt.NDArray[np.int64]


def write_novelty(session: Session, data: Dataset, model: Network, features: Features | None) -> None:
    """Write the table of the chosen `model`; nothing for a network without a single linear head.

    It is made of training photos and calibrated on validation images, which it has not seen, also where the head has.
    `features` [N, D] are those of all images, where known; else those of up to 1,000 of each are computed.
    """
    if not model.has_linear_head:
        return
    seed, labels = session.config.seed, data.index.labels
    lean = session.plan.lean and features is None
    learn = drawn(data.splits.train, labels, LEAN_SAMPLE if lean else MOST_FITTED, seed)
    hold = drawn(data.splits.val, np.zeros_like(labels), LEAN_SAMPLE if lean else MOST_CALIBRATED, seed)

    def of(positions: _Positions) -> Features:
        if features is not None:
            return features[positions]
        return predict_logits(
            model,
            data.frames,
            positions,
            preprocessing=data.preprocessing,
            machine=session.machine,
            workers=data.workers(session.machine),
            output="features",
            world=data.world,
        )

    independent = len(np.unique(components(data.index)[hold]))
    Novelty.fitted(of(learn), of(hold), units=independent).save(session.run.novelty)


def drawn(positions: _Positions, labels: npt.NDArray[np.int32], most: int, seed: int) -> _Positions:
    """At most so many of the `positions`, sorted: one of every label before a second of any, then in proportion."""
    order = np.random.default_rng(seed).permutation(positions)
    turns = np.empty(len(order))
    for label in np.unique(labels[order]):
        mine = np.flatnonzero(labels[order] == label)
        turns[mine] = np.arange(len(mine)) / len(mine)
    return np.sort(order[np.argsort(turns, kind="stable")[:most]])


def novelty_of(run: RunDir, model: Network) -> Novelty | None:
    """The table of a run; None where it has none. RunError for one of another model."""
    novelty = read_novelty(run.novelty)
    if novelty is None or not model.has_linear_head:
        return None
    if len(novelty.mean) != model.head.in_features:
        raise RunError(f"{run.novelty} is of another model: of one with {len(novelty.mean)} features")
    return novelty


def with_head_inputs(model: Network, images: Tensor) -> Tensor:
    """What `model` gives, and beside it what its head reads of the images, [B, outputs + D], fp32, from one pass.

    Of several views the head's inputs are those of the first: the image itself.
    """
    seen: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        logits = model(images)
    finally:
        hook.remove()
    return torch.cat([logits, seen[0]], dim=1)
