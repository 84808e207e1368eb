"""Rows of Parquet files read by many threads at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from upcycle import row_groups
from upcycle.row_groups import RowGroups


def write(path: Path, count: int = 400, groups: int = 20) -> list[bytes]:
    images = [bytes([at % 256]) * (1000 + at) for at in range(count)]
    table = pa.table({"image": [{"bytes": one, "path": None} for one in images]})
    parquet.write_table(table, path, row_group_size=groups)
    return images


class Opened:
    """A Parquet file that counts what is read of it."""

    def __init__(self, path: str) -> None:
        self.file = parquet.ParquetFile(path)
        self.metadata, self.num_row_groups = self.file.metadata, self.file.num_row_groups
        self.read: list[int] = []

    def read_row_group(self, group: int, columns: list[str]) -> pa.Table:
        self.read.append(group)
        return self.file.read_row_group(group, columns=columns)


def test_many_threads_read_each_group_once_and_right(tmp_path: Path) -> None:
    """With a reader shared without a lock this crashes Python."""
    images, made = write(tmp_path / "a.parquet"), []
    rows = RowGroups(lambda name: (made.append(Opened(name)), made[-1])[1])
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda row: rows.image(str(tmp_path / "a.parquet"), row), range(400)))
    assert images == found
    assert 1 == len(made)
    assert list(range(20)) == sorted(made[0].read)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": b"x"}, {"bytes": None}, None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = RowGroups(parquet.ParquetFile)
    assert [b"x", None, None, None] == [rows.image(str(tmp_path / "a.parquet"), row) for row in range(4)]


def test_few_groups_and_files_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "MOST_BYTES", 60_000)
    monkeypatch.setattr(row_groups, "MOST_FILES", 2)
    names = [str(tmp_path / f"{at}.parquet") for at in range(4)]
    for name in names:
        write(Path(name), 40, 10)
    rows = RowGroups(parquet.ParquetFile)
    for name in names:
        assert all(rows.image(name, row) for row in range(40))
    assert 2 == len(rows._files)
    assert 60_000 >= sum(one.nbytes for one in rows._groups.values())


def test_a_store_that_fails_is_opened_again_and_damage_is_a_value_error(tmp_path: Path) -> None:
    images, failing = write(tmp_path / "a.parquet", 40), [True]

    class Failing(Opened):
        def read_row_group(self, group: int, columns: list[str]) -> pa.Table:
            if failing.pop():
                failing.append(False)
                raise ConnectionResetError("gone")
            failing.append(False)
            return super().read_row_group(group, columns)

    rows, name = RowGroups(Failing), str(tmp_path / "a.parquet")
    with pytest.raises(ConnectionResetError):
        rows.image(name, 0)
    assert images[0] == rows.image(name, 0)
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    damaged[4:400] = bytes(396)
    (tmp_path / "a.parquet").write_bytes(damaged)
    rows.forget(name)
    with pytest.raises(ValueError, match="damaged Parquet"):
        rows.image(name, 0)
