"""The range test as a job, on small images with a small network."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY, without_pages
from upcycle.cli import main
from upcycle.errors import ConfigError, DataError, RunError, UpcycleError
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_json
from upcycle.training import rate_curve
from upcycle.training.rate_curve import LrFinding, Sweep

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
FAST |= {"batch_size": 8}
SHORT: dict[str, Any] = {"start_lr": 1e-5, "end_lr": 1.0, "num_updates": 20, "repeats": 2}


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    warn = message


@pytest.fixture(scope="module")
def run(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    """A run with `--lr auto`."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch, without_pages():
        patch.setattr("upcycle.jobs.stages.Sweep", lambda: Sweep(*SHORT.values()))
        return upcycle.train(photos, out=out, weights=str(tiny_weights), epochs=2, lr="auto", show=Silent(), **FAST)


def test_what_is_found_is_returned_and_written(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    show, out = Said(), tmp_path / "out"
    made = upcycle.find_lr(photos, weights=str(tiny_weights), out=out, show=show, **SHORT, **FAST)
    assert made == LrFinding.from_dict(read_json(out / "find_lr.json"))
    assert ["find_lr.json", "find_lr.svg"] == sorted(path.name for path in out.iterdir())
    assert "<svg" in (out / "find_lr.svg").read_text()
    assert f"rate: {made.peak.reason}" in show.lines
    assert made.command.startswith(f"upcycle find-lr {photos} --start-lr 1e-05 --end-lr 1 --num-updates 20 --repeats 2")
    assert 2 == len(made.losses)
    # there, train would keep the probe
    assert any(line.startswith("train would not fine-tune here (fine-tuning is skipped: ") for line in show.lines)


def test_it_is_the_rate_that_train_takes(run: upcycle.Run, photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    made = upcycle.find_lr(
        photos, weights=str(tiny_weights), epochs=2, out=tmp_path / "a", show=Silent(), **SHORT, **FAST
    )
    assert read_json(run.directory.model)["range_test"] == made.to_dict()["peak"]
    of_run = upcycle.find_lr(run, out=tmp_path / "b", show=Silent(), **SHORT)
    assert (made.losses, made.starts, made.peak) == (of_run.losses, of_run.starts, of_run.peak)


def test_a_fold_is_tested_on_its_own_images(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    whole = photos / "train"
    options = {"weights": str(tiny_weights), "epochs": 1, "show": Silent(), **FAST}
    with without_pages():
        upcycle.train(whole, out=tmp_path / "folds", folds=2, **options)
    first, second = (
        upcycle.find_lr(tmp_path / "folds" / f"fold-{fold}", out=tmp_path / f"{fold}", show=Silent(), **SHORT)
        for fold in (1, 2)
    )
    assert first.losses != second.losses
    with pytest.raises(ConfigError, match="is a cross-validation: give one of its folds, such as .*fold-1"):
        upcycle.find_lr(tmp_path / "folds", show=Silent())


def test_a_valley_gives_the_command_that_trains_with_its_rate(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_curve, "NOISE", 0.0)
    show = Said()
    options = {"weights": str(tiny_weights), "epochs": 2, "freeze": "none", "lr": "auto", **SHORT, **FAST}
    made = upcycle.find_lr(photos, out=tmp_path / "out", show=show, **options)
    assert {"steepest", "valley", "minimum"} == {one.rule for one in made.suggestions}
    (line,) = (line for line in show.lines if line.startswith("to train with it: "))
    words = line.removeprefix("to train with it: upcycle train ").split()
    assert [str(photos), "--lr"] == words[:2]
    assert made.lr == pytest.approx(float(words[2]), rel=0.01)
    assert 1 == words.count("--lr")


def test_without_a_valley_the_code_is_0_and_the_line_says_what_is_used(
    photos: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        word
        for name, value in {**FAST, **SHORT, "end_lr": 1e-4}.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    words += ["--weights", str(tiny_weights), "--out", str(tmp_path / "out"), "--json"]
    assert 0 == main(["find-lr", str(photos), *words])
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert [] == made["suggestions"]
    assert made["fallback"] == made["peak"]["lr"]
    assert "that of the probe's validation loss, as there is no usable valley" in " ".join(said.err.split())
    assert "Training loss by rate, smoothed" in said.err


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"start_lr": 1.0, "end_lr": 0.1}, ConfigError, "^start_lr = 1 is not below end_lr"),
        ({"num_updates": 5}, ConfigError, "^num_updates = 5 is out of range"),
        ({"end_lr": float("nan")}, ConfigError, "^end_lr = nan is no rate"),
        ({"recipe": "probe"}, ConfigError, "^epochs = 0 trains the probe alone, without a learning rate"),
        ({"epochs": 0}, ConfigError, "^epochs = 0 trains"),
        ({"fine_tune": "never"}, ConfigError, "^fine_tune = never trains"),
        ({"folds": 3}, ConfigError, "^find-lr takes no folds"),
        ({"arch": "auto"}, ConfigError, "^--arch auto trains probes to choose"),
        ({"weights": "none", "probe": True}, ConfigError, "^a probe needs pretrained weights"),
        ({"nonsense": 1}, ConfigError, "^unknown option 'nonsense'"),
    ],
)
def test_what_is_wrong_with_the_request_is_one_line(
    photos: Path, tmp_path: Path, options: dict[str, Any], error: type[UpcycleError], match: str
) -> None:
    with pytest.raises(error, match=match):
        upcycle.find_lr(photos, out=tmp_path / "out", show=Silent(), **options)
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_used_are_one_line(run: upcycle.Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for error, match, place, call in (
        (RunError, "is not empty: give another --out", photos, {"out": tmp_path / "full"}),
        (ConfigError, "lies inside", photos, {"out": photos / "x"}),
        (DataError, "does not exist", tmp_path / "nowhere", {}),
        (ConfigError, "has options of its own: leave batch_size out", run.path, {"batch_size": 4}),
    ):
        with pytest.raises(error, match=match):
            upcycle.find_lr(place, show=Silent(), **call)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "match"),
    [("splits.csv", "splits.csv is missing"), ("model.json", "model.json is missing"), ("config.json", "is missing")],
)
def test_a_run_that_lacks_a_file_is_one_line(run: upcycle.Run, tmp_path: Path, file: str, match: str) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run.path, broken)
    (broken / file).unlink()
    with pytest.raises(UpcycleError, match=match):
        upcycle.find_lr(broken, out=tmp_path / "out", show=Silent(), **SHORT)


def test_a_run_whose_images_have_changed_is_one_line(
    run: upcycle.Run, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    with without_pages():
        own = upcycle.train(copy, out=tmp_path / "run", weights=str(tiny_weights), epochs=1, show=Silent(), **FAST)
    gone = next((copy / "train").rglob("*.png"))
    gone.unlink()
    with pytest.raises(RunError, match=r"the images are not those .* was started with \(1 gone: "):
        upcycle.find_lr(own, out=tmp_path / "out", show=Silent(), **SHORT)
