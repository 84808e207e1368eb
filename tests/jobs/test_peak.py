"""`--lr auto`: a range test picks the rate, and leaves everything else as it was."""

from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY
from tests.endtoend.kills import results
from tests.endtoend.test_resume import at_update
from upcycle.errors import RunError
from upcycle.jobs import peak
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_json, write_json
from upcycle.training import rate_curve

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
FAST |= {"batch_size": 8, "epochs": 2, "bn": "train", "freeze": "none", "checkpoint_every": 0}

pytestmark = pytest.mark.usefixtures("no_page")


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    warn = message


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer updates, whose every fall is a valley: what is tested is what follows from it."""
    monkeypatch.setattr("upcycle.jobs.stages.Sweep", lambda: rate_curve.Sweep(1e-5, 1.0, 20, 2))
    monkeypatch.setattr(rate_curve, "NOISE", 0.0)


def trained(photos: Path, weights: Path, out: Path, **options: Any) -> tuple[upcycle.Run, list[str]]:
    show = Said()
    return upcycle.train(photos, out=out, weights=str(weights), show=show, **{**FAST, **options}), show.lines


@pytest.mark.parametrize("options", [{}, {"probe": False, "recipe": "classic", "rampup": 1}], ids=["probe", "classic"])
def test_training_after_the_test_has_the_bits_of_training_at_that_rate(
    photos: Path, tiny_weights: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    auto, said = trained(photos, tiny_weights, tmp_path / "auto", lr="auto", **options)
    found = read_json(auto.directory.model)["range_test"]
    assert "minimum" == found["rule"]
    assert f"highest rate of fine-tuning, by a range test: {found['reason']}" in said
    (phase,) = read_json(auto.directory.plan)["phases"]
    assert found["lr"] == phase["schedule"]["lr_max"]
    given, _ = trained(photos, tiny_weights, tmp_path / "given", lr=found["lr"], **options)
    for file in ("checkpoints/best.safetensors", "history.jsonl", "predictions/test.csv", "plan.json"):
        assert (auto.path / file).read_bytes() == (given.path / file).read_bytes(), file
    assert "auto" == auto.config.lr


def test_a_run_that_was_killed_keeps_its_rate_though_it_is_not_tested_again(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    whole, _ = trained(photos, tiny_weights, tmp_path / "whole", lr="auto")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_update(5, stop, patch)
        trained(photos, tiny_weights, tmp_path / "run", lr="auto")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peak, "range_test", never)
        show = Said()
        upcycle.train(out=tmp_path / "run", resume=True, show=show)
    assert any(line.startswith("resuming after epoch 1 of 2") for line in show.lines)
    assert results(whole.path) == results(tmp_path / "run")
    facts = (read_json(path / "model.json")["range_test"] for path in (whole.path, tmp_path / "run"))
    assert next(facts) == next(facts)


def test_a_run_that_has_lost_its_rate_is_one_line(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_update(5, stop, patch)
        trained(photos, tiny_weights, tmp_path / "run", lr="auto")
    file = tmp_path / "run" / "model.json"
    write_json(file, {name: value for name, value in read_json(file).items() if name != "range_test"})
    with pytest.raises(RunError, match=r"model\.json does not hold the rate that the run was started with"):
        upcycle.train(out=tmp_path / "run", resume=True, show=Silent())


def test_without_a_usable_valley_the_rate_is_the_present_rule_s(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_curve, "NOISE", 1e9)
    auto, said = trained(photos, tiny_weights, tmp_path / "auto", lr="auto", freeze="auto")
    plain, _ = trained(photos, tiny_weights, tmp_path / "plain", freeze="auto")
    assert (auto.path / "plan.json").read_bytes() == (plain.path / "plan.json").read_bytes()
    assert (auto.path / "history.jsonl").read_bytes() == (plain.path / "history.jsonl").read_bytes()
    (line,) = (line for line in said if "no usable valley" in line)
    assert "that of the probe's validation loss, as there is no usable valley" in line
    assert "" == read_json(auto.directory.model)["range_test"]["rule"]


def test_a_rate_below_those_of_a_ramp_is_raised_to_them(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_curve, "NOISE", 1e9)
    options = {"recipe": "classic", "rampup": 1, "lr_start": 1e-3}
    auto, said = trained(photos, tiny_weights, tmp_path / "auto", lr="auto", **options)
    assert 1e-3 == read_json(auto.directory.model)["range_test"]["lr"]
    assert any(
        "by a range test: 0.001, which its schedule starts or ends at; 0.0001, the recipe's own, as there is no" in line
        for line in said
    )


def test_where_fine_tuning_is_skipped_nothing_is_tested(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = {name: value for name, value in FAST.items() if name not in ("epochs", "freeze")}
    run = upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), lr="auto", show=Silent(), **options)
    assert read_json(run.directory.model)["decision"]["skip"]
    assert "range_test" not in read_json(run.directory.model)
