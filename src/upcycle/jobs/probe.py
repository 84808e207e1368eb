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
from upcycle.jobs.results import HeldOut, Probed, held_out
from upcycle.jobs.session import Session
from upcycle.model.network import ModelSpec, Network
from upcycle.reporting.progress import Display
from upcycle.training.probe import refitted, train_probe
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
            world=data.world,
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
    features = features[:, : probe.weight.shape[1]]
    plain = held_out(data, lambda name: head_logits(model, features, splits.of(name), machine))
    network = replace(network, stages=stages)
    probed = Probed(probe, network, plain, plain["val"], features, widths)
    if config.views == "none":
        return probed
    if config.views == "square":
        network = replace(network, views="square")
        return replace(probed, network=network, held=held_out(data, lambda name: _turned(session, data, model, name)))

    with session.timed("features_seconds"):
        seen = {"val": replace(plain["val"], logits=_flipped(session, data, probed, model, "val"))}
        paired = paired_log_loss(seen["val"], plain["val"])
        views = Views("flip", paired.mean_difference, paired.standard_error, asked=config.views == "flip")
        show.message(views.reason)
        if views.chosen == "none":
            return replace(probed, views=views)
        if "test" in plain:
            seen["test"] = replace(plain["test"], logits=_flipped(session, data, probed, model, "test"))
    return replace(probed, network=replace(network, views="flip"), held=seen, views=views)


def refit(session: Session, data: Dataset, model: Network, probed: Probed) -> HeldOut:
    """Put a head into the `model` that is trained on validation images as well, as the probe is kept.

    Its predictions of test images, and those of the validation images by the probe that they chose.
    """
    index, splits = data.index, data.splits
    at = np.concatenate([splits.train, splits.val])
    every = Split(probed.features, at, index.labels[at])
    loss = class_loss(session.config, data, device="cpu")
    again = refitted(probed.probe, every, loss=loss, widths=probed.widths)
    model.set_head(again.weight, again.bias)
    session.show.message("the probe is kept, so its head is trained again, on the validation images as well")
    if "test" not in probed.held:
        return probed.held
    if probed.network.views == "square":
        logits = _turned(session, data, model, "test")
    elif probed.network.views == "flip":
        logits = _flipped(session, data, probed, model, "test")
    else:
        logits = head_logits(model, probed.features, splits.test, session.machine)
    return {**probed.held, "test": replace(probed.held["test"], logits=logits)}


def _flipped(session: Session, data: Dataset, probed: Probed, model: Network, name: str) -> npt.NDArray[np.float32]:
    """Logits of one split, averaged over an image and its mirror image."""
    config, machine, at = session.config, session.machine, data.splits.of(name)
    rows = features_of(model, data, probed.network, config, machine, session.show, positions=at, mirrored=True)
    mirrored = head_logits(model, rows, np.arange(len(rows)), machine)
    return (head_logits(model, probed.features, at, machine) + mirrored) / np.float32(2)


def _turned(session: Session, data: Dataset, model: Network, name: str) -> npt.NDArray[np.float32]:
    """Logits of one split, averaged over all eight positions of an image."""
    before, model.views = model.views, "square"
    logits = held_out_logits(data, model, session.machine, name)
    model.views = before
    return logits


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
