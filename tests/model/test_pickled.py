"""Torch files with settings beside their tensors; files and folders of other kinds, and what to do with them."""

import argparse
import codecs
import gzip
import io
import json
import pathlib
import pickle
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from upcycle.errors import WeightsError
from upcycle.model import pickled
from upcycle.model.weights import read

SETTINGS = {
    "a namespace": argparse.Namespace(lr=1, nested=argparse.Namespace(path=pathlib.PurePosixPath("a/b"))),
    "a path": pathlib.Path("/data/photos"),
    "a defaultdict": defaultdict(list, {"loss": [0.5, 0.25]}),
    "numbers of numpy": {"best": np.float64(0.9), "again": [np.float32(0.5)] * 3, "k": np.int64(3)},
    "an array of numpy": np.linspace(0, 1, 999),
    "plain values": {"lr": 0.1, "names": ["a", "b"]},
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("archive", [True, False])
def test_settings_beside_the_tensors_are_passed_over(tmp_path: Path, kind: str, archive: bool) -> None:
    content = {"model": {"a": torch.ones(2)}, "epoch": 1, "args": SETTINGS[kind]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=archive)
    assert ["a"] == list(read(tmp_path / "w.pth").tensors)


def test_no_object_is_made_of_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    made: list[object] = []
    monkeypatch.setattr(argparse.Namespace, "__setstate__", lambda *_: made.append(1), raising=False)
    pickled.read_tensors(tmp_path / "w.pth")
    assert [] == made


def test_what_is_allowed_for_one_file_is_not_allowed_thereafter(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    before = set(torch.serialization.get_safe_globals())
    pickled.read_tensors(tmp_path / "w.pth")
    assert before == set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("name", ["model_state_dict", "net", "anything"])
def test_the_only_entry_with_tensors_is_taken_whatever_its_name(tmp_path: Path, name: str) -> None:
    state = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    torch.save({name: {"a": torch.ones(2)}, "optimizer": state, "epoch": 1}, tmp_path / "w.pth")
    assert ["a"] == list(read(tmp_path / "w.pth").tensors)


class Encode:
    """What a pickle does not hold but makes when it is read: bytes of a text, in any encoding."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return codecs.encode, self.arguments


LONG = "x" * 10_000
ENCODINGS = {
    "another encoding": [Encode("ab", "utf-16")],
    "bytes made longer and longer": [Encode(Encode(Encode("ab", "latin1"), "hex"), "hex")],
    "one text many times": [Encode(LONG, "latin1") for _ in range(9)],
    "no call but the function": [codecs.encode, "ab", "latin1"],
}


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("archive", [True, False])
def test_bytes_that_a_pickle_makes_are_those_of_its_texts(tmp_path: Path, kind: str, archive: bool) -> None:
    content = {"model": {"a": torch.ones(2)}, "args": ENCODINGS[kind]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(WeightsError, match="its pickle makes bytes in a way that torch does not write"):
        read(tmp_path / "w.pth")


def test_a_list_of_tensors_is_told_how_to_save_them(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"it holds no tensors by name; where it was made, save torch\.save"):
        read(tmp_path / "w.pth")


def zipped(names: list[str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return made.getvalue()


def tarred() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"))
    return made.getvalue()


def indexed(name: str) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": {"a": name, "b": name.replace("1-of", "2-of")}}).encode()


SCRIPT = ["m/code/__torch__.py", "m/constants.pkl", "m/data.pkl"]
FILES: dict[str, tuple[str, bytes, str]] = {
    "git-lfs": ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "git-annex": ("w.pth", b"/annex/objects/SHA256E-s1--0.pth\n", "run git annex get"),
    "Keras": ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), r"HDF5 \(.h5\), the format of Keras, .*; give"),
    "Keras 3": ("w.keras", zipped(["metadata.json", "config.json", "model.weights.h5"]), r"Keras model \(.keras\)"),
    "ONNX": ("w.onnx", b"\x08\x07\x12\x07pytorch" + bytes(99), "is ONNX.*; give the PyTorch weights"),
    "TensorFlow Lite": ("w.tflite", b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite model"),
    "TensorFlow graph": ("saved_model.pb", b"\x08\x01\x9a\x99" + bytes(99), "part of a TensorFlow model"),
    "TensorFlow checkpoint": ("model.data-00000-of-00001", bytes(99), "part of a TensorFlow model"),
    "HTML": ("w.pth", b"\n<!DOCTYPE html><html>404</html>", "web page, not weights, so its download failed"),
    "XML": ("w.pth", b'<?xml version="1.0"?><Error>AccessDenied</Error>', "web page, not weights"),
    "empty": ("w.pth", b"", "is empty; copy or download it again"),
    "TorchScript": ("w.pt", zipped(SCRIPT), "TorchScript.*torch.jit.load"),
    "torch.export": ("w.pt2", zipped(["m/archive_format", "m/models/model.json"]), r"torch.export archive \(.pt2\)"),
    "gzip": ("w.pth.gz", gzip.compress(b"x"), r"compressed \(gzip\); unpack it"),
    "tar": ("w.tar", tarred(), "tar archive; unpack it"),
    "zip": ("w.zip", zipped(["models/best.pth"]), "zip archive that torch did not write, with 'models/best.pth' in"),
    "NumPy": ("w.npz", zipped(["a.npy"]), r"NumPy archive \(.npz\)"),
    "an index": ("model.safetensors.index.json", indexed("model-1-of-2.safetensors"), "in several files; join"),
    "an index of torch's": ("pytorch_model.bin.index.json", indexed("model-1-of-2.bin"), "in several files; join"),
    "JSON": ("config.json", b'{"model_type": "resnet"}', "is JSON, not weights; give the .safetensors"),
    "a pickle": ("w.pkl", pickle.dumps({"a": 1}), "a pickle that torch did not write.*save torch.save"),
    "text": ("w.pth", b"layer1, 0.5", "neither a safetensors nor a torch file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    name, content, told = FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"^weights .*{name} cannot be used: the file .*{told}") as caught:
        read(tmp_path / name)
    assert 1 == len(str(caught.value).splitlines())


def test_an_archive_cut_short_is_told_to_be_copied_again(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(999)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])
    with pytest.raises(WeightsError, match="cut short or damaged; copy or download it again"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize("make", [lambda: timm.create_model("test_resnet"), lambda: nn.Linear(2, 2)])
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickled_model_is_told_with_its_class(tmp_path: Path, make: Callable[[], nn.Module], archive: bool) -> None:
    torch.save(make(), tmp_path / "w.pth", _use_new_zipfile_serialization=archive)
    told = r"it is a pickled object of the class (timm\.models\.resnet\.ResNet|torch\.nn\.modules\.linear\.Linear), .*"
    with pytest.raises(WeightsError, match=f"{told}; where it was made, save torch.save"):
        read(tmp_path / "w.pth")


def test_a_header_of_any_length_is_no_foreign_file(tmp_path: Path) -> None:
    for length in (1, 99, 300, 3000):
        save_file({"a" * length: torch.ones(1)}, tmp_path / "w.safetensors")
        assert ["a" * length] == list(read(tmp_path / "w.safetensors").tensors)


FOLDERS = {
    "SavedModel": (["saved_model.pb", "variables"], "TensorFlow SavedModel"),
    "TensorFlow checkpoint": (["checkpoint", "m.index", "m.data-00000-of-00001"], "TensorFlow checkpoints"),
    "several parts": (["config.json", "model.safetensors.index.json"], "in several files, with an index; join them"),
    "a cache": (["blobs", "refs", "snapshots"], "give the folder below its snapshots/"),
    "an adapter": (["adapter_config.json", "adapter_model.safetensors"], "an adapter of PEFT, not a whole network"),
    "a distributed checkpoint": ([".metadata", "__0_0.distcp"], "distributed checkpoint in several files; join them"),
    "JAX": (["config.json", "flax_model.msgpack"], "JAX model of Hugging Face transformers"),
    "unpacked": (["data.pkl", "version"], "torch file that was unpacked"),
    "files": (["last.ckpt", "top.ckpt"], "a folder with last.ckpt and 1 more; give the file of weights itself"),
    "other things": (["photo.jpg"], "a folder without weights; give a file, a run"),
    "nothing": ([], "a folder without weights"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_another_kind_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    names, told = FOLDERS[kind]
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(WeightsError, match=f"^weights .* cannot be used: it is .*{told}") as caught:
        read(tmp_path)
    assert 1 == len(str(caught.value).splitlines())
