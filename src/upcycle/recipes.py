"""Named configurations, and the schedules that a configuration asks for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from upcycle.config import Config, build, canonical
from upcycle.errors import ConfigError
from upcycle.schedules import (
    Constant,
    OneCycle,
    RampSustainDecay,
    Rate,
    Scaled,
    Schedule,
    by_epoch,
    over_run,
    to_dict,
)

RECIPES: Mapping[str, Mapping[str, object]] = {
    # Config's own defaults.
    "default": {},
    # The article "Fine-tuning pre-trained ResNet-50 with one-cycle learning rate" (Transfer Learning in
    # Action); docs/training.md lists what it leaves unsaid and what is taken for it.
    "classic": {
        "epochs": 100,
        "probe": False,
        "batch_size": 32,
        "schedule": "ramp-sustain-decay",
        "lr": 1e-4,
        "lr_start": 1e-5,
        "lr_min": 1e-5,
        "rampup": 5,
        "sustain": 0,
        "decay": 0.8,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "momentum": 0.9,
        "beta2": 0.999,
        "eps": 1e-7,
        "layer_decay": 1.0,
        "freeze": "none",
        "bn": "train",
        "augment": "none",
        "monitor": "val_loss",
        "patience": 5,
    },
    # A linear classifier on the frozen network's features, and nothing else.
    "probe": {"epochs": 0},
    # The article's baseline: a small network from scratch, with a rate that suits it.
    "simple-cnn": {
        "arch": "simple-cnn",
        "weights": "none",
        "epochs": 100,
        "probe": False,
        "schedule": "constant",
        "lr": 1e-3,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "beta2": 0.999,
        "eps": 1e-7,
        "layer_decay": 1.0,
        "freeze": "none",
        "bn": "train",
        "augment": "none",
        "patience": 5,
    },
}


def resolve(options: Mapping[str, Any], recipe: str | None = None) -> Config:
    """The configuration of a recipe with `options` laid over it.

    ConfigError for an unknown recipe or option, or a value out of range.
    """
    named = canonical(options)
    name = recipe or named.get("recipe", "default")
    if not isinstance(name, str) or name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    exact = {"lr_adapt": False} if "lr" in {**RECIPES[name], **named} else {}  # a rate that is named is the rate
    return build({**RECIPES[name], **exact, **_from_scratch(name, named), **named, "recipe": name})


def _from_scratch(name: str, named: Mapping[str, Any]) -> dict[str, object]:
    """What changes without pretrained weights: nothing is worth freezing, no features are worth a probe."""
    if named.get("weights", RECIPES[name].get("weights")) != "none":
        return {}
    return {"probe": False, "freeze": "none", "bn": "train", "layer_decay": 1.0}


def schedule(config: Config, steps_per_epoch: int, custom: Schedule | None = None) -> Schedule:
    """The schedule of the fine-tuning phase, or `custom`; its steps count from the phase's first update."""
    if custom is not None:
        return over_run(custom, steps=config.epochs * steps_per_epoch, steps_per_epoch=steps_per_epoch)
    if config.schedule == "constant":
        return Constant(config.lr, config.momentum)
    if config.schedule == "ramp-sustain-decay":
        return RampSustainDecay(
            lr_start=config.lr_start,
            lr_max=config.lr,
            lr_min=config.lr_min,
            rampup=config.rampup,
            sustain=config.sustain,
            decay=config.decay,
            steps_per_epoch=steps_per_epoch,
            momentum=config.momentum,
        )
    return OneCycle(
        config.lr,
        config.epochs * steps_per_epoch,
        pct_start=config.pct_start,
        div=config.div,
        div_final=config.div_final,
        anneal=config.anneal,
        moms=config.moms,
    )


def flat(value: Schedule) -> dict[str, Any]:
    """The options that a schedule's value stands for; none for a value with lengths of its own, or a custom one."""
    if isinstance(value, Constant):
        return {"schedule": value.kind, "lr": value.lr, "momentum": value.momentum}
    if isinstance(value, OneCycle) and value.total_steps is None:
        names: tuple[str, ...] = ("pct_start", "div", "div_final", "anneal", "moms")
    elif isinstance(value, RampSustainDecay) and value.steps_per_epoch is None:
        names = ("lr_start", "lr_min", "rampup", "sustain", "decay", "momentum")
    else:
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

    @property
    def steps(self) -> int:
        """Updates of the whole phase."""
        return self.epochs * self.steps_per_epoch

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return max(self.schedule(step).lr for step in range(self.steps))

    def rate(self, step: int) -> Rate:
        """The rate of the run's update `step`, counted from 0 over all phases."""
        return self.schedule(step - self.first_step)

    def slowed(self, step: int, factor: float) -> "Phase":
        """The same with its learning rate times `factor` from the run's update `step` on."""
        return replace(self, schedule=Scaled(self.schedule, step - self.first_step, factor))

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
            "per": "epoch" if per_epoch else "step",
            "schedule": to_dict(self.schedule),
            "rates": [{"step": self.first_step + step, **self.schedule(step)._asdict()} for step in at],
        }


FAR = 0.35
"""A probe this bad, as a fraction of the loss of guessing, calls for the whole peak rate."""
LEAST_SHARE = 0.1


def adapted_rate(lr: float, probe_loss: float, classes: int) -> float:
    """The peak rate of fine-tuning after a probe with this validation loss (mean, nats).

    Where the frozen features nearly solve the task, large steps spoil them; where they do not, small
    steps leave them as they are. The rate is in proportion to the probe's loss over the loss of
    guessing, log(classes), from a tenth of `lr` up to `lr`. A heuristic, set on validation images
    of tasks near ImageNet and far from it (docs/training.md).
    """
    share = probe_loss / math.log(classes) / FAR
    return lr * min(1.0, max(LEAST_SHARE, share))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of one pass; a last batch of one image joins the one before it."""
    whole, rest = divmod(images, batch_size)
    return max(1, whole + (rest > 1 or (rest == 1 and whole == 0)))


def phases(config: Config, images: int, custom: Schedule | None = None) -> tuple[Phase, ...]:
    """What a run on `images` training images does after the probe: fine-tuning, or nothing.

    ConfigError where the schedule `custom` gives no rate for one of its updates.
    """
    if not config.epochs:
        return ()
    steps = steps_per_epoch(images, config.batch_size)
    name = "finetune" if config.weights != "none" else "train"
    phase = Phase(name, config.epochs, steps, schedule(config, steps, custom))
    if custom is not None:
        for step in range(phase.steps):  # what is wrong with one of them is better known now
            phase.schedule(step)
    return (phase,)
