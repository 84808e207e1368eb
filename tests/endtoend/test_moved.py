"""A run whose images are at another place now."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY, write_classes
from tests.endtoend.kills import results
from tests.endtoend.test_train import StopAfter
from upcycle.cli import main
from upcycle.errors import DataError, RunError
from upcycle.manifest import check
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_json

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
FAST |= {"weights": "none", "epochs": 2}


@pytest.fixture(autouse=True)
def _no_page(no_page: None) -> None:
    """What the page says of the images is the same wherever they are."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "photos", {"across": 12, "down": 12})


def stopped(data: Path, out: Path, **more: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        upcycle.train(data, out=out, show=StopAfter(1), **FAST, **more)


def test_an_unfinished_run_goes_on_with_the_same_images_at_another_place(photos: Path, tmp_path: Path) -> None:
    whole = upcycle.train(photos, out=tmp_path / "whole", show=Silent(), **FAST)
    stopped(photos, tmp_path / "run")
    moved = photos.rename(tmp_path / "moved")
    run = upcycle.train(moved, out=tmp_path / "run", resume=True, show=Silent())
    assert results(whole.path) == results(run.path)
    assert str(moved) == read_json(run.directory.config)["data"]
    assert read_json(run.directory.environment)["command"].startswith(f"upcycle train {moved} --arch")
    check(run.directory)
    assert 0 == main(["evaluate", str(run.path)])


def test_images_that_are_gone_are_asked_for(photos: Path, tmp_path: Path) -> None:
    stopped(photos, tmp_path / "run")
    photos.rename(tmp_path / "moved")
    with pytest.raises(
        DataError, match=r"photos does not exist: say where .* are now: upcycle train DATA --out .*/run --resume$"
    ):
        upcycle.train(out=tmp_path / "run", resume=True, show=Silent())


@pytest.mark.parametrize("change", ["content", "label", "gone", "new"])
@pytest.mark.parametrize("finished", [True, False])
def test_other_images_at_another_place_are_refused_and_the_run_stays_as_it_was(
    change: str, finished: bool, photos: Path, tmp_path: Path
) -> None:
    if finished:
        upcycle.train(photos, out=tmp_path / "run", show=Silent(), **FAST)
    else:
        stopped(photos, tmp_path / "run")
    moved = photos.rename(tmp_path / "moved")
    first = moved / "across" / "000.png"
    if change == "content":
        shutil.copy(moved / "across" / "001.png", first)
    elif change == "label":
        first.rename(moved / "down" / "999.png")
    elif change == "gone":
        first.unlink()
    else:
        write_classes(moved, {"across": 1}, start=500)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=rf"run was started with {photos}, not {moved} \(.+\): give another --out$"):
        upcycle.train(moved, out=tmp_path / "run", resume=True, show=Silent())
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_finished_run_learns_where_its_images_are(photos: Path, tmp_path: Path) -> None:
    run = upcycle.train(photos, out=tmp_path / "run", show=Silent(), **FAST)
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(RunError, match="was started with"):
        upcycle.train(tmp_path, out=run.path, resume=True, show=Silent())
    upcycle.train(moved, out=run.path, resume=True, show=Silent())
    assert str(moved) == read_json(run.directory.config)["data"]
    check(run.directory)
    assert 0 == main(["evaluate", str(run.path)])


def test_a_cross_validation_goes_on_at_another_place(photos: Path, tmp_path: Path) -> None:
    stopped(photos, tmp_path / "run", folds=2)
    moved = photos.rename(tmp_path / "moved")
    run = upcycle.train(moved, out=tmp_path / "run", resume=True, show=Silent())
    for folder in (run.path, run.path / "fold-1", run.path / "fold-2"):
        assert str(moved) == read_json(folder / "config.json")["data"]
    assert 0 == main(["evaluate", str(run.path / "fold-1")])


def manifest(photos: Path, file: Path) -> Path:
    lines = [f"{path},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    file.parent.mkdir()
    file.write_text("\n".join(["path,label", *lines, ""]))
    return file


def test_a_manifest_of_absolute_paths_may_name_the_new_place(photos: Path, tmp_path: Path) -> None:
    stopped(manifest(photos, tmp_path / "lists" / "photos.csv"), tmp_path / "run")
    moved = photos.rename(tmp_path / "moved")
    run = upcycle.train(
        manifest(moved, tmp_path / "others" / "photos.csv"), out=tmp_path / "run", resume=True, show=Silent()
    )
    assert str(moved) in run.directory.splits.read_text()
    assert 0 == main(["evaluate", str(run.path)])
