"""An index as bytes and back."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from upcycle.data.index import Index, index_images
from upcycle.data.index_file import index_from_bytes, index_to_bytes
from upcycle.data.listing import Quarantined
from upcycle.errors import DataError


def same(one: Index, other: Index) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Index)]
    return all(
        a.equals(b)
        if isinstance(a, pa.Array)
        else (a.dtype == b.dtype and np.array_equal(a, b))
        if isinstance(a, np.ndarray)
        else a == b
        for a, b in pairs
    )


def test_an_index_is_the_same_afterwards(photos: Path) -> None:
    index = index_images(photos)
    bad = Quarantined("train/across/ü.png", "empty file", "across", "train", "empty")
    index = replace(index, quarantined=(bad,), notes=("a note",), drop_empty=True)
    again = index_from_bytes(index_to_bytes(index))
    assert same(index, again)
    assert index.quarantined[0].kind == again.quarantined[0].kind
    part = again.take(np.array([3, 1]))
    assert [index.path(3), index.path(1)] == [part.path(0), part.path(1)]
    assert same(part, index_from_bytes(index_to_bytes(part)))
    nothing = index.take(np.empty(0, np.int64))
    assert same(nothing, index_from_bytes(index_to_bytes(nothing)))


def test_names_that_are_not_utf8_are_the_same_afterwards(photos: Path) -> None:
    index = index_images(photos)
    bad = Quarantined("a/\udcff.png", "empty file", "\udcfe", "", "empty")
    classes = ("\udcfe", *index.classes[1:])
    index = replace(index, root=Path("/photos/\udcff"), classes=classes, quarantined=(bad,), notes=("\udcff",))
    assert same(index, index_from_bytes(index_to_bytes(index)))


@pytest.mark.parametrize("kind", ["U1", "U7"])
def test_columns_are_as_wide_as_they_were(photos: Path, kind: str) -> None:
    index = index_images(photos)
    index = replace(index, declared=index.declared.astype(kind), formats=index.formats.astype("S9"))
    assert same(index, index_from_bytes(index_to_bytes(index)))


def test_a_part_is_one_line_wherever_it_was_cut(photos: Path) -> None:
    whole = index_to_bytes(index_images(photos))
    # the last 8 bytes are the end of the stream, and without them nothing is missing
    for size in range(len(whole) - 8):
        with pytest.raises(DataError, match=r"an index cannot be read \(") as caught:
            index_from_bytes(whole[:size])
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"nonsense", bytes(1000)])
def test_other_bytes_are_one_line(data: bytes) -> None:
    with pytest.raises(DataError, match=r"an index cannot be read \("):
        index_from_bytes(data)


def test_a_stream_of_something_else_is_one_line() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"paths": ["a"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"an index cannot be read \("):
        index_from_bytes(bytes(sink.getvalue()))
