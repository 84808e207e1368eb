"""What is read from files and folders, what is refused, and what weights say of their input."""

import argparse
import contextlib
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from upcycle import manifest
from upcycle.data.preprocessing import Preprocessing
from upcycle.errors import ConfigError, RunError, WeightsError
from upcycle.model.checkpoint import save_model
from upcycle.model.network import ModelSpec, create, load_body
from upcycle.model.sources import get_weights, preprocessing_for
from upcycle.model.weights import input_values, read, sha256
from upcycle.rundir import RunDir, write_json
from upcycle.task import Task


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
    "a class within settings": r"asks for upcycle.model.network.ModelSpec, which",
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


def test_what_networks_compute_themselves_may_be_left_over_in_a_file(tmp_path: Path, tiny_weights: Path) -> None:
    more = {"AuxLogits.conv.weight": torch.ones(1), "layers.0.attn.relative_position_index": torch.ones(1)}
    save_file({**load_file(tiny_weights), **more}, tmp_path / "more.safetensors")
    load_body(create(network()), read(tmp_path / "more.safetensors"), "test_resnet")


def test_input_values_understand_timms_words() -> None:
    words = {"input_size": [3, 224, 224], "mean": [0, 0, 0], "license": "mit"}
    assert {"size": 224, "mean": (0.0, 0.0, 0.0)} == input_values(words)


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


# ---------------------------------------------------------------- folders

SEEN = Preprocessing(size=96, crop_pct=0.9, mean=(0.1, 0.2, 0.3), std=(0.4, 0.4, 0.4))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """As much of a finished run as its weights need."""
    run = RunDir(tmp_path / "run")
    network = ModelSpec("test_resnet", Task.of(("a", "b")), SEEN, "test", "")
    save_model(run.best, create(network), network)
    write_json(run.model, network.to_dict())
    run.set_status("finished")
    manifest.seal(run)
    return run


def test_a_run_gives_its_best_weights_and_what_they_were_trained_with(run: RunDir) -> None:
    weights = get_weights("test_resnet", str(run.root))
    assert weights is not None
    assert (f"run {run.root}", sha256(run.best)) == (weights.source, weights.sha256)
    again = preprocessing_for("test_resnet", weights, input_file=None, image_size=None, crop_pct=None)
    assert SEEN == replace(again, source=SEEN.source)
    assert load_file(run.best).keys() == weights.tensors.keys()


def test_a_run_of_another_architecture_names_it(run: RunDir) -> None:
    with pytest.raises(
        WeightsError, match=r"weights from run .* are those of test_resnet, not resnet18: give --arch test_"
    ):
        get_weights("resnet18", str(run.root))


def test_an_unfinished_run_is_told_how_to_finish(run: RunDir) -> None:
    run.set_status("running")
    with pytest.raises(WeightsError, match=rf"the run is not finished; .*: upcycle train --out {run.root} --resume"):
        read(run.root)


def test_a_cross_validation_names_a_fold(run: RunDir) -> None:
    (run.root / "fold-1").mkdir()
    with pytest.raises(WeightsError, match=rf"is a cross-validation; give one fold, such as {run.root}/fold-1"):
        read(run.root)


def test_a_folder_of_runs_names_one(run: RunDir) -> None:
    with pytest.raises(WeightsError, match=rf"it is a folder of runs; give one, such as {run.root}"):
        read(run.root.parent)


def test_a_damaged_run_is_refused(run: RunDir) -> None:
    run.model.write_text("{}")
    with pytest.raises(RunError, match=r"model\.json is damaged or was changed"):
        read(run.root)


def test_weights_of_ours_whose_numbers_were_changed_are_refused(run: RunDir) -> None:
    content = bytearray(run.best.read_bytes())
    content[-2] ^= 1
    run.best.write_bytes(content)
    for given in (run.root, run.best):
        with pytest.raises(
            WeightsError, match=r"best\.safetensors cannot be read: its content does not have the .*; copy"
        ):
            read(given)


def hub_folder(path: Path, arch: str, **files: Any) -> Path:
    path.mkdir()
    save_file(timm.create_model(arch).state_dict(), path / "model.safetensors")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_a_folder_of_timm_gives_its_weights_and_their_input(tmp_path: Path) -> None:
    config = {"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.1, 0.1, 0.1]}}
    folder = hub_folder(tmp_path / "timm", "test_resnet", config=config)
    weights = read(folder)
    assert {"size": 64, "mean": (0.1, 0.1, 0.1)} == weights.input
    assert (f"folder {folder}", "test_resnet") == (weights.source, weights.arch)
    with pytest.raises(WeightsError, match=r"are those of test_resnet, not resnet18: give --arch test_resnet"):
        get_weights("resnet18", str(folder))


@pytest.mark.parametrize(
    ("processor", "seen"),
    [
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "image_mean": [0.1, 0.2, 0.3], "resample": 3},
            {"size": 224, "crop_pct": 0.875, "mean": (0.1, 0.2, 0.3), "interpolation": "bicubic"},
        ),
        (
            {"size": 256, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "resample": 2},
            {"size": 224, "crop_pct": 0.875, "interpolation": "bilinear"},
        ),
        ({"size": {"height": 384, "width": 384}, "image_std": [0.5, 0.5, 0.5]}, {"size": 384, "std": (0.5, 0.5, 0.5)}),
        ({}, {}),
    ],
)
def test_a_folder_of_transformers_says_its_input(tmp_path: Path, processor: Any, seen: Any) -> None:
    config = {"model_type": "resnet", "image_size": 1}
    read_back = read(hub_folder(tmp_path / "hf", "test_resnet", config=config, preprocessor_config=processor))
    assert seen == read_back.input


def test_a_torch_file_in_a_folder_of_the_hub_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert ["a"] == list(read(tmp_path).tensors)


def test_a_resnet_whose_strides_lie_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = hub_folder(
        tmp_path / "hf", "test_resnet", config={"model_type": "resnet", "downsample_in_bottleneck": True}
    )
    with pytest.raises(
        WeightsError, match=r"config\.json has downsample_in_bottleneck, so their network takes its strides"
    ):
        read(folder)
