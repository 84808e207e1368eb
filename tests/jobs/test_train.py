"""What a run does with the weights it is given."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from upcycle.cli import main
from upcycle.model.weights import sha256


def trained(photos: Path, weights: Path, out: Path, *more: str) -> tuple[int, Any]:
    """The exit code of a small probe, and what it recorded."""
    options = ["--recipe", "probe", "--arch", TINY, "--image-size", "32", "--precision", "fp32"]
    code = main(["train", str(photos), "--weights", str(weights), "--out", str(out), *options, *more])
    return code, json.loads((out / "config.json").read_text())


@pytest.mark.usefixtures("no_page")
def test_a_run_starts_from_another_and_is_resumed(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert 0 == trained(photos, tiny_weights, first)[0]
    best = first / "checkpoints" / "best.safetensors"
    code, recorded = trained(photos, first, second)
    assert (0, str(first), sha256(best)) == (code, recorded["weights"], recorded["weights_sha256"])
    status = second / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "running"}))
    assert 0 == main(["train", "--out", str(second), "--resume"])
    best.write_bytes(tiny_weights.read_bytes())
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "running"}))
    assert 5 == main(["train", "--out", str(second), "--resume"])


@pytest.mark.usefixtures("no_page")
def test_a_run_warns_of_what_it_leaves_out(
    photos: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = {f"model.{name}": tensor for name, tensor in load_file(tiny_weights).items()}
    torch.save({"state_dict": {**wrapped, "criterion.weight": torch.ones(2)}}, tmp_path / "w.ckpt")
    assert 0 == trained(photos, tmp_path / "w.ckpt", tmp_path / "run")[0]
    told = f"weights from file {tmp_path}/w.ckpt: left out what is no part of the network (criterion.weight)"
    assert 1 == capsys.readouterr().out.count(f"warning: {told}")
