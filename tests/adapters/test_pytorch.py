"""The torch scheduler's groups, momentum and state; its rates are in the contract."""

from typing import Any

import pytest
import torch

from upcycle.adapters.pytorch import Scheduler
from upcycle.errors import ConfigError
from upcycle.schedules import Constant, CustomSchedule, OneCycle, RampSustainDecay, Rate


def optimizer_of(*groups: dict[str, Any], **options: Any) -> torch.optim.Optimizer:
    given = [{"params": [torch.nn.Parameter(torch.zeros(1))], **group} for group in groups or [{}]]
    return torch.optim.SGD(given, **{"lr": 0.1, **options})


def test_groups_keep_their_ratio_to_the_highest_initial_rate() -> None:
    optimizer = optimizer_of({"lr": 0.001}, {"lr": 0.01})
    Scheduler(optimizer, Constant(2.0))
    assert [0.2, 2.0] == pytest.approx([group["lr"] for group in optimizer.param_groups])


def test_a_groups_own_scale_counts_and_not_its_initial_rate() -> None:
    optimizer = optimizer_of({"lr": 0.001, "scale": 1.0}, {"lr": 0.01, "scale": 0.25})
    Scheduler(optimizer, Constant(2.0))
    assert [2.0, 0.5] == [group["lr"] for group in optimizer.param_groups]


def test_initial_rates_of_zero_are_all_the_same() -> None:
    optimizer = optimizer_of({}, {}, lr=0.0)
    Scheduler(optimizer, Constant(2.0))
    assert [2.0, 2.0] == [group["lr"] for group in optimizer.param_groups]


def test_every_group_has_the_schedules_momentum_unless_it_is_not_wanted() -> None:
    optimizer, left = optimizer_of({}, {}), optimizer_of(momentum=0.3)
    Scheduler(optimizer, OneCycle(0.1, 10))
    Scheduler(left, OneCycle(0.1, 10), momentum=False)
    assert [0.95, 0.95, 0.3] == [group["momentum"] for one in (optimizer, left) for group in one.param_groups]


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = Scheduler(optimizer, OneCycle(0.5, 10, pct_start=0.2))
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 1})
    assert optimizer.param_groups[0]["lr"] is rate
    assert 0.5 == rate.item()
    assert (0.85, 0.999) == optimizer.param_groups[0]["betas"]


def test_the_state_is_plain_values_and_alone_restores_the_rates() -> None:
    optimizer = optimizer_of(momentum=0.9)
    scheduler = Scheduler(optimizer, OneCycle(0.5, 10, pct_start=0.2))
    state = {**scheduler.state_dict(), "last_epoch": 1}
    assert [0.95, 0.85, 0.95] == state["schedule"]["moms"]
    scheduler.load_state_dict(state)
    assert (0.5, 0.85) == (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"])
    assert [0.5] == scheduler.get_last_lr()


@pytest.mark.parametrize("state", [{}, {"last_epoch": 3, "_step_count": 4}, {"last_epoch": 3, "schedule": {}}])
def test_the_state_of_another_schedule_is_refused(state: dict[str, Any]) -> None:
    scheduler = Scheduler(optimizer_of(), OneCycle(0.5, 10))
    with pytest.raises(
        ConfigError, match=r"^the checkpoint was saved with the schedule .*: resume with the same"
    ) as told:
        scheduler.load_state_dict(state)
    assert "\n" not in str(told.value)
    assert 0 == scheduler.last_epoch


def test_a_custom_schedule_is_known_by_its_name() -> None:
    def halving(step: int) -> Rate:
        return Rate(0.5**step, 0.9)

    scheduler = Scheduler(optimizer_of(), CustomSchedule(halving))
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 3})
    assert [0.125] == scheduler.get_last_lr()
    with pytest.raises(ConfigError, match="halving"):
        Scheduler(optimizer_of(), Constant(0.1)).load_state_dict(scheduler.state_dict())


def test_a_schedule_without_its_length_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="total_steps is left out: give the number of updates"):
        Scheduler(optimizer_of(), OneCycle(0.1))


def test_stepped_once_per_epoch_it_is_the_articles() -> None:
    optimizer = optimizer_of()
    scheduler = Scheduler(optimizer, RampSustainDecay())
    seen = []
    for _ in range(7):
        seen += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    assert [1e-5, 2.8e-5, 4.6e-5, 6.4e-5, 8.2e-5, 1e-4, 8.2e-5] == pytest.approx(seen)
