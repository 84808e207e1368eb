"""Decisions of fine-tuning: when to stop, and how long it takes."""

from dataclasses import replace
from typing import Any

import pytest

from upcycle.config import Config
from upcycle.jobs import finetune
from upcycle.recipes import Phase, phases, resolve


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in its only element."""
    now = [100.0]
    monkeypatch.setattr(finetune.time, "perf_counter", lambda: now[0])
    return now


def phase(epochs: int, updates: int) -> Phase:
    *_, found = phases(Config(epochs=epochs), images=32 * updates)
    return replace(found, epochs=epochs, steps_per_epoch=updates)


def ran(found: Phase, clock: list[float], epochs: int, seconds: list[float]) -> tuple[list[str], list[tuple[int, int]]]:
    """What is said, and told, while `epochs` are made whose updates take `seconds`, then 50 s of validation."""
    said: list[str] = []
    told: list[tuple[int, int]] = []
    telling = finetune.forecasting(
        lambda *at: told.append(at),
        found,
        batch_size=32,
        checked=96,
        say=said.append,
        settle=lambda: None,
    )
    for _ in range(epochs):
        for i, took in enumerate(seconds, 1):
            clock[0] += took
            telling(i, len(seconds))
        clock[0] += 50
    return said, told


def test_the_estimate_is_said_once_and_leaves_the_first_update_out(clock: list[float]) -> None:
    said, told = ran(phase(10, 10), clock, 3, [30.0] + [2.0] * 9)
    # 100 updates of 2 s; 10 times 96 validation images at a third of an image's 2/32 s
    assert said == ["all epochs of finetune take about 4 min on this machine"]
    assert told == [(i, 10) for i in range(1, 11)] * 3


def test_an_epoch_that_is_gone_on_with_is_told_by_the_updates_made_now(clock: list[float]) -> None:
    said: list[str] = []
    told = finetune.forecasting(
        lambda *_: None, phase(3, 1000), batch_size=32, checked=96, say=said.append, settle=lambda: None
    )
    for done in range(501, 520):
        clock[0] += 2
        told(done, 1000)
    assert ["all epochs of finetune take about 1.7 h on this machine"] == said


def test_epochs_of_one_update_are_told_without_a_division_by_nothing(clock: list[float]) -> None:
    said, _ = ran(phase(100, 1), clock, 6, [2.0])
    assert ["all epochs of finetune take about 87 min on this machine"] == said


def test_validation_between_short_epochs_is_not_taken_for_an_update(clock: list[float]) -> None:
    said, _ = ran(phase(20, 3), clock, 2, [30.0, 2.0, 2.0])
    assert said == ["all epochs of finetune take about 3 min on this machine"]


def test_short_phases_are_not_worth_a_line(clock: list[float]) -> None:
    said, told = ran(phase(2, 10), clock, 2, [2.0] * 10)
    assert said == []
    assert len(told) == 20


def test_updates_that_an_accelerator_has_queued_are_waited_for(clock: list[float]) -> None:
    said: list[str] = []
    made: list[int] = []

    def settle() -> None:
        clock[0] += 2.0 * (len(queued) - sum(made))
        made.append(len(queued) - sum(made))

    queued: list[int] = []
    options = {"batch_size": 32, "checked": 0, "say": said.append, "settle": settle}
    telling = finetune.forecasting(lambda done, _: queued.append(done), phase(10, 10), **options)  # type: ignore[arg-type]
    for update in range(1, 11):
        telling(update, 10)
    assert said == ["all epochs of finetune take about 3 min on this machine"]
    assert made == [1, 4]


def test_a_phase_has_one_bar_for_all_its_epochs() -> None:
    told: list[tuple[int, int]] = []
    epoch = [0]
    telling = finetune.across(lambda *at: told.append(at), phase(3, 10), lambda: epoch[0])
    telling(10, 10)
    epoch[0] = 1
    telling(1, 10)
    assert [(10, 30), (11, 30)] == told


@pytest.mark.parametrize(
    ("options", "armed"),
    [({"recipe": "classic"}, 0), ({"recipe": "default"}, 3), ({"recipe": "default", "start_from_epoch": 5}, 5)],
)
def test_patience_counts_from_the_peak_of_one_cycle(options: dict[str, Any], armed: int) -> None:
    assert armed == finetune.armed_from(resolve({**options, "epochs": 10, "patience": 5}))
