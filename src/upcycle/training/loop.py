"""The fine-tuning loop: `fit` yields one immutable row an epoch, and whoever drives it decides what then.

Nothing here remembers where it is except `State`; the rate is asked of the schedule by step, and
randomness is a function of (seed, phase, step). So a State kept between two updates continues to the same bits.
"""

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from upcycle.changes import MicroBatch
from upcycle.config import Config
from upcycle.data.dataset import Batch, Batches, shard_of
from upcycle.device import Hardware, seed_for
from upcycle.errors import DivergenceError
from upcycle.history import Row
from upcycle.model.checkpoint import load_clone
from upcycle.model.network import Network
from upcycle.planning import Phase
from upcycle.schedules import Rate
from upcycle.task import Task
from upcycle.training.gradients import Tree, put, taken
from upcycle.training.loss import LossFunction, Scores, guessing_loss, predicted_classes
from upcycle.training.optim import (
    clip_gradients,
    load_state_tensors,
    make_optimizer,
    parameter_groups,
    set_rate,
    set_training_mode,
    state_tensors,
)
from upcycle.world import ALONE, World

Progress = Callable[[int, int], None]
"""Told (done, total)."""
EXPLODED = 10
"""A mean loss of so many times that of guessing is no longer learning."""
STRETCH = 20
"""Updates whose mean loss is judged together: a batch or two may be off. So are whole epochs, after as many."""
HOPELESS = 1000
"""A validation loss of so many times that of guessing is none of statistics that have not settled."""


@dataclass(frozen=True)
class Sums:
    """Of the updates made so far in the epoch under way: how many, their images, loss, right answers and seconds."""

    updates: int = 0
    images: int = 0
    loss: float = 0.0
    right: int = 0
    seconds: float = 0.0
    judged_images: int = 0
    judged_loss: float = 0.0
    """Images and loss of the stretches that have been judged."""


@dataclass
class State:
    """What training changes: weights, moments, the number of updates and of epochs done in this phase.

    `sums` are those of the epoch under way whenever `fit` pauses, and empty between epochs.
    """

    model: Network
    optimizer: torch.optim.Optimizer
    names: list[str]
    step: int = 0
    epoch: int = 0
    sums: Sums = Sums()
    average: dict[str, Tensor] = field(default_factory=dict)
    """The exponential moving average of the trained weights, by the names of `model`; empty where there is none."""

    @property
    def trained(self) -> list[Tensor]:
        """The parameters that are trained, in the optimizer's order."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def to_tensors(self) -> dict[str, Tensor]:
        """All tensors that training changes, keyed `part|name`; parts are model, moments and ema."""
        moments = state_tensors(self.optimizer, self.names)
        parts = {"model": self.model.state_dict(), "moments": moments, "ema": self.average}
        return {f"{part}|{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `to_tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "moments": {}, "ema": {}}
        for key, tensor in tensors.items():
            part, name = key.split("|", 1)
            parts[part][name] = tensor
        load_clone(self.model, parts["model"])
        load_state_tensors(self.optimizer, self.names, parts["moments"])
        for name, tensor in self.average.items():  # in place, so that each keeps its weight's memory layout
            tensor.copy_(parts["ema"][name])

    def update_average(self, decay: float, updates: int) -> None:
        """Follow the weights, `updates` being those made in the phase before: the first of them weigh more.

        The decay is `decay` or, while it is less, (1 + updates) / (10 + updates), as in TensorFlow's
        ExponentialMovingAverage.
        """
        if self.average:
            weights = self.model.state_dict()
            current = [weights[name] for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), current, 1 - min(decay, (1 + updates) / (10 + updates)))


@dataclass(frozen=True, eq=False)
class Setting:
    """What training an epoch needs and does not change."""

    config: Config
    phase: Phase
    batches: Batches
    task: Task
    loss: LossFunction
    machine: Hardware
    frozen: frozenset[str]
    changes: tuple[MicroBatch, ...] = ()
    """From which update on how many images of a batch go through the network at a time, where not all do."""
    world: World = ALONE
    """The processes that make each update together, each on its part of the batch."""

    @property
    def shards(self) -> int:
        """In how many parts a batch is computed whose gradients are added in a fixed order; 0 for no such order."""
        return self.config.exact_shards

    def own_shards(self, batch: Batch) -> tuple[Batch, ...]:
        """This process's shards of the batch, some of the last ones empty where it has fewer images."""
        each, count = shard_of(self.config.batch_size, self.shards), self.shards // self.world.size
        last = self.world.place.rank == self.world.size - 1
        ends = [*(at * each for at in range(1, count)), len(batch.labels) if last else count * each]
        return tuple(batch.take(slice(start, end)) for start, end in zip([0, *ends], ends, strict=False))

    def micro_batches(self, batch: Batch, step: int) -> tuple[Batch, ...]:
        """The batch of update `step` in the parts that go through the network one after the other."""
        found = (change.images for change in reversed(self.changes) if step >= change.step)
        return batch.split(next(found, len(batch.labels)))


