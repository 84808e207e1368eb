"""What the probe decides about fine-tuning, in whole runs."""

from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_json

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}

pytestmark = pytest.mark.usefixtures("no_page")


class Said(Silent):
    """A display that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def trained(photos: Path, weights: Path, out: Path, **options: Any) -> tuple[upcycle.Run, list[str]]:
    show = Said()
    return upcycle.train(photos, out=out, weights=str(weights), show=show, **FAST, **options), show.lines


def test_a_task_that_is_nearly_solved_is_not_fine_tuned(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    run, said = trained(photos, tiny_weights, tmp_path / "run")
    decision = read_json(run.directory.model)["decision"]
    assert (True, 0) == (decision["skip"], decision["epochs"])
    assert decision["reason"] in said
    assert decision["reason"].startswith("fine-tuning is skipped: near the pretrained features (validation loss ")
    assert [] == read_json(run.directory.plan)["phases"]
    assert 0 == len(run.history)
    assert run.evaluation.choice is None
    alone, _ = trained(photos, tiny_weights, tmp_path / "alone", fine_tune="never")
    for file in ("checkpoints/best.safetensors", "predictions/test.csv", "evaluation.json", "probe.json"):
        assert (run.path / file).read_bytes() == (alone.path / file).read_bytes()
    assert "decision" not in read_json(alone.directory.model)


def test_always_fine_tunes_it(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    run, said = trained(photos, tiny_weights, tmp_path / "run", fine_tune="always", min_updates=20)
    assert 5 == len(run.history)  # a quarter of the updates, one an epoch
    facts = read_json(run.directory.model)
    assert (5, "auto") == (facts["decision"]["epochs"], facts["decision"]["freeze"])
    assert facts["trained_parameters"] < facts["parameters"]
    assert [
        line
        for line in said
        if line.startswith("near the pretrained features") and line.endswith("5 epochs of 1 update")
    ]


def test_a_far_task_trains_every_layer_longer(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upcycle.planning.FAR_SHARE", 0.0)
    run, _ = trained(photos, tiny_weights, tmp_path / "run", min_updates=6)
    (phase,) = read_json(run.directory.plan)["phases"]
    assert (6, 6) == (phase["epochs"], len(run.history))
    assert 6 == phase["schedule"]["total_steps"]
    facts = read_json(run.directory.model)
    assert ("none", facts["parameters"]) == (facts["decision"]["freeze"], facts["trained_parameters"])


def test_layers_that_are_named_stay_frozen_on_a_far_task(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upcycle.planning.FAR_SHARE", 0.0)
    run, _ = trained(photos, tiny_weights, tmp_path / "run", epochs=1, freeze="layer2")
    facts = read_json(run.directory.model)
    assert "layer2" == facts["decision"]["freeze"]
    assert facts["trained_parameters"] < facts["parameters"]


def test_images_that_may_be_turned_are_turned_in_training(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"epochs": 1, "views": "none"}
    few, said = trained(photos, tiny_weights, tmp_path / "few", **options)  # too few to tell
    assert ("light", []) == (read_json(few.directory.plan)["augment"], [one for one in said if "orientation" in one])
    monkeypatch.setattr("upcycle.jobs.stages.LEAST_TURNED", 5)
    monkeypatch.setattr("upcycle.jobs.stages.MOST_GUESSED", 99.0)
    for margin, kind in ((-99.0, "light"), (99.0, "square")):
        monkeypatch.setattr("upcycle.planning.FREE_MARGIN", margin)
        run, said = trained(photos, tiny_weights, tmp_path / kind, **options)
        assert kind == read_json(run.directory.plan)["augment"]
        assert 1 == sum("orientation" in one for one in said)
        same = run.history.rows[0].loss == few.history.rows[0].loss
        assert same == (kind == "light")
    monkeypatch.setattr("upcycle.jobs.stages.MOST_GUESSED", 0.0)  # the probe knows too little
    run, _ = trained(photos, tiny_weights, tmp_path / "unknown", **options)
    assert "light" == read_json(run.directory.plan)["augment"]
