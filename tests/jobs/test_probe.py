"""The probe of a run: stages, views, and that what is saved predicts the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import upcycle
from tests.conftest import TINY
from upcycle.evaluation.results import Views, read_predictions
from upcycle.reporting.progress import Silent
from upcycle.training import probe

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
FAST |= {"show": Silent(), "recipe": "probe"}


def trained(photos: Path, weights: Path, out: Path, **options: Any) -> upcycle.Run:
    return upcycle.train(photos, out=out, weights=str(weights), **{**FAST, **options})


def described(run: upcycle.Run) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run.path / "model.json").read_text())
    return values


@pytest.fixture
def all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random features tell nothing: here the head reads all that it may."""
    monkeypatch.setattr(
        probe, "_losses_by_stages", lambda train, val, widths, *rest: (1.0,) * (len(widths) - 1) + (0.5,)
    )


@pytest.mark.parametrize("views", ["none", "flip", "square"])
def test_what_is_saved_predicts_what_the_run_predicted(
    photos: Path, tiny_weights: Path, tmp_path: Path, all_stages: None, views: str
) -> None:
    run = trained(photos, tiny_weights, tmp_path / "run", views=views)
    assert (3, None if views == "none" else views) == (described(run)["stages"], described(run)["views"])
    known = read_predictions(run.directory.predictions("test"))
    model = upcycle.load(run.path)
    predicted = model.predict([photos / path for path in known.paths])
    probabilities = [list(one.probabilities.values()) for one in predicted]
    np.testing.assert_array_equal(known.probabilities(), probabilities)
    assert 3 == model.model.stages


@pytest.mark.parametrize("views", ["none", "flip"])
def test_a_fine_tuned_model_keeps_the_probes_stages_and_views(
    photos: Path, tiny_weights: Path, tmp_path: Path, all_stages: None, views: str
) -> None:
    run = trained(photos, tiny_weights, tmp_path / "run", views=views, recipe="default", epochs=2)
    known = read_predictions(run.directory.predictions("test"))
    again = upcycle.evaluate(run.path, photos)
    assert known.log_losses().mean() == pytest.approx(again.log_loss.value, abs=1e-6)
    further = trained(photos, run.path, tmp_path / "further", recipe="probe", views="none")
    assert 3 == described(further)["stages"]


def test_the_last_stage_alone_is_a_plain_timm_model(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    run = trained(photos, tiny_weights, tmp_path / "run", probe_layers="last", views="none")
    assert (None, None) == (described(run)["stages"], described(run)["views"])
    assert (1, 96) == tuple(run.model.model.state_dict()["fc.weight"].shape)


@pytest.mark.parametrize(("difference", "error", "views"), [(-0.02, 0.01, "flip"), (-0.02, 0.02, "none")])
def test_mirror_images_are_used_where_the_whole_interval_says_so(difference: float, error: float, views: str) -> None:
    found = Views("flip", difference, error)
    assert views == found.chosen
    assert ("pay" in found.reason, found) == (
        True,
        Views(**{k: v for k, v in found.to_dict().items() if k in vars(found)}),
    )  # type: ignore[arg-type]


def test_mirror_images_that_are_asked_for_are_used() -> None:
    assert "flip" == Views("flip", 0.5, 0.1, asked=True).chosen


@pytest.mark.parametrize("views", ["none", "flip"])
def test_a_kept_probe_learns_from_the_validation_images_once_they_have_chosen_it(
    photos: Path, tiny_weights: Path, tmp_path: Path, views: str
) -> None:
    before = trained(photos, tiny_weights, tmp_path / "before", refit=False, views=views)
    after = trained(photos, tiny_weights, tmp_path / "after", views=views)
    old, new = (json.loads((run.path / "evaluation.json").read_text()) for run in (before, after))
    assert ("refit" in old, True, old["val"]) == (False, new["refit"], new["val"])
    tests = [read_predictions(run.directory.predictions("test")).logits for run in (before, after)]
    assert not np.array_equal(*tests)
    known = read_predictions(after.directory.predictions("test"))
    predicted = upcycle.load(after.path).predict([photos / path for path in known.paths])
    np.testing.assert_array_equal(known.probabilities(), [list(one.probabilities.values()) for one in predicted])


def test_a_run_that_decides_otherwise_does_not_resume(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**FAST, "recipe": "default", "fine_tune": "always", "weights": str(tiny_weights), "views": "none"}

    class Stopped(Silent):
        def row(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upcycle.train(photos, out=tmp_path / "run", **{**options, "show": Stopped()})
    before = (tmp_path / "run" / "model.json").read_bytes()
    monkeypatch.setattr(
        probe, "_losses_by_stages", lambda *_: (1.0, 0.5) if described_stages(before) == 1 else (0.5, 1.0)
    )
    with pytest.raises(upcycle.RunError, match="cannot resume here: its probe chose stages"):
        upcycle.train(out=tmp_path / "run", resume=True, show=Silent())
    assert before == (tmp_path / "run" / "model.json").read_bytes()


def described_stages(text: bytes) -> int:
    return json.loads(text)["stages"] or 1


def test_validation_images_that_the_kept_probe_has_learned_are_named_when_they_are_evaluated(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    class Warned(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def warn(self, text: str) -> None:
            self.lines.append(text)

    run = trained(photos, tiny_weights, tmp_path / "run")
    show = Warned()
    upcycle.evaluate(run.path, split="test", show=show)
    assert not [line for line in show.lines if "flatter" in line]
    upcycle.evaluate(run.path, split="val", show=show)
    assert 1 == len([line for line in show.lines if "trained on them as well: the scores flatter it" in line])


def test_the_probe_on_the_last_stage_takes_its_features_from_those_of_all(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    trained(photos, tiny_weights, tmp_path / "all", views="none", cache=str(cache))
    monkeypatch.setattr("upcycle.evaluation.forward.predict_logits", lambda *_, **__: pytest.fail("computed again"))
    trained(photos, tiny_weights, tmp_path / "last", views="none", cache=str(cache), probe_layers="last")
