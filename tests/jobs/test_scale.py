"""Images of 12 bits stored in 16: what is said of them, and what `scale` makes of them everywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import upcycle
from tests.conftest import TINY
from upcycle.jobs.evaluate import evaluate_run
from upcycle.reporting.progress import Silent

OPTIONS: dict[str, Any] = {"arch": TINY, "weights": "none", "image_size": 32, "epochs": 1, "threads": 1}
OPTIONS |= {"device": "cpu", "precision": "fp32"}


class Told(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA/CLASS/* of 12 bits in 16."""
    data, random = tmp_path_factory.mktemp("dark") / "data", np.random.default_rng(0)
    for name, level in (("dim", 1000), ("light", 3000)):
        (data / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.normal(level, 200, (40, 40)).clip(0, 4095).astype(np.uint16)
            Image.fromarray(pixels).save(data / name / f"{i}.png")
            (data.parent / "other" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels - pixels // 16).save(data.parent / "other" / name / f"{i}.png")
    return data


def kinds(scan: upcycle.Scan) -> list[str]:
    return [finding.kind for finding in scan.audit.findings]


def test_a_scan_asks_for_their_white_and_proposes_to_set_none_aside(dark: Path, tmp_path: Path) -> None:
    asked = upcycle.scan(dark, out=tmp_path / "asked", cache=tmp_path / "cache", show=Silent())
    assert kinds(asked) == ["scale"]
    assert len(asked.quarantine.read_text().splitlines()) == 1
    told = upcycle.scan(dark, out=tmp_path / "told", cache=tmp_path / "cache", scale=4095, show=Silent())
    assert kinds(told) == []


@pytest.mark.usefixtures("no_page")
def test_a_run_warns_once_without_and_uses_the_white_it_is_given_everywhere(dark: Path, tmp_path: Path) -> None:
    without, given = Told(), Told()
    upcycle.train(dark, out=tmp_path / "without", show=without, **OPTIONS)
    run = upcycle.train(dark, out=tmp_path / "given", scale=4095, show=given, **OPTIONS)
    said = [[line for line in told.warnings if line.startswith("12 bits in 16?")] for told in (without, given)]
    assert [len(lines) for lines in said] == [1, 0]
    assert said[0][0].endswith("--scale 4095")
    asked = Told()
    evaluate_run(upcycle.load(tmp_path / "without", show=Silent()), dark.parent / "other", "test", show=asked)
    assert asked.warnings[0].startswith("12 bits in 16?")
    model = upcycle.load(run.path, show=Silent())
    assert model.network.preprocessing.scale == 4095
    file = dark / "light" / "0.png"
    pixels = np.asarray(Image.open(file))
    assert np.abs(model.frame(file).mean() - 255 * 3000 / 4095) < 5
    assert model.predict(file) == model.predict(pixels) == model.predict(file.read_bytes())
    assert (model.isolated(file) == model.frame(file)).all()
