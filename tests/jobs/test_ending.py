"""How training ends before its time: on request, when patience runs out, and as a plan that is repeated says."""

import math
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY
from upcycle.changes import Ending, Replan, changes_from_dicts, changes_to_dicts
from upcycle.config import Config
from upcycle.errors import ConfigError, RunError
from upcycle.history import History
from upcycle.jobs.ending import armed_from, cooldown_updates
from upcycle.jobs.finish import finish
from upcycle.recipes import resolve
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, read_json, read_lines, write_lines

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
FAST |= {"batch_size": 4, "fine_tune": "always", "lr": 1e-3}

pytestmark = pytest.mark.usefixtures("no_page")


class Asking(Silent):
    """Asks for an early end after an epoch, remembers what is said, and stops the run after another if asked to."""

    def __init__(self, run: Path, after: int = 0, stop: int = 0) -> None:
        self.run, self.after, self.stop, self.said = run, after, stop, list[str]()

    def message(self, text: str) -> None:
        self.said.append(text)

    def row(self, history: History, epochs: int, images_per_second: float) -> None:
        if len(history) == self.after:
            self.said.append(finish(self.run))
        if len(history) == self.stop:
            raise KeyboardInterrupt


def trained(photos: Path, weights: Path, out: Path, **options: Any) -> upcycle.Run:
    return upcycle.train(photos, out=out, weights=str(weights), **FAST, **options)


def same(one: RunDir, other: RunDir) -> bool:
    """Whether weights, rows and predictions are equal to the bit."""
    names = ("history.jsonl", "checkpoints/best.safetensors", "predictions/test.csv", "evaluation.json")
    return all((one.root / name).read_bytes() == (other.root / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("options", "armed"),
    [
        ({"recipe": "classic"}, 0),
        ({"recipe": "default"}, 3),
        ({"recipe": "default", "start_from_epoch": 5}, 5),
        ({"schedule": "cosine", "warmup": 0.2}, 2),
        ({"schedule": "step"}, 0),
    ],
)
def test_patience_counts_from_the_highest_rate(options: dict[str, Any], armed: int) -> None:
    assert armed == armed_from(resolve({**options, "patience": 5}), 10)


def test_the_way_down_is_a_part_of_what_was_done() -> None:
    assert [0, 1, 2, 20] == [cooldown_updates(Config(), done) for done in (0, 1, 10, 100)]
    assert 0 == cooldown_updates(resolve({"recipe": "classic"}), 100)


def test_a_run_that_is_asked_to_finish_goes_down_tests_and_reports(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    show = Asking(tmp_path / "run", after=5)
    run = trained(photos, tiny_weights, tmp_path / "run", epochs=200, show=show)
    (ending,) = changes_from_dicts(read_lines(run.directory.events))
    assert isinstance(ending, Ending)
    assert 30 <= ending.step < 1200  # asked at update 30; it looks twice a second
    assert math.ceil(0.2 * ending.step) == ending.steps - ending.step
    assert ending.steps == run.history.rows[-1].step
    assert run.history.rows[-1].lr < 0.2 * max(row.lr for row in run.history.rows)
    assert not run.directory.request.exists()
    status = read_json(run.directory.status_file)
    assert status["stopped"] == f"finished early on request; then {ending.steps - ending.step} updates of falling rate"
    assert any("was asked to finish" in line for line in show.said)

    again = trained(photos, tiny_weights, tmp_path / "again", epochs=200, plan=run.directory.events)
    assert same(run.directory, again.directory)


def test_patience_lowers_the_rate_before_it_stops_and_a_killed_run_comes_to_the_same(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 40, "patience": 2, "monitor": "val_accuracy", "start_from_epoch": 12}
    run = trained(photos, tiny_weights, tmp_path / "run", **options)
    (ending,) = changes_from_dicts(read_lines(run.directory.events))
    assert isinstance(ending, Ending)
    assert ending.step % 6 == 0
    assert "no better val_accuracy in 2 epochs" in ending.reason
    last = run.history.rows[-1]
    assert last.step == ending.steps == ending.step + math.ceil(0.2 * ending.step)

    place = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        trained(photos, tiny_weights, place, **options, show=Asking(place, stop=ending.step // 6 + 1))
    assert same(run.directory, upcycle.train(out=place, resume=True).directory)


def test_without_a_cooldown_patience_cuts(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 40, "patience": 2, "monitor": "val_accuracy", "start_from_epoch": 12}
    run = trained(photos, tiny_weights, tmp_path / "run", cooldown=0.0, **options)
    assert not run.directory.events.exists()
    assert read_json(run.directory.status_file)["stopped"].endswith("no better val_accuracy in 2 epochs")


def test_a_plan_made_under_way_is_repeated_and_resumed_to_the_bit(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plan.jsonl"
    write_lines(
        file, changes_to_dicts([Replan(4, 10, "slow"), Replan(8, 15, "quick"), Ending(13, 16, "linear", "asked")])
    )
    run = trained(photos, tiny_weights, tmp_path / "run", epochs=5, plan=file)
    assert [6, 12, 16] == [row.step for row in run.history.rows]
    rates = [rate["lr"] for rate in read_json(run.directory.plan)["phases"][-1]["rates"]]
    assert 16 == len(rates)
    assert rates[-1] < 0.5 * rates[12]
    place = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        trained(photos, tiny_weights, place, epochs=5, plan=file, show=Asking(place, stop=2))
    assert same(run.directory, upcycle.train(out=place, resume=True).directory)


def test_a_plan_is_not_for_a_run_that_has_one(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plan.jsonl is no file: give the plan.jsonl of a run"):
        trained(photos, tiny_weights, tmp_path / "run", plan=tmp_path / "plan.jsonl")
    file = tmp_path / "bad.jsonl"
    file.write_text('{"event": "party"}\n')
    with pytest.raises(RunError, match="a change of the plan cannot be read"):
        trained(photos, tiny_weights, tmp_path / "run", plan=file)
    with pytest.raises(ConfigError, match="leave --deadline out"):
        trained(photos, tiny_weights, tmp_path / "run", plan=file, deadline="10s")


def test_only_a_run_that_is_being_trained_can_be_asked(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is missing: .* is not a run directory"):
        finish(tmp_path / "none")
    place = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(photos, tiny_weights, place, epochs=5, show=Asking(place, stop=1))
    with pytest.raises(RunError, match="is not being trained .*: resume it with `upcycle train --out .* --resume`"):
        finish(place)
    upcycle.train(out=place, resume=True)
    with pytest.raises(RunError, match="is finished already: see .*report.html"):
        finish(place)


def test_a_run_that_is_killed_as_it_starts_has_the_plan_that_it_repeats(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "plan.jsonl"
    write_lines(file, changes_to_dicts([Ending(2, 3, "linear", "asked")]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("upcycle.jobs.session.Session", killed)
        trained(photos, tiny_weights, tmp_path / "run", epochs=2, plan=file)
    assert [3] == [row.step for row in upcycle.train(out=tmp_path / "run", resume=True).history.rows]
