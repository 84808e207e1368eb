"""Fine-tuning: epoch by epoch, in micro-batches where memory is short, at half the rate where the loss explodes."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle import hardware
from upcycle.config import Config
from upcycle.device import Hardware, out_of_memory, settle
from upcycle.errors import ConfigError, DivergenceError, UpcycleError
from upcycle.evaluation.forward import predict
from upcycle.history import History, is_best, should_stop
from upcycle.jobs.prepare import Prepared, workers_for
from upcycle.jobs.session import Session
from upcycle.model import checkpoint, groups
from upcycle.model.network import Network
from upcycle.planning import MicroBatch, Retry
from upcycle.recipes import Phase
from upcycle.reporting.names import counted
from upcycle.training.loop import Setting, fit, start
from upcycle.training.loss import CustomLoss, Loss, weighted_loss
from upcycle.training.memory import largest_micro_batch
from upcycle.training.scores import Scores, score

MOST_RETRIES = 2
"""How often a run whose loss explodes continues at half the rate."""
WORTH_ESTIMATING = 60
"""Updates from which on a run is long enough for an estimate of its time."""
TIMED = 4
"""Updates that are timed, after a first one that also allocates."""
FORWARD = 1 / 3
"""What an image costs in validation, of what it costs in training: backward takes twice as long as forward."""
Progress = Callable[[int, int], None]


def fine_tune(
    session: Session,
    data: Prepared,
    model: Network,
    machine: Hardware,
    *,
    pretrained: dict[str, Tensor],
) -> str:
    """Fine-tune `model` by the last phase of the plan; returns why it ended.

    After a loss that explodes, or too little memory, training resumes from
    the last checkpoint, or without one from the weights `pretrained`.
    """
    _fit_into_memory(session, model, machine, data.preprocessing.size)
    while True:
        try:
            return _train(session, data, model, machine)
        except DivergenceError as error:
            _retry(session, error)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            _halve(session, model, error)
        checkpoint.load_clone(model, pretrained)


def _train(session: Session, data: Prepared, model: Network, machine: Hardware) -> str:
    """Train, with the best weights and a checkpoint written after every epoch."""
    config, show, phase = session.config, session.show, session.plan.last
    setting = _setting(session, data, model, machine)
    state = start(model, config, step=phase.first_step)
    history = session.resume(state, phase)
    reason = reason_to_stop(config, history.of(phase.name), phase)
    if reason:
        return reason
    labels = torch.from_numpy(data.index.labels[data.splits.val]).long()

    def validate(model: Network) -> Scores:
        return score(torch.from_numpy(held_out_logits(data, model, machine, "val")), labels, data.task)

    with show.progress(phase.name) as told, session.stopping.held():
        progress = across(told, phase, lambda: state.epoch)
        if state.epoch == 0:
            progress = forecasting(
                progress,
                phase,
                batch_size=config.batch_size,
                checked=len(labels),
                say=show.message,
                settle=partial(settle, machine),
            )
        for ended in fit(state, setting, validate=validate, progress=progress, due=session.due):
            if ended is None:
                session.pause(state, history)
                continue
            row, totals = ended
            row = replace(row, best=is_best(history.of(phase.name), row, config.monitor))
            history = session.end_epoch(state, history.adding(row), totals)
            show.row(history, phase.epochs, totals.images / totals.seconds)
            reason = reason_to_stop(config, history.of(phase.name), phase)
            if reason:
                break
            session.stopping.obey()
    return reason


def _setting(session: Session, data: Prepared, model: Network, machine: Hardware) -> Setting:
    config, custom = session.config, session.callables
    return Setting(
        config=config,
        phase=session.plan.last,
        batches=replace(data.batches(config, machine), augment=custom.augment),
        task=data.task,
        loss=CustomLoss(data.task, custom.loss) if custom.loss else class_loss(config, data, device=machine.device),
        machine=machine,
        frozen=groups.frozen_names(model.body, config.freeze),
        changes=session.plan.micro_batches,
    )


def reason_to_stop(config: Config, rows: History, phase: Phase) -> str:
    """Why training is over after these rows of its phase, or "" while it is not."""
    if len(rows) >= phase.epochs:
        return f"ran {'its one epoch' if phase.epochs == 1 else f'all {phase.epochs:,} epochs'}"
    armed = armed_from(config)
    if not should_stop(rows, patience=config.patience, monitor=config.monitor, start_from_epoch=armed):
        return ""
    return (
        f"stopped early after epoch {len(rows)}: no better {config.monitor} in {counted(config.patience or 0, 'epoch')}"
    )


def armed_from(config: Config) -> int:
    """The epoch from which patience counts: with one-cycle never before the rate's peak."""
    rising = math.ceil(config.pct_start * config.epochs) if config.schedule == "one-cycle" else 0
    return max(config.start_from_epoch, rising)


