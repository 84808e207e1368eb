"""Which networks have a linear classifier over their features."""

from dataclasses import replace

import pytest
import timm
import torch

from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import WeightsError
from upcycle.model import zoo


@pytest.mark.parametrize(
    ("arch", "linear"),
    [("test_resnet", True), ("test_vit", True), ("efficientvit_m0", False), ("shvit_s1", False), ("levit_128s", False)],
)
def test_a_norm_or_a_second_head_before_the_logits_is_no_linear_head(arch: str, linear: bool) -> None:
    assert linear == zoo.has_linear_head(timm.create_model(arch, num_classes=2))


def test_what_a_network_refuses_as_it_is_made_is_said_too() -> None:
    asked = zoo.Network("twins_svt_small", ("a", "b"), Preprocessing(size=100), "none", "")
    assert zoo.refusal(asked, images=2, training=False)
    assert "" == zoo.refusal(replace(asked, arch="test_resnet"), images=2, training=False)


def test_what_is_no_linear_head_gives_timms_own_logits() -> None:
    from upcycle.device import detect

    model = timm.create_model("efficientvit_m0", num_classes=2).eval()
    images = torch.rand(2, 3, 224, 224)
    machine = detect(device="cpu", precision="fp32", threads=1)
    with torch.inference_mode():
        assert torch.equal(model(images), zoo.logits(model, images, machine))


def test_a_network_without_a_classifier_is_one_line() -> None:
    asked = zoo.Network("mobilenetv5_300m_enc", ("a", "b"), Preprocessing(size=256), "none", "")
    with torch.device("meta"), pytest.raises(WeightsError, match="has no classifier to train: give another --arch"):
        zoo.create(asked)
