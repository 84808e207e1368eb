"""Fine-tuning: epoch by epoch, in micro-batches where memory is short, at half the rate where the loss explodes."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor, nn

from upcycle import hardware
from upcycle.changes import MicroBatch, Retry
from upcycle.config import Config
from upcycle.data.dataset import Dataset
from upcycle.device import Hardware, autocast, out_of_memory
from upcycle.errors import ConfigError, DivergenceError, UpcycleError, counted
from upcycle.evaluation.forward import predict_logits, told_of
from upcycle.history import is_best
from upcycle.jobs.ending import change_plan, reason_to_stop, wants_change
from upcycle.jobs.session import Session
from upcycle.model import checkpoint
from upcycle.model.network import Network
from upcycle.training.loop import Setting, State, decay_of, fit, start
from upcycle.training.loss import CustomLoss, Loss, Scores, score, weighted_loss
from upcycle.training.optim import frozen_in, frozen_names, learns_statistics, state_tensors
from upcycle.world import World

MOST_RETRIES = 2
"""How often a run whose loss explodes continues at half the rate."""
GENEROUS = 8192
"""Bytes per pixel that no network of 25 million parameters keeps for its backward pass (ResNet-50: 860 in bf16)."""
MARGIN = 1.1
SCRATCH = 300 * 2**20
"""What libraries take beside the tensors."""


def fine_tune(
    session: Session, data: Dataset, model: Network, *, pretrained: dict[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """Fine-tune `model` by the last phase of the plan; returns why it ended, and the moving average of its weights.

    After a loss that explodes, or too little memory, training resumes from
    the last checkpoint, or without one from the weights `pretrained`.
    """
    _fit_into_memory(session, model, data.preprocessing.size, data.world)
    while True:
        try:
            return _train(session, data, model)
        except DivergenceError as error:
            _retry(session, error)
        except RuntimeError as error:
            if not out_of_memory(error) or not data.world.alone:  # the others are in the middle of the update
                raise
            _halve(session, model, error)
        checkpoint.load_clone(model, pretrained)


def _train(session: Session, data: Dataset, model: Network) -> tuple[str, dict[str, Tensor]]:
    """Train, with the best weights and a checkpoint written after every epoch; what `fine_tune` returns."""
    config, show, phase = session.config, session.show, session.plan.last
    state = start(model, config, step=phase.first_step)
    history = session.resume(state, phase)
    before: Setting | None = None
    labels = torch.from_numpy(data.index.labels[data.splits.val]).long()

    def validate(model: Network) -> Scores:
        return score(torch.from_numpy(held_out_logits(data, model, session.machine, "val")), labels, data.task)

    def due() -> bool:
        if session.pace is not None:
            session.pace.updated()
        return wants_change(session, state) or session.due()

    with show.progress(phase.name) as told, session.stopping.held():

        def progress(done: int, _: int) -> None:
            """One bar counts the updates of all epochs."""
            told(state.epoch * phase.steps_per_epoch + done, session.plan.last.steps)

        while not (reason := reason_to_stop(session, state, history.of(phase.name))):
            session.stopping.obey()
            setting = setting_of(session, data, model)  # by the plan as it is now
            before = setting = shared(state, setting, data.world, before)
            for ended in fit(state, setting, validate=validate, progress=progress, due=due):
                if ended is None:
                    changed = change_plan(session, state)
                    if not changed or session.stopping.asked:
                        session.pause(state, history)
                    if changed:
                        break
                    continue
                row, totals = ended
                row = replace(row, best=is_best(history.of(phase.name), row, config.monitor))
                history = session.end_epoch(state, history.adding(row), totals)
                show.row(history, session.plan.last.epochs, totals.images / totals.seconds)
                if session.pace is not None:
                    session.pace.closed()
                break
    return reason, state.average


def setting_of(session: Session, data: Dataset, model: Network) -> Setting:
    """What the updates of the plan's last phase need."""
    config, custom = session.config, session.callables
    return Setting(
        config=config,
        phase=session.plan.last,
        batches=replace(data.batches(config, session.machine, session.plan.augment), augment=custom.augment),
        task=data.task,
        loss=CustomLoss(data.task, custom.loss)
        if custom.loss
        else class_loss(config, data, device=session.machine.device),
        machine=session.machine,
        frozen=frozen_in(model.body),
        changes=session.plan.micro_batches,
    )


def shared(state: State, setting: Setting, world: World, before: Setting | None = None) -> Setting:
    """The setting with this process's part of each batch; the others are told of it and of the state.

    Not where they were told the same `before`: since then they have made the same updates.
    """
    if world.alone:
        return setting
    batches = replace(setting.batches, world=world)
    known = (before.changes, before.batches.augmentation) if before else None
    if known != (setting.changes, batches.augmentation):
        tensors = state_tensors(state.optimizer, state.names)
        world.tell(
            "train",
            **told_of(state.model),
            phase=setting.phase.name,
            step=state.step,
            first_step=setting.phase.first_step,
            frozen=sorted(setting.frozen),
            augmentation=asdict(batches.augmentation),
            changes=[(change.step, change.images) for change in setting.changes],
            moments=[
                (name, str(one.dtype).removeprefix("torch."), list(one.shape), one.device.type)
                for name, one in tensors.items()
            ],
        )
        world.sync([*state.model.state_dict().values(), *tensors.values()])
    return replace(setting, batches=batches, world=world)


def synchronize_statistics(model: Network, config: Config, world: World) -> None:
    """Have BatchNorm in training mode estimate its statistics from the whole batch, whoever has the images."""
    if config.bn == "train" and not world.alone:
        model.body = convert_sync_batchnorm(model.body)  # type: ignore[no-untyped-call]


