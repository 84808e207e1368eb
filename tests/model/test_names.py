"""Names of other tools and of wrappers, what is no part of a network, and what weights that do not fit seem to be."""

import re
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor

from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import WeightsError
from upcycle.model.names import misfit
from upcycle.model.network import ModelSpec, create, load_body
from upcycle.model.weights import Weights
from upcycle.task import Task

Tensors = dict[str, Tensor]


def theirs(arch: str) -> Tensors:
    torch.manual_seed(1)
    return timm.create_model(arch).state_dict()  # type: ignore[no-any-return]


def body(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}


def loaded(tensors: Tensors, arch: str = "test_resnet") -> tuple[Tensors, tuple[str, ...]]:
    """The tensors of a network's body after loading, and what was told."""
    network = ModelSpec(arch, Task.of(("a", "b")), Preprocessing(size=64), "test", "")
    model = create(network)
    notes = load_body(model, Weights(tensors, "file w", ""), arch)
    return body(model.state_dict()), notes


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "beside", ["criterion.weight", "loss_fn.weight", "train_acc.total", "ema.decay", "projector.0.weight"]
)
def test_what_lies_outside_the_wrapper_is_left_out_and_told(beside: str) -> None:
    own = theirs("test_resnet")
    found, notes = loaded({**{f"model.{name}": tensor for name, tensor in own.items()}, beside: torch.ones(3)})
    assert equal(body(own), found)
    assert (f"weights from file w: left out what is no part of the network ({beside})",) == notes


def test_a_loss_is_left_out_where_there_is_no_wrapper() -> None:
    found, notes = loaded({**theirs("test_resnet"), "criterion.weight": torch.ones(3), "val_acc.n": torch.ones(1)})
    assert equal(body(theirs("test_resnet")), found)
    assert ("weights from file w: left out what is no part of the network (criterion.weight and 1 more)",) == notes


def test_a_head_under_another_name_is_left_out_and_told() -> None:
    own = body(theirs("test_resnet"))
    found, notes = loaded({**own, "classifier.0.weight": torch.ones(3), "classifier.0.bias": torch.ones(3)})
    assert equal(own, found)
    assert ("weights from file w: left out what is no part of the network (classifier.0.weight and 1 more)",) == notes


@pytest.mark.parametrize("more", ["layer1.0.se.fc1.weight", "norm_pre.weight", "layer5.0.conv1.weight"])
def test_a_layer_that_the_network_lacks_is_never_left_out(more: str) -> None:
    with pytest.raises(WeightsError, match=rf"do not fit test_resnet: 1 it does not have \(first: {more}\)"):
        loaded({**theirs("test_resnet"), more: torch.ones(3)})


def test_nothing_is_left_out_where_the_network_lacks_something() -> None:
    tensors = {**theirs("test_resnet"), "criterion.weight": torch.ones(3)}
    del tensors["bn1.weight"]
    with pytest.raises(WeightsError, match=r"1 tensors missing \(first: bn1.weight\), 1 it does not have"):
        loaded(tensors)


@pytest.mark.parametrize("names", [["fc.0.weight", "fc.0.bias", "fc.2.weight"], ["fc.fc1.weight", "fc.norm.bias"]])
def test_a_head_of_several_layers_is_left_out_and_told(names: list[str]) -> None:
    own = body(theirs("test_resnet"))
    found, notes = loaded({**own, **dict.fromkeys(names, torch.ones(2))})
    assert equal(own, found)
    told = f"({names[0]} and {len(names) - 1} more)"
    assert (f"weights from file w: left out their head {told}, as a run trains a new one",) == notes


def test_a_plain_head_is_left_out_without_a_word() -> None:
    own = theirs("test_resnet")
    assert () == loaded(own)[1]
    assert () == loaded({f"module.{name}": tensor for name, tensor in own.items()})[1]


def in_transformers(name: str) -> str:
    """The name that Hugging Face transformers has for a tensor of timm's ResNet."""
    first, *rest = name.split(".")
    if first in ("conv1", "bn1"):
        part = "convolution" if first == "conv1" else "normalization"
        return f"resnet.embedder.embedder.{part}.{rest[0]}"
    if first == "fc":
        return f"classifier.1.{rest[0]}"
    block, layer, *leaf = rest
    start = f"resnet.encoder.stages.{int(first[-1]) - 1}.layers.{block}"
    if layer == "downsample":
        return f"{start}.shortcut.{('convolution', 'normalization')[int(leaf[0])]}.{leaf[1]}"
    part = "convolution" if layer.startswith("conv") else "normalization"
    return f"{start}.layer.{int(layer[-1]) - 1}.{part}.{leaf[0]}"


CHILDREN = ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4")


def in_fastai(name: str) -> str:
    """The name that a fastai learner has for a tensor of torchvision's ResNet."""
    first, _, rest = name.partition(".")
    return f"1.8.{rest}" if first == "fc" else f"0.{CHILDREN.index(first)}.{rest}"


def in_a_list(name: str) -> str:
    return f"encoder.{in_fastai(name)[2:]}" if not name.startswith("fc.") else f"classifier.{name}"


