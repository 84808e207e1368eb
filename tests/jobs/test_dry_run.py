"""What a training would do, told without it."""

import json
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY
from upcycle.cli import main
from upcycle.data.splits import NAMES, read_splits
from upcycle.errors import ConfigError, WeightsError
from upcycle.jobs.dry_run import DryRun, dry_run
from upcycle.reporting.progress import Silent


@pytest.fixture
def options(tiny_weights: Path) -> dict[str, Any]:
    return {"arch": TINY, "weights": str(tiny_weights), "image_size": 32, "threads": 1, "device": "cpu"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(photos: Path, options: dict[str, Any], **more: Any) -> DryRun:
    return dry_run(photos, {**options, **more}, out=None, show=Silent())


def test_it_counts_images_epochs_and_updates_and_leaves_nothing(
    photos: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    found = asked(photos, options, batch_size=5)
    across = {"train": 12, "val": 6, "test": 10}
    assert {"across": across, "down": across} == found.images
    assert [
        ("probe", 0, 0),
        ("finetune, near the features", 8, 40),
        ("finetune, far from the features", 10, 50),
    ] == [(one.name, one.epochs, one.updates) for one in found.stages]
    assert found.decides.startswith("the probe decides: whether fine-tuning is worth it, epochs")
    probe, near, far = (one.seconds for one in found.stages)
    assert probe < found.seconds[0] < found.seconds[1] == pytest.approx(probe + max(near, far))
    assert [] == list(tmp_path.iterdir())


def test_a_range_test_takes_time_as_well(photos: Path, options: dict[str, Any]) -> None:
    plain, auto = (asked(photos, {**options, **more}, probe=False, epochs=1).seconds for more in ({}, {"lr": "auto"}))
    assert auto[0] > 20 * plain[0]  # 300 updates beside one


@pytest.mark.usefixtures("no_page")
def test_images_and_updates_are_those_of_the_run(photos: Path, options: dict[str, Any], tmp_path: Path) -> None:
    manifest = tmp_path / "all.csv"
    rows = [f"{path},{path.parent.name}\n" for path in sorted(photos.rglob("*.png"))]
    manifest.write_text("".join(["path,label\n", *rows]))
    options |= {"probe": False, "epochs": 2, "batch_size": 8}
    found = asked(manifest, options)
    run = upcycle.train(manifest, out=tmp_path / "run", show=Silent(), **options)
    recorded = [(row.label, row.split) for row in read_splits(run.directory.splits)]
    named = {name: {split: recorded.count((name, split)) for split in NAMES} for name in ("across", "down")}
    assert {"across": {"train": 20, "val": 4, "test": 4}, "down": {"train": 20, "val": 4, "test": 4}} == named
    assert named == found.images
    (stage,) = found.stages
    assert (2, run.history.rows[-1].step) == (stage.epochs, stage.updates)


def test_folds_and_a_probe_alone_are_told(photos: Path, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for name in ("across", "down"):
        (tmp_path / "flat" / name).symlink_to(photos / "test" / name)
    found = asked(tmp_path / "flat", options, folds=5, recipe="probe")
    assert (5, ["probe"]) == (found.folds, [one.name for one in found.stages])
    assert 4 == sum(counts["test"] for counts in found.images.values())
    assert found.seconds[0] == found.seconds[1] > 5 * found.stages[0].seconds


@pytest.mark.parametrize(
    ("more", "kind", "text"),
    [
        ({"weights": "missing.safetensors"}, WeightsError, "missing.safetensors do not exist"),
        ({"arch": "auto", "weights": "auto"}, ConfigError, "run `upcycle choose`"),
        ({"image_size": 1}, ConfigError, "image_size"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    more: dict[str, Any], kind: type[Exception], text: str, photos: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=text):
        asked(photos, options, **more)


def test_the_command_prints_tables_or_one_object(
    photos: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert 0 == main(["train", str(photos), "--dry-run", *given])
    said = capsys.readouterr().out
    assert "across     12    6    10" in said
    assert "estimated time: " in said
    assert 0 == main(["train", str(photos), "--dry-run", *given, "--json"])
    assert 32 == json.loads(capsys.readouterr().out)["image_size"]
    assert [] == list(tmp_path.iterdir())
    assert 2 == main(["train", str(photos), "--dry-run", "--resume", "--out", "run"])
    assert "leave --resume out" in capsys.readouterr().err
