"""What the commands have in common: --json."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from upcycle.cli import main
from upcycle.rundir import RunDir, read_json


def printed(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[Any, str]:
    """The one object that a command prints, and its other words."""
    assert code == main([*words, "--json"])
    said = capsys.readouterr()
    return json.loads(said.out), said.err


@pytest.mark.usefixtures("no_page")
def test_commands_print_one_object_and_tell_the_rest_on_standard_error(
    photos: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["--arch", TINY, "--weights", str(tiny_weights), "--image-size", "32", "--threads", "1"]
    run, other = str(tmp_path / "run"), str(tmp_path / "other")
    words = ["train", str(photos), *network, "--recipe", "probe", "--device", "cpu"]
    made, told = printed([*words, "--out", run], capsys)
    assert {"run": run, **read_json(RunDir(Path(run)).evaluation)} == made
    assert "24 train, 12 val, 20 test" in told
    assert 0 == main([*words, "--out", other, "--probe-layers", "last"])
    capsys.readouterr()

    made, told = printed(["evaluate", run], capsys)
    assert (run, "test", ["across", "down"]) == (made["run"], made["split"], made["classes"])
    assert told.startswith("Metrics of 20 images")
    made, told = printed(["report", run], capsys)
    assert {"run": run, "report": f"{run}/report.html"} == made
    assert f"{run}/report.html\n" == told
    folder = str(tmp_path / "compared")
    made, _ = printed(["compare", run, other, "--out", folder], capsys)
    assert {"folder": folder, **read_json(Path(folder) / "comparison.json")} == made
    folder = str(tmp_path / "scan")
    made, told = printed(["scan", str(photos), "--out", folder], capsys)
    assert {"folder": folder, **read_json(Path(folder) / "audit.json")} == made
    assert "56 images of 2 classes" in told
    folder = str(tmp_path / "choice")
    made, told = printed(
        ["choose", str(photos), "--candidates", f"{TINY}={tiny_weights}", "--out", folder, "--threads", "1"], capsys
    )
    assert read_json(Path(folder) / "choice.json") == made
    assert "to train it" in told


def test_the_plan_as_one_object_is_that_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    made, told = printed(["plan", "--epochs", "2", "--steps-per-epoch", "4"], capsys)
    (phase,) = made["phases"]
    assert ("finetune", 2, 4, 8) == (phase["name"], phase["epochs"], phase["steps_per_epoch"], len(phase["rates"]))
    assert told.startswith("finetune: 2 epochs x 4 updates")


def test_the_facts_of_the_machine_are_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    made, told = printed(["doctor"], capsys)
    assert {"processor", "cores", "device", "precision", "platform", "versions"} < set(made)
    assert "precision" in told


def test_an_error_is_one_line_and_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 5 == main(["evaluate", str(tmp_path), "--json"])
    said = capsys.readouterr()
    assert ("", 1) == (said.out, len(said.err.splitlines()))


@pytest.mark.parametrize(
    "command",
    ["scan", "choose", "find-lr", "train", "compare", "plan", "evaluate", "predict", "report", "demo", "doctor"],
)
def test_every_command_has_the_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([command, "--help"])
    assert "--json" in capsys.readouterr().out
