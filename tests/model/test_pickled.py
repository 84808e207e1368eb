"""Torch files with settings beside their tensors: taken without making any of those."""

import argparse
import codecs
import pathlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

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
    pickled.read(tmp_path / "w.pth")
    assert [] == made


def test_what_is_allowed_for_one_file_is_not_allowed_thereafter(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    before = torch.serialization.get_safe_globals()
    pickled.read(tmp_path / "w.pth")
    assert before == torch.serialization.get_safe_globals()


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
