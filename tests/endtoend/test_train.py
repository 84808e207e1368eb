"""The whole job on small real images with a small real network, as its user runs it."""

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import upcycle
from tests.conftest import TINY, draw, without_pages, write_classes
from tests.data.made import made
from tests.reporting.pages import Page
from upcycle.cli import main
from upcycle.data.splits import Recorded
from upcycle.errors import ConfigError, DataError, RunError, StorageError, UpcycleError, WeightsError
from upcycle.history import ProbeResult
from upcycle.manifest import unseal, write_sealed
from upcycle.model.checkpoint import load_tensors
from upcycle.planning import adapted_rate
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, read_lines
from upcycle.training.loss import Scores

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
FAST |= {"show": Silent()}


@pytest.fixture(scope="module")
def trained(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    out = tmp_path_factory.mktemp("runs") / "default"
    return upcycle.train(photos, out=out, weights=str(tiny_weights), epochs=3, **FAST)


@pytest.fixture(scope="module")
def classic(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    out = tmp_path_factory.mktemp("runs") / "classic"
    with without_pages():
        return upcycle.train(photos, out=out, weights=str(tiny_weights), recipe="classic", epochs=8, **FAST)


def test_a_run_leaves_everything_that_later_stages_read(trained: upcycle.Run) -> None:
    names = {str(path.relative_to(trained.path)) for path in trained.path.rglob("*") if path.is_file()}
    expected = {
        "audit.json",
        "checkpoints/best.safetensors",
        "config.json",
        "environment.json",
        "evaluation.json",
        "figures/confusion.svg",
        "figures/curves.svg",
        "figures/schedule.svg",
        "history.jsonl",
        "model.json",
        "plan.json",
        "probe.json",
        "predictions/probe_test.csv",
        "predictions/probe_val.csv",
        "predictions/test.csv",
        "predictions/val.csv",
        "report.html",
        "splits.csv",
        "status.json",
        "timings.jsonl",
    }
    assert expected - names == set()
    assert "finished" == trained.directory.status()["state"]


def test_the_history_holds_fine_tuning_alone(trained: upcycle.Run) -> None:
    rows = trained.history.rows
    assert [("finetune", 1, 1), ("finetune", 2, 2), ("finetune", 3, 3)] == [
        (row.phase, row.epoch, row.step) for row in rows
    ]


def test_the_probes_recorded_scores_are_those_of_its_predictions(trained: upcycle.Run) -> None:
    result = ProbeResult.from_dict(json.loads(trained.directory.probe.read_text()))
    values = json.loads(trained.directory.evaluation.read_text())
    found, views = values.get("probe_val") or values["val"], values["views"]
    with_views = views["mean_difference"] if views["chosen"] == "flip" else 0.0
    assert found["log_loss"]["value"] == pytest.approx(result.val_loss + with_views, abs=1e-4)
    assert ["common", "between", "each", "ridge"] == list(result.strengths)


def test_without_views_the_probes_recorded_scores_are_those_of_its_predictions_to_the_image(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with without_pages():
        run = upcycle.train(
            photos, out=tmp_path / "run", weights=str(tiny_weights), recipe="probe", views="none", **FAST
        )
    result, val = ProbeResult.from_dict(json.loads(run.directory.probe.read_text())), run.evaluation["val"]
    assert (result.val_loss, result.val_accuracy, result.val_f1_macro) == pytest.approx(
        (val.log_loss.value, val.accuracy.value, val.f1_macro.value), abs=1e-5
    )


def test_splits_record_every_file_with_its_content_hash(trained: upcycle.Run) -> None:
    with (trained.path / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"train": 24, "val": 12, "test": 20} == {
        name: sum(row["split"] == name for row in rows) for name in ("train", "val", "test")
    }
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_the_configuration_names_the_weights_by_their_hash(trained: upcycle.Run) -> None:
    recorded = json.loads((trained.path / "config.json").read_text())
    assert 64 == len(recorded["weights_sha256"])
    assert recorded["weights_sha256"] == json.loads((trained.path / "model.json").read_text())["weights"]["sha256"]


def test_the_model_that_is_kept_never_loses_to_the_other_by_validation_loss(trained: upcycle.Run) -> None:
    known = trained.evaluation
    choice = known.choice
    assert choice is not None
    difference, error = choice.mean_difference, choice.standard_error
    assert ("finetune" if difference < -error else "probe") == choice.chosen
    other = known["probe_val"] if choice.chosen == "finetune" else known["finetune_val"]
    assert known["val"].log_loss.value <= other.log_loss.value + error


def test_the_test_f1_stands_where_it_is_promised(trained: upcycle.Run) -> None:
    metric = trained.test.f1_macro
    assert f"{metric.low:.3f} to {metric.high:.3f}" in trained._repr_html_()
    assert metric.low < metric.high
    assert metric.low <= metric.value <= metric.high


def test_evaluating_again_and_predicting_the_files_give_the_recorded_logits_to_the_bit(
    trained: upcycle.Run, photos: Path
) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    recorded = trained.predictions("test")
    classifier = upcycle.load(trained.path)
    again = evaluate_run(classifier, None, "test")
    assert np.array_equal(recorded.logits, again.logits)
    folder = evaluate_run(classifier, photos / "test", "test")
    order = [folder.paths.index(path.removeprefix("test/")) for path in recorded.paths]
    assert np.array_equal(recorded.logits, folder.logits[order])
    single = [classifier.predict(photos / path) for path in recorded.paths]
    assert recorded.probabilities().max(axis=1).tolist() == [one.probability for one in single]  # type: ignore[union-attr]


def test_a_run_killed_while_its_report_is_written_gets_it_and_keeps_nothing_half_written(
    trained: upcycle.Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    (run / "report.html").unlink()
    half = run / ".report.html.j9s5f5qq"
    half.write_text("<html")
    upcycle.train(out=run, resume=True, show=Silent())
    assert (run / "report.html").exists()
    assert not half.exists()


@pytest.mark.usefixtures("no_page")
def test_a_run_that_kept_batchnorm_apart_is_predicted_so(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    options = {**FAST, "weights": str(tiny_weights), "epochs": 0, "fold_bn": False}
    run = upcycle.train(photos, out=tmp_path / "run", **options)
    recorded = run.predictions("test").logits
    assert np.array_equal(recorded, evaluate_run(upcycle.load(run.path), None, "test").logits)
    environment = run.directory.environment
    write_sealed(run.directory, environment, {**json.loads(environment.read_text()), "fold_bn": True})
    folded = evaluate_run(upcycle.load(run.path), None, "test").logits
    assert not np.array_equal(recorded, folded)
    assert np.allclose(recorded, folded, rtol=1e-3, atol=1e-3)


def test_a_path_a_picture_and_an_array_are_predicted_alike(trained: upcycle.Run, photos: Path) -> None:
    path = photos / "test" / "across" / "200.png"
    picture = Image.open(path)
    classifier = upcycle.load(trained.path)
    one, two, three, four = (classifier.predict(x) for x in (path, str(path), picture, np.array(picture)))
    assert one == two == three == four
    assert [one, one] == classifier.predict([path, picture])
    assert [] == classifier.predict([])


def test_the_history_can_be_drawn(trained: upcycle.Run) -> None:
    assert trained.history.plot()._repr_png_().startswith(b"\x89PNG")  # type: ignore[no-untyped-call,union-attr]


def test_classic_trains_every_layer_and_keeps_the_best_weights(classic: upcycle.Run, tiny_weights: Path) -> None:
    rows = classic.history.rows
    assert ["finetune"] == sorted({row.phase for row in rows})
    assert [1e-5, 2.8e-5, 4.6e-5] == pytest.approx([row.lr for row in rows[:3]])
    before, after = load_tensors(tiny_weights), load_tensors(classic.directory.best)
    assert not torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])
    assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
    best = min(rows, key=lambda row: row.val_loss)
    assert best.val_loss == pytest.approx(classic.val.log_loss.value, abs=1e-5)
    assert best.best


def test_frozen_layers_of_the_default_recipe_are_the_pretrained_ones_to_the_byte(
    trained: upcycle.Run, tiny_weights: Path
) -> None:
    before, after = load_tensors(tiny_weights), load_tensors(trained.directory.best)
    lower = [name for name in before if name.startswith(("conv1", "bn1", "layer1", "layer2"))]
    assert all(torch.equal(before[name], after[name]) for name in lower)


def test_a_run_without_its_images_is_reported_again(trained: upcycle.Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained.path, copy)
    (copy / "report.html").unlink()
    shutil.rmtree(copy / "figures")
    assert 0 == main(["report", str(copy)])
    assert (copy / "figures" / "curves.svg").exists()
    page = (copy / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


# ---------------------------------------------------------------- starting again


def test_a_run_in_the_way_is_refused_with_the_command_that_goes_on(trained: upcycle.Run, photos: Path) -> None:
    before = (trained.path / "history.jsonl").read_bytes()
    message = f"{trained.path} already exists. Resume it with `upcycle train --out {trained.path} --resume"
    with pytest.raises(RunError, match=message):
        upcycle.train(photos, out=trained.path, weights="none", **FAST)
    assert before == (trained.path / "history.jsonl").read_bytes()


def test_a_finished_run_is_left_alone(trained: upcycle.Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.path.rglob("*")}
    assert 0 == main(["train", "--out", str(trained.path), "--resume"])
    assert "is finished already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in trained.path.rglob("*")}


class StopAfter(Silent):
    """Ctrl-C after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def row(self, history: Any, epochs: int, images_per_second: float) -> None:
        if history.rows[-1].epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("recipe", ["default", "classic"])
def test_a_run_stopped_and_resumed_is_a_run_never_stopped(
    recipe: str, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    options = {**FAST, "weights": str(tiny_weights), "recipe": recipe, "epochs": 6, "freeze": "none", "bn": "train"}
    whole = upcycle.train(photos, out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        upcycle.train(photos, out=tmp_path / "stopped", **{**options, "show": StopAfter(3)})
    stopped = upcycle.Run(tmp_path / "stopped")
    assert "interrupted" == stopped.directory.status()["state"]
    upcycle.load(stopped.path).predict(photos / "test" / "across" / "200.png")  # readable as it is
    resumed = upcycle.train(out=tmp_path / "stopped", resume=True, show=Silent())
    assert whole.history == resumed.history
    assert np.array_equal(whole.predictions("test").logits, resumed.predictions("test").logits)
    ours, theirs = load_tensors(resumed.directory.best), load_tensors(whole.directory.best)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(read_lines(resumed.directory.timings)) == len(read_lines(whole.directory.timings))


@pytest.mark.usefixtures("no_page")
def test_resume_starts_what_is_not_there(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    run = upcycle.train(photos, out=tmp_path / "new", resume=True, weights=str(tiny_weights), epochs=1, **FAST)
    assert "finished" == run.directory.status()["state"]


@pytest.mark.usefixtures("no_page")
def test_resume_with_other_options_or_images_is_refused(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = {**FAST, "weights": str(tiny_weights), "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        upcycle.train(photos, out=tmp_path / "run", **{**options, "show": StopAfter(1)})
    with pytest.raises(RunError, match="was started with lr = 0.001, not 0.01, batch_size = 32, not 4: give another"):
        upcycle.train(out=tmp_path / "run", resume=True, lr=0.01, batch_size=4, show=Silent())
    with pytest.raises(RunError, match="was started with .*photos.*, not"):
        upcycle.train(tmp_path, out=tmp_path / "run", resume=True, show=Silent())


@pytest.mark.usefixtures("no_page")
def test_resume_with_other_images_says_which(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    options = {**FAST, "weights": str(tiny_weights), "epochs": 3, "show": StopAfter(1)}
    with pytest.raises(KeyboardInterrupt):
        upcycle.train(data, out=tmp_path / "run", **options)
    draw(0, 999).save(data / "test" / "across" / "200.png")
    (data / "test" / "across" / "201.png").unlink()
    with pytest.raises(RunError, match=r"started with \(1 gone: .*201.png, 1 of other content: .*200.png\)"):
        upcycle.train(out=tmp_path / "run", resume=True, show=Silent())


def test_a_folder_that_is_no_run_is_not_touched(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and not a run"):
        upcycle.train(photos, out=tmp_path, resume=True, show=Silent())
    assert ["thesis.txt"] == [path.name for path in tmp_path.iterdir()]


# ---------------------------------------------------------------- data as people have it


@pytest.mark.usefixtures("no_page")
def test_three_classes_train_a_softmax_on_a_folder_without_splits(tiny_weights: Path, tmp_path: Path) -> None:
    write_classes(tmp_path / "data", {"across": 14, "down": 14, "round": 14})
    run = upcycle.train(tmp_path / "data", out=tmp_path / "run", weights=str(tiny_weights), epochs=1, **FAST)
    assert 3 == json.loads((run.path / "model.json").read_text())["outputs"]
    assert (6, 3) == run.predictions("test").logits.shape


@pytest.mark.usefixtures("no_page")
def test_a_crop_that_is_asked_for_is_the_models(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = {**FAST, "weights": str(tiny_weights), "recipe": "probe", "crop_pct": 1.0}
    run = upcycle.train(photos, out=tmp_path / "run", **options)
    assert 1.0 == json.loads((run.path / "model.json").read_text())["preprocessing"]["crop_pct"]


def test_damaged_files_are_listed_and_never_trained_on(tiny_weights: Path, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 14, "down": 14})
    whole = (data / "across" / "000.png").read_bytes()
    (data / "across" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (data / "down" / "empty.jpg").write_bytes(b"")
    (data / "down" / "text.jpg").write_bytes(b"no picture")
    run = upcycle.train(data, out=tmp_path / "run", weights=str(tiny_weights), epochs=1, **FAST)
    audit = json.loads((run.path / "audit.json").read_text())
    assert ["across/cut.png", "down/empty.jpg", "down/text.jpg"] == sorted(
        file["path"] for file in audit["quarantined"]
    )
    assert "cut.png" not in (run.path / "splits.csv").read_text()
    assert "across/cut.png" in Page(run.path / "report.html").text


@pytest.mark.usefixtures("no_page")
def test_without_room_for_the_decoded_images_a_run_gives_the_same_bits(
    trained: upcycle.Run, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upcycle.data.frames.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    told: list[str] = []
    monkeypatch.setattr(Silent, "warn", lambda self, text: told.append(text))
    run = upcycle.train(
        photos, out=tmp_path / "run", weights=str(tiny_weights), epochs=3, cache=str(tmp_path / "cache"), **FAST
    )
    (room,) = [text for text in told if "room" in text]
    assert room.startswith("the decoded images need 0.")
    assert room.endswith("Continuing without: every epoch reads and decodes the files again, which is slower")
    assert not (tmp_path / "cache" / "images").exists() or not any((tmp_path / "cache" / "images").iterdir())
    assert run.history.to_dicts() == trained.history.to_dicts()
    for name in ("val", "test", "probe_test"):
        assert run.directory.predictions(name).read_bytes() == trained.directory.predictions(name).read_bytes()


@pytest.mark.usefixtures("no_page")
def test_without_a_folder_to_keep_decoded_images_in_a_temporary_one_is_told_and_taken(
    trained: upcycle.Run, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("UPCYCLE_CACHE", str(tmp_path / "home" / "cache"))
    told: list[str] = []
    monkeypatch.setattr(Silent, "warn", lambda self, text: told.append(text))
    run = upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), epochs=3, **FAST)
    (spare,) = (tmp_path / "temporary").iterdir()
    expected = (
        f"cannot write {tmp_path}/home/cache: Not a directory. Using {spare}: give --cache FOLDER, or set UPCYCLE_CACHE"
    )
    assert [expected] == [text for text in told if "cache" in text]
    assert {"images", "features", "scans"} == {path.name for path in spare.iterdir()}
    assert run.history.to_dicts() == trained.history.to_dicts()
    with pytest.raises(StorageError, match="cannot write"):  # a folder that was asked for
        upcycle.train(photos, out=tmp_path / "other", weights="none", cache=str(tmp_path / "home" / "cache"), **FAST)


@pytest.mark.usefixtures("no_page")
def test_a_cross_validation_goes_on_with_the_same_images_alone(tiny_weights: Path, tmp_path: Path) -> None:
    data, out = write_classes(tmp_path / "data", {"across": 12, "down": 12}), tmp_path / "run"
    upcycle.train(data, out=out, weights=str(tiny_weights), epochs=0, folds=2, **FAST)
    unseal(RunDir(out))
    for name in ("evaluation.json", "predictions/test.csv"):
        (out / name).unlink()
    shutil.rmtree(out / "fold-2")
    RunDir(out).set_status("interrupted", seconds=1.0)
    (data / "across" / "000.png").rename(tmp_path / "000.png")
    with pytest.raises(RunError, match="the images or their split are not those .*fold-1 was started with"):
        upcycle.train(out=out, resume=True, show=Silent())
    assert not (out / "fold-2").exists()
    (tmp_path / "000.png").rename(data / "across" / "000.png")
    scores = out / "fold-1" / "predictions" / "test.csv"
    before = scores.read_bytes()
    scores.write_bytes(before.replace(b"1", b"2"))
    with pytest.raises(RunError, match=r"fold-1/predictions/test.csv is damaged"):
        upcycle.train(out=out, resume=True, show=Silent())
    scores.write_bytes(before)
    run = upcycle.train(out=out, resume=True, show=Silent())
    assert 24 == len(set(run.predictions("test").paths))


def test_cross_validation_tests_every_image_once(tiny_weights: Path, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", {"across": 12, "down": 12})
    run = upcycle.train(data, out=tmp_path / "run", weights=str(tiny_weights), epochs=1, folds=2, **FAST)
    assert 24 == len(set(run.predictions("test").paths))
    assert 24 == run.test.n
    folds = run.evaluation.folds
    assert folds is not None
    assert 2 == len(folds.f1_macro)
    assert (run.path / "report.html").exists()


# ---------------------------------------------------------------- options, each seen to act


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "balanced"},
        {"class_weights": "1,3"},
        {"label_smoothing": 0.1},
        {"mixup": 0.4},
        {"freeze": "none"},
        {"freeze": "layer3"},
        {"lr": 1e-2},
        {"seed": 7},
        {"batch_size": 8},
        {"image_size": 48},
        {"augment": "none"},
    ],
    ids=str,
)
def test_an_option_changes_what_is_trained(
    options: dict[str, Any], one_epoch: dict[str, upcycle.Run], tiny_weights: Path, tmp_path: Path
) -> None:
    plain = one_epoch["uneven" if "class_weights" in options else "even"]
    data = json.loads((plain.path / "config.json").read_text())["data"]
    given = {**FAST, "weights": str(tiny_weights), "epochs": 1, "probe": False, **options}
    changed = upcycle.train(data, out=tmp_path / "run", **given)
    assert plain.history.rows[-1].val_loss != changed.history.rows[-1].val_loss
    for name, value in options.items():
        assert value == getattr(changed.config, name)


@pytest.fixture(scope="module")
def one_epoch(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, upcycle.Run]:
    """Runs without any option, to compare with."""
    root = tmp_path_factory.mktemp("plain")
    data = {"even": photos, "uneven": write_classes(root / "data", {"across": 24, "down": 10})}
    options = {**FAST, "weights": str(tiny_weights), "epochs": 1, "probe": False}
    with without_pages():
        return {name: upcycle.train(folder, out=root / name, **options) for name, folder in data.items()}


@pytest.mark.usefixtures("no_page")
def test_the_monitored_metric_decides_which_epoch_is_kept(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    run = upcycle.train(
        photos, out=tmp_path / "run", weights=str(tiny_weights), epochs=4, monitor="val_accuracy", **FAST
    )
    rows = run.history.of("finetune").rows
    best = -1.0
    for row in rows:
        assert (row.val_accuracy > best) == row.best
        best = max(best, row.val_accuracy)


@pytest.mark.usefixtures("no_page")
def test_a_toml_file_sets_options_and_the_command_line_wins(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.toml").write_text(
        f'epochs = 5\nseed = 3\narch = "{TINY}"\nimage_size = 32\nthreads = 1\nweights = "{tiny_weights}"\n'
    )
    words = [
        "train",
        str(photos),
        "--config",
        str(tmp_path / "run.toml"),
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "r"),
    ]
    assert 0 == main(words)
    config = upcycle.Run(tmp_path / "r").config
    assert (1, 3, TINY) == (config.epochs, config.seed, config.arch)


# ---------------------------------------------------------------- mistakes


def test_weights_of_another_network_are_one_error(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit test_efficientnet"):
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **{**FAST, "arch": "test_efficientnet"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"arch": "densenet121", "image_size": 16},
            "densenet121 cannot compute 2 images of 16 px .*: give another --image-size",
        ),
        (
            {"arch": "resnet18", "batch_size": 1},
            "resnet18 cannot compute 1 image of 32 px .*more than 1 value per channel",
        ),
    ],
)
def test_what_a_network_cannot_compute_is_one_line(
    options: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        upcycle.train(photos, out=tmp_path / "run", **{**FAST, "weights": "none", "epochs": 1, **options})


def test_an_unknown_layer_is_one_error(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot freeze 'layer9'"):
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), freeze="layer9", **FAST)


@pytest.mark.parametrize(
    ("counts", "message"),
    [({}, "no images"), ({"across": 4}, "one class"), ({"across": 8, "down": 1}, "down")],
)
def test_a_folder_that_cannot_be_learned_from_is_one_error(
    counts: dict[str, int], message: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    write_classes(tmp_path / "data", counts)
    with pytest.raises(DataError, match=message) as caught:
        upcycle.train(tmp_path / "data", out=tmp_path / "run", weights="none", **FAST)
    assert 1 == len(str(caught.value).splitlines())


def overflowing(tiny_weights: Path, folder: Path) -> Path:
    """Weights whose last norm multiplies by more than a float can hold."""
    tensors = load_tensors(tiny_weights)
    last = [
        name for name in tensors if name.startswith("layer4") and name.endswith(".weight") and tensors[name].ndim == 1
    ]
    save_file({**tensors, last[-1]: torch.full_like(tensors[last[-1]], 3e38)}, folder / "wild.safetensors")
    return folder / "wild.safetensors"


@pytest.mark.parametrize(
    ("recipe", "code", "text"),
    [("classic", 6, "the loss is not finite between updates 0 and 1 "), ("default", 4, "features that are not finite")],
)
def test_numbers_that_explode_end_the_command_with_a_line_and_a_code(
    recipe: str,
    code: int,
    text: str,
    photos: Path,
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", str(photos), "--weights", str(overflowing(tiny_weights, tmp_path)), "--arch", TINY]
    words += ["--image-size", "32", "--threads", "1", "--precision", "fp32", "--recipe", recipe]
    assert code == main([*words, "--out", str(tmp_path / "run")])
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert "failed" == upcycle.Run(tmp_path / "run").directory.status()["state"]


def test_predict_lists_a_file_it_cannot_read_and_goes_on(
    trained: upcycle.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(0, 1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    draw(1, 2).save(tmp_path / "c.png")
    code = main(["predict", str(trained.path), str(tmp_path), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 3 == code
    assert ["a.png", "b.png", "c.png"] == [Path(row["path"]).name for row in rows]
    assert ["label", "error", "label"] == [next(iter(set(row) & {"label", "error"})) for row in rows]
    assert 1.0 == pytest.approx(sum(rows[0]["probabilities"].values()))


def test_a_run_is_predicted_on_the_device_it_was_trained_on(
    trained: upcycle.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "cpu" == upcycle.load(trained.path).machine.device


def test_a_device_that_is_asked_for_and_not_there_is_refused(trained: upcycle.Run) -> None:
    with pytest.raises(ConfigError, match="device mps was asked for but torch sees none here"):
        upcycle.load(trained.path, device="mps")


def test_evaluating_images_of_an_unknown_class_is_refused(trained: upcycle.Run, tmp_path: Path) -> None:
    write_classes(tmp_path / "data", {"across": 3, "zebra": 3})
    assert 3 == main(["evaluate", str(trained.path), str(tmp_path / "data")])
    from upcycle.jobs.evaluate import evaluate_run

    with pytest.raises(DataError, match="has a class 'zebra' the model does not know: it knows across, down"):
        evaluate_run(upcycle.load(trained.path), tmp_path / "data", "test")


@pytest.mark.usefixtures("no_page")
def test_an_image_that_changed_since_the_split_is_not_evaluated_as_the_old_one(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    run = upcycle.train(data, out=tmp_path / "run", weights=str(tiny_weights), epochs=1, **FAST)
    draw(0, 999).save(data / "test" / "across" / "200.png")
    from upcycle.jobs.evaluate import evaluate_run

    with pytest.raises(DataError, match="200.png is not the file it was"):
        evaluate_run(upcycle.load(run.path), None, "test")


class Warnings(Silent):
    """Keeps what a job warns of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def test_images_the_model_trained_on_and_damaged_ones_are_told(
    trained: upcycle.Run, photos: Path, tmp_path: Path
) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    shutil.copytree(photos / "train", tmp_path / "data")
    (tmp_path / "data" / "down" / "empty.png").write_bytes(b"")
    show = Warnings()
    found = evaluate_run(upcycle.load(trained.path), tmp_path / "data", "test", show=show)
    assert 24 == len(found)
    assert [
        "not evaluated: down/empty.png: empty file (zero bytes)",
        "24 of these 24 images are ones the model was trained or chosen on",
    ] == show.said


def test_an_image_cut_short_in_another_folder_is_told_and_left_out(trained: upcycle.Run, tmp_path: Path) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    write_classes(tmp_path / "data", {"across": 3, "down": 3}, start=300)
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "data" / "down" / "cut.jpg")
    whole = (tmp_path / "data" / "down" / "cut.jpg").read_bytes()
    (tmp_path / "data" / "down" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    show = Warnings()
    found = evaluate_run(upcycle.load(trained.path), tmp_path / "data", "test", show=show)
    assert 6 == len(found.paths) == len(found.logits) == len(found.labels)
    (told,) = show.said
    assert told.startswith("not evaluated: down/cut.jpg: ")


def test_where_the_photos_have_moved_the_runs_own_split_is_evaluated(
    trained: upcycle.Run, photos: Path, tmp_path: Path
) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    shutil.copytree(photos, tmp_path / "moved")
    write_classes(tmp_path / "moved" / "train", {"across": 3}, start=300)
    show = Warnings()
    found = evaluate_run(upcycle.load(trained.path), tmp_path / "moved", "test", show=show)
    recorded = trained.predictions("test")
    assert recorded.paths == found.paths
    assert np.array_equal(recorded.logits, found.logits)
    assert [] == show.said


def test_own_images_are_known_by_content_wherever_they_are_listed(
    trained: upcycle.Run, photos: Path, tmp_path: Path
) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    everything = sorted(photos.rglob("*.png"))
    lines = ["path,label", *(f"{path},{path.parent.name}" for path in everything)]
    (tmp_path / "all.csv").write_text("\n".join(lines), encoding="utf-8")
    found = evaluate_run(upcycle.load(trained.path), tmp_path / "all.csv", "test")
    assert sorted(trained.predictions("test").hashes) == sorted(found.hashes)


def test_own_copies_and_groups_are_kept_and_a_larger_declared_split_is_taken_whole(tmp_path: Path) -> None:
    from upcycle.jobs.evaluate import _own_rows

    own = [Recorded(f"old/{at}", "a", "test", f"group {at}", str(content)) for at, content in enumerate((1, 1, 2))]
    index = made("aaab", contents=[1, 2, 1, 3])
    own = [row._replace(sha256=hashlib.sha256(row.sha256.encode()).hexdigest()) for row in own]
    found = _own_rows(index, own, "test")
    assert [("a/0000.jpg", "group 0"), ("a/0001.jpg", "group 2"), ("a/0002.jpg", "group 1")] == [
        (row.path, row.group) for row in found
    ]
    assert [] == _own_rows(index.take(np.array([0, 1, 3])), own, "test")  # a copy is missing
    larger = replace(index, declared=np.array(["test"] * 4))
    assert [] == _own_rows(larger, own, "test")
    assert 3 == len(_own_rows(replace(index, declared=np.array(["test"] * 3 + ["train"])), own, "test"))


def test_a_manifest_with_corrected_labels_is_evaluated_by_them(
    trained: upcycle.Run, photos: Path, tmp_path: Path
) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    rows = [(str(photos / path), "down") for path in trained.predictions("test").paths]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *(",".join(row) for row in rows)]), encoding="utf-8")
    found = evaluate_run(upcycle.load(trained.path), tmp_path / "list.csv", "test")
    assert {1} == set(found.labels.tolist())


@pytest.mark.usefixtures("no_page")
def test_a_run_with_a_test_split_of_its_own_name_can_be_evaluated_on_any_folder(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    shutil.copytree(photos / "train", tmp_path / "data" / "train")
    shutil.copytree(photos / "test", tmp_path / "data" / "held")
    run = upcycle.train(
        tmp_path / "data", out=tmp_path / "run", weights=str(tiny_weights), epochs=0, test_split="held", **FAST
    )
    classifier = upcycle.load(run.path)
    write_classes(tmp_path / "more", {"across": 3, "down": 3}, start=300)
    assert 6 == len(evaluate_run(classifier, tmp_path / "more", "test"))
    write_classes(tmp_path / "split" / "held", {"across": 2}, start=310)
    write_classes(tmp_path / "split" / "train", {"across": 3}, start=320)
    assert 2 == len(evaluate_run(classifier, tmp_path / "split", "test"))
    with pytest.raises(DataError, match="does not exist"):
        evaluate_run(classifier, tmp_path / "none", "test")


def test_a_folder_of_a_single_class_can_be_evaluated(trained: upcycle.Run, tmp_path: Path) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    write_classes(tmp_path / "data", {"across": 1}, start=300)
    assert 1 == len(evaluate_run(upcycle.load(trained.path), tmp_path / "data", "test"))


def test_a_folder_without_the_asked_split_is_refused(trained: upcycle.Run, photos: Path, tmp_path: Path) -> None:
    from upcycle.jobs.evaluate import evaluate_run

    shutil.copytree(photos / "train", tmp_path / "data" / "train")
    with pytest.raises(DataError, match="has no images in the split 'test'"):
        evaluate_run(upcycle.load(trained.path), tmp_path / "data", "test")


def test_a_cross_validation_names_the_models_it_holds(tmp_path: Path) -> None:
    (tmp_path / "fold-1").mkdir()
    with pytest.raises(RunError, match="holds one model per fold: name one of them, .*fold-1 for example"):
        upcycle.load(tmp_path)


def test_a_finished_run_without_its_report_gets_one(trained: upcycle.Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained.path, copy)
    (copy / "report.html").unlink()
    upcycle.train(out=copy, resume=True, show=Silent())
    assert (copy / "report.html").exists()


def test_what_is_only_needed_to_go_on_is_gone_at_the_end(trained: upcycle.Run) -> None:
    assert not trained.directory.last.exists()


@pytest.mark.usefixtures("no_page")
def test_early_stopping_stops_a_run(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.8, 0.9])
    monkeypatch.setattr("upcycle.jobs.finetune.score", lambda *_: Scores(next(losses), 0.5, 0.5))
    options = {"recipe": "classic", "epochs": 6, "patience": 2, **FAST}
    run = upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **options)
    assert [True, True, False, False] == [row.best for row in run.history.rows]
    stopped = run.directory.status()["stopped"]
    assert "stopped early after epoch 4: no better val_loss in 2 epochs" == stopped


