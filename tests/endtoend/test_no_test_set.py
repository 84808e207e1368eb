"""A run without a test set: every word about it is there, and no test score is."""

import json
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY, write_classes
from tests.reporting.pages import Page
from upcycle.audit.findings import NO_TEST
from upcycle.cli import main
from upcycle.errors import RunError
from upcycle.reporting.progress import Silent

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu", "epochs": 1}


class Said(Silent):
    """Keeps what a job says and warns of."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    warn = message


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("data"), {"across": 10, "down": 10})


@pytest.fixture(scope="module")
def untested(data: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[upcycle.Run, Said]:
    show = Said()
    out = tmp_path_factory.mktemp("untested") / "run"
    run = upcycle.train(data, out=out, weights=str(tiny_weights), test_fraction=0, show=show, **FAST)
    return run, show


def test_a_run_without_a_test_set_says_so_and_has_no_test_scores(untested: tuple[upcycle.Run, Said]) -> None:
    run, show = untested
    assert "20 images of 2 classes (across, down): 16 train, 4 val" in show.lines
    assert NO_TEST in show.lines
    assert [line for line in show.lines if line.startswith("no test set: these are scores of the validation images")]
    assert not [line for line in show.lines if "test images" in line or "test split" in line]
    assert "val" in run.evaluation.named
    assert run.evaluation.choice is not None
    assert not [name for name in run.evaluation if "test" in name]
    with pytest.raises(RunError, match="has no metrics of a test set"):
        _ = run.test
    assert not list(run.path.glob("predictions/*test.csv"))
    audit = json.loads(run.directory.audit.read_text())
    assert NO_TEST in audit["warnings"]
    assert not [line for line in audit["warnings"] if "test split" in line]
    assert 4 == len(run.predictions("val"))
    with pytest.raises(RunError, match=r"test.csv is missing"):
        run.predictions()


def test_its_page_says_so_and_shows_the_validation_scores(untested: tuple[upcycle.Run, Said]) -> None:
    text = Page(untested[0].directory.report).text
    assert "No test set: test_fraction is 0, so nothing here is measured on images that chose nothing." in text
    assert "Of 4 validation images, which chose the model and so flatter it, the accuracy is" in text
    assert "Validation scores of the models" in text
    assert "Not there yet" not in text
    assert not [words for words in ("Test F1", "Test metrics", "Confusion matrix", "test image") if words in text]


def test_it_predicts_and_is_evaluated_on_other_images(
    untested: tuple[upcycle.Run, Said], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(untested[0].path)
    assert 3 == main(["evaluate", run])
    assert (
        f"upcycle: {run} has no test set, as test_fraction was 0: give --split val, or labeled images of your own: "
        f"upcycle evaluate {run} DATA\n" == capsys.readouterr().err
    )
    assert 0 == main(["evaluate", run, "--split", "val"])
    assert 0 == main(["evaluate", run, str(photos)])
    assert 0 == main(["report", run])
    assert 0 == main(["train", "--out", run, "--resume"])


def test_it_is_compared_with_no_other(
    untested: tuple[upcycle.Run, Said], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(untested[0].path)
    assert 5 == main(["compare", run, run, "--out", str(tmp_path / "runs")])
    assert f"{run} has no test set, and runs are compared by their test" in capsys.readouterr().err
    words = ["--test-fraction", "0", "--arch", TINY, "--out", str(tmp_path / "grid")]
    assert 2 == main(["compare", str(data), *words])
    assert "test_fraction = 0 leaves no test set, and a comparison needs one" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"recipe": "probe"}, {"weights": "none"}])
def test_the_probe_alone_and_a_run_without_one_need_no_test_set(
    options: dict[str, Any], data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    given = {**FAST, "weights": str(tiny_weights), **options}
    if options.get("recipe") == "probe":
        given.pop("epochs")
    run = upcycle.train(data, out=tmp_path / "run", test_fraction=0, show=Silent(), **given)
    assert ["val"] == list(run.evaluation)
    assert "No test set" in Page(run.directory.report).text


def test_a_scan_warns_of_no_test_split_of_no_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["scan", str(data), "--test-fraction", "0", "--out", str(tmp_path / "scan")])
    assert "test split" not in capsys.readouterr().out
    warnings = json.loads((tmp_path / "scan" / "audit.json").read_text())["warnings"]
    assert NO_TEST in warnings
    assert not [line for line in warnings if "test split" in line]
    assert "test split" not in Page(tmp_path / "scan" / "scan.html").text
