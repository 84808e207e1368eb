"""What a run does: its phases with the schedules that its configuration asks for, and what changed them under way."""

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from upcycle.changed_schedules import Cooldown, Replanned, Scaled, by_epoch, over_run, to_dict
from upcycle.changes import Budget, Change, Ending, MicroBatch, Replan, Retry
from upcycle.config import Config
from upcycle.errors import counted
from upcycle.recipes import peak_rate
from upcycle.schedules import Constant, OneCycle, RampSustainDecay, Rate, Schedule, Shape, Step, WarmupStableDecay


def schedule(config: Config, steps_per_epoch: int, custom: Schedule | None = None) -> Schedule:
    """The schedule of the fine-tuning phase, or `custom`; its steps count from the phase's first update."""
    if custom is not None:
        return over_run(custom, steps=config.epochs * steps_per_epoch, steps_per_epoch=steps_per_epoch)
    if config.schedule == "constant":
        return Constant(peak_rate(config), config.momentum)
    if config.schedule == "ramp-sustain-decay":
        return RampSustainDecay(
            lr_start=config.lr_start,
            lr_max=peak_rate(config),
            lr_min=config.lr_min,
            rampup=config.rampup,
            sustain=config.sustain,
            decay=config.decay,
            steps_per_epoch=steps_per_epoch,
            momentum=config.momentum,
        )
    if config.schedule == "step":
        return Step(peak_rate(config), config.step_size, config.gamma, steps_per_epoch, config.momentum)
    if config.schedule in WARM:
        trapezoid = config.schedule == "warmup-stable-decay"
        return WarmupStableDecay(
            peak_rate(config),
            config.epochs * steps_per_epoch,
            warmup=config.warmup,
            cooldown=config.cooldown if trapezoid else None,
            shape=config.cooldown_shape if trapezoid else WARM[config.schedule],
            start=1 / config.div,
            end=1 / config.div_final,
            momentum=config.momentum,
        )
    return OneCycle(
        peak_rate(config),
        config.epochs * steps_per_epoch,
        pct_start=config.pct_start,
        div=config.div,
        div_final=config.div_final,
        anneal=config.anneal,
        moms=config.moms,
        three_phase=config.three_phase,
    )


WARM: dict[str, Shape] = {"warmup-stable-decay": "1-sqrt", "cosine": "cos", "linear": "linear"}
"""Schedules with a warm-up and a decay, with the shape of it."""


