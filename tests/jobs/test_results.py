"""The choice between the models of a run, and what it leaves behind."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import upcycle
from tests.conftest import TINY
from upcycle.config import Config
from upcycle.data.dataset import Dataset
from upcycle.data.frames import open_stream
from upcycle.data.index import index_images
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import split_by
from upcycle.evaluation.calibration import calibration_error, scaled
from upcycle.evaluation.forward import predictions
from upcycle.evaluation.results import MODELS, Choice
from upcycle.jobs.evaluate import evaluate_run
from upcycle.jobs.session import Session
from upcycle.model.checkpoint import load_tensors
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, read_json

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
FAST |= {"epochs": 3, "show": Silent()}

pytestmark = pytest.mark.usefixtures("no_page")
results = importlib.import_module("upcycle.jobs.results")
plain = results.simplest_of


class Killed(BaseException):
    """The process ends here."""


def choosing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run choose this model."""

    def chosen(models: Any) -> Choice:
        return replace(plain(models), chosen=name)  # type: ignore[arg-type]

    monkeypatch.setattr(results, "simplest_of", chosen)


@pytest.fixture(scope="module")
def tuned(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    """A run whose fine-tuned model is kept."""
    with pytest.MonkeyPatch.context() as patch:
        choosing("finetune", patch)
        out = tmp_path_factory.mktemp("runs") / "run"
        return upcycle.train(photos, out=out, weights=str(tiny_weights), **FAST)


def test_small_pictures_are_kept_of_the_most_confident_mistakes_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_images(photos)
    splits = split_by(Config(), index)
    data = Dataset(index, open_stream(index, Preprocessing().decoding)[0], Preprocessing(), splits)
    confidence = np.linspace(0.1, 2, len(splits.test), dtype=np.float32)
    wrong = np.where(index.labels[splits.test] == 0, 1, -1) * confidence
    test = predictions(index, splits.test, wrong[:, None].astype(np.float32))
    session: Any = SimpleNamespace(run=RunDir(tmp_path / "run"))
    results._write_thumbnails(session, data, test)
    assert len(splits.test) == len(list(session.run.thumbnails.iterdir()))
    monkeypatch.setattr(results, "MOST_THUMBNAILS", 3)
    results._write_thumbnails(session, data, test)
    assert {f"{test.hashes[-at]}.jpg" for at in (1, 2, 3)} == {path.name for path in session.run.thumbnails.iterdir()}


def test_every_candidate_is_compared_with_the_best(tuned: upcycle.Run) -> None:
    choice = tuned.evaluation.choice
    assert choice is not None
    assert list(MODELS) == [one.name for one in choice.candidates]
    assert 1 == sum(one.mean_difference == 0 == one.standard_error for one in choice.candidates)
    assert tuned.evaluation["probe_val"].log_loss.value == pytest.approx(choice.candidates[0].val_loss)
    assert tuned.evaluation["val"].log_loss.value == pytest.approx(choice.candidates[1].val_loss)


@pytest.mark.parametrize("name", ["probe", "ema", "interpolated-0.25"])
def test_the_chosen_model_is_the_runs_and_the_fine_tuned_one_stays_beside_it(
    name: str,
    tuned: upcycle.Run,
    photos: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choosing(name, monkeypatch)
    run = upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **FAST)
    best, beside = load_tensors(run.directory.best), load_tensors(run.directory.fine_tuned)
    fine_tuned = load_tensors(tuned.directory.best)
    assert all(torch.equal(beside[key], fine_tuned[key]) for key in fine_tuned)
    assert any(not torch.equal(best[key], fine_tuned[key]) for key in fine_tuned)
    assert {"val", "test", "probe_val", "probe_test", "finetune_val", "finetune_test"} == set(run.evaluation)
    kept = next(one for one in run.evaluation.choice.candidates if one.name == name)  # type: ignore[union-attr]
    assert run.evaluation["val"].log_loss.value == pytest.approx(kept.val_loss)  # of few images: temperature 1
    assert 1 == run.evaluation.calibration.temperature  # type: ignore[union-attr]
    recorded, path = run.predictions("test"), photos / "test" / "across" / "200.png"
    share = upcycle.load(run.path).predict(path).probability  # type: ignore[union-attr]
    at = recorded.paths.index("test/across/200.png")
    assert recorded.probabilities()[at].max() == share
    assert np.array_equal(run.predictions("finetune_test").logits, tuned.predictions("test").logits)


def test_an_interpolation_lies_between_the_probe_and_the_fine_tuned_weights(
    tuned: upcycle.Run, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name in ("probe", "interpolated-0.25"):
        choosing(name, monkeypatch)
        run = upcycle.train(photos, out=tmp_path / name, weights=str(tiny_weights), refit=False, **FAST)
        found[name] = load_tensors(run.directory.best)
    for key, fine_tuned in load_tensors(tuned.directory.best).items():
        if fine_tuned.is_floating_point():
            expected = 0.75 * found["probe"][key] + 0.25 * fine_tuned
            torch.testing.assert_close(found["interpolated-0.25"][key], expected)


@pytest.mark.parametrize("name", ["ema", "interpolated-0.5"])
@pytest.mark.parametrize("place", ["moved", "written", "results"])
def test_a_kill_while_the_chosen_model_is_kept_changes_no_byte(
    name: str, place: str, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing(name, monkeypatch)
    whole = upcycle.train(photos, out=tmp_path / "whole", weights=str(tiny_weights), **FAST)
    save = Session.save_best

    def die(*_: Any) -> None:
        raise Killed

    def written(session: Session, model: Any) -> None:
        save(session, model)
        if session.run.fine_tuned.exists():
            raise Killed

    def moved(session: Session, model: Any) -> None:
        if session.run.fine_tuned.exists():
            raise Killed
        save(session, model)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if place == "results":
            patch.setattr("upcycle.jobs.stages.write_results", die)
        else:
            patch.setattr(Session, "save_best", {"moved": moved, "written": written}[place])
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **FAST)
    run = upcycle.train(out=tmp_path / "run", resume=True, show=Silent())
    names = ("checkpoints/best.safetensors", "checkpoints/finetune.safetensors", "evaluation.json", "history.jsonl")
    for file in (*names, "model.json", "plan.json", "predictions/test.csv", "predictions/val.csv"):
        assert (run.path / file).read_bytes() == (whole.path / file).read_bytes(), file


@pytest.fixture
def cooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run's images ask for a temperature."""
    monkeypatch.setattr(results, "fit_temperature", lambda _: 1.7)


@pytest.mark.parametrize("name", ["probe", "finetune", "ema"])
@pytest.mark.parametrize("views", ["none", "flip"])
def test_a_run_predicts_with_its_temperature_what_it_recorded_to_the_bit(
    name: str,
    views: str,
    cooled: None,
    photos: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choosing(name, monkeypatch)
    run = upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), views=views, **FAST)
    assert 1.7 == read_json(run.directory.model)["temperature"] == run.evaluation.calibration.temperature  # type: ignore[union-attr]
    with safe_open(run.directory.best, framework="pt") as file:
        assert 1.7 == json.loads(file.metadata()["upcycle"])["temperature"]
    again = evaluate_run(upcycle.load(run.path), None, "test")
    assert np.array_equal(run.predictions("test").logits, again.logits)
    assert run.test == upcycle.evaluate(run.path)


def test_the_kept_models_calibration_is_recorded_before_and_after(
    cooled: None, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    run = upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **FAST)
    known = run.evaluation.calibration
    assert known is not None
    made = run.predictions("test")
    assert known.after["test"] == calibration_error(made)
    assert known.before["test"].value == pytest.approx(calibration_error(scaled(made, 1 / 1.7)).value)
    assert known.before["test"].value != pytest.approx(known.after["test"].value)
    assert {"val", "test"} == set(known.before)


def test_a_probe_that_is_trained_again_keeps_the_temperature_of_images_it_had_not_learned(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def fit(made: Any) -> float:
        fitted.append(made)
        return 2.0

    monkeypatch.setattr(results, "fit_temperature", fit)
    options = {**FAST, "recipe": "probe", "views": "none", "weights": str(tiny_weights)}
    del options["epochs"]
    plain = upcycle.train(photos, out=tmp_path / "plain", refit=False, **options)
    again = upcycle.train(photos, out=tmp_path / "again", **options)
    assert again.evaluation.refit
    assert 2 == len(fitted)
    assert np.array_equal(fitted[0].logits, fitted[1].logits)
    assert np.array_equal(plain.predictions("val").logits, again.predictions("val").logits)
    assert not np.array_equal(plain.predictions("test").logits, again.predictions("test").logits)


def test_a_kill_after_the_temperature_was_written_changes_no_byte(
    cooled: None, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing("finetune", monkeypatch)
    whole = upcycle.train(photos, out=tmp_path / "whole", weights=str(tiny_weights), **FAST)
    plain = Session.calibrate

    def die(session: Session, model: Any, temperature: float) -> None:
        plain(session, model, temperature)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Session, "calibrate", die)
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **FAST)
    run = upcycle.train(out=tmp_path / "run", resume=True, show=Silent())
    names = ("checkpoints/best.safetensors", "evaluation.json", "model.json", "predictions/test.csv")
    for file in (*names, "predictions/val.csv", "predictions/probe_test.csv"):
        assert (run.path / file).read_bytes() == (whole.path / file).read_bytes(), file
