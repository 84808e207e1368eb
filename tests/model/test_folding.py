"""A convolution that holds its BatchNorm computes what the two do."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from upcycle.device import autocast, detect
from upcycle.evaluation.forward import forward
from upcycle.model import folding
from upcycle.model.folding import fold, folded_once, pairs
from upcycle.training.optim import set_training_mode


def network(arch: str) -> nn.Module:
    """With statistics, scales and shifts as training leaves them."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(arch, num_classes=3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def computed(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of each parameter."""
    model.zero_grad()
    logits = model(images())
    logits.square().sum().backward()
    return logits.detach(), {name: value.grad.clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize(
    ("arch", "count"),
    # plain blocks; BatchNorm with activation, depthwise and squeeze-and-excitation; pre-activation, concatenated
    [("resnet18", 20), ("test_efficientnet", 13), ("densenet121", 59)],
)
def test_logits_and_gradients_are_those_of_the_two_layers(arch: str, count: int) -> None:
    model = network(arch)
    assert count == len(pairs(model))
    names = list(model.state_dict())
    expected, gradients = computed(model)
    fold(model)
    assert names == list(model.state_dict())
    assert () == pairs(model)
    found, folded_gradients = computed(model)
    assert torch.allclose(expected, found, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not torch.equal(expected, found)  # it was computed in another way
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, folded_gradients[name], rtol=1e-2, atol=2e-3 * float(gradient.abs().max())), (
            name
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_that_are_folded_once_change_no_bit_and_are_those_of_the_first_pass(precision: str) -> None:
    model, machine = network("resnet18"), detect(precision=precision, threads=1, device="cpu")
    fold(model)

    def logits() -> Tensor:
        with torch.inference_mode(), autocast(machine):
            return model(images())

    expected = logits()
    with folded_once(model):
        assert torch.equal(expected, logits())
        model.conv1.weight.data.zero_()
        assert torch.equal(expected, logits())
    assert not torch.equal(expected, logits())


def test_passes_that_learn_nothing_fold_each_convolution_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = network("resnet18"), []
    fold(model)
    plain = folding.scaled

    def watched(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        made.append(conv)
        return plain(conv, norm)

    monkeypatch.setattr(folding, "scaled", watched)
    forward(model, ((images(), 2) for _ in range(3)))
    assert len(made) == len(set(made)) == 20


def test_passes_that_are_interrupted_leave_nothing_behind() -> None:
    model = network("resnet18")
    fold(model)
    with pytest.raises(ValueError, match="stop"), folded_once(model):
        model(images())
        raise ValueError("stop")
    assert model.conv1.product is None


def test_a_batchnorm_in_training_mode_learns_its_statistics_as_before() -> None:
    model, plain = network("resnet18"), network("resnet18")
    fold(model)
    for one in (model, plain):
        set_training_mode(one, frozen=frozenset(), bn="train")
    assert torch.equal(plain(images()), model(images()))
    assert torch.equal(plain.bn1.running_mean, model.bn1.running_mean)
    assert not torch.equal(network("resnet18").bn1.running_mean, model.bn1.running_mean)


def test_a_copy_folds_its_own_weights() -> None:
    model = network("resnet18")
    fold(model)
    expected, copied = model(images()), copy.deepcopy(model)
    for value in model.state_dict().values():
        value.zero_()
    assert torch.equal(expected, copied(images()))


class Net(nn.Module):
    """A convolution and a BatchNorm, joined in a way that folding must see."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 1, padding_mode="reflect" if kind == "padding" else "zeros")
        self.norm = nn.BatchNorm2d(3, track_running_stats=kind != "no statistics")

    def forward(self, given: Tensor) -> Tensor:
        if self.kind == "another size":
            raise AssertionError(f"{given.shape} is not [B, 3, 32, 32]")
        result = self.conv(given)
        if self.kind == "read twice":
            return self.norm(result) + result
        if self.kind == "changed between":
            return self.norm(result * 2)
        if self.kind == "called twice":
            return self.norm(self.conv(self.norm(result)))
        return self.norm(result)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("plain", 1),
        ("read twice", 0),
        ("changed between", 0),
        ("called twice", 0),
        ("padding", 0),
        ("no statistics", 0),
        ("another size", 0),
    ],
)
def test_only_a_batchnorm_that_alone_reads_a_convolution_is_folded(kind: str, count: int) -> None:
    assert count == len(pairs(Net(kind)))


@pytest.mark.parametrize(("bias", "affine"), [(True, True), (False, True), (True, False), (False, False)])
def test_layers_without_bias_or_scale(bias: bool, affine: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine)).eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    expected = model(images())
    fold(model)
    assert torch.allclose(expected, model(images()), atol=1e-5)


def test_a_network_without_batchnorm_is_left_alone() -> None:
    model: Any = timm.create_model("test_vit")
    assert () == pairs(model)
