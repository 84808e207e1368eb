from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.data.made import made
from upcycle.data.index import Index
from upcycle.data.splits import NAMES, Recorded, Splits, are_written, split, write_csv, write_splits


def odd() -> tuple[Index, Splits]:
    """Images and classes of odd names, one in no split."""
    index = made("aaaabb", declared=["train", "val", "test"] * 2)
    names = ["a/,.jpg", 'a/".jpg', "a/new\nline.jpg", "a/re\rturn.jpg", "b/ü ß.jpg", 'b/"".jpg']
    groups = pa.array(["", "p,q", '"', "\n", "", "x"])
    index = replace(index, paths=pa.array(names), groups=groups, classes=('a"', "b\udcff"))
    whole = split(index, seed=0)
    return index, replace(whole, train=whole.train[1:])


def one_by_one(path: Path, index: Index, splits: Splits) -> bytes:
    """The file as the csv module writes it."""
    sides = splits.sides(len(index)).tolist()
    rows = [
        (index.path(at), index.label(at), NAMES[sides[at]], index.group(at), index.hash(at))
        for at in range(len(index))
        if sides[at] >= 0
    ]
    write_csv(path, Recorded._fields, rows)
    return path.read_bytes()


def test_the_lines_are_those_of_the_csv_module(tmp_path: Path) -> None:
    index, splits = odd()
    write_splits(tmp_path / "splits.csv", index, splits)
    assert one_by_one(tmp_path / "slow.csv", index, splits) == (tmp_path / "splits.csv").read_bytes()


def test_lines_of_several_parts_and_of_none(tmp_path: Path) -> None:
    index = made("ab" * 40_000)
    splits = Splits(np.arange(60_000), np.arange(60_000, 70_000), np.arange(70_000, 80_000))
    for some in (splits, Splits.empty()):
        write_splits(tmp_path / "splits.csv", index, some)
        assert one_by_one(tmp_path / "slow.csv", index, some) == (tmp_path / "splits.csv").read_bytes()


def test_a_file_is_compared_to_its_last_byte(tmp_path: Path) -> None:
    index, splits = odd()
    file = tmp_path / "splits.csv"
    write_splits(file, index, splits)
    assert are_written(file, index, splits)
    whole = file.read_bytes()
    for other in (whole[:-1], whole + b"\n", whole.replace(b'"val"', b'"vaL"', 1), b""):
        file.write_bytes(other)
        assert not are_written(file, index, splits)