@pytest.mark.parametrize("rename", [in_transformers, in_fastai, in_a_list])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_a_resnet_under_the_names_of_another_tool_loads_equal(arch: str, rename: Callable[[str], str]) -> None:
    own = theirs(arch)
    renamed = {rename(name): tensor for name, tensor in own.items()}
    assert len(own) == len(renamed)
    assert equal(body(own), loaded(renamed, arch)[0])


def test_the_names_of_transformers_are_those_it_writes() -> None:
    assert "resnet.embedder.embedder.convolution.weight" == in_transformers("conv1.weight")
    assert "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight" == in_transformers("layer1.0.conv1.weight")
    assert "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias" == in_transformers(
        "layer2.0.downsample.1.bias"
    )


@pytest.mark.parametrize(
    ("ours", "copy"),
    [
        ("model.", "ema_model."),
        ("module.encoder_q.", "module.encoder_k."),
        ("backbone.", "momentum_backbone."),
        ("online_encoder.", "target_encoder."),
    ],
)
def test_of_a_network_and_its_moving_average_the_network_is_taken(ours: str, copy: str) -> None:
    own = theirs("test_resnet")
    averaged = {copy + name: torch.zeros_like(tensor) for name, tensor in own.items()}
    found, notes = loaded({**averaged, **{ours + name: tensor for name, tensor in own.items()}})
    assert equal(body(own), found)
    assert "left out what is no part of the network" in notes[0]


def test_of_two_networks_none_is_taken() -> None:
    own = theirs("test_resnet")
    both = {start + name: tensor for start in ("student.", "teacher.") for name, tensor in own.items()}
    with pytest.raises(
        WeightsError, match=r"file w hold the network 2 times, under student\. and teacher\.: save one alone"
    ):
        loaded(both)


def test_a_network_of_another_shape_beside_it_is_passed_over() -> None:
    own, larger = theirs("resnet18"), theirs("resnet50")
    both = {f"a.{name}": tensor for name, tensor in larger.items()} | {f"b.{name}": own[name] for name in own}
    assert equal(body(own), loaded(both, "resnet18")[0])


@pytest.mark.parametrize(("given", "arch"), [("resnet34", "resnet18"), ("resnet50", "test_resnet")])
def test_weights_of_another_resnet_are_named(given: str, arch: str) -> None:
    with pytest.raises(WeightsError, match=f"do not fit {arch}: .*; they look like those of {given}: name their arch"):
        loaded(theirs(given), arch)


def test_weights_of_a_vision_transformer_are_named() -> None:
    with pytest.raises(
        WeightsError, match="; they look like those of vit_tiny_patch16_224: name their architecture with --arch"
    ):
        loaded(theirs("vit_tiny_patch16_224"), "resnet18")


def test_wrapped_weights_of_another_tool_are_named() -> None:
    tensors = {in_transformers(name): tensor for name, tensor in theirs("resnet34").items()}
    with pytest.raises(WeightsError, match="they look like those of resnet34: name their architecture"):
        loaded(tensors, "resnet18")


@pytest.mark.parametrize("given", ["resnet50d", "seresnet50", "wide_resnet50_2", "test_resnet"])
def test_what_is_no_plain_resnet_is_called_none(given: str) -> None:
    with pytest.raises(WeightsError, match="do not fit resnet18: [^;]*; name their architecture with --arch$"):
        loaded(theirs(given), "resnet18")


def test_weights_that_lack_something_are_not_told_to_be_what_was_asked_for() -> None:
    tensors = theirs("resnet18")
    del tensors["bn1.weight"]
    with pytest.raises(
        WeightsError, match=r"1 tensors missing \(first: bn1.weight\); name their architecture with --arch"
    ):
        loaded(tensors, "resnet18")


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("vit.encoder.layer.0.attention.attention.query.weight", "Hugging Face transformers"),
        ("model.convnext.encoder.stages.0.layers.0.dwconv.weight", "Hugging Face transformers"),
        ("encoder.layers.encoder_layer_0.mlp.0.weight", "torchvision"),
        ("visual.transformer.resblocks.0.ln_1.weight", "OpenAI's CLIP"),
    ],
)
def test_names_that_are_not_translated_are_told_whose_they_are(name: str, whose: str) -> None:
    with pytest.raises(
        WeightsError, match=f"; their names are those of {whose}, which are not translated: give timm's"
    ):
        loaded({name: torch.ones(1)})


def test_shapes_of_the_same_network_fit() -> None:
    own = shapes(theirs("test_resnet"))
    assert "" == misfit(own, own)


def test_names_of_a_networks_authors_are_those_that_timm_translates() -> None:
    own = theirs("test_convnext")
    renamed = {}
    for name, tensor in own.items():
        name = re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", name).replace("stem.", "downsample_layers.0.")
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = name.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        renamed[name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")] = tensor
    assert "stages.0.0.dwconv.weight" in renamed
    found, notes = loaded(renamed, "test_convnext")
    heads = ("head.fc.weight", "head.fc.bias")
    assert equal({name: own[name] for name in own if name not in heads}, {n: found[n] for n in found if n not in heads})
    assert () == notes
