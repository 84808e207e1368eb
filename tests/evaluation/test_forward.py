"""Forward passes: every image's row once, in order, and few waits for an accelerator; features are kept and exact."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import TINY
from upcycle import device as machines
from upcycle.data import frames as images
from upcycle.data.frames import Cache
from upcycle.data.index import Index, index_images
from upcycle.data.preprocessing import Preprocessing
from upcycle.device import Hardware
from upcycle.errors import StorageError
from upcycle.evaluation import forward
from upcycle.model.network import ModelSpec, create, load_body
from upcycle.model.sources import get_weights, resolve_arch
from upcycle.model.weights import Weights
from upcycle.task import Task

CPU = Hardware("cpu", "fp32", 1, 1, "a processor", (), None, 8.0)


def padded(counts: list[int]) -> list[tuple[torch.Tensor, int]]:
    """Batches of four numbers, counted up; of each the first so many are real."""
    starts = [sum(counts[:at]) for at in range(len(counts))]
    return [
        (torch.arange(start, start + 4).float()[:, None], count) for start, count in zip(starts, counts, strict=True)
    ]


@pytest.mark.parametrize("batches", [1, forward.FETCHED - 1, forward.FETCHED, 2 * forward.FETCHED + 3])
def test_every_image_has_its_row_in_order_and_padding_has_none(batches: int) -> None:
    counts = [4] * (batches - 1) + [1]
    rows = forward.forward(nn.Identity(), padded(counts), output=lambda images: 10 * images)
    assert np.float32 == rows.dtype
    np.testing.assert_array_equal(10 * np.arange(sum(counts), dtype=np.float32)[:, None], rows)


def test_results_are_fetched_many_batches_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    plain = forward._fetch
    monkeypatch.setattr(forward, "_fetch", lambda queued: (fetched.append(len(queued)), plain(queued))[1])
    forward.forward(nn.Identity(), padded([4] * 40))
    assert [16, 16, 8] == fetched


def test_progress_is_told_of_every_batch() -> None:
    told: list[int] = []
    forward.forward(nn.Identity(), padded([4, 4, 2]), progress=told.append)
    assert [4, 8, 10] == told


# ---------------------------------------------------------------- features


@pytest.fixture(scope="module")
def ready(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    index = index_images(photos)
    preprocessing = Preprocessing(size=32)
    root = tmp_path_factory.mktemp("decoded")
    cache, _ = images.open_cache(index, preprocessing.decoding, root=root)
    arch = resolve_arch(TINY)
    weights = get_weights(arch, str(tiny_weights))
    assert isinstance(weights, Weights)
    network = ModelSpec(arch, Task.of(index.classes), preprocessing, weights.source, weights.sha256)
    model = create(network)
    load_body(model, weights, arch)
    return {"model": model, "index": index, "cache": cache, "network": network}


@pytest.fixture(params=["fp32", "bf16"])
def machine(request: pytest.FixtureRequest) -> machines.Hardware:
    return machines.Hardware("cpu", request.param, 1, 1, "a processor", (), None, 8.0)


def made(ready: dict[str, Any], machine: machines.Hardware, folder: Path, **which: Any) -> Any:
    index, cache = ready["index"], ready["cache"]
    assert isinstance(index, Index)
    assert isinstance(cache, Cache)
    ready["model"].machine = machine
    return forward.extract(
        ready["model"], index, cache, network=ready["network"], machine=machine, folder=folder, workers=0, **which
    )


def test_features_are_pages_of_their_file_and_not_memory(
    ready: dict[str, Any], machine: machines.Hardware, tmp_path: Path
) -> None:
    features = made(ready, machine, tmp_path)
    assert isinstance(features, np.memmap)
    (file,) = (tmp_path / "features").iterdir()
    assert (len(ready["index"]), file) == (len(features), Path(str(features.filename)))


def test_the_head_on_kept_features_is_the_whole_network_to_the_bit(
    ready: dict[str, Any], machine: machines.Hardware, tmp_path: Path
) -> None:
    positions = np.array([3, 50, 0, 17, 55], dtype=np.int64)
    features, model = made(ready, machine, tmp_path), ready["model"]
    width = model.head.weight.shape
    generator = torch.Generator().manual_seed(0)
    model.set_head(torch.randn(width, generator=generator), torch.randn(width[:1], generator=generator))
    preprocessing = ready["network"].preprocessing
    whole = forward.predict_logits(
        model, ready["cache"], positions, preprocessing=preprocessing, machine=machine, workers=1
    )
    np.testing.assert_array_equal(whole, forward.head_logits(model, features, positions, machine))


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "the checksum", "the shape"])
def test_a_damaged_file_is_computed_again(ready: dict[str, Any], tmp_path: Path, damage: str) -> None:
    machine = machines.Hardware("cpu", "fp32", 1, 1, "a processor", (), None, 8.0)
    expected = np.array(made(ready, machine, tmp_path))
    (file,) = (tmp_path / "features").iterdir()
    whole = file.read_bytes()
    places = {"one bit": -1000, "the checksum": -1, "the shape": 60}
    changed = bytearray(whole[:-8] if damage == "cut" else b"" if damage == "empty" else whole)
    if damage in places:
        changed[places[damage]] ^= 1
    file.write_bytes(changed)
    np.testing.assert_array_equal(expected, made(ready, machine, tmp_path))
    assert whole == file.read_bytes()


def parted(ready: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> tuple[Any, int]:
    """The features in parts of 32 images, ended after computing some; and how many images were computed."""
    machine = machines.Hardware("cpu", "fp32", 1, 1, "a processor", (), None, 8.0)
    monkeypatch.setattr(forward, "PART", 32)
    seen = [0]
    plain = forward.forward

    def counted(*given: Any, **named: Any) -> Any:
        if seen[0] >= after:
            raise KeyboardInterrupt
        rows = plain(*given, **named)
        seen[0] += len(rows)
        return rows

    monkeypatch.setattr(forward, "forward", counted)
    try:
        return made(ready, machine, folder), seen[0]
    except KeyboardInterrupt:
        return None, seen[0]
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("damaged", [False, True])
def test_features_computed_before_an_interruption_are_not_computed_again(
    ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    machine = machines.Hardware("cpu", "fp32", 1, 1, "a processor", (), None, 8.0)
    expected = np.array(made(ready, machine, tmp_path / "whole"))
    assert (None, 32) == parted(ready, tmp_path / "parts", monkeypatch, after=32)
    (part,) = (tmp_path / "parts" / "features").glob("*.parts/*")
    if damaged:
        content = bytearray(part.read_bytes())
        content[-500] ^= 1
        part.write_bytes(content)
    features, computed = parted(ready, tmp_path / "parts", monkeypatch, after=1000)
    np.testing.assert_array_equal(expected, features)
    assert (56 if damaged else 24) == computed
    assert 1 == len(list((tmp_path / "parts" / "features").iterdir()))


@pytest.mark.parametrize("damaged", [False, True])
def test_features_of_some_images_are_copied_into_those_of_all(
    ready: dict[str, Any], machine: machines.Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    everything = np.arange(56)
    some = np.setdiff1d(everything, [3, 4, 40, 55])
    expected = np.array(made(ready, machine, tmp_path / "whole"))
    made(ready, machine, tmp_path / "parts", positions=some, known=everything)
    if damaged:
        (file,) = (tmp_path / "parts" / "features").iterdir()
        content = bytearray(file.read_bytes())
        content[-500] ^= 1
        file.write_bytes(content)
    computed: list[int] = []
    plain = forward.predict_logits

    def counted(model: Any, frames: Any, positions: Any, **options: Any) -> Any:
        computed.extend(positions.tolist())
        return plain(model, frames, positions, **options)

    monkeypatch.setattr(forward, "predict_logits", counted)
    monkeypatch.setattr(forward, "PART", 16)
    told: list[tuple[int, int]] = []
    features = made(ready, machine, tmp_path / "parts", known=some, progress=lambda *done: told.append(done))
    np.testing.assert_array_equal(expected, features)
    assert ([*range(56)] if damaged else [3, 4, 40, 55]) == computed
    assert (56, 56) == told[-1]


def test_without_room_features_are_held_in_memory(
    ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machines.Hardware("cpu", "fp32", 1, 1, "a processor", (), None, 8.0)
    expected = np.array(made(ready, machine, tmp_path / "room"))

    def full(*_: object) -> None:
        raise StorageError("no space left on device")

    monkeypatch.setattr(forward, "_write", full)
    features = made(ready, machine, tmp_path / "none")
    assert not isinstance(features, np.memmap)
    np.testing.assert_array_equal(expected, features)
