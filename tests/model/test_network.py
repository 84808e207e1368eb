"""The network as a module: logits, features and head; names of its tensors; what is no linear head; model.json."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from upcycle.data.preprocessing import Preprocessing
from upcycle.device import detect
from upcycle.errors import WeightsError
from upcycle.model.checkpoint import save_model
from upcycle.model.network import ModelSpec, Network, SimpleCnn, cannot_compute, create, shapes
from upcycle.task import Task

MACHINE = detect(device="cpu", precision="fp32", threads=1)
SPEC = ModelSpec("test_resnet", Task.of("abc"), Preprocessing(size=32), "test", "")
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arch", "linear"),
    [("test_resnet", True), ("test_vit", True), ("efficientvit_m0", False), ("shvit_s1", False), ("levit_128s", False)],
)
def test_a_norm_or_a_second_head_before_the_logits_is_no_linear_head(arch: str, linear: bool) -> None:
    network = Network(timm.create_model(arch, num_classes=2))
    assert linear == network.has_linear_head


def test_what_a_network_refuses_as_it_is_made_is_said_too() -> None:
    asked = ModelSpec("twins_svt_small", Task.of("ab"), Preprocessing(size=100), "none", "")
    assert cannot_compute(asked, images=2, training=False)
    assert "" == cannot_compute(replace(asked, arch="test_resnet"), images=2, training=False)


def test_what_is_no_linear_head_gives_timms_own_logits() -> None:
    body = timm.create_model("efficientvit_m0", num_classes=2).eval()
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(body(images), Network(body, MACHINE)(images))


def test_a_network_without_a_classifier_is_one_line() -> None:
    asked = ModelSpec("mobilenetv5_300m_enc", Task.of("ab"), Preprocessing(size=256), "none", "")
    with torch.device("meta"), pytest.raises(WeightsError, match="has no classifier to train: give another --arch"):
        create(asked)


def test_the_head_is_computed_in_fp32_whatever_the_bodys_precision() -> None:
    network = create(SPEC, detect(device="cpu", precision="bf16", threads=1)).eval()
    with torch.inference_mode():
        features, logits = network.features(IMAGES), network(IMAGES)
    assert (torch.bfloat16, torch.float32) == (features.dtype, logits.dtype)
    assert torch.equal(network.head(features.float()), logits)


def test_a_head_that_is_set_is_the_one_that_computes() -> None:
    network = create(SPEC).eval()
    network.set_head(torch.zeros_like(network.head.weight), torch.tensor([1.0, 2.0, 3.0]))
    assert [[1.0, 2.0, 3.0]] * 2 == network(IMAGES).tolist()


def test_names_are_timms_own_and_a_wrapper_keeps_them_whole(tmp_path: Path) -> None:
    network, plain = create(SPEC, MACHINE, seed=1), timm.create_model("test_resnet", num_classes=3)
    assert list(plain.state_dict()) == list(network.state_dict())
    assert shapes(SPEC) == {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
    plain.load_state_dict(network.state_dict())
    again = create(SPEC, seed=2)
    again.load_state_dict(plain.state_dict())
    save_model(tmp_path / "best.safetensors", network, SPEC)
    in_timm = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(tmp_path / "best.safetensors"))
    wrapped = nn.ModuleDict({"module": create(SPEC, seed=3)})
    assert {f"module.{name}" for name in plain.state_dict()} == wrapped.state_dict().keys()
    wrapped.load_state_dict({f"module.{name}": tensor for name, tensor in plain.state_dict().items()})
    expected = plain.eval()(IMAGES)
    for other in (network, again, in_timm, wrapped["module"]):
        assert torch.allclose(expected, other.eval()(IMAGES), atol=1e-5)


def test_averaging_and_copying_see_the_whole_network() -> None:
    network = create(SPEC, MACHINE).eval()
    averaged = torch.optim.swa_utils.AveragedModel(network).eval()
    averaged.update_parameters(network)
    expected = network(IMAGES)
    assert torch.equal(expected, averaged(IMAGES))
    copied = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data.zero_()
    assert torch.equal(expected, copied(IMAGES))


def test_it_is_exported_as_one_program() -> None:
    network = create(SPEC, MACHINE).eval()
    with torch.inference_mode():
        expected = network(IMAGES)
    program = torch.export.export(network, (IMAGES,)).module()
    assert torch.allclose(expected, program(IMAGES), atol=1e-5)


@pytest.mark.parametrize(("size", "outputs"), [(32, 1), (128, 3), (224, 5)])
def test_the_simple_cnn_takes_any_size(size: int, outputs: int) -> None:
    assert (2, outputs) == tuple(Network(SimpleCnn(outputs))(torch.zeros(2, 3, size, size)).shape)


def test_the_simple_cnns_layers_are_the_documented_ones() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in SimpleCnn(1).named_parameters() if "weight" in name}
    expected = {
        "blocks.0.weight": (32, 3, 3, 3),
        "blocks.3.weight": (64, 32, 3, 3),
        "blocks.6.weight": (128, 64, 3, 3),
        "dense.weight": (128, 2048),
        "head.weight": (1, 128),
    }
    assert expected == shapes


# ---------------------------------------------------------------- model.json

KEPT = ModelSpec("test_resnet", Task.of("ab"), Preprocessing(size=32), "test", "0" * 64)


def test_a_spec_is_read_back() -> None:
    assert KEPT == ModelSpec.from_dict(json.loads(json.dumps(KEPT.to_dict())))


def test_an_earlier_versions_spec_is_read() -> None:
    values = KEPT.to_dict()
    for name in ("task", "stages", "views", "temperature", "thresholds"):
        del values[name]
    assert ["arch", "classes", "outputs", "preprocessing", "weights"] == list(values)
    assert KEPT == ModelSpec.from_dict(values)


def test_a_temperature_is_read_back_and_divides_the_logits_of_evaluation_alone() -> None:
    spec = replace(KEPT, temperature=1.6)
    assert 1.6 == spec.to_dict()["temperature"]
    assert spec == ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    plain, softer = create(KEPT), create(spec)
    with torch.inference_mode():
        expected = plain.eval()(IMAGES) * np.float32(1 / 1.6)
        assert torch.equal(expected, softer.eval()(IMAGES))
        softer.views = "flip"
        assert not torch.equal(expected, softer(IMAGES))
        assert torch.equal(plain.train()(IMAGES), softer.train()(IMAGES))


@pytest.mark.parametrize("value", [0.01, -1, 11])
def test_a_temperature_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="temperature = .* is not between 0.1 and 10"):
        ModelSpec.from_dict({**KEPT.to_dict(), "temperature": value})


@pytest.mark.parametrize("name", ["stages", "views", "thresholds"])
def test_what_a_later_version_computes_otherwise_is_refused(name: str) -> None:
    assert KEPT.to_dict()[name] is None
    with pytest.raises(ValueError, match=f"{name} = 9 needs a later version of upcycle"):
        ModelSpec.from_dict({**KEPT.to_dict(), name: 9})
