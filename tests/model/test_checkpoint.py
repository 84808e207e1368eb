"""Weights and state on disk."""

from pathlib import Path

import pytest
import torch

from upcycle.errors import RunError, StorageError, WeightsError
from upcycle.model import checkpoint, zoo


def network(classes: int = 2) -> zoo.Network:
    names = tuple("abcdef"[:classes])
    preprocessing = zoo.preprocessing_for("test_resnet", None, input_file=None, image_size=64)
    return zoo.Network("test_resnet", names, preprocessing, "test", "")


def test_a_saved_model_gives_the_same_logits(tmp_path: Path) -> None:
    model = zoo.create(network(), seed=3).eval()
    checkpoint.save_model(tmp_path / "m.safetensors", model, network())
    images = torch.randn(2, 3, 64, 64)
    again = checkpoint.load_model(tmp_path / "m.safetensors", network())
    assert torch.equal(model(images), again(images))


def test_a_model_of_other_classes_does_not_load(tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "m.safetensors", zoo.create(network()), network())
    with pytest.raises(WeightsError, match="does not fit test_resnet"):
        checkpoint.load_model(tmp_path / "m.safetensors", network(3))


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_file_cut_short_is_never_loaded(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, zoo.create(network()), network())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.load_model(path, network())


def test_a_full_disk_while_saving_is_one_line_and_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save_tensors(path, {"a": torch.ones(1)})

    def full(_tensors: object, temporary: Path, _metadata: object) -> None:
        Path("/dev/full").write_bytes(b"x")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match=r"cannot write .*m.safetensors: No space left on device"):
        checkpoint.save_tensors(path, {"a": torch.zeros(1)})
    assert torch.equal(torch.ones(1), checkpoint.load_tensors(path)["a"])
    assert [path] == list(tmp_path.iterdir())


def test_a_state_is_read_back(tmp_path: Path) -> None:
    model = zoo.create(network())
    for epoch in (1, 2, 3):
        checkpoint.save_state(tmp_path, model=model, moments={"w|step": torch.tensor(epoch)}, facts={"epoch": epoch})
    weights, moments, facts = checkpoint.load_state(tmp_path)
    assert (3, 3) == (facts["epoch"], int(moments["w|step"]))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