def check_shared(config: Config, model: Network, world: World, machine: Hardware, *, images: int) -> None:
    """ConfigError where these processes cannot train this network on so many images together."""
    size, shards = world.size, config.exact_shards
    if shards and (size > shards or size & (size - 1)):
        raise ConfigError(
            f"exact_shards = {shards} is for a power of two of processes up to {shards}, and there are {size}"
        )
    frozen = frozen_names(model.body, "none" if config.freeze == "auto" else config.freeze)
    if not config.tunes or not learns_statistics(model.body, frozen=frozen, bn=config.bn):
        return
    if shards:
        raise ConfigError("BatchNorm in training mode needs a whole batch, not shards: give --bn frozen")
    if size > 1 and machine.device != "cuda":
        raise ConfigError(
            f"BatchNorm in training mode estimates its statistics from a whole batch, and each of {size} processes has "
            "a part; only CUDA GPUs put them together (SyncBatchNorm): give --bn frozen"
        )
    if 1 < images % config.batch_size < size:
        raise ConfigError(
            f"the last batch of an epoch has {images % config.batch_size} images, and BatchNorm in training mode needs "
            f"one for each of {size} processes: give another --batch-size"
        )


def class_loss(config: Config, data: Dataset, *, device: str) -> Loss:
    """The training loss, with the class weights that the training images ask for."""
    labels = data.index.labels[data.splits.train]
    return weighted_loss(config.class_weights, labels, data.task, smoothing=config.label_smoothing, device=device)


def held_out_logits(
    data: Dataset,
    model: Network,
    machine: Hardware,
    split: str,
    at: npt.NDArray[np.int64] | slice = slice(None),
    output: str = "logits",
) -> npt.NDArray[np.float32]:
    """Logits [n, outputs] of a split's images, or of those `at` some places in it, or what `output` gives for them."""
    return predict_logits(
        model,
        data.frames,
        data.splits.of(split)[at],
        preprocessing=data.preprocessing,
        machine=machine,
        workers=data.workers(machine),
        output=output,
        world=data.world,
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


def _fit_into_memory(session: Session, model: Network, size: int, world: World) -> None:
    """On a processor, where running out of memory is a kill without a word: take micro-batches that fit.

    The processes of one node share its memory, and each has its part of the batch.
    """
    shards = session.config.exact_shards
    whole = _images(session)
    batch = min(whole, -(-session.config.batch_size // max(world.size, shards)))
    images, reason = micro_batch(
        session.config, model, session.machine, size, batch=batch, share=1 / world.place.local_size
    )
    if images != batch and shards:
        raise ConfigError(f"{reason}: give --exact-shards {2 * shards}, or a smaller --image-size")
    if images != batch:
        _divide(session, session.plan.phases[-1].first_step, images, reason)


def micro_batch(
    config: Config,
    model: Network,
    machine: Hardware,
    size: int,
    *,
    batch: int | None = None,
    share: float = 1.0,
) -> tuple[int, str]:
    """How many images of a batch go through the network at a time, all on an accelerator, and why not all.

    `share`: the part of the free memory that may be taken.

    ConfigError where not one image fits, or BatchNorm's statistics need the whole batch.
    """
    batch = batch or config.batch_size
    if machine.device != "cpu":
        return batch, ""
    free, averaged = share * hardware.free_memory(Path("/")), decay_of(config, model) > 0
    images, needed = largest_micro_batch(model, machine, batch=batch, size=size, free=free, averaged=averaged)
    if images == batch:
        return batch, ""
    amounts = f"takes about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
    reason = f"training {batch} images of {size} px at once {amounts}"
    _check_divisible(config, model, reason, images)
    return images, reason


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
    if learns_statistics(model.body, frozen=frozen_in(model.body), bn=config.bn):
        raise ConfigError(
            f"{reason}, and BatchNorm in training mode needs a whole batch: give --batch-size {images} or --bn frozen"
        )


def _divide(session: Session, step: int, images: int, reason: str) -> None:
    session.change(MicroBatch(step, images, reason))
    session.show.warn(f"{reason}: micro-batches of {counted(images, 'image')}, with the same updates")


def activations(model: nn.Module, machine: Hardware, *, images: int, size: int) -> int:
    """Bytes that a pass of [images, 3, size, size] keeps for its backward pass, parameters left out.

    Computed in evaluation mode, so that no statistics change and no random numbers are drawn.
    """
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    training = model.training
    model.eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(machine):
        outputs = model(torch.zeros(images, 3, size, size).to(memory_format=torch.channels_last))
    model.train(training)
    del outputs
    return sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in own)


def fixed(model: nn.Module, *, averaged: bool = False) -> int:
    """Bytes of gradients, Adam's moments, the weights' average, and of the copies that writing a checkpoint makes."""
    everything = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return 4 * ((3 + averaged) * trained) + 4 * (everything + (2 + averaged) * trained) + SCRATCH


def largest_micro_batch(
    model: nn.Module, machine: Hardware, *, batch: int, size: int, free: float, averaged: bool = False
) -> tuple[int, int]:
    """The most images, `batch` or a half of it and so on, that fit into `free` bytes, 0 if not one does; and the
    bytes that the whole batch takes.
    """
    roomy = GENEROUS * max(1.0, sum(parameter.numel() for parameter in model.parameters()) / 25e6)
    if not free < roomy * batch * size**2 + fixed(model, averaged=averaged):
        return batch, 0  # plainly enough, and looking closer takes time
    one, two = (activations(model, machine, images=images, size=size) for images in (1, 2))

    def needed(images: int) -> float:
        return MARGIN * (one + (images - 1) * (two - one)) + fixed(model, averaged=averaged)

    images = batch
    while images and needed(images) > free:
        images //= 2
    return images, round(needed(batch))
