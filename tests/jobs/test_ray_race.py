"""A race whose candidates compute on the nodes of a Ray cluster."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import upcycle
from tests.clusters import Listening
from tests.conftest import TINY, write_classes
from upcycle.comparison.selection import Selection
from upcycle.errors import ConfigError
from upcycle.reporting.progress import Silent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Ray's own
CLOCKS = ("images_per_second", "minutes", "milliseconds")


def scores(made: Selection) -> list[dict[str, Any]]:
    """What a race found of each candidate, without clock values."""
    rows: Any = made.to_dict()["candidates"]
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def test_a_race_on_a_cluster_finds_what_one_on_this_machine_does(
    nodes: Any, tiny_weights: Path, tmp_path: Path
) -> None:
    data = write_classes(tmp_path / "data", {"across": 130, "down": 130})
    torch.manual_seed(0)
    others = {name: tmp_path / f"{name}.safetensors" for name in ("test_convnext", "test_efficientnet")}
    for name, file in others.items():
        save_file({key: value.contiguous() for key, value in timm.create_model(name).state_dict().items()}, file)
    broken = tmp_path / "broken.safetensors"
    save_file({"other": torch.zeros(1)}, broken)
    options: dict[str, Any] = {
        "candidates": [f"{TINY}={tiny_weights}", *(f"{name}={file}" for name, file in others.items())],
        "threads": 1,
        "precision": "fp32",
        "probe_layers": "last",
        "cache": str(tmp_path / "cache"),
    }
    options["candidates"].append(f"test_vit={broken}")
    here = upcycle.choose(data, out=tmp_path / "here", show=Silent(), **options)
    show = Listening()
    there = upcycle.choose(data, out=tmp_path / "there", on="ray", show=show, **options)
    assert scores(here) == scores(there)
    assert (here.rounds, here.validation_images, here.left_out) == (
        there.rounds,
        there.validation_images,
        there.left_out,
    )
    assert "test_vit is left out" in there.left_out[-1]
    assert {one.name for one in here.candidates} >= {TINY}
    assert "features for the training are not computed: the race ran on a Ray cluster" in show.lines


def test_another_engine_is_refused(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no place to train: give ray"):
        upcycle.choose(photos, on="spark", candidates=[f"{TINY}={tiny_weights}"], out=tmp_path / "out", show=Silent())
    assert not (tmp_path / "out").exists()