def test_the_peak_of_fine_tuning_is_fitted_to_the_probe(trained: upcycle.Run) -> None:
    (tuned,) = json.loads(trained.directory.plan.read_text())["phases"]
    loss = json.loads(trained.directory.probe.read_text())["val_loss"]
    assert adapted_rate(trained.config.lr, loss, 2) == pytest.approx(tuned["schedule"]["lr_max"])
    assert tuned["schedule"]["lr_max"] < trained.config.lr


def test_a_line_of_predict_is_the_path_the_class_and_every_share(
    trained: upcycle.Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = photos / "test" / "across" / "200.png"
    assert 0 == main(["predict", str(trained.path), str(file)])
    path, label, *shares = capsys.readouterr().out.rstrip("\n").split("\t")
    found = {name: float(share) for name, share in (share.rsplit(" ", 1) for share in shares)}
    assert (str(file), ["across", "down"]) == (path, list(found))
    assert max(found, key=lambda name: found[name]) == label
    assert 1 == pytest.approx(sum(found.values()), abs=2e-4)


def test_an_accelerator_without_memory_for_the_features_is_one_line(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("x")

    monkeypatch.setattr("upcycle.jobs.probe.extract", full)
    with pytest.raises(UpcycleError, match="memory is too small: give a smaller --image-size"):
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **FAST)
    status = upcycle.Run(tmp_path / "run").directory.status()
    assert ("failed", "out of memory") == (status["state"], status["error"])


@pytest.mark.usefixtures("no_page")
def test_one_bar_counts_the_updates_of_all_epochs(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    class Watched(Silent):
        @contextlib.contextmanager
        def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
            yield lambda done, total: told.append((what, done, total))

    told: list[tuple[str, int, int]] = []
    options = {**FAST, "show": Watched(), "recipe": "classic", "epochs": 3, "rampup": 1, "batch_size": 8}
    run = upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), **options)
    updates = run.history.rows[-1].step
    made = [(done, total) for what, done, total in told if what == run.history.rows[-1].phase]
    assert [(at, updates) for at in range(1, updates + 1)] == made


@pytest.fixture
def nobody_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output and error whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        yield
        monkeypatch.undo()


@pytest.mark.usefixtures("nobody_reads")
def test_a_run_that_nobody_reads_is_finished_and_evaluated(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    words = ["--weights", str(tiny_weights), "--arch", TINY, "--image-size", "32", "--epochs", "1", "--device", "cpu"]
    assert 0 == main(["train", str(photos), "--out", str(tmp_path / "run"), *words])
    assert "finished" == RunDir(tmp_path / "run").status()["state"]
    assert (tmp_path / "run" / "report.html").exists()
    assert 0 == main(["evaluate", str(tmp_path / "run")])
    assert 0 == main(["scan", str(photos), "--out", str(tmp_path / "scan")])
    assert (tmp_path / "scan" / "scan.html").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("through", [True, False], ids=["unbuffered", "buffered"])
def test_a_run_whose_words_cannot_be_written_is_finished_and_says_so_at_its_end(
    through: bool,
    trained: upcycle.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=through))
        code = main(["train", "--out", str(trained.path), "--resume"])
    assert (7, "upcycle: standard output cannot be written: No space left on device\n") == (
        code,
        capsys.readouterr().err,
    )