def class_loss(config: Config, data: Prepared, *, device: str) -> Loss:
    """The training loss, with the class weights that the training images ask for."""
    labels = data.index.labels[data.splits.train]
    return weighted_loss(config.class_weights, labels, data.task, smoothing=config.label_smoothing, device=device)


def held_out_logits(data: Prepared, model: Network, machine: Hardware, split: str) -> npt.NDArray[np.float32]:
    """Logits [n, outputs] of a split's images."""
    return predict(
        model,
        data.frames,
        data.splits.of(split),
        preprocessing=data.preprocessing,
        machine=machine,
        workers=workers_for(data.frames, machine),
    )


# ---------------------------------------------------------------- when the loss explodes


def _retry(session: Session, error: DivergenceError) -> None:
    """Change the plan: training resumes after its last whole epoch at half the rate.

    Raises `error` again, with what is kept, where that was not asked for or has been done often enough.
    """
    run = session.run
    if session.config.on_divergence == "stop" or len(session.plan.retries) >= MOST_RETRIES:
        kept = f"; {run.best} holds the best weights until then" if run.best.exists() else ""
        raise DivergenceError(f"{error}{kept}") from error
    epoch, step = session.last_step(between_epochs=True)
    session.change(Retry(step, 0.5, str(error)))
    session.show.warn(f"{error}. Resuming after epoch {epoch} at half the rate")


# ---------------------------------------------------------------- when memory is short


def _fit_into_memory(session: Session, model: Network, machine: Hardware, size: int) -> None:
    """On a processor, where running out of memory is a kill without a word: take micro-batches that fit.

    ConfigError where not one image fits, or BatchNorm's statistics need the whole batch.
    """
    if machine.device != "cpu":
        return
    free, batch = hardware.free_memory(Path("/")), _images(session)
    images, needed = largest_micro_batch(model, machine, batch=batch, size=size, free=free)
    if images == batch:
        return
    amounts = f"takes about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
    reason = f"training {batch} images of {size} px at once {amounts}"
    _check_divisible(session.config, model, reason, images)
    _divide(session, session.plan.phases[-1].first_step, images, reason)


def _halve(session: Session, model: Network, error: RuntimeError) -> None:
    """On an accelerator that ran out of memory: resume from the last checkpoint with half the images at a time.

    UpcycleError where BatchNorm's statistics need the whole batch, or one image is too much.
    """
    reason, images = "the accelerator's memory is too small for this batch", _images(session) // 2
    try:
        _check_divisible(session.config, model, reason, images)
    except ConfigError as refused:
        raise UpcycleError(str(refused)) from error
    _, step = session.last_step(between_epochs=False)
    _divide(session, step, images, reason)
    torch.cuda.empty_cache()


def _images(session: Session) -> int:
    """How many images go through the network at a time."""
    known = session.plan.micro_batches
    return known[-1].images if known else session.config.batch_size


def _check_divisible(config: Config, model: Network, reason: str, images: int) -> None:
    if not images:
        raise ConfigError(f"{reason}: give a smaller --image-size or --arch")
    if groups.learns_statistics(model.body, frozen=groups.frozen_names(model.body, config.freeze), bn=config.bn):
        raise ConfigError(
            f"{reason}, and BatchNorm in training mode needs a whole batch: give --batch-size {images} or --bn frozen"
        )


def _divide(session: Session, step: int, images: int, reason: str) -> None:
    session.change(MicroBatch(step, images, reason))
    session.show.warn(f"{reason}: micro-batches of {counted(images, 'image')}, with the same updates")


# ---------------------------------------------------------------- how long it takes


def forecasting(
    told: Progress,
    phase: Phase,
    *,
    batch_size: int,
    checked: int,
    say: Callable[[str], None],
    settle: Callable[[], None],
) -> Progress:
    """`told`, and once a few updates are made, how long the phase takes at most with `checked` validation images.

    Nothing is computed for it: a trial would hold up the first update. Short phases are not worth a line. `settle`
    waits for updates that are queued and not yet made.
    """
    if phase.steps < WORTH_ESTIMATING:
        return told
    began: float | None = None
    made, said = 0, False

    def telling(done: int, total: int) -> None:
        nonlocal began, made, said
        told(done, total)
        if began is None:
            settle()
            began = time.perf_counter()
            return
        made += 1
        if not said and (made >= TIMED or done == total):
            said = True
            settle()
            update = (time.perf_counter() - began) / made
            # between two epochs of one update lies a validation already
            checks = phase.epochs * checked / batch_size * FORWARD if total > 1 else 0.0
            say(f"all epochs of {phase.name} take about {duration((phase.steps + checks) * update)} on this machine")

    return telling


def across(told: Progress, phase: Phase, epoch: Callable[[], int]) -> Progress:
    """`told` of all updates of the phase, given those of an epoch; `epoch` says how many went before."""
    return lambda done, total: told(epoch() * total + done, phase.epochs * total)


def duration(seconds: float) -> str:
    """A duration to one sensible unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
