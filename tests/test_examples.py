"""The examples of the pages in Python run as they stand, on a small network and a few images."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY, draw, write_classes
from upcycle.cli import main

ROOT = Path(__file__).resolve().parents[1]


def example(page: str, number: int = 0) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n((?:import|from) .*?)```", text, re.DOTALL)[number]


@pytest.fixture
def folder(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the examples name; what trains takes the tiny network and one epoch."""
    write_classes(tmp_path / "photos", {"cats": 20, "dogs": 20})
    (tmp_path / "more").mkdir()
    for name in ("new.jpg", "a.jpg", "b.jpg", "more/c.jpg"):
        draw(0, 7).save(tmp_path / name)
    small = {"arch": TINY, "weights": str(tiny_weights), "image_size": 32, "threads": 1, "batch_size": 8}
    for name in ("train", "compare"):
        real = getattr(upcycle, name)

        def on_a_small_network(*given: Any, _real: Any = real, **options: Any) -> Any:
            return _real(*given, **{**options, **small})

        monkeypatch.setattr(upcycle, name, on_a_small_network)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run_example(folder: Path, code: str, name: str) -> dict[str, Any]:
    """The names that a module with this code has at its end."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return vars(importlib.import_module(name))


def test_the_readme(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_example(folder, example("README.md").replace("seeds=3", "seeds=1"), "example_readme")
    assert names["comparison"].page.exists()
    assert "Metric(" in capsys.readouterr().out


def test_getting_started(folder: Path) -> None:
    code = example("docs/getting-started.md").replace("seeds=3", "seeds=1")
    names = run_example(folder, code, "example_started")
    assert names["run"].path == folder / "runs" / "first"


def test_ones_own_schedule_loss_augmentation_and_observer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_example(folder, example("docs/training.md"), "example_own")
    assert len(names["run"].history) == 2
    assert "test F1" in capsys.readouterr().out


def test_predicting(folder: Path) -> None:
    upcycle.train("photos/", out="runs/first", recipe="probe")
    names = run_example(folder, example("docs/shipping.md"), "example_shipping")
    assert names["model"].predict("a.jpg").label in ("cats", "dogs")


def test_results(folder: Path) -> None:
    upcycle.train("photos/", out="runs/first", recipe="probe")
    metric = run_example(folder, example("docs/results.md"), "example_results")["run"].test.f1_macro
    assert metric.low <= metric.value <= metric.high


SHAPES = ",".join(f"docs/examples/schedules/{name}.toml" for name in ("one-cycle", "trapezoid", "cosine", "step"))


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("article", "--recipe classic --epochs 50"),
        ("one-cycle", "--variants classic,default --epochs 50 --lr 1e-4"),
        ("schedules", f"--variants {SHAPES} --epochs 50"),
    ],
)
def test_the_figures_of_schedules(figure: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert 0 == main(["plan", *words.split(), "--plot", str(tmp_path / "drawn.svg")])
    there, drawn = (file.read_text() for file in (ROOT / "docs" / "images" / f"{figure}.svg", tmp_path / "drawn.svg"))
    number = r"-?\d+\.\d+"
    assert re.sub(number, "", drawn) == re.sub(number, "", there)
    # the layout moves points by less than can be seen
    assert list(map(float, re.findall(number, drawn))) == pytest.approx(
        list(map(float, re.findall(number, there))), abs=0.5
    )
