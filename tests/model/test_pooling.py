"""What a head reads of several stages, of networks of many kinds."""

from pathlib import Path

import pytest
import timm
import torch

from upcycle.data.preprocessing import Preprocessing
from upcycle.device import detect
from upcycle.errors import WeightsError
from upcycle.model import pooling
from upcycle.model.checkpoint import load_model, save_model
from upcycle.model.network import ModelSpec, create
from upcycle.task import Task

IMAGES = torch.linspace(-2, 2, 2 * 3 * 64 * 64).sin().view(2, 3, 64, 64)
SPEC = ModelSpec("resnet18", Task.of("abc"), Preprocessing(size=64), "test", "0" * 64, stages=3)


@pytest.mark.parametrize(
    ("arch", "widths"),
    [
        ("resnet18", (512, 256, 128)),
        ("tf_efficientnet_lite0", (1280, 112, 40)),
        ("test_convnext", (64, 48, 32)),
        ("swin_tiny_patch4_window7_224", (768, 384, 192)),
        ("vit_tiny_patch16_224", (192, 576, 384)),  # with the patches of the last block in the second
        ("mixer_s32_224", (512, 512, 512)),
    ],
)
def test_the_last_stages_are_read_the_last_one_first(arch: str, widths: tuple[int, ...]) -> None:
    body = timm.create_model(arch).eval()
    images = torch.linspace(-2, 2, 3 * 224 * 224).sin().view(1, 3, 224, 224)
    with torch.inference_mode():
        assert widths == pooling.widths(body)
        assert pooling.computes(body, images)
        assert [sum(widths[:n]) for n in (1, 2, 3)] == [pooling.pooled(body, images, n).shape[1] for n in (1, 2, 3)]
        two, three = (pooling.pooled(body, images, stages) for stages in (2, 3))
    assert torch.equal(two, three[:, : two.shape[1]])


def test_a_network_whose_stages_cannot_be_told_has_its_last_one_alone() -> None:
    network = create(ModelSpec("hiera_tiny_224", Task.of("ab"), Preprocessing(size=224), "test", "0" * 64))
    assert (768,) == network.widths(224)
    with pytest.raises(WeightsError, match="has no 9 stages"):
        network.read(9)


def test_a_wide_head_reads_pooled_maps() -> None:
    network = create(SPEC).eval()
    maps = network.body.forward_intermediates(IMAGES, indices=[-3, -2, -1])[1]  # type: ignore[operator]
    expected = torch.cat([each.mean(dim=(2, 3)) for each in reversed(maps)], dim=1)
    torch.testing.assert_close(network.features(IMAGES), expected)
    torch.testing.assert_close(network(IMAGES), network.head(expected))


def test_a_wide_head_is_saved_and_read_under_timms_names(tmp_path: Path) -> None:
    network = create(SPEC, seed=3).eval()
    save_model(tmp_path / "best.safetensors", network, SPEC)
    again = load_model(tmp_path / "best.safetensors", SPEC)
    assert (3, 896) == tuple(again.state_dict()["fc.weight"].shape)
    assert torch.equal(network(IMAGES), again(IMAGES))
    with pytest.raises(WeightsError, match="does not fit"):
        load_model(tmp_path / "best.safetensors", ModelSpec(**{**vars(SPEC), "stages": 2}))


def test_batchnorm_is_folded_before_the_stages_are_read() -> None:
    plain, folded = create(SPEC).eval(), create(SPEC, detect(precision="fp32")).eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(IMAGES), folded(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("views", "count"), [("flip", 2), ("square", 8)])
def test_logits_of_the_views_are_averaged_but_in_training(views: str, count: int) -> None:
    plain = create(SPEC).eval()
    seen = create(ModelSpec(**{**vars(SPEC), "views": views})).eval()
    with torch.inference_mode():
        turned = [image for k in range(4) for image in (IMAGES.rot90(k, (2, 3)), IMAGES.rot90(k, (2, 3)).flip(3))]
        expected = torch.stack([plain(view) for view in turned[:count]]).mean(dim=0)
        torch.testing.assert_close(seen(IMAGES), expected)
        seen.body.train()
        plain.body.train()
        torch.testing.assert_close(seen(IMAGES), plain(IMAGES))
