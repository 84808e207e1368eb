from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.data.made import made
from upcycle.data.split_file import Recorded, changes, read_splits, write_splits
from upcycle.data.splits import split
from upcycle.errors import RunError


def test_splits_are_written_and_read_whatever_the_names(tmp_path: Path) -> None:
    odd = ["a/,.jpg", 'a/".jpg', "a/new\nline.jpg", "a/re\rturn.jpg", "b/ü ß.jpg", "b/''.jpg"]
    index = replace(made("aaaabb", declared=["train", "val", "test"] * 2), paths=pa.array(odd))
    index = replace(index, groups=pa.array(["", "p,q", "", "\n", "", "x"]))
    write_splits(tmp_path / "splits.csv", index, split(index, seed=0))
    rows = read_splits(tmp_path / "splits.csv")
    assert [row.path for row in rows] == odd
    assert [row.group for row in rows] == ["", "p,q", "", "\n", "", "x"]
    assert rows[1] == Recorded('a/".jpg', "a", "val", "p,q", index.hash(1))


@pytest.mark.parametrize(
    "content", ["", "path,label\n", "path,label,split,group,sha256\na,b\n", 'path,label,split,group,sha256\n"a']
)
def test_a_damaged_splits_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.csv").write_text(content)
    with pytest.raises(RunError, match=r"splits.csv (is no splits file|cannot be read): .+"):
        read_splits(tmp_path / "splits.csv")


def test_a_missing_splits_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"splits.csv is missing$"):
        read_splits(tmp_path / "splits.csv")


def test_what_changed_is_counted_by_kind() -> None:
    rows = [Recorded(f"{name}.jpg", "a", "train", "", name * 64) for name in "abcd"]
    now = [rows[0]._replace(label="b"), rows[1]._replace(sha256="f" * 64, split="val"), rows[2]]
    now.append(Recorded("e\n.jpg", "a", "train", "", "e" * 64))
    now.append(Recorded("f.jpg", "a", "train", "", "f" * 64))
    assert (
        "1 gone: d.jpg, 2 new: e\\n.jpg, ..., 1 of other content: b.jpg, 1 of another class: a.jpg, "
        "1 in another split: b.jpg"
    ) == changes(rows, now)
    assert "" == changes(rows, rows)
