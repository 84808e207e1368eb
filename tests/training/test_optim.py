"""Depth groups, freezing, and which parameters decay."""

import pytest
import timm
import torch

from upcycle.errors import ConfigError
from upcycle.model.network import SimpleCnn
from upcycle.training.optim import (
    clip_gradients,
    depth_groups,
    freeze_parameters,
    frozen_in,
    frozen_names,
    parameter_groups,
    set_training_mode,
)


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    model: torch.nn.Module = timm.create_model("resnet50", num_classes=1)
    return model


@pytest.mark.parametrize(
    "arch",
    [
        "resnet50",
        "tf_efficientnet_lite0",
        "test_vit",
        "test_convnext",
        "mobilenetv3_small_100",
        "rdnet_tiny",
        "pit_ti_224",
    ],
)
def test_depth_groups_hold_every_parameter_once(arch: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch, num_classes=3)
    listed = [name for group in depth_groups(model) for name in group]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())


def test_resnets_groups_are_its_stages(resnet: torch.nn.Module) -> None:
    expected = ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight"]
    assert [*expected, "layer4.0.conv1.weight", "fc.weight"] == [group[0] for group in depth_groups(resnet)]


def test_a_network_without_a_matcher_is_grouped_by_its_children() -> None:
    assert ["blocks.0.weight", "dense.weight", "head.weight"] == [group[0] for group in depth_groups(SimpleCnn(1))]


@pytest.mark.parametrize("arch", ["poolformer_s12", "caformer_s18"])
def test_stages_in_a_list_are_groups_of_their_own(arch: str) -> None:
    with torch.device("meta"):
        groups = depth_groups(timm.create_model(arch, num_classes=3))
    assert ["stem", *["stages"] * 4] == [group[0].split(".")[0] for group in groups][:5]
    assert ["stages.0", "stages.1", "stages.2", "stages.3"] == [".".join(group[0].split(".")[:2]) for group in groups][
        1:5
    ]


def test_auto_freezes_the_lower_half_of_the_stages(resnet: torch.nn.Module) -> None:
    tops = {name.split(".")[0] for name in frozen_names(resnet, "auto")}
    assert {"conv1", "bn1", "layer1", "layer2"} == tops


def test_a_layer_is_frozen_with_everything_below_it(resnet: torch.nn.Module) -> None:
    tops = {name.split(".")[0] for name in frozen_names(resnet, "layer3")}
    assert {"conv1", "bn1", "layer1", "layer2", "layer3"} == tops


def test_none_freezes_nothing_and_the_head_always_trains(resnet: torch.nn.Module) -> None:
    assert frozenset() == frozen_names(resnet, "none")
    assert not {"fc.weight", "fc.bias"} & frozen_names(resnet, "fc")


def test_an_unknown_layer_names_the_nearest(resnet: torch.nn.Module) -> None:
    with pytest.raises(ConfigError, match="cannot freeze 'layer9': the network has no such layer; there are layer"):
        frozen_names(resnet, "layer9")


def test_frozen_layers_keep_weights_and_buffers_to_the_byte_while_others_train() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=1)
    frozen = frozen_names(model, "layer2")
    freeze_parameters(model, frozen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(model, layer_decay=0.5, weight_decay=0.1), lr=0.1)
    for _ in range(3):
        set_training_mode(model, frozen=frozen, bn="train")
        model(torch.randn(4, 3, 64, 64)).sum().backward()
        optimizer.step()
    after = model.state_dict()
    below = ("conv1", "bn1", "layer1", "layer2")
    assert not torch.equal(before["layer4.0.conv1.weight"], after["layer4.0.conv1.weight"])
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(below))
    assert not torch.equal(before["layer4.0.bn1.running_mean"], after["layer4.0.bn1.running_mean"])


def test_frozen_statistics_stay_to_the_byte_while_norm_weights_train() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    set_training_mode(model, frozen=frozenset(), bn="frozen")
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    optimizer.step()
    after = model.state_dict()
    statistics = [name for name in before if "running" in name or "num_batches" in name]
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not torch.equal(before["bn1.weight"], after["bn1.weight"])


def test_rates_shrink_towards_the_stem_and_vectors_do_not_decay(resnet: torch.nn.Module) -> None:
    freeze_parameters(resnet, frozenset())
    groups = parameter_groups(resnet, layer_decay=0.5, weight_decay=0.1)
    scales = {name: (group["scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert (1.0, 0.1) == scales["fc.weight"]
    assert (1.0, 0.0) == scales["fc.bias"]
    assert (0.5, 0.1) == scales["layer4.0.conv1.weight"]
    assert (0.5, 0.0) == scales["layer4.0.bn1.weight"]
    assert (0.5**5, 0.1) == scales["conv1.weight"]
    assert len(scales) == len(list(resnet.named_parameters()))


def test_positions_and_tokens_do_not_decay() -> None:
    model = timm.create_model("test_vit", num_classes=2)
    decays = {
        name: g["weight_decay"]
        for g in parameter_groups(model, layer_decay=0.6, weight_decay=0.01)
        for name in g["names"]
    }
    assert (0, 0, 0.01) == (decays["pos_embed"], decays["cls_token"], decays["blocks.0.attn.qkv.weight"])


def test_names_with_a_wildcard_are_exempt_too() -> None:
    model = timm.create_model("test_vit", num_classes=2)
    model.no_weight_decay = lambda: {"blocks.0.*"}
    groups = parameter_groups(model, layer_decay=0.6, weight_decay=0.01)
    decays = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert (0, 0.01) == (decays["blocks.0.attn.qkv.weight"], decays["blocks.1.attn.qkv.weight"])


def test_what_was_frozen_is_told_by_the_network_itself() -> None:
    model = SimpleCnn(1)
    assert frozenset() == frozen_in(model)
    freeze_parameters(model, {"dense.weight", "dense.bias"})
    assert {"dense.weight", "dense.bias"} == frozen_in(model)


@pytest.mark.parametrize(
    ("most", "expected"), [(1.0, [0.6, 0.8]), (5.0, [3.0, 4.0]), (9.0, [3.0, 4.0]), (0, [3.0, 4.0])]
)
def test_gradients_are_clipped_by_their_common_norm(most: float, expected: list[float]) -> None:
    one, two = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    one.grad, two.grad = torch.tensor([3.0]), torch.tensor([4.0])
    clip_gradients(torch.optim.SGD([{"params": [one]}, {"params": [two]}], lr=1.0), most)
    assert expected == pytest.approx([one.grad.item(), two.grad.item()], rel=1e-5)