@dataclass(frozen=True)
class Totals:
    """Means of one training epoch, and the seconds it took."""

    loss: float
    accuracy: float
    images: int
    seconds: float


def start(model: Network, config: Config, *, step: int = 0) -> State:
    """A State that begins fine-tuning `model` at the run's update `step`."""
    groups = parameter_groups(model.body, layer_decay=config.layer_decay, weight_decay=config.weight_decay)
    names = [name for group in groups for name in group["names"]]
    state = State(model, make_optimizer(config, groups), names, step)
    if decay_of(config, model):
        state.average = {name: tensor.clone() for name, tensor in trained_tensors(model, config).items()}
    return state


def decay_of(config: Config, model: Network) -> float:
    """The decay of the moving average; 0 for none, as where there is no probe to compare it with."""
    return config.ema_decay if config.probe and model.has_linear_head else 0.0


def trained_tensors(model: Network, config: Config) -> dict[str, Tensor]:
    """The floating tensors that training changes, by the names of `model`: parameters, and learned statistics."""
    trained = {
        name for name, parameter in model.body.named_parameters(remove_duplicate=False) if parameter.requires_grad
    }
    if config.bn == "train":
        trained |= {name for name, buffer in model.body.named_buffers() if buffer.is_floating_point()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in trained}


def train_step(state: State, batch: Batch, setting: Setting, rate: Rate | None = None) -> tuple[Tensor, Tensor]:
    """One update; returns the batch's mean loss and its number of right answers, still on the device.

    `rate` is that of the schedule where it is left out. Of several processes each calls this with its part of the
    batch, and all make the same update.
    """
    set_rate(state.optimizer, rate or setting.phase.rate(state.step))
    state.optimizer.zero_grad(set_to_none=True)
    loss, right = (_in_shards if setting.shards else _at_once)(state, batch, setting)
    clip_gradients(state.optimizer, setting.config.clip_grad)
    state.optimizer.step()
    state.update_average(setting.config.ema_decay, state.step - setting.phase.first_step)
    state.step += 1
    return loss, right


def _backward(state: State, part: Batch, setting: Setting, *, number: int, whole: int) -> tuple[Tensor, Tensor]:
    """Add the gradients of some images to those there are: their share in the loss of `whole`, and right answers."""
    torch.manual_seed(seed_for(setting.config.seed, setting.phase.name, "step", state.step, number))
    logits = state.model(part.images)
    loss = setting.loss(logits, part.targets).mean() * (len(part.labels) / whole)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), (predicted_classes(setting.task, logits.detach()) == part.labels).sum()


def _at_once(state: State, batch: Batch, setting: Setting) -> tuple[Tensor, Tensor]:
    """The gradients of the batch: of this process's part, in micro-batches where memory is short, and of the others."""
    losses, right = [], []
    parts = setting.micro_batches(batch, state.step) if len(batch.labels) else ()
    first = batch.part.start if batch.part else 0  # what a process draws is its own
    for number, part in enumerate(parts, first):
        found = _backward(state, part, setting, number=number, whole=batch.whole)
        losses.append(found[0])
        right.append(found[1])
    own = (torch.stack(losses).sum(), torch.stack(right).sum()) if losses else (0.0, 0.0)
    if setting.world.alone:
        return own  # type: ignore[return-value]
    return put(state.trained, setting.world.add(taken(state.trained, *own), pairwise=False))


def _in_shards(state: State, batch: Batch, setting: Setting) -> tuple[Tensor, Tensor]:
    """The gradients of the batch shard by shard, added in one order whatever the number of processes."""
    tree, first = Tree(), setting.world.place.rank * (setting.shards // setting.world.size)
    for number, part in enumerate(setting.own_shards(batch), first):
        found: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)
        if len(part.labels):
            found = _backward(state, part, setting, number=number, whole=batch.whole)
        tree.add(taken(state.trained, *found))
    return put(state.trained, setting.world.add(tree.total, pairwise=True))