def flat(value: Schedule) -> dict[str, Any]:
    """The options that a schedule's value stands for; none for a value with lengths of its own, or a custom one."""
    if isinstance(value, Constant):
        return {"schedule": value.kind, "lr": value.lr, "momentum": value.momentum}
    if isinstance(value, OneCycle) and value.total_steps is None:
        names: tuple[str, ...] = ("pct_start", "div", "div_final", "anneal", "moms", "three_phase")
    elif isinstance(value, RampSustainDecay) and value.steps_per_epoch is None:
        names = ("lr_start", "lr_min", "rampup", "sustain", "decay", "momentum")
    elif isinstance(value, Step) and value.steps_per_epoch is None:
        names = ("step_size", "gamma", "momentum")
    else:  # a trapezoid too: its first and last rates are fractions, which the options say by their inverses
        return {}
    return {"schedule": value.kind, "lr": value.lr_max, **{name: getattr(value, name) for name in names}}


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one schedule. `first_step` counts the whole run's updates before it."""

    name: str
    epochs: int
    steps_per_epoch: int
    schedule: Schedule
    first_step: int = 0
    updates: int | None = None
    """Updates of the whole phase, where its last epoch is not a whole one."""

    @property
    def steps(self) -> int:
        """Updates of the whole phase."""
        return self.epochs * self.steps_per_epoch if self.updates is None else self.updates

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return max(self.schedule(step).lr for step in range(self.steps))

    def rate(self, step: int) -> Rate:
        """The rate of the run's update `step`, counted from 0 over all phases."""
        return self.schedule(step - self.first_step)

    def changed(self, change: Change) -> "Phase":
        """The same after a change: another rate from one of the run's updates on, more or fewer updates."""
        begin = getattr(change, "step", 0) - self.first_step
        match change:
            case Retry():
                return replace(self, schedule=Scaled(self.schedule, begin, change.factor))
            case Budget() if change.steps:
                return self._replanned(0, change.steps)
            case Replan():
                return self._replanned(begin, change.steps)
            case Ending():
                down = change.steps - begin
                schedule = Cooldown(self.schedule, begin, down, change.shape) if down else self.schedule
                return self._of(change.steps, schedule)
            case _:
                return self

    def _replanned(self, begin: int, steps: int) -> "Phase":
        if steps == self.steps:
            return self
        whole = steps > begin  # else training ends where it is
        return self._of(steps, Replanned(self.schedule, begin, self.steps, steps) if whole else self.schedule)

    def _of(self, steps: int, schedule: Schedule) -> "Phase":
        return replace(self, epochs=-(-steps // self.steps_per_epoch), updates=steps, schedule=schedule)

    def to_dict(self, points: int = 500) -> dict[str, object]:
        """Plain values, with at most `points` rates to draw."""
        per_epoch = by_epoch(self.schedule)
        stride = self.steps_per_epoch if per_epoch else max(1, -(-self.steps // points))
        at = sorted({*range(0, self.steps, stride), self.steps - 1})
        return {
            "name": self.name,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "first_step": self.first_step,
            "updates": self.steps,
            "per": "epoch" if per_epoch else "step",
            "schedule": to_dict(self.schedule),
            "rates": [{"step": self.first_step + step, **self.schedule(step)._asdict()} for step in at],
        }


FAR = 0.35
"""A probe this bad, as a fraction of the loss of guessing, calls for the whole peak rate."""
LEAST_SHARE = 0.1


WHOLE = 0.35
"""The part of the peak at which all layers are trained: at the whole one malaria_cells gets worse until it falls."""


def adapted_rate(lr: float, probe_loss: float, classes: int, *, whole: bool = False) -> float:
    """The peak rate of fine-tuning after a probe with this validation loss (mean, nats); `whole`: of all layers.

    Where the frozen features nearly solve the task, large steps spoil them; where they do not, small
    steps leave them as they are. The rate is in proportion to the probe's loss over the loss of
    guessing, log(classes), from a tenth of `lr` up to `lr`. A heuristic, set on validation images
    of tasks near ImageNet and far from it (docs/training.md).
    """
    share = probe_loss / math.log(classes) / FAR
    return lr * min(1.0, max(LEAST_SHARE, share)) * (WHOLE if whole else 1.0)


FAR_SHARE = 0.2
"""A task is far from this part of the loss of guessing on: frozen lower layers limit what fine-tuning can reach."""
LIKELY_GAIN = 0.25
"""The part of a near task's validation loss that fine-tuning can be expected to take away."""
ERRORS = 2.0
"""A gain of fewer standard errors of the validation loss cannot be distinguished from chance."""
NEAR_UPDATES = 0.25
"""The part of `min_updates` that near tasks get: they are learned soon, and more updates overfit."""
MOST_EPOCHS = {"near": 8, "far": 10}
"""With few images, more epochs teach nothing new, however few updates they are."""


FREE_MARGIN = 0.05
"""Orientation means nothing where turning images costs less than this part of the loss of guessing."""
LEAST_TURNED = 100
"""Validation images needed to judge whether orientation matters."""


def orientation(difference: float, error: float, classes: int) -> tuple[bool, str]:
    """Whether orientation means nothing, and why.

    `difference` is the mean paired change of the loss when validation images are turned, in nats per image, and `error`
    its standard error. Orientation means nothing where the upper end of the one-sided 95 % interval is below a margin.
    """
    share, upper = (value / math.log(classes) for value in (difference, difference + 1.645 * error))
    free = upper < FREE_MARGIN
    told = f"turned validation images change the loss by {100 * share:+.1f} % of guessing, at most {100 * upper:+.1f} %"
    return (
        free,
        f"orientation {'means nothing, so images are turned in training' if free else 'is taken to matter'}: {told}",
    )


@dataclass(frozen=True)
class Decision:
    """What the probe decides about fine-tuning: whether to skip it, its epochs, which layers to freeze, and why.

    `share` is the probe's validation loss over the loss of guessing; `freeze` is a value of the option, "auto" for the
    lower half.
    """

    skip: bool
    epochs: int
    freeze: str
    share: float
    reason: str

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def epochs_for(config: Config, steps_per_epoch: int, *, far: bool) -> int:
    """The epochs of fine-tuning after a probe: enough for `min_updates`, within limits; at least `config.epochs`."""
    wanted = config.min_updates * (1.0 if far else NEAR_UPDATES)
    most = MOST_EPOCHS["far" if far else "near"]
    return max(config.epochs, min(most, math.ceil(wanted / steps_per_epoch)))


def decide(config: Config, *, loss: float, error: float, images: int, classes: int, steps_per_epoch: int) -> Decision:
    """How the task is fine-tuned, by the probe's mean validation loss (nats per image) on so many `images`.

    `error` is the standard error of that loss. Static facts and validation images alone decide.
    """
    share = loss / math.log(classes)
    far = share >= FAR_SHARE
    place = f"{'far from' if far else 'near'} the pretrained features (validation loss {100 * share:.0f} % of guessing)"
    skip = config.fine_tune == "auto" and not far and LIKELY_GAIN * loss < ERRORS * error
    freeze = "none" if far and config.freeze == "auto" else config.freeze
    epochs = epochs_for(config, steps_per_epoch, far=far)
    if skip:
        reason = (
            f"fine-tuning is skipped: {place}, and {counted(images, 'validation image')} cannot show a gain: a quarter "
            f"of the loss is {LIKELY_GAIN * loss:.2g}, its standard error {error:.2g}"
        )
        return Decision(skip, 0, freeze, share, reason)
    which = {"none": "all layers are", "auto": "the upper half is"}.get(freeze, f"what is above {freeze} is")
    updates = counted(steps_per_epoch, "update")
    return Decision(
        skip, epochs, freeze, share, f"{place}: {which} fine-tuned, {counted(epochs, 'epoch')} of {updates}"
    )


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of one pass; a last batch of one image joins the one before it."""
    whole, rest = divmod(images, batch_size)
    return max(1, whole + (rest > 1 or (rest == 1 and whole == 0)))


def phases(config: Config, images: int, custom: Schedule | None = None) -> tuple[Phase, ...]:
    """What a run on `images` training images does after the probe: fine-tuning, or nothing.

    `decide` may still raise its epochs or skip it.

    ConfigError where the schedule `custom` gives no rate for one of its updates.
    """
    if not config.tunes:
        return ()
    steps = steps_per_epoch(images, config.batch_size)
    name = "finetune" if config.weights != "none" else "train"
    phase = Phase(name, config.epochs, steps, schedule(config, steps, custom))
    if custom is not None:
        for step in range(phase.steps):  # what is wrong with one of them is better known now
            phase.schedule(step)
    return (phase,)


@dataclass(frozen=True)
class Plan:
    """The phases of a run as they were planned, and the changes of its last phase, in order."""

    phases: tuple[Phase, ...] = ()
    changes: tuple[Change, ...] = ()
    augment: str = ""
    """How training images vary, where that was found out."""

    @property
    def retries(self) -> tuple[Retry, ...]:
        """How the learning rate was lowered."""
        return tuple(change for change in self.changes if isinstance(change, Retry))

    @property
    def micro_batches(self) -> tuple[MicroBatch, ...]:
        """How batches were divided."""
        return tuple(change for change in self.changes if isinstance(change, MicroBatch))

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Learning rate and momentum of every update, the changes applied."""
        phases = (*self.phases[:-1], self.last) if self.phases else ()
        return tuple(phase.schedule(step) for phase in phases for step in range(phase.steps))

    @cached_property
    def last(self) -> Phase:
        """The last phase, as the changes have left it."""
        phase = self.phases[-1]
        for change in self.changes:
            phase = phase.changed(change)
        return phase

    @property
    def budget(self) -> Budget | None:
        """What a deadline allowed, where there was one."""
        return next((change for change in self.changes if isinstance(change, Budget)), None)

    @property
    def lean(self) -> bool:
        """Whether a deadline leaves time for what matters most alone."""
        return self.budget is not None and self.budget.lean

    @property
    def ending(self) -> Ending | None:
        """Why training ends before its time, where it does."""
        return next((change for change in self.changes if isinstance(change, Ending)), None)

    def holds(self, *, retries: int, step: int) -> bool:
        """Whether a state made after so many retries at update `step` belongs to this plan.

        So it does when it was made under it, or before the update that the last retry starts from.
        """
        return retries == len(self.retries) or bool(self.retries and step <= self.retries[-1].step)

    def to_dict(self) -> dict[str, object]:
        """The phases as plain values for JSON, the changes applied."""
        phases = [phase.to_dict() for phase in (*self.phases[:-1], *([self.last] if self.phases else []))]
        return {"phases": phases, **({"augment": self.augment} if self.augment else {})}
