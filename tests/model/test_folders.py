"""A run, and a folder of the hub, as weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from upcycle import manifest
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import RunError, WeightsError
from upcycle.model.checkpoint import save_model
from upcycle.model.network import create
from upcycle.model.sources import get_weights
from upcycle.model.spec import ModelSpec, preprocessing_for
from upcycle.model.weights import read, sha256
from upcycle.rundir import RunDir, write_json
from upcycle.task import Task

SEEN = Preprocessing(size=96, crop_pct=0.9, mean=(0.1, 0.2, 0.3), std=(0.4, 0.4, 0.4))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """As much of a finished run as its weights need."""
    run = RunDir(tmp_path / "run")
    network = ModelSpec("test_resnet", Task.of(("a", "b")), SEEN, "test", "")
    save_model(run.best, create(network), network)
    write_json(run.model, network.to_dict())
    run.set_status("finished")
    manifest.seal(run)
    return run


def test_a_run_gives_its_best_weights_and_what_they_were_trained_with(run: RunDir) -> None:
    weights = get_weights("test_resnet", str(run.root))
    assert weights is not None
    assert (f"run {run.root}", sha256(run.best)) == (weights.source, weights.sha256)
    again = preprocessing_for("test_resnet", weights, input_file=None, image_size=None, crop_pct=None)
    assert SEEN == replace(again, source=SEEN.source)
    assert load_file(run.best).keys() == weights.tensors.keys()


def test_a_run_of_another_architecture_names_it(run: RunDir) -> None:
    with pytest.raises(
        WeightsError, match=r"weights from run .* are those of test_resnet, not resnet18: give --arch test_"
    ):
        get_weights("resnet18", str(run.root))


def test_an_unfinished_run_is_told_how_to_finish(run: RunDir) -> None:
    run.set_status("running")
    with pytest.raises(WeightsError, match=rf"the run is not finished; .*: upcycle train --out {run.root} --resume"):
        read(run.root)


def test_a_cross_validation_names_a_fold(run: RunDir) -> None:
    (run.root / "fold-1").mkdir()
    with pytest.raises(WeightsError, match=rf"is a cross-validation; give one fold, such as {run.root}/fold-1"):
        read(run.root)


def test_a_folder_of_runs_names_one(run: RunDir) -> None:
    with pytest.raises(WeightsError, match=rf"it is a folder of runs; give one, such as {run.root}"):
        read(run.root.parent)


def test_a_damaged_run_is_refused(run: RunDir) -> None:
    run.model.write_text("{}")
    with pytest.raises(RunError, match=r"model\.json is damaged or was changed"):
        read(run.root)


def test_weights_of_ours_whose_numbers_were_changed_are_refused(run: RunDir) -> None:
    content = bytearray(run.best.read_bytes())
    content[-2] ^= 1
    run.best.write_bytes(content)
    for given in (run.root, run.best):
        with pytest.raises(WeightsError, match=r"best\.safetensors cannot be read: it is damaged: .*; copy it again"):
            read(given)


def hub_folder(path: Path, arch: str, **files: Any) -> Path:
    path.mkdir()
    save_file(timm.create_model(arch).state_dict(), path / "model.safetensors")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_a_folder_of_timm_gives_its_weights_and_their_input(tmp_path: Path) -> None:
    config = {"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.1, 0.1, 0.1]}}
    folder = hub_folder(tmp_path / "timm", "test_resnet", config=config)
    weights = read(folder)
    assert {"size": 64, "mean": (0.1, 0.1, 0.1)} == weights.input
    assert (f"folder {folder}", "test_resnet") == (weights.source, weights.arch)
    with pytest.raises(WeightsError, match=r"are those of test_resnet, not resnet18: give --arch test_resnet"):
        get_weights("resnet18", str(folder))


@pytest.mark.parametrize(
    ("processor", "seen"),
    [
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": [0.1, 0.2, 0.3], "resample": 3},
            {"size": 224, "crop_pct": 0.875, "mean": (0.1, 0.2, 0.3), "interpolation": "bicubic"},
        ),
        (
            {"size": 256, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "resample": 2},
            {"size": 224, "crop_pct": 0.875, "interpolation": "bilinear"},
        ),
        ({"size": {"height": 384, "width": 384}, "image_std": [0.5, 0.5, 0.5]}, {"size": 384, "std": (0.5, 0.5, 0.5)}),
        ({}, {}),
    ],
)
def test_a_folder_of_transformers_says_its_input(tmp_path: Path, processor: Any, seen: Any) -> None:
    config = {"model_type": "resnet", "image_size": 1}
    read_back = read(hub_folder(tmp_path / "hf", "test_resnet", config=config, preprocessor_config=processor))
    assert seen == read_back.input


def test_a_torch_file_in_a_folder_of_the_hub_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert ["a"] == list(read(tmp_path).tensors)


def test_a_resnet_whose_strides_lie_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = hub_folder(
        tmp_path / "hf", "test_resnet", config={"model_type": "resnet", "downsample_in_bottleneck": True}
    )
    with pytest.raises(
        WeightsError, match=r"config\.json has downsample_in_bottleneck, so their network takes its strides"
    ):
        read(folder)
