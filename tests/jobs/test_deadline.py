"""Runs that must end on time, with a network so small that seconds are enough."""

import time
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY
from tests.jobs.test_ending import same
from upcycle.changes import Budget, changes_from_dicts, changes_to_dicts
from upcycle.config import Config
from upcycle.errors import ConfigError
from upcycle.history import History
from upcycle.jobs import deadline
from upcycle.jobs.deadline import Counts
from upcycle.model import network
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, read_json, read_lines, write_lines

FAST: dict[str, Any] = {"arch": TINY, "precision": "fp32", "threads": 1, "device": "cpu", "batch_size": 4}

pytestmark = pytest.mark.usefixtures("no_page")


class Said(Silent):
    """Remembers what is said; sleeps a little after each epoch, as on a machine that slows down."""

    def __init__(self, pause: float = 0.0) -> None:
        self.said, self.pause = list[str](), pause

    def message(self, text: str) -> None:
        self.said.append(text)

    def row(self, history: History, epochs: int, images_per_second: float) -> None:
        time.sleep(self.pause)


def budget_of(run: RunDir) -> Budget:
    budget, *_ = changes_from_dicts(read_lines(run.events))
    assert isinstance(budget, Budget)
    return budget


def test_a_run_ends_on_time_and_can_be_repeated_without_a_clock(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "REPORT", 2.0)
    options: dict[str, Any] = {**FAST, "weights": str(tiny_weights), "epochs": 10_000, "image_size": 32}
    began, show = time.monotonic(), Said()
    run = upcycle.train(photos, out=tmp_path / "run", deadline="20s", show=show, **options)
    assert time.monotonic() - began < 20
    budget = budget_of(run.directory)
    assert (20.0, 32) == (budget.seconds, budget.image_size)
    assert budget.reason in show.said
    assert budget.steps
    assert len(run.history) > 1
    assert run.history.rows[-1].lr < 0.01 * max(row.lr for row in run.history.rows)
    again = upcycle.train(photos, out=tmp_path / "again", plan=run.directory.events, **options)
    assert same(run.directory, again.directory)


def test_a_machine_that_slows_down_is_planned_for_and_resuming_says_that_it_has_no_deadline(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "REPORT", 2.0)
    options: dict[str, Any] = {**FAST, "weights": str(tiny_weights), "epochs": 10_000, "image_size": 32}
    began, show = time.monotonic(), Said(pause=0.3)
    run = upcycle.train(photos, out=tmp_path / "run", deadline="15s", show=show, **options)
    assert time.monotonic() - began < 15
    steps = [change.steps for change in changes_from_dicts(read_lines(run.directory.events))]  # type: ignore[union-attr]
    assert len(steps) > 1
    assert steps[-1] < steps[0]
    assert steps[-1] == run.history.rows[-1].step

    class Stopped(Said):
        def row(self, history: History, epochs: int, images_per_second: float) -> None:
            if len(history) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upcycle.train(photos, out=tmp_path / "stopped", plan=run.directory.events, show=Stopped(), **options)
    show = Said()
    again = upcycle.train(out=tmp_path / "stopped", resume=True, show=show)
    assert "resuming without a deadline: what is left takes as long as it takes" in show.said
    assert same(run.directory, again.directory)


def test_a_run_that_is_resumed_may_have_a_deadline_of_its_own(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "REPORT", 2.0)

    class Stopped(Said):
        def row(self, history: History, epochs: int, images_per_second: float) -> None:
            if len(history) == 2:
                raise KeyboardInterrupt

    options: dict[str, Any] = {**FAST, "weights": str(tiny_weights), "epochs": 10_000, "image_size": 32}
    with pytest.raises(KeyboardInterrupt):
        upcycle.train(photos, out=tmp_path / "run", show=Stopped(), **options)
    began = time.monotonic()
    run = upcycle.train(out=tmp_path / "run", resume=True, deadline="15s")
    assert time.monotonic() - began < 15
    assert run.history.rows[-1].step < 60_000


def test_smaller_images_where_those_of_the_weights_are_too_slow(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "before_decoding", lambda *_: (0.12, 0.1))  # seconds at 128 px
    monkeypatch.setattr(deadline, "REPORT", 2.0)
    show = Said()
    run = upcycle.train(
        photos, out=tmp_path / "run", weights=str(tiny_weights), deadline="25s", show=show, recipe="probe", **FAST
    )
    assert budget_of(run.directory).image_size < 128
    assert any("to be done in time" in line for line in show.said)


def test_find_lr_and_a_repeated_plan_know_the_size_of_a_run_with_a_deadline(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    file, options = tmp_path / "plan.jsonl", {**FAST, "weights": str(tiny_weights), "epochs": 2}
    write_lines(file, changes_to_dicts([Budget(90.0, 64, steps=12)]))
    with pytest.raises(ConfigError, match="the plan is one of 64 px, and image_size = 32: leave --image-size out"):
        upcycle.train(photos, out=tmp_path / "other", plan=file, image_size=32, **options)
    run = upcycle.train(photos, out=tmp_path / "run", plan=file, **options)
    assert 64 == read_json(run.directory.model)["preprocessing"]["size"]
    assert upcycle.find_lr(run.path, out=tmp_path / "lr", num_updates=12, repeats=1).rates


def test_a_race_has_no_time_in_a_deadline(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a race has no time in a deadline: run `upcycle choose`"):
        upcycle.train(photos, out=tmp_path / "run", arch="auto", deadline="90s")


def test_a_deadline_that_cannot_be_met_is_refused_with_one_that_can(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^deadline = 2.0 s is too short here .*: give --deadline \d+0s or more$"):
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), deadline="2s", **FAST)
    assert upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), recipe="probe", **FAST).evaluation
    with pytest.raises(ConfigError, match="--deadline is for one training, and folds = 3"):
        upcycle.train(photos, out=tmp_path / "f", weights=str(tiny_weights), deadline="90s", folds=3, **FAST)


def test_forward_passes_are_counted() -> None:
    counts, config = Counts(3000, 500, 700), Config()
    assert 3000 + 1200 + 1200 + 500 == counts.first(config, lean=False)
    assert 3000 + 1200 + 500 == counts.first(config, lean=True)
    assert 5 * 500 + 2 * 2 * 1200 + 1500 == counts.end(config, lean=False)
    assert 1200 + 400 == counts.end(config, lean=True)


@pytest.mark.parametrize("probe", [True, False])
def test_a_recipe_of_a_few_updates_is_done_where_there_is_time(
    probe: bool, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**FAST, "weights": str(tiny_weights), "epochs": 2, "image_size": 32, "batch_size": 32}
    run = upcycle.train(photos, out=tmp_path / "run", deadline="60s", probe=probe, **options)
    assert 2 == budget_of(run.directory).steps
    assert 2 == len(run.history)


def test_a_network_without_a_probe_makes_a_few_updates_however_late_it_is(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "REPORT", 2.0)
    monkeypatch.setattr(network, "_reads_features", lambda body: False)
    monkeypatch.setattr(deadline, "seconds_per_update", lambda *_, **__: 100.0)
    options: dict[str, Any] = {**FAST, "weights": str(tiny_weights), "epochs": 10, "image_size": 32}
    run = upcycle.train(photos, out=tmp_path / "run", deadline="30s", **options)
    assert 5 == budget_of(run.directory).steps
