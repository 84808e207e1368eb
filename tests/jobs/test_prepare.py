"""Who makes the batches of a run."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import upcycle
from tests.data.made import made
from upcycle.audit.findings import Audit, Audited
from upcycle.config import Config
from upcycle.data import dataset, isolation
from upcycle.data.dataset import Dataset
from upcycle.data.frames import Cache, Stream
from upcycle.data.index import index_images
from upcycle.data.listing import Quarantined
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import split
from upcycle.device import Hardware, detect
from upcycle.errors import DecodeError
from upcycle.jobs import predict
from upcycle.jobs.prepare import decode, describe, fit_size, machine_of, unused
from upcycle.recipes import resolve
from upcycle.reporting.progress import Silent


def dataset_of(frames: Any) -> Dataset:
    return Dataset(made("ab"), frames, Preprocessing(size=32))


CPU = replace(detect(precision="fp32", threads=3, device="cpu"), cores=8)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 0), ("cuda", 2)])
def test_decoded_images_are_cropped_by_the_machines_feeders(device: Any, expected: int) -> None:
    assert expected == dataset_of([]).workers(replace(CPU, device=device))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_files_are_decoded_by_as_many_threads_as_there_are(device: Any) -> None:
    assert 3 == dataset_of(Stream.__new__(Stream)).workers(replace(CPU, device=device))


def test_the_machine_is_told_of_the_workers_that_are_asked_for() -> None:
    assert 3 == machine_of(Config(workers=3)).workers


@pytest.mark.parametrize("frames", [[], Stream.__new__(Stream)])
def test_workers_that_are_asked_for_make_batches_of_whatever_images(frames: Any) -> None:
    assert 2 == dataset_of(frames).workers(replace(CPU, workers=2))


def test_an_image_that_met_a_limit_may_be_tried_again_by_hand(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Warned(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    index, real = index_images(photos), isolation.DECODERS.load

    def short_of_memory(file: Path, *options: Any, **more: Any) -> Any:
        if file == index.file(0):
            raise DecodeError("decoding it takes more than 5 GiB of memory", "limit")
        return real(file, *options, **more)

    monkeypatch.setattr(isolation.DECODERS, "load", short_of_memory)
    config = resolve({"cache": str(tmp_path), "threads": 1})
    left = decode(index, Preprocessing(size=32), config, machine_of(config), Warned())
    frames = left.frames
    assert isinstance(frames, Cache)
    (told,) = said
    assert f"stay out of new runs too as long as {frames.path} is there" in told
    assert len(left) < len(index)
    monkeypatch.undo()
    frames.path.unlink()
    assert len(index) == len(decode(index, Preprocessing(size=32), config, machine_of(config), Silent()))


@pytest.mark.parametrize(("threads", "expected"), [(2, 0), (16, 1)])
def test_predicting_files_has_the_machines_feeders(
    threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    plain = predict.eval_batches

    def watched(*given: Any, **named: Any) -> Any:
        asked.append(named["workers"])
        return plain(*given, **named)

    monkeypatch.setattr(predict, "eval_batches", watched)
    network = cast(Any, SimpleNamespace(preprocessing=Preprocessing(size=16)))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    classifier = predict.Classifier(cast(Any, Path()), network, model, replace(CPU, threads=threads))
    assert classifier.logits([np.zeros((20, 18, 3), np.uint8)] * 3).shape == (3, 2)
    assert [expected] == asked


@pytest.mark.usefixtures("no_page")
def test_all_stages_of_a_run_have_the_machines_feeders(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    plain = dataset._ahead

    def watched(*given: Any, workers: int) -> Any:
        asked.append(workers)
        return plain(*given, workers=workers)

    monkeypatch.setattr(dataset, "_ahead", watched)
    monkeypatch.setattr(Hardware, "feeders", property(lambda _: 3))
    options: dict[str, Any] = {"arch": "test_resnet", "image_size": 32, "epochs": 1, "device": "cpu"}
    upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), show=Silent(), **options)
    assert len(asked) >= 4  # features, training, validation, choice
    assert {3} == set(asked)


def test_what_the_test_images_will_tell_apart_goes_by_their_groups(photos: Path, tmp_path: Path) -> None:
    class Said(Silent):
        def message(self, text: str) -> None:
            said.append(text)

    rows = ["path,label,split,group"]
    for place in sorted(photos.glob("t*/*/*.png")):
        side, label = place.parts[-3:-1]
        rows.append(f"{place},{label},{side},{f'{label}-{int(place.stem) // 3}' if side == 'test' else ''}")
    manifest = tmp_path / "photos.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    said: list[str] = []
    index = index_images(manifest)
    splits = split(index, seed=0, val_fraction=0.15, test_fraction=0.15)
    dataset = replace(dataset_of([]), index=index, splits=splits)
    describe(dataset, Audit.of(Audited(index), []), Said())
    assert re.fullmatch(r"\d+ test images in \d+ groups: .*", said[-1])


@pytest.mark.parametrize(
    ("pixels", "given", "fixed", "size"),
    [
        (48, {}, False, 128),
        (150, {}, False, 160),
        (400, {}, False, 224),
        (48, {"recipe": "classic"}, False, 224),
        (48, {"image_size": 224}, False, 224),
        (48, {}, True, 224),
    ],
)
def test_small_images_are_trained_near_their_own_size(
    pixels: int, given: dict[str, Any], fixed: bool, size: int
) -> None:
    index = replace(made("abab"), widths=np.full(4, pixels), heights=np.full(4, 2 * pixels))
    assert size == fit_size(Preprocessing(size=224), index, resolve(given), fixed=fixed).size


def test_files_that_are_not_used_for_one_reason_are_one_line() -> None:
    files = [Quarantined(f"a/{at}.dcm", "is not read") for at in range(40)] + [Quarantined("a/x.jpg", "damaged")]
    assert list(unused(files)) == [
        "not used: 40 files, a/0.dcm for one: is not read",
        "not used: a/x.jpg: damaged",
    ]
    assert list(unused([Quarantined(f"{at}.jpg", f"damaged at {at}") for at in range(12)]))[-1] == (
        "not used: 2 files more, listed in audit.json"
    )
