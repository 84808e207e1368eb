"""The learning-rate range test: updates at rising rates, from one and the same state, which is left as it was.

Its updates are those of training, by `train_step`. Batches, augmentation and dropout are a function of (seed, repeat).
"""

import copy
import itertools
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from upcycle.data.dataset import Batch, Batches
from upcycle.device import seed_for
from upcycle.model.network import Network
from upcycle.planning import Phase
from upcycle.schedules import Rate
from upcycle.training.loop import Progress, Setting, start, train_step
from upcycle.training.loss import guessing_loss
from upcycle.training.optim import set_training_mode
from upcycle.training.rate_curve import Sweep, burst

Losses = tuple[tuple[float, ...], ...]
"""The loss of each update, by repeat."""


@dataclass(frozen=True)
class Rising:
    """The rates of a range test, with the momentum that training starts with."""

    kind: ClassVar[str] = "range-test"
    rates: tuple[float, ...]
    momentum: float

    def __call__(self, step: int) -> Rate:
        """The rate of update `step`."""
        return Rate(self.rates[step], self.momentum)


def range_test(
    model: Network, setting: Setting, sweep: Sweep, *, progress: Progress | None = None
) -> tuple[Losses, Losses]:
    """The training losses of each repeat of `sweep`, and those of the same batches by the weights of now.

    Each repeat starts from `model` as `setting` would train it: its weights, frozen layers, loss, optimizer, batch
    size and augmentation, and the momentum of its phase's first update. It ends early where the loss explodes; a loss
    that is not finite is left out. Afterwards the model, its modes and torch's random numbers are the same to the bit.
    """
    momentum = setting.phase.rate(setting.phase.first_step).momentum
    guessing = guessing_loss(setting.loss, setting.task, setting.machine.device)
    losses: list[tuple[float, ...]] = []
    starts: list[tuple[float, ...]] = []
    with _left_as_it_was(model, setting.machine.device) as back:
        before = copy.deepcopy(model)
        for repeat in range(sweep.repeats):
            phase = Phase(f"range-test-{repeat}", 1, sweep.num_updates, Rising(sweep.rates, momentum))
            seed = seed_for(setting.config.seed, "range test", repeat)
            own = replace(setting, phase=phase, batches=replace(setting.batches, seed=seed))

            def told(done: int, repeat: int = repeat) -> None:
                if progress is not None:
                    progress(repeat * sweep.num_updates + done, sweep.repeats * sweep.num_updates)

            back()
            made = _repeat(model, before, own, sweep, guessing, told)
            losses.append(made[0])
            starts.append(made[1])
    return tuple(losses), tuple(starts)


def _repeat(
    model: Network, before: Network, setting: Setting, sweep: Sweep, guessing: float, told: Callable[[int], None]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The losses of one repeat, of `model` and of the weights `before`."""
    for one in (model, before):
        set_training_mode(one.body, frozen=setting.frozen, bn=setting.config.bn)
    state = start(model, setting.config)
    state.average = {}  # nobody will read it
    losses: list[float] = []
    starts: list[float] = []
    with closing(_batches(setting.batches)) as batches:  # its threads end with it
        for batch in itertools.islice(batches, sweep.num_updates):
            starts.append(_loss(before, batch, setting, state.step))
            losses.append(train_step(state, batch, setting)[0].item())
            told(len(losses))
            if burst(losses, starts, width=sweep.width, guessing=guessing):
                break
    finite = len(losses) - (not math.isfinite(losses[-1] + starts[-1]))
    return tuple(losses[:finite]), tuple(starts[:finite])


def _batches(batches: Batches) -> Generator[Batch, None, None]:
    """Those of one epoch after another."""
    for epoch in itertools.count():
        yield from batches.epoch(epoch)


@torch.no_grad()
def _loss(model: Network, batch: Batch, setting: Setting, step: int) -> float:
    """The mean loss that `train_step` computes, with its dropout, and without an update."""
    losses = []
    for number, part in enumerate(setting.micro_batches(batch, step)):
        torch.manual_seed(seed_for(setting.config.seed, setting.phase.name, "step", step, number))
        loss = setting.loss(model(part.images), part.targets).mean()
        losses.append(loss * (len(part.labels) / len(batch.labels)))
    return float(torch.stack(losses).sum().item())


@contextmanager
def _left_as_it_was(model: nn.Module, device: str) -> Iterator[Callable[[], None]]:
    """Inside, the function that is given puts the weights and buffers of `model` back; at the end, all there is."""
    kept = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
    modes = {module: module.training for module in model.modules()}
    parameters = [(one, one.requires_grad, one.grad) for one in model.parameters()]
    random = torch.get_rng_state()
    of_device = {"cuda": torch.cuda, "mps": torch.mps}.get(device)
    random_of_device = of_device.get_rng_state() if of_device else None

    def back() -> None:
        with torch.no_grad():
            for name, tensor in _tensors(model):
                tensor.copy_(kept[name])
        for one, _, grad in parameters:
            one.grad = grad

    try:
        yield back
    finally:
        back()
        model.train()  # some networks of timm keep what they have made of their weights until then
        for module, training in modes.items():
            module.training = training
        for one, trains, _ in parameters:
            one.requires_grad_(trains)
        torch.set_rng_state(random)
        if of_device and random_of_device is not None:
            of_device.set_rng_state(random_of_device)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
