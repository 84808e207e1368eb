"""Weights and state on disk."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.conftest import small_files
from upcycle.errors import NoRoomError, RunError, StorageError, WeightsError
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, create
from upcycle.model.sources import preprocessing_for
from upcycle.task import Task


def network(classes: int = 2) -> ModelSpec:
    names = tuple("abcdef"[:classes])
    preprocessing = preprocessing_for("test_resnet", None, input_file=None, image_size=64, crop_pct=None)
    return ModelSpec("test_resnet", Task.of(names), preprocessing, "test", "")


def test_a_saved_model_gives_the_same_logits(tmp_path: Path) -> None:
    model = create(network(), seed=3).eval()
    checkpoint.save_model(tmp_path / "m.safetensors", model, network())
    images = torch.randn(2, 3, 64, 64)
    again = checkpoint.load_model(tmp_path / "m.safetensors", network())
    assert torch.equal(model(images), again(images))


def test_equal_tensors_give_equal_files_byte_for_byte(tmp_path: Path) -> None:
    tensors = {"a|é": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}
    metadata = {name: f'"{name}"\n\x1f é' for name in ("format", "upcycle", "facts", "task", "c", "b", "a")}
    for number in range(20):
        checkpoint.save_tensors(tmp_path / f"{number}.safetensors", tensors, metadata)
    assert 1 == len({path.read_bytes() for path in tmp_path.iterdir()})
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert metadata.items() <= file.metadata().items()
    assert torch.equal(tensors["a|é"], checkpoint.load_tensors(tmp_path / "0.safetensors")["a|é"])


def test_a_model_of_other_classes_does_not_load(tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "m.safetensors", create(network()), network())
    with pytest.raises(WeightsError, match="does not fit test_resnet"):
        checkpoint.load_model(tmp_path / "m.safetensors", network(3))


def lengths(size: int) -> list[int]:
    """Every length near both ends of a file, and 200 between."""
    return sorted({*range(min(64, size)), *range(0, size, max(1, size // 200)), *range(max(0, size - 64), size)})


def test_a_file_cut_short_at_any_of_many_lengths_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, create(network()), network())
    whole = path.read_bytes()
    for length in lengths(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="is damaged"):
            checkpoint.load_tensors(path)
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


def state(folder: Path, step: int, *, updates: int = 0, retries: int = 0) -> None:
    weights = create(network(), seed=step).state_dict()
    tensors = {f"model|{name}": tensor for name, tensor in weights.items()} | {"moments|w": torch.tensor(step)}
    facts = checkpoint.CheckpointFacts(epoch=0, step=step, updates=updates, retries=retries, sums={}, rows=[])
    checkpoint.save_state(folder, tensors, facts)


def kept_step(folder: Path) -> int:
    kept, _ = checkpoint.load_state(folder)
    assert kept is not None
    assert kept.facts.step == int(kept.tensors["moments|w"])
    return kept.facts.step


def test_the_newest_of_the_states_is_read_back(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        state(tmp_path, step)
    kept, damaged = checkpoint.load_state(tmp_path)
    assert kept is not None
    assert [] == damaged
    assert (3, 3) == (kept.facts.step, int(kept.tensors["moments|w"]))
    expected = create(network(), seed=3).state_dict()
    assert all(torch.equal(tensor, kept.tensors[f"model|{name}"]) for name, tensor in expected.items())
    assert 2 == len(list(tmp_path.iterdir()))


def test_without_a_state_there_is_none(tmp_path: Path) -> None:
    assert (None, []) == checkpoint.load_state(tmp_path)


def test_a_state_cut_short_at_any_of_many_lengths_is_passed_over(tmp_path: Path) -> None:
    state(tmp_path, 1)
    state(tmp_path, 2)
    (newest,) = (path for path in tmp_path.iterdir() if checkpoint.load_tensors(path)["moments|w"] == 2)
    whole = newest.read_bytes()
    for length in lengths(len(whole)):
        newest.write_bytes(whole[:length])
        assert 1 == kept_step(tmp_path)


@pytest.mark.parametrize("place", [0, 3, 200, 5000, -1])
def test_a_flipped_bit_is_found_and_the_state_before_it_taken(tmp_path: Path, place: int) -> None:
    state(tmp_path, 1)
    state(tmp_path, 2)
    (newest,) = (path for path in tmp_path.iterdir() if checkpoint.load_tensors(path)["moments|w"] == 2)
    content = bytearray(newest.read_bytes())
    content[place] ^= 16
    newest.write_bytes(content)
    assert 1 == kept_step(tmp_path)
    assert [str(newest)] == [text.split()[0] for text in checkpoint.load_state(tmp_path)[1]]


def test_a_state_is_written_over_the_damaged_one(tmp_path: Path) -> None:
    state(tmp_path, 1)
    state(tmp_path, 2)
    (newest,) = (path for path in tmp_path.iterdir() if checkpoint.load_tensors(path)["moments|w"] == 2)
    newest.write_bytes(newest.read_bytes()[:100])
    state(tmp_path, 3)
    assert 3 == kept_step(tmp_path)
    assert 2 == len([path for path in tmp_path.iterdir() if checkpoint.load_tensors(path)])


def test_where_all_states_are_damaged_each_is_named(tmp_path: Path) -> None:
    for step in (1, 2):
        state(tmp_path, step)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    kept, damaged = checkpoint.load_state(tmp_path)
    assert kept is None
    assert [True, True] == ["is damaged" in text for text in damaged]


def test_a_flipped_bit_in_a_saved_model_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, create(network()), network())
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="does not have the checksum it was written with"):
        checkpoint.load_model(path, network())


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    checkpoint.save_tensors(tmp_path / "state-0.safetensors", {"a": torch.ones(1)}, {"epoch": "3"})
    said = f"{tmp_path / 'state-0.safetensors'} holds no state that this version can read"
    assert (None, [said]) == checkpoint.load_state(tmp_path)


def kept_steps(folder: Path) -> list[int]:
    return sorted(int(checkpoint.load_tensors(path)["moments|w"]) for path in folder.iterdir())


def test_states_within_an_epoch_leave_the_one_after_the_last_epoch_alone(tmp_path: Path) -> None:
    for step, updates, expected in (
        (1, 1, [1]),
        (2, 2, [1, 2]),
        (3, 3, [2, 3]),
        (4, 0, [3, 4]),
        (5, 1, [4, 5]),
        (6, 2, [4, 6]),
        (8, 0, [4, 8]),
        (9, 1, [8, 9]),
    ):
        state(tmp_path, step, updates=updates)
        assert expected == kept_steps(tmp_path)


def test_a_state_that_is_not_usable_is_passed_over(tmp_path: Path) -> None:
    state(tmp_path, 4)
    state(tmp_path, 6, updates=2)
    kept, damaged = checkpoint.load_state(tmp_path, usable=lambda facts: facts.step < 5)
    assert kept is not None
    assert (4, []) == (kept.facts.step, damaged)


def test_a_state_after_a_retry_is_newer_than_any_before_it(tmp_path: Path) -> None:
    state(tmp_path, 9, updates=3)
    state(tmp_path, 7, retries=1)
    assert 7 == kept_step(tmp_path)


def test_layers_that_share_their_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1].weight = model[0].weight
    checkpoint.save_tensors(tmp_path / "w.safetensors", dict(model.state_dict()))
    found = checkpoint.load_tensors(tmp_path / "w.safetensors")
    assert torch.equal(found["0.weight"], found["1.weight"])
    assert torch.equal(found["0.weight"], model[0].weight)


class Caching(torch.nn.Module):
    """As LeViT in some versions of timm: keeps what it made of its weights until it trains again."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.made: torch.Tensor | None = None

    def train(self, mode: bool = True) -> "Caching":
        self.made = None if mode else self.made
        return super().train(mode)

    def forward(self) -> torch.Tensor:
        self.made = self.weight.detach().clone() if self.made is None else self.made
        return self.made


def test_weights_that_are_put_back_leave_nothing_of_those_before() -> None:
    model = Caching().eval()
    kept = checkpoint.clone_weights(model)
    with torch.no_grad():
        model.weight.fill_(5)
    assert 5 == model()
    checkpoint.load_clone(model, kept)
    assert 1 == model()
    assert not model.training


def test_a_disk_that_fills_up_is_told_as_one_and_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save_tensors(path, {"a": torch.ones(1)})
    with pytest.raises(NoRoomError), small_files():
        checkpoint.save_tensors(path, {"a": torch.ones(9000)})
    assert torch.equal(torch.ones(1), checkpoint.load_tensors(path)["a"])
    assert [path] == list(tmp_path.iterdir())