def train_epoch(
    state: State, setting: Setting, progress: Progress | None = None, due: Callable[[], bool] | None = None
) -> Generator[None, None, Totals]:
    """Train through the batches of the next epoch, or the rest of them, pausing after an update where it is `due`.

    Raises DivergenceError, naming the updates it happened between, once the loss is not finite, or once its mean
    has exploded, over the last stretch of updates or over the epoch. On an accelerator that is
    looked at every 50 updates, so that the device is not waited for at each.
    """
    set_training_mode(state.model.body, frozen=setting.frozen, bn=setting.config.bn)
    check_every, stretch = (1, STRETCH) if setting.machine.device == "cpu" else (50, 50)
    earlier = state.sums
    began, clean, images = time.perf_counter() - earlier.seconds, state.step, earlier.images
    judged_images, judged_loss = earlier.judged_images, earlier.judged_loss
    device = setting.machine.device
    guessing = guessing_loss(setting.loss, setting.task, device)
    exact = torch.float32 if device == "mps" else torch.float64  # MPS has no float64
    loss_sum = torch.tensor(earlier.loss, dtype=exact, device=device)
    right = torch.tensor(earlier.right, dtype=torch.int64, device=device)
    left = setting.phase.first_step + setting.phase.steps - state.step
    total = min(len(setting.batches), earlier.updates + left)
    batches = itertools.islice(setting.batches.epoch(state.epoch, earlier.updates), total - earlier.updates)
    for done, batch in enumerate(batches, earlier.updates + 1):
        if not setting.world.alone:
            rate = setting.phase.rate(state.step)
            setting.world.tell("update", epoch=state.epoch, index=done - 1, step=state.step, rate=rate)
        loss, correct = train_step(state, batch, setting)
        loss_sum += loss.to(exact) * batch.whole
        right += correct
        images += batch.whole
        if done % check_every == 0 or done == total:
            so_far = loss_sum.item()
            if not math.isfinite(so_far):
                raise DivergenceError(_diverged("is not finite", setting, clean, state.step))
            clean = state.step
            if done % stretch == 0:
                _judge((so_far - judged_loss) / (images - judged_images), guessing, stretch, setting, state.step)
                judged_images, judged_loss = images, so_far
            elif done == total and state.step - setting.phase.first_step >= stretch:
                _judge(so_far / images, guessing, total, setting, state.step)
        if progress is not None:
            progress(done, total)
        if due is not None and due():
            spent = time.perf_counter() - began
            so_far = float(loss_sum.item())
            state.sums = Sums(done, images, so_far, int(right.item()), spent, judged_images, judged_loss)
            yield
            began = time.perf_counter() - spent  # the pause is no training
    state.epoch += 1
    state.sums = Sums()
    return Totals(loss_sum.item() / images, right.item() / images, images, time.perf_counter() - began)


def _judge(loss: float, guessing: float, updates: int, setting: Setting, step: int) -> None:
    """DivergenceError where the mean loss of the last `updates` has exploded."""
    if loss > EXPLODED * guessing:
        wrong = f"is {loss:.3g}, and guessing has {guessing:.2g},"
        raise DivergenceError(_diverged(wrong, setting, step - updates, step))


def _diverged(wrong: str, setting: Setting, clean: int, step: int) -> str:
    phase = setting.phase
    return (
        f"the loss {wrong} between updates {clean} and {step} of phase {phase.name} "
        f"(rate {phase.rate(step - 1).lr:.3g}): try --lr {phase.peak / 10:.3g}, or --on-divergence retry"
    )


def fit(
    state: State,
    setting: Setting,
    *,
    validate: Callable[[Network], Scores],
    progress: Progress | None = None,
    due: Callable[[], bool] | None = None,
) -> Iterator[tuple[Row, Totals] | None]:
    """Train epoch by epoch, yielding what each brought and its clock values; stop by no longer asking.

    Yields None after an update where it is `due`, so that whoever drives this can keep the state.
    """
    phase = setting.phase
    end = phase.first_step + phase.steps
    while state.step < end or state.sums.updates:  # an epoch may end before its last batch
        totals = yield from train_epoch(state, setting, progress, due)
        rate = phase.rate(state.step - 1)
        scores = validate(state.model)
        if not scores.loss <= HOPELESS * setting.task.guessing:  # NaN as well
            wrong = f"is {scores.loss:.3g}" if math.isfinite(scores.loss) else "is not finite"
            wrong += " on validation images"
            raise DivergenceError(_diverged(wrong, setting, state.step - len(setting.batches), state.step))
        row = Row(
            phase=phase.name,
            epoch=state.epoch,
            step=state.step,
            lr=rate.lr,
            momentum=rate.momentum,
            loss=totals.loss,
            accuracy=totals.accuracy,
            val_loss=scores.loss,
            val_accuracy=scores.accuracy,
            val_f1_macro=scores.f1_macro,
        )
        yield row, totals
