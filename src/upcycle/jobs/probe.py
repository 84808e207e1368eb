"""The probe of a run: features of the frozen network, a head on them, and the views whose logits are averaged."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from upcycle.config import Config
from upcycle.data.dataset import Dataset
from upcycle.data.splits import Splits, components
from upcycle.device import Hardware
from upcycle.evaluation.forward import extract, head_logits
from upcycle.evaluation.metrics import paired_log_loss
from upcycle.evaluation.results import Views
from upcycle.jobs.finetune import class_loss, held_out_logits
from upcycle.jobs.prepare import cache_root
from upcycle.jobs.results import Probed, held_out
from upcycle.jobs.session import Session
from upcycle.model.network import ModelSpec, Network
from upcycle.reporting.progress import Display
from upcycle.training.probe import train_probe
from upcycle.training.rows import Split


def widen(model: Network, network: ModelSpec, config: Config) -> tuple[ModelSpec, tuple[int, ...]]:
    """Make `model` read all stages that a head may read; its spec, and the widths of those it may choose from.

    The last stage comes first, so that a head on it alone shares the cached features.
    """
    widths = model.widths(network.preprocessing.size)
    stages = max(1, len(widths))
    model.read(stages)
    return replace(network, stages=stages), widths if config.probe_layers == "auto" else widths[:1]


def features_of(
    model: Network,
    data: Dataset,
    network: ModelSpec,
    config: Config,
    machine: Hardware,
    show: Display,
    *,
    positions: npt.NDArray[np.int64] | None = None,
    known: npt.NDArray[np.int64] | None = None,
    mirrored: bool = False,
) -> npt.NDArray[np.float32]:
    """Features [n, D] of all images, or of those at `positions`, by the frozen `model`: cached, or computed once.

    Where features of the images at `known` are cached, they are copied from there. `mirrored`: of the mirror images.
    """
    with show.progress("features of mirror images" if mirrored else "features") as progress:
        return extract(
            model,
            data.index,
            data.frames,
            network=network,
            machine=machine,
            folder=cache_root(config),
            workers=data.workers(machine),
            positions=positions,
            known=known,
            mirrored=mirrored,
            progress=progress,
        )


def learned_from(splits: Splits) -> npt.NDArray[np.int64]:
    """Sorted positions of the training and validation images, whose features `choose` caches without the others."""
    return np.union1d(splits.train, splits.val)


def probe_frozen(session: Session, data: Dataset, network: ModelSpec, model: Network) -> Probed:
    """Train the probe on features of the frozen `model`, make it the model's head, and predict the held-out images."""
    config, show, machine = session.config, session.show, session.machine
    splits = data.splits
    wide, widths = widen(model, network, config)
    with session.timed("features_seconds"):
        features = features_of(model, data, wide, config, machine, show, known=learned_from(splits))
    loss = class_loss(config, data, device="cpu")
    with session.timed("probe_seconds"), show.progress("probe") as progress:
        probe = train_probe(
            *sides(data, features[:, : sum(widths)]), loss=loss, seed=config.seed, widths=widths, progress=progress
        )
    stages = probe.result.stages
    model.read(stages)
    model.set_head(probe.weight, probe.bias)
    session.record_probe(probe.result)
    show.message(
        f"probe (linear head on frozen features): val loss {probe.result.val_loss:.4f}, "
        f"val accuracy {probe.result.val_accuracy:.4f}{_read(stages, len(widths))}"
    )
    width = probe.weight.shape[1]
    plain = held_out(data, lambda name: head_logits(model, features[:, :width], splits.of(name), machine))
    network = replace(network, stages=stages)
    if config.views == "none":
        return Probed(probe, network, plain, plain["val"])
    if config.views == "square":
        model.views = "square"
        seen = held_out(data, lambda name: held_out_logits(data, model, machine, name))
        model.views = "none"
        return Probed(probe, replace(network, views="square"), seen, plain["val"])

    def flipped(name: str) -> npt.NDArray[np.float32]:
        """Logits of one split by an image and its mirror image."""
        rows = features_of(model, data, network, config, machine, show, positions=splits.of(name), mirrored=True)
        mirrored = head_logits(model, rows, np.arange(len(rows)), machine)
        return (plain[name].logits + mirrored) / np.float32(2)

    with session.timed("features_seconds"):
        val = replace(plain["val"], logits=flipped("val"))
        paired = paired_log_loss(val, plain["val"])
        views = Views("flip", paired.mean_difference, paired.standard_error, asked=config.views == "flip")
        show.message(views.reason)
        if views.chosen == "none":
            return Probed(probe, network, plain, plain["val"], views)
        seen = held_out(data, lambda name: val.logits if name == "val" else flipped(name))
    return Probed(probe, replace(network, views="flip"), seen, plain["val"], views)


def sides(data: Dataset, features: npt.NDArray[np.float32]) -> tuple[Split, Split]:
    """The features of the training and of the validation images."""
    same, labels, splits = components(data.index), data.index.labels, data.splits
    train, val = (Split(features, side, labels[side], same[side]) for side in (splits.train, splits.val))
    return train, val


def _read(stages: int, known: int) -> str:
    """How many stages the head reads, in words; "" where there was nothing to choose."""
    if known < 2:
        return ""
    return f", on the last {'stage' if stages == 1 else f'{stages} stages'}"
