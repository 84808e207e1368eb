"""How fast the layers of an architecture learn, told without its weights."""

import pytest
import torch

from tests.conftest import TINY
from upcycle.errors import ConfigError, WeightsError
from upcycle.jobs.layers import group_names, layers_of
from upcycle.model.network import without_weights
from upcycle.recipes import resolve
from upcycle.training.optim import parameter_groups


def test_the_head_has_the_whole_rate_and_each_group_below_it_less() -> None:
    found = layers_of(resolve({"arch": "resnet18", "layer_decay": 0.5}))
    assert [
        ("fc", 1.0, "no"),
        ("layer4", 0.5, "no"),
        ("layer3", 0.25, "no"),
        ("layer2", 0.125, "near"),
        ("layer1", 0.0625, "near"),
        ("conv1 … bn1", 0.03125, "near"),
    ] == [(one.name, one.scale, one.frozen) for one in found]


def test_the_scales_are_those_of_the_optimizer() -> None:
    config = resolve({"arch": TINY})
    groups = parameter_groups(without_weights(TINY), layer_decay=config.layer_decay, weight_decay=0.0)
    assert {one.scale for one in layers_of(config)} == {group["scale"] for group in groups}


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"freeze": "none"}, []),
        ({"freeze": "layer1"}, ["layer1", "conv1 … bn1"]),
        ({"probe": False}, ["layer2", "layer1", "conv1 … bn1"]),
        ({"recipe": "classic"}, []),
    ],
)
def test_frozen_layers_are_told(options: dict[str, object], frozen: list[str]) -> None:
    found = layers_of(resolve({"arch": "resnet18", **options}))
    assert frozen == [one.name for one in found if one.frozen == "yes"]


def test_names_are_unique_and_those_of_modules() -> None:
    transformer = [one.name for one in layers_of(resolve({"arch": "vit_tiny_patch16_224"}))]
    assert ["head", "blocks.11 … norm", "blocks.10"] == transformer[:3]
    assert "cls_token … patch_embed.proj" == transformer[-1]
    assert ["head", "dense", "blocks"] == [one.name for one in layers_of(resolve({"recipe": "simple-cnn"}))]
    dense = [["net.a.weight", "net.b.bias"], ["net.c.0.weight", "net.c.1.weight"], ["net.d.weight", "out.bias"]]
    assert ["net.a … net.b", "net.c", "net.d … out"] == group_names(dense)


def test_a_network_without_weights_takes_no_memory_where_it_can_be_made_so() -> None:
    assert torch.device("meta") == next(without_weights("resnet50").parameters()).device


def test_what_there_is_not_is_named_with_what_is_near() -> None:
    with pytest.raises(WeightsError, match="did you mean resnet18"):
        layers_of(resolve({"arch": "resnett18"}))
    with pytest.raises(ConfigError, match="there are layer4"):
        layers_of(resolve({"arch": "resnet18", "freeze": "layer44"}))
