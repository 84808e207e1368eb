"""What a caller passes in from Python: the manual's example, and a run that is stopped and resumed with it."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import upcycle
from upcycle.errors import ConfigError, RunError
from upcycle.reporting.progress import Silent
from upcycle.schedules import Rate

TRAINING = Path(__file__).resolve().parents[1] / "docs" / "training.md"
SMALL: dict[str, Any] = {"arch": "test_resnet", "image_size": 32, "epochs": 2, "batch_size": 8, "threads": 1}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The manual's functions and values as a module that can be imported, and its call."""
    section = TRAINING.read_text(encoding="utf-8").split("\n## Your own schedule")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    definitions, call = found[1].split("\nrun = ")
    (tmp_path / "mine.py").write_text(definitions, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    sys.modules.pop("mine", None)
    return call


def test_the_manuals_example_trains(
    example: str, photos: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {**SMALL, "weights": str(tiny_weights)}
    del small["epochs"]
    call = example.replace('"photos/"', f"{str(photos)!r}, **{small!r}").replace("runs/own", str(tmp_path / "own"))
    names = vars(importlib.import_module("mine"))
    run = eval(call, names)
    told = capsys.readouterr().out
    assert f"test F1 {run.test.f1_macro.value}" in told
    assert "cannot be resumed" not in told
    assert 2 == len(re.findall(r"^[12] \d", told, re.MULTILINE))
    recorded = json.loads((run.path / "environment.json").read_text())["callables"]
    assert {"schedule": "mine.Halving", "loss": "mine.focal", "augment": "mine.mirrored"} == {
        name: entry["name"] for name, entry in recorded.items()
    }
    planned = json.loads((run.path / "plan.json").read_text())["phases"][-1]
    assert {"kind": "custom", "name": "mine.Halving"} == planned["schedule"]
    assert [1e-4, 1e-4] == [row.lr for row in run.history.rows]
    assert run.test == upcycle.evaluate(run) == upcycle.evaluate(run.path)
    assert upcycle.report(run) == upcycle.report(run.path) == run.directory.report


class _Stop(Exception):
    pass


class Stopping:
    """Ends the run after an epoch, as an error of the caller's own does."""

    def epoch(self, row: upcycle.Row) -> None:
        raise _Stop


@pytest.mark.usefixtures("no_page")
def test_a_run_resumes_with_the_same_values_to_the_same_bits_and_with_no_others(
    example: str, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    mine = importlib.import_module("mine")
    parts = {"schedule": mine.Halving(1e-3, 2), "loss": mine.focal, "augment": mine.mirrored}
    options = {**SMALL, "weights": tiny_weights, "probe": False, "optimizer": "lion", "show": Silent()}
    whole = upcycle.train(photos, out=tmp_path / "whole", **parts, **options)
    with pytest.raises(_Stop):
        upcycle.train(photos, out=tmp_path / "parts", observers=[Stopping()], **parts, **options)  # type: ignore[list-item]
    again = {"out": tmp_path / "parts", "resume": True, "show": Silent()}
    with pytest.raises(RunError, match=r"was started with the schedule mine.Halving\(.*Pass it again, from Python"):
        upcycle.train(**again)
    with pytest.raises(RunError, match=r"with the schedule mine.Halving\(lr=0.001, .*, not mine.Halving\(lr=0.002, "):
        upcycle.train(**again, **{**parts, "schedule": mine.Halving(2e-3, 2)})
    resumed = upcycle.train(**again, **parts)
    assert whole.history.rows == resumed.history.rows
    assert np.array_equal(whole.predictions().logits, resumed.predictions().logits)
    assert resumed == upcycle.train(**again)  # finished: nothing is needed


def test_a_lambda_is_warned_about_at_the_start(
    photos: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = {"schedule": lambda step: 0.1, "out": tmp_path / "run"}
    with pytest.raises(ConfigError, match="the schedule gave 0.1 for step 0: return Rate"):
        upcycle.train(photos, weights=tiny_weights, **constant, **SMALL)
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: this run cannot be resumed, as its schedule is a lambda" in told


@pytest.mark.parametrize("observer", [object(), Stopping, 3])
def test_what_observes_nothing_is_one_line(observer: Any) -> None:
    with pytest.raises(ConfigError, match="is no observer: give an object with started, epoch or finished"):
        upcycle.train("photos", observers=[observer])


OFFERED = """
class Counting:
    rows = []
    def epoch(self, row):
        self.rows.append(row.epoch)
"""


def test_an_installed_package_offers_an_observer_by_name(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "offering.py").write_text(OFFERED)
    about = tmp_path / "offering-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    points = "[upcycle.observers]\ncounting = offering:Counting\nabsent = offering:Absent\n"
    (about / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"offers an observer 'other' \(entry points upcycle.observers: absent, counting"
    ):
        upcycle.train(photos, observers=["other"])
    with pytest.raises(ConfigError, match="entry point offering:Absent of upcycle.observers makes no observer: "):
        upcycle.train(photos, observers=["absent"])
    options = {**SMALL, "weights": tiny_weights, "probe": False, "show": Silent()}
    upcycle.train(photos, out=tmp_path / "run", observers=["counting"], **options)
    assert [1, 2] == importlib.import_module("offering").Counting.rows


def test_an_optimizer_that_does_not_resume_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^optimizer = 'kron': choose one of adafactor, adam, .*, with which a"):
        upcycle.train("photos", optimizer="kron")


def test_a_plan_has_the_rates_of_every_update() -> None:
    planned = upcycle.plan(epochs=2, steps_per_epoch=5, schedule=upcycle.OneCycle(1e-3, moms=(0.9, 0.8, 0.9)))
    same = upcycle.plan(epochs=2, steps_per_epoch=5, lr=1e-3, moms=(0.9, 0.8, 0.9))
    assert planned == same
    assert 10 == len(planned.rates)
    assert Rate(1e-3 / 1e4, 0.9) == pytest.approx(planned.rates[-1])
