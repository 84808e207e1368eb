"""The preprocessing of an exported graph against Pillow's, and networks against torch."""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from tests.conftest import TINY, draw
from upcycle.bundle.graph import OPSET, Answering, described, network_graph, photo_graph
from upcycle.bundle.runtime import open_session, probabilities_and_features
from upcycle.data import decode
from upcycle.data.augment import center_crop, normalize
from upcycle.data.preprocessing import Interpolation, Preprocessing
from upcycle.errors import ExportError
from upcycle.model.network import Network
from upcycle.task import Task

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra export")
SIZES = [
    *[(1, 1), (1, 7), (3, 2), (40, 40), (41, 57), (64, 64), (500, 396), (396, 500), (434, 500), (333, 500), (383, 256)],
    *[(200, 50), (50, 200), (2000, 500), (640, 480)],
]
BEYOND = [(801, 200), (1000, 100), (33, 1000), (5, 999), (3000, 7)]


def pixels_of(preprocessing: Preprocessing, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What the graph gives a network, on the scale of 0 to 255, [S, S, 3]."""
    values = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, preprocessing.size, preprocessing.size])
    given = helper.make_tensor_value_info("seen", TensorProto.FLOAT, [1, 3, preprocessing.size, preprocessing.size])
    same = helper.make_graph([helper.make_node("Identity", ["images"], ["seen"])], "same", [values], [given])
    network = helper.make_model(same, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    session = open_session(photo_graph(network, preprocessing).SerializeToString(), 1)
    return unscaled(session.run(None, {"image": photo})[0], preprocessing)


def expected(preprocessing: Preprocessing, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    frame = decode.load_image(photo, preprocessing.decoding)
    return unscaled(normalize(center_crop([frame], preprocessing.size), preprocessing).numpy(), preprocessing)


def unscaled(images: npt.NDArray[np.float32], preprocessing: Preprocessing) -> npt.NDArray[np.float64]:
    return 255 * (images[0].transpose(1, 2, 0) * np.array(preprocessing.std) + np.array(preprocessing.mean))


def picture(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Smooth parts and noise, of any shape."""
    random = np.random.default_rng(width * 10_000 + height)
    base = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((width, height), 3)
    return np.clip(np.asarray(base) + random.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_are_pillows_to_two_gray_levels_whatever_the_size(
    width: int, height: int, interpolation: Interpolation
) -> None:
    preprocessing = Preprocessing(size=56, interpolation=interpolation)
    photo = picture(width, height)
    gaps = np.abs(pixels_of(preprocessing, photo) - expected(preprocessing, photo))
    assert gaps.max() < 2.01
    assert (gaps > 0.5).mean() < 0.01


@pytest.mark.parametrize(("width", "height"), BEYOND)
def test_the_middle_of_a_photo_beyond_four_to_one_is_the_same(width: int, height: int) -> None:
    preprocessing = Preprocessing(size=56)
    photo = np.asarray(Image.fromarray(picture(12, 12)).resize((width, height), 3))  # smooth: half a pixel may be off
    assert np.abs(pixels_of(preprocessing, photo) - expected(preprocessing, photo)).mean() < 2


def test_thirty_megapixels_are_one_photo() -> None:
    preprocessing = Preprocessing(size=56)
    photo = np.ascontiguousarray(
        np.broadcast_to(np.arange(6000, dtype=np.uint32)[None, :, None] // 24, (5000, 6000, 3))
    )
    photo = photo.astype(np.uint8)
    assert np.abs(pixels_of(preprocessing, photo) - expected(preprocessing, photo)).max() < 1.01


@pytest.mark.parametrize("interpolation", ["lanczos", "nearest"])
def test_an_interpolation_that_onnx_lacks_is_refused_with_what_to_do(interpolation: Interpolation) -> None:
    with pytest.raises(ExportError, match=f"no {interpolation} resize as Pillow has it: export with --batch"):
        pixels_of(Preprocessing(size=56, interpolation=interpolation), picture(9, 9))


@pytest.fixture(scope="module", params=[(2, 1, "none"), (3, 2, "flip")], ids=["two classes", "stages and views"])
def exported(request: pytest.FixtureRequest) -> tuple[Network, Task, onnx.ModelProto]:
    count, stages, views = request.param
    task = Task.of([str(number) for number in range(count)])
    torch.manual_seed(0)
    network = Network(timm.create_model(TINY, num_classes=task.outputs))
    network.read(stages)
    network.views, network.temperature = views, 1.5
    return network.eval(), task, network_graph(network, task, 64, batch=False)


def test_probabilities_and_features_are_those_of_torch(exported: tuple[Network, Task, onnx.ModelProto]) -> None:
    network, task, proto = exported
    preprocessing = Preprocessing(size=64)
    session = open_session(photo_graph(proto, preprocessing).SerializeToString(), 1)
    photo = np.asarray(draw(1, 5, side=90))
    row, features = probabilities_and_features(session, photo)
    images = normalize(center_crop([decode.load_image(photo, preprocessing.decoding)], 64), preprocessing)
    with torch.no_grad():
        np.testing.assert_allclose(row, task.probabilities(network(images).numpy())[0], atol=1e-4)
        np.testing.assert_allclose(features, network.features(images).numpy()[0], rtol=1e-2, atol=1e-3)
    assert {output.name for output in session.get_outputs()} == {"probabilities", "features", "feature_map"}


def test_the_exported_network_is_the_network_that_predicts(exported: tuple[Network, Task, onnx.ModelProto]) -> None:
    network, task, _ = exported
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = task.probabilities(network(images).numpy())
        np.testing.assert_allclose(Answering(network, task)(images)[0].numpy(), own, atol=1e-6)


def test_a_description_leaves_no_names_of_files(exported: tuple[Network, Task, onnx.ModelProto]) -> None:
    made = described(exported[2], {"task": "classify"})
    assert {one.key: one.value for one in made.metadata_props} == {"task": "classify"}
    assert str(Path(__file__).parents[2]).encode() not in made.SerializeToString()


def test_a_batch_with_all_eight_views_is_that_of_torch_and_holds_the_network_once() -> None:
    task = Task.of(("a", "b", "c"))
    torch.manual_seed(0)
    network = Network(timm.create_model(TINY, num_classes=3)).eval()
    plain = len(network_graph(network, task, 64, batch=False).SerializeToString())
    network.views = "square"
    proto = network_graph(network, task, 64, batch=True)
    assert len(proto.SerializeToString()) < 1.2 * plain
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = ["probabilities", "features"]
    rows, features = open_session(proto.SerializeToString(), 1).run(names, {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(rows, task.probabilities(network(images).numpy()), atol=1e-5)
        np.testing.assert_allclose(features, network.features(images).numpy(), atol=1e-5)


class Unexportable(nn.Module):
    """A network with an operator that ONNX does not have."""

    pretrained_cfg = {"classifier": "fc"}  # noqa: RUF012  timm's

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean(dim=(2, 3))
        return torch.linalg.eigvalsh(means[:, :, None] * means[:, None, :])

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return maps if pre_logits else self.fc(maps)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


def test_an_operator_that_onnx_lacks_is_named_with_what_works_instead() -> None:
    network = Network(Unexportable()).eval()
    with pytest.raises(
        ExportError, match=r"no operator for aten\._linalg_eigh of this network: export with --format timm"
    ):
        network_graph(network, Task.of(("a", "b")), 32, batch=False)
