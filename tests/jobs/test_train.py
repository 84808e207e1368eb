"""What a run does with the weights it is given."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from upcycle.audit.findings import Audit
from upcycle.cli import main
from upcycle.data.dataset import Dataset
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


@pytest.mark.usefixtures("no_page")
def test_a_resumed_run_looks_for_problems_only_where_its_files_have_changed(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = shutil.copytree(photos, tmp_path / "data"), tmp_path / "run"
    assert 0 == trained(data, tiny_weights, out)[0]
    audit, status = (out / "audit.json").read_bytes(), out / "status.json"
    audited: list[int] = []
    module = importlib.import_module("upcycle.jobs.train")
    real = module.audit_dataset

    def counted(dataset: Dataset) -> Audit:
        audited.append(len(dataset))
        return real(dataset)  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "audit_dataset", counted)

    def resumed() -> int:
        status.write_text(json.dumps({**json.loads(status.read_text()), "state": "running"}))
        return main(["train", "--out", str(out), "--resume"])

    assert 0 == resumed()
    assert [] == audited
    assert audit == (out / "audit.json").read_bytes()
    (data / "train" / "down" / "new.png").write_bytes(b"")  # one that cannot be used changes no split
    assert 0 == resumed()
    assert [56] == audited
