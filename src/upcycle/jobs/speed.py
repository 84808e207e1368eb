"""What updates and forward passes take on this machine, measured on a few batches."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from upcycle.changes import MicroBatch
from upcycle.config import Config
from upcycle.data.dataset import Dataset
from upcycle.device import Hardware
from upcycle.evaluation.forward import EVAL_BATCH, predict_logits
from upcycle.jobs.finetune import class_loss, held_out_logits, micro_batch
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, Network, create
from upcycle.planning import Phase
from upcycle.training.loop import Setting, start, train_step
from upcycle.training.optim import clip_gradients, freeze_parameters, frozen_in, frozen_names, set_training_mode

UPDATES = 4
"""Updates that are timed, after one that is not."""
WRITTEN = 2**24
"""Bytes that are written to see how long that takes."""


def seconds_per_image(data: Dataset, model: Network, machine: Hardware) -> float:
    """Of the forward pass, by two batches after one that is not timed."""
    batch = data.splits.val[:EVAL_BATCH]
    at = np.resize(np.arange(len(batch)), 2 * EVAL_BATCH)
    held_out_logits(data, model, machine, "val", at[:EVAL_BATCH])
    started = time.perf_counter()
    held_out_logits(data, model, machine, "val", at)
    return (time.perf_counter() - started) / len(at)


def seconds_per_update(
    config: Config,
    data: Dataset,
    model: Network,
    machine: Hardware,
    phase: Phase,
    freeze: str,
    *,
    updates: int = UPDATES,
) -> float:
    """The mean of so many updates with these layers frozen, after one; the weights of `model` are put back."""
    before = checkpoint.clone_weights(model)
    freeze_parameters(model.body, frozen_names(model.body, freeze))
    images, _ = micro_batch(config, model, machine, data.preprocessing.size)
    setting = Setting(
        config=config,
        phase=phase,
        batches=data.batches(config, machine),
        task=data.task,
        loss=class_loss(config, data, device=machine.device),
        machine=machine,
        frozen=frozen_in(model.body),
        changes=(MicroBatch(0, images, ""),) if images < config.batch_size else (),
    )
    state = start(model, config)
    set_training_mode(model.body, frozen=setting.frozen, bn=config.bn)
    seconds: list[float] = []
    while len(seconds) <= updates:
        started = time.perf_counter()
        for batch in setting.batches.epoch(0, 0):
            state.step = phase.first_step  # there may be fewer in all
            train_step(state, batch, setting)[0].item()  # waits for an accelerator
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            if len(seconds) > updates:
                break
    checkpoint.load_clone(model, before)
    return sum(seconds[1:]) / updates


def seconds_to_write(folder: Path, size: int) -> float:
    """Of a file of so many bytes in `folder`, by one of WRITTEN bytes that is removed again."""
    started = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(os.urandom(WRITTEN))
        file.flush()
        os.fsync(file.fileno())
    return (time.perf_counter() - started) * size / WRITTEN


def before_decoding(network: ModelSpec, config: Config, machine: Hardware) -> tuple[float, float]:
    """Seconds of one image forward and of one update, of a network with random weights on random images.

    For a plan that is made before any image is decoded. All layers are trained where `freeze` is "none", else the
    upper half.
    """
    model, side = create(network, machine).to(machine.device), network.preprocessing.resize_to
    frames = [np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)] * EVAL_BATCH
    at = np.arange(EVAL_BATCH)
    forward = [
        _timed(
            lambda: predict_logits(
                model,
                frames,
                at,
                preprocessing=network.preprocessing,
                machine=machine,
                workers=0,
            )
        )
        for _ in range(2)
    ]
    freeze_parameters(model.body, frozen_names(model.body, config.freeze))
    set_training_mode(model.body, frozen=frozen_in(model.body), bn=config.bn)
    state, size = start(model, config), network.preprocessing.size
    images = torch.rand(config.batch_size, 3, size, size).to(machine.device, memory_format=torch.channels_last)

    def update() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        loss = model(images).sum()
        loss.backward()
        clip_gradients(state.optimizer, config.clip_grad)
        state.optimizer.step()
        loss.item()  # waits for an accelerator

    return forward[1] / EVAL_BATCH, min(_timed(update) for _ in range(2))


def _timed(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started
