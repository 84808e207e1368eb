"""A run's model as timm builds it from a folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import upcycle
from tests.conftest import TINY, draw, without_pages, write_classes
from upcycle.bundle.timm_folder import timm_files
from upcycle.cli import main
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ExportError
from upcycle.model.network import Network, spec_of
from upcycle.reporting.progress import Silent

CLASSES = {2: ("across", "down"), 3: ("across", "disc", "down")}


@pytest.fixture(scope="module", params=[2, 3])
def exported(request: Any, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[upcycle.Run, Path]:
    """A run of so many classes, and the folder for timm."""
    root = tmp_path_factory.mktemp("timm")
    for split, count, start in (("train", 12, 0), ("val", 6, 100), ("test", 8, 200)):
        write_classes(root / "photos" / split, dict.fromkeys(CLASSES[request.param], count), start=start)
    options = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 64, "threads": 1}
    with without_pages():
        run = upcycle.train(
            root / "photos",
            out=root / "run",
            probe_layers="last",
            precision="fp32",
            device="cpu",
            show=Silent(),
            **options,
        )
    assert 0 == main(["export", str(run.path), "--format", "timm", "--out", str(root / "model"), "--threads", "1"])
    return run, root / "model"


def test_timm_gives_the_probabilities_of_the_run(exported: tuple[upcycle.Run, Path], tmp_path: Path) -> None:
    run, folder = exported
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    mixed = [
        np.asarray(draw(0, at), float) * share + np.asarray(draw(1, at), float) * (1 - share)
        for at, share in enumerate(np.linspace(0.3, 0.7, 9))
    ]
    files = [tmp_path / f"{at}.png" for at in range(len(mixed))]
    for file, pixels in zip(files, mixed, strict=True):
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    with torch.inference_mode():
        rows = [model(transform(Image.open(file))[None]).softmax(1)[0].tolist() for file in files]
    expected = [list(one.probabilities.values()) for one in run.predict(files)]
    assert 0.5 < min(max(row) for row in expected) < 0.9  # a photo between the classes
    assert np.array(expected) == pytest.approx(np.array(rows), abs=0.005)


def test_the_names_of_the_classes_are_in_config_json(exported: tuple[upcycle.Run, Path]) -> None:
    run, folder = exported
    classes = run.predictions().classes
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert list(classes) == config["label_names"]
    assert len(classes) == config["num_classes"]
    assert [3, 64, 64] == config["pretrained_cfg"]["input_size"]


def test_the_temperature_is_in_the_head(tmp_path: Path) -> None:
    spec = replace(spec_of(TINY, CLASSES[3], Preprocessing(size=64), None), temperature=2.5)
    network = Network(timm.create_model(TINY, num_classes=3)).eval()
    network.temperature = spec.temperature
    for name, content in timm_files(network, spec).items():
        (tmp_path / name).write_bytes(content)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        given = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(images)
        plain = network.body(images)
    assert torch.allclose(plain / 2.5, given, atol=1e-5)
    assert not torch.allclose(plain, given, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"stages": 3}, "reads the last 3 stages, .*: train with --probe-layers last, or export with --format onnx"),
        ({"arch": "simple-cnn"}, "no network of timm's: export with --format onnx"),
    ],
)
def test_a_network_that_timm_does_not_have_is_refused_with_what_helps(change: dict[str, Any], advice: str) -> None:
    spec = replace(spec_of(TINY, CLASSES[2], Preprocessing(size=64), None), **change)
    with pytest.raises(ExportError, match=advice):
        timm_files(Network(timm.create_model(TINY, num_classes=1)), spec)


def test_a_folder_that_gives_other_logits_is_refused() -> None:
    spec = spec_of(TINY, CLASSES[3], Preprocessing(size=64), None)
    network = Network(timm.create_model(TINY, num_classes=3)).eval()
    network.temperature = 2  # unlike the spec's
    with pytest.raises(ExportError, match=f"timm's {TINY} gives other logits from the exported files"):
        timm_files(network, spec)
