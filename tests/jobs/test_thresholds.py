"""The thresholds of a run: chosen, recorded, sealed, used by predictions and removed again."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import upcycle
from tests.conftest import TINY, without_pages
from upcycle.cli import main
from upcycle.errors import ConfigError, DataError, RunError
from upcycle.evaluation.results import Predictions
from upcycle.evaluation.thresholds import Rule, Thresholds
from upcycle.jobs.thresholds import _parted, clear
from upcycle.manifest import check, seal
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, read_json, write_json

PETS = ("across", "down")


def pets(n: int, *, seed: int, groups: int = 0) -> Predictions:
    """Images whose probabilities are right; in so many groups, or each by itself."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(0.3, 0.3, n).clip(1e-4, 1 - 1e-4)
    names = tuple(f"g{at % groups}" if groups else "" for at in range(n))
    logits = np.log(chances / (1 - chances))[:, None].astype(np.float32)
    hashes = tuple(f"{seed} {at}" for at in range(n))
    return Predictions(PETS, tuple(map(str, range(n))), hashes, names, (rng.random(n) < chances).astype(int), logits)


@pytest.fixture
def run(tmp_path: Path) -> upcycle.Run:
    """A finished run as far as thresholds need it: configuration, state, predictions, checksums."""
    directory = RunDir(tmp_path / "run")
    write_json(directory.config, {**upcycle.Config().to_dict(), "data": "photos"})
    write_json(directory.environment, {})
    pets(300, seed=1).save(directory.predictions("val"))
    pets(600, seed=2).save(directory.predictions("test"))
    directory.set_status("finished")
    seal(directory)
    return upcycle.Run(directory.root)


