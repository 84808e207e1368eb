"""What is passed from Python: what it means, what is recorded of it, and when it is the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from upcycle.errors import ConfigError, RunError
from upcycle.jobs.callables import Callables, taken
from upcycle.planning import schedule
from upcycle.recipes import resolve
from upcycle.schedules import Constant, CustomSchedule, OneCycle, RampSustainDecay, Rate, Schedule


def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits - targets).square().sum(dim=1)


def other_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits - targets).abs().sum(dim=1)


@dataclass(frozen=True)
class Halving:
    lr: float
    every: int = 3
    extra: object = None

    def __call__(self, step: int) -> Rate:
        return Rate(self.lr / 2 ** (step // self.every), 0.9)


@pytest.mark.parametrize(
    "value",
    [
        OneCycle(3e-3, pct_start=0.4, div=7, div_final=70, anneal="linear", moms=(0.9, 0.8, 0.7)),
        OneCycle(2e-3),
        RampSustainDecay(2e-5, 2e-4, 1e-6, 2, 1, 0.7, momentum=0.8),
        Constant(1e-4, 0.5),
    ],
)
def test_a_built_in_schedule_without_lengths_is_the_same_as_its_options(value: Schedule) -> None:
    given, callables = taken({"epochs": 5}, schedule=value)
    config = resolve(given)
    assert {} == callables.record()
    assert not config.lr_adapt
    assert schedule(config, 4) == schedule(config, 4, value)


@pytest.mark.parametrize("value", [OneCycle(3e-3, 20), RampSustainDecay(steps_per_epoch=7)])
def test_a_built_in_schedule_with_lengths_needs_not_be_passed_again(value: Schedule) -> None:
    given, callables = taken({}, schedule=value)
    assert ("custom", False) == (resolve(given).schedule, resolve(given).lr_adapt)
    assert [] == callables.unresumable
    assert value == Callables().resumed("RUN", callables.record()).schedule


@pytest.mark.parametrize("option", ["lr", "pct_start", "lr_max", "momentum", "lr_adapt"])
def test_a_schedules_value_beside_its_options_is_an_error(option: str) -> None:
    with pytest.raises(ConfigError, match=r"was given beside a schedule's value, which replaces it"):
        taken({option: 0.5}, schedule=Constant(0.1))


def test_a_name_is_a_name() -> None:
    given, callables = taken({"lr": 0.1}, schedule="constant", augment="none")
    assert {"lr": 0.1, "schedule": "constant", "augment": "none"} == given
    assert {} == callables.record()


@pytest.mark.parametrize("value", [3, OneCycle, [1, 2]])
def test_what_is_no_schedule_is_one_line(value: Any) -> None:
    with pytest.raises(ConfigError, match="schedule = .*: pass a name, a function or a value"):
        taken({}, schedule=value)


def test_what_is_custom_must_be_passed() -> None:
    with pytest.raises(ConfigError, match=r"^loss = custom needs a value from Python: upcycle.train\(..., loss=...\)$"):
        Callables().check(resolve({"loss": "custom"}))


@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_the_cross_entropys_options_beside_another_loss_are_an_error(option: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(option))} is part of the cross-entropy"):
        resolve(taken(option, loss=loss)[0])


def test_the_same_parts_may_resume_a_run_and_no_others() -> None:
    parts = Callables(CustomSchedule(Halving(0.1)), loss)
    recorded = parts.record()
    assert [] == parts.unresumable
    assert {"lr": 0.1, "every": 3, "extra": None} == recorded["schedule"]["values"]
    assert loss == Callables(CustomSchedule(Halving(0.1)), loss).resumed("RUN", recorded).loss
    with pytest.raises(RunError, match=r"^RUN was started with the loss .*loss\(\) of sha256 .*, not .*other_loss"):
        Callables(CustomSchedule(Halving(0.1)), other_loss).resumed("RUN", recorded)
    with pytest.raises(RunError, match=r"the schedule .*Halving\(lr=0.1, .*, not .*Halving\(lr=0.2,"):
        Callables(CustomSchedule(Halving(0.2)), loss).resumed("RUN", recorded)
    with pytest.raises(RunError, match=r"^RUN was started with the loss .*Pass it again, from Python$"):
        Callables(CustomSchedule(Halving(0.1))).resumed("RUN", recorded)


def of_main(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits[:, 0]


of_main.__module__ = "__main__"


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda logits, targets: logits[:, 0], "loss is a lambda"),
        (torch.nn.CrossEntropyLoss(reduction="none"), "CrossEntropyLoss with fields that cannot be compared"),
        (partial(loss), "loss is a partial with fields that cannot be compared"),
        (of_main, "loss is defined in __main__"),
        (torch.dist, "loss has no source to compare"),
        (Halving(0.1, extra=object()), "loss is a Halving with fields that cannot be compared"),
    ],
)
def test_a_run_with_what_cannot_be_compared_cannot_be_resumed(function: Callable[..., Any], why: str) -> None:
    parts = Callables(loss=function)
    assert 1 == len(parts.unresumable)
    assert parts.unresumable[0].startswith("this run cannot be resumed, as its loss ")
    assert why.removeprefix("loss ") in parts.unresumable[0]
    with pytest.raises(RunError, match="^RUN cannot be resumed: its loss .*Start it again$"):
        parts.resumed("RUN", parts.record())


def test_a_closure_cannot_be_compared() -> None:
    def inner(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]

    assert "is defined inside a function" in Callables(loss=inner).unresumable[0]
