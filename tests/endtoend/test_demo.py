"""The demo, whole: real weights, real photographs, beside the simple CNN."""

import json
from pathlib import Path
from typing import Literal

import pytest

from upcycle.cli import main
from upcycle.jobs.demo import run_demo
from upcycle.reporting.progress import Silent


@pytest.mark.slow
@pytest.mark.parametrize(("data", "least"), [("faces", 0.95), ("textures", 0.95)])
def test_transfer_shows(data: Literal["faces", "textures"], least: float, tmp_path: Path) -> None:
    report = run_demo(data, out=tmp_path / "demo", seed=0, show=Silent())
    f1 = {
        name: json.loads((tmp_path / "demo" / name / "evaluation.json").read_text())["test"]["f1_macro"]["value"]
        for name in ("upcycle", "simple-cnn")
    }
    assert tmp_path / "demo" / "upcycle" / "report.html" == report
    assert f1["upcycle"] >= least
    assert f1["upcycle"] > f1["simple-cnn"]


def test_a_demo_in_the_way_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert 5 == main(["demo", "--out", str(tmp_path)])
    assert f"{tmp_path} is not empty: give another --out" in capsys.readouterr().err


def test_a_demo_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    assert 2 == main(["demo", "--out", str(tmp_path / "demo"), "--seed", "-1"])
    assert not (tmp_path / "demo").exists()