def words(run: upcycle.Run, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    assert 0 == main(["thresholds", str(run.path), *more])
    return capsys.readouterr().out.splitlines()


def test_validation_images_choose_without_a_promise_and_test_images_test_it_once(
    run: upcycle.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    told = " ".join(words(run, capsys, "--want", "precision>=0.95"))
    made = Thresholds.from_dict(read_json(run.directory.thresholds))
    assert (None, 600, "300 validation images") == (made.confidence, made.test_images, made.chosen_on)
    assert f"precision of at least 95 %: answers from a probability of {made.rule.threshold:.4f} on" in told
    assert "no promise: the validation images chose the model as well. --calibration-fraction 0.5" in told
    answers, right = made.test["answers"], made.test["right"]  # type: ignore[index]
    expected = f"on 600 test images: answers {100 * answers.value:.1f} % of images"
    assert (
        f"{expected} ({100 * answers.low:.1f} to {100 * answers.high:.1f}), right on {100 * right.value:.1f} %" in told
    )
    val = run.predictions("val")
    sure = made.rule.decide(val.probabilities(), PETS)[1]
    assert 0.95 <= (val.predicted() == val.labels)[sure].mean() < 0.96


def test_a_part_of_the_test_images_promises_and_the_others_test(
    run: upcycle.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    told = " ".join(words(run, capsys, "--want", "precision>=0.9", "--calibration-fraction", "0.5"))
    made = Thresholds.from_dict(read_json(run.directory.thresholds))
    assert (0.9, 300, "300 images of the test set") == (made.confidence, made.test_images, made.chosen_on)
    assert "promise: with 90 % confidence in this choice, precision of at least 90 % on images like these" in told
    assert "no promise" not in told


def test_a_promise_of_grouped_images_is_chosen_on_one_of_each_group(run: upcycle.Run) -> None:
    pets(600, seed=2, groups=200).save(run.directory.predictions("test"))
    seal(run.directory)
    made = upcycle.thresholds(run, want="precision>=0.8", calibration_fraction=0.5, show=Silent())
    assert ("100 images of the test set, one of each group", 300) == (made.chosen_on, made.test_images)


def test_too_few_images_are_refused_and_nothing_is_written(
    run: upcycle.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 3 == main(["thresholds", str(run.path), "--want", "precision>=0.999", "--calibration-fraction", "0.5"])
    assert "takes 2302 images without an error, and 300 tell about it" in capsys.readouterr().err
    assert not run.directory.thresholds.exists()


def test_costs_are_told_beside_those_at_one_half_and_the_best(
    run: upcycle.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    told = " ".join(words(run, capsys, "--cost", "fn=10,fp=1"))
    assert "costs of 10 per missed down and 1 per false one: down from a probability of 0.0909 on" in told
    assert "at a threshold of 0.5 and" in told
    made = Thresholds.from_dict(read_json(run.directory.thresholds))
    assert Rule(1 / 11, "down", claims=True) == made.rule
    assert made == upcycle.thresholds(run, cost={"fn": 10, "fp": 1}, show=Silent())


def test_costs_without_a_wrong_test_image_have_no_interval(
    run: upcycle.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    test = run.predictions("test")
    right = replace(test, labels=(test.probabilities()[:, 1] >= 1 / 11).astype(int))
    right.save(run.directory.predictions("test"))
    seal(run.directory)
    told = words(run, capsys, "--cost", "fn=10,fp=1")
    assert told[-1].endswith("costs 0 per image")
    assert "nan" not in " ".join(told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"abstain": 0.05, "calibration_fraction": 0.5}, "only a precision or a recall can be promised"),
        ({"want": "precision>=0.9", "confidence": 1}, "confidence = 1: give a number between 0 and 1"),
        ({"want": "precision>=0.9", "calibration_fraction": 1}, "calibration_fraction = 1: give a part"),
    ],
)
def test_options_that_do_not_fit_are_one_line(run: upcycle.Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        upcycle.thresholds(run, show=Silent(), **options)


def test_without_a_test_set_nothing_is_promised_or_tested(run: upcycle.Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.directory.predictions("test").unlink()
    seal(run.directory)
    assert "no test images: nothing here is measured" in words(run, capsys, "--abstain", "5%")[-1]
    with pytest.raises(DataError, match="has no test images, which alone chose nothing: no promise is possible"):
        upcycle.thresholds(run, want="precision>=0.9", calibration_fraction=0.5, show=Silent())


def test_an_unfinished_run_and_a_cross_validation_are_refused(run: upcycle.Run) -> None:
    run.directory.set_status("interrupted")
    with pytest.raises(RunError, match="is not finished: resume it with upcycle train --out"):
        upcycle.thresholds(run, abstain="5%", show=Silent())
    (run.path / "fold-1").mkdir()
    with pytest.raises(RunError, match="holds one model per fold: name one of them"):
        upcycle.thresholds(run, abstain="5%", show=Silent())


def test_a_part_holds_one_image_of_each_of_its_groups_and_no_group_is_on_both_sides() -> None:
    made = pets(300, seed=0, groups=60)
    held, rest = _parted(made, 0.4, seed=5)
    assert (24, 24) == (len(held), len(set(held.groups)))
    assert 36 * 5 == len(rest)
    assert not set(held.groups) & set(rest.groups)
    again, other = _parted(made, 0.4, seed=5)[0], _parted(made, 0.4, seed=6)[0]
    assert held.paths == again.paths != other.paths
    assert {int(path) // 60 for path in held.paths} == set(range(5))  # not always a group's first image


def test_a_single_group_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="1 test image or group: too few to part"):
        _parted(pets(30, seed=0, groups=1), 0.5, seed=0)


def test_the_record_is_sealed_and_removed_with_its_checksum(
    run: upcycle.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    upcycle.thresholds(run, abstain="5%", show=Silent())
    assert "thresholds.json" in read_json(run.directory.manifest)
    content = run.directory.thresholds.read_text()
    run.directory.thresholds.write_text(content.replace("threshold", "thrashold"))
    with pytest.raises(RunError, match="thresholds.json is damaged or was changed"):
        check(run.directory)
    run.directory.thresholds.write_text(content)
    assert "every image is answered" in words(run, capsys, "--clear")[-1]
    check(run.directory)
    assert not run.directory.thresholds.exists()
    with pytest.raises(RunError, match="has no thresholds"):
        clear(run, Silent())


def test_they_are_chosen_without_torch(run: upcycle.Run) -> None:
    code = f"import sys, upcycle; upcycle.thresholds({str(run.path)!r}, abstain='5%'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "False" == done.stdout.splitlines()[-1]


# ---------------------------------------------------------------- predictions


@pytest.fixture(scope="module")
def trained(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    options: dict[str, Any] = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 32}
    options |= {"threads": 1, "device": "cpu", "precision": "fp32", "show": Silent()}
    with without_pages():
        return upcycle.train(photos, out=tmp_path_factory.mktemp("runs") / "run", **options)


def test_a_prediction_below_the_threshold_is_not_sure_and_keeps_its_class(
    trained: upcycle.Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(photos.glob("test/*/*.png"))
    plain = trained.predict(files)  # type: ignore[arg-type]
    assert all(one.sure for one in plain)
    made = upcycle.thresholds(trained, abstain="25%", show=Silent())
    found = upcycle.load(trained.path).predict(files)  # type: ignore[arg-type]
    assert found == trained.predict(files)  # type: ignore[arg-type]
    assert [one.probability >= made.rule.threshold for one in plain] == [one.sure for one in found]
    assert {True, False} == {one.sure for one in found}
    assert plain == [replace(one, sure=True) for one in found]
    assert 0 == main(["predict", str(trained.path), *map(str, files)])
    shown = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert shown == [one.label if one.sure else "not sure" for one in found]
    assert 0 == main(["predict", str(trained.path), "--json", *map(str, files)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0].keys() == {"path", "label", "sure", "probabilities", "p_value"}
    assert [(one.label if one.sure else None, one.sure) for one in found] == [(r["label"], r["sure"]) for r in rows]
    clear(trained, Silent())
    assert plain == trained.predict(files)  # type: ignore[arg-type]


def test_a_recall_gives_its_class_to_whatever_reaches_the_threshold(trained: upcycle.Run, photos: Path) -> None:
    files = sorted(photos.glob("test/*/*.png"))
    made = upcycle.thresholds(trained, want="recall>=0.95:down", show=Silent())
    for one in upcycle.load(trained.path).predict(files):  # type: ignore[arg-type]
        assert one.sure
        assert ("down" if one.probabilities["down"] >= made.rule.threshold else "across") == one.label
        assert one.probability == one.probabilities[one.label]
    clear(trained, Silent())


def test_a_record_about_a_class_that_the_model_lacks_is_refused(trained: upcycle.Run) -> None:
    write_json(trained.directory.thresholds, Thresholds("", Rule(0.5, "birds"), "").to_dict())
    try:
        with pytest.raises(RunError, match="does not hold what a run writes .*no class 'birds'"):
            upcycle.load(trained.path)
    finally:
        trained.directory.thresholds.unlink()
