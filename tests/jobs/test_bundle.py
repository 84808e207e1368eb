"""A bundle put to use: in 8 bits, told apart from another, and refused where its files do not fit together."""

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY, without_pages
from upcycle.bundle.description import sha256_of
from upcycle.errors import ConfigError, ExportError
from upcycle.evaluation.novelty import read_novelty
from upcycle.evaluation.thresholds import Rule, Thresholds
from upcycle.jobs.bundle import open_bundle
from upcycle.jobs.export import export
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_json, write_json

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra export")


@pytest.fixture(scope="module")
def bundle(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options: dict[str, Any] = {"arch": TINY, "weights": str(tiny_weights), "recipe": "probe", "image_size": 32}
    folder = tmp_path_factory.mktemp("bundle")
    with without_pages():
        run = upcycle.train(
            photos, out=folder / "run", precision="fp32", device="cpu", threads=1, show=Silent(), **options
        )
    return export(run, out=folder / "model", int8=True, threads=1, show=Silent())


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def with_model(folder: Path, outputs: Mapping[str, int]) -> None:
    """Give a bundle another model: of one photo it gives zeros of these widths, by name."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node(
            "Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, [1, width], [0.0] * width)
        )
        for name, width in outputs.items()
    ]
    photo = helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name, width in outputs.items()]
    graph = helper.make_graph(nodes, "other", [photo], made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    described = read_json(folder / "bundle.json")
    digests = described["files"] | {"model.onnx": sha256_of(folder / "model.onnx")}
    write_json(folder / "bundle.json", described | {"files": digests})


def test_in_8_bits_predictions_have_no_p_value(bundle: Path, photos: Path) -> None:
    files = sorted(photos.glob("test/*/*.png"))[:3]
    assert all(one.p_value is not None for one in open_bundle(bundle, threads=1).predict(files))
    assert [None] * 3 == [one.p_value for one in open_bundle(bundle, threads=1, int8=True).predict(files)]


def test_another_fingerprint_is_that_of_whatever_predicts_otherwise(bundle: Path, copy: Path) -> None:
    first = open_bundle(bundle, threads=1).fingerprint()
    assert first == open_bundle(copy, threads=1).fingerprint()
    described = read_json(copy / "bundle.json")
    write_json(copy / "bundle.json", described | {"thresholds": Thresholds("", Rule(0.5), "").to_dict()})
    others = [open_bundle(bundle, threads=1, int8=True), open_bundle(bundle, threads=2), open_bundle(copy, threads=1)]
    assert 4 == len({first, *(one.fingerprint() for one in others)})


def test_a_model_that_does_not_fit_its_bundle_is_refused_in_a_line(copy: Path) -> None:
    novelty = read_novelty(copy / "novelty.safetensors")
    assert novelty is not None
    width = len(novelty.mean)
    with_model(copy, {"probabilities": 2, "features": width})
    open_bundle(copy, threads=1)
    for outputs, message in (
        ({"probabilities": 3, "features": width}, r"probabilities of shape \[1, 3\] instead of \[1, 2\]"),
        ({"scores": 2, "features": width}, "it gives no probabilities"),
        ({"probabilities": 2}, "it gives no features"),
        (
            {"probabilities": 2, "features": width + 1},
            rf"features of shape \[1, {width + 1}\] instead of \[1, {width}\]",
        ),
    ):
        with_model(copy, outputs)
        with pytest.raises(ExportError, match=rf"model\.onnx does not fit .* \({message}\): export the run again"):
            open_bundle(copy, threads=1)


def test_thresholds_of_a_class_that_the_bundle_lacks_are_refused(copy: Path) -> None:
    described = read_json(copy / "bundle.json")
    write_json(copy / "bundle.json", described | {"thresholds": Thresholds("", Rule(0.5, "birds"), "").to_dict()})
    with pytest.raises(ExportError, match="its thresholds are about birds, which is no class"):
        open_bundle(copy, threads=1)


@pytest.mark.parametrize("threads", [-1, 1025])
def test_a_number_of_threads_that_no_machine_has_is_refused(bundle: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads {threads} is out of range: use 1 to 1024"):
        open_bundle(bundle, threads=threads)
