"""The lines of splits.csv, made of whole columns: a million rows one by one would take ten times as long."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from upcycle.data.index import Index

COLUMNS = ("path", "label", "split", "group", "sha256")
_ROWS = 2**16
"""Rows that are made at once."""


def split_lines(index: Index, sides: npt.NDArray[np.int8], names: tuple[str, ...]) -> Iterator[bytes]:
    """All of the file in parts: a header, then each image with a side in `names`, every value quoted."""
    yield b",".join(b'"%s"' % name.encode() for name in COLUMNS) + b"\n"
    classes, splits = (
        _quoted(pa.array([name.encode(errors="surrogateescape") for name in some])) for some in (index.classes, names)
    )
    held = np.flatnonzero(sides >= 0)
    for start in range(0, len(held), _ROWS):
        at = held[start : start + _ROWS]
        columns = (
            _quoted(index.paths.take(pa.array(at)).cast(pa.binary())),
            classes.take(pa.array(index.labels[at])),
            splits.take(pa.array(sides[at])),
            _quoted(index.groups.take(pa.array(at)).cast(pa.binary())),
            pa.array(index.hashes[at].tolist(), pa.binary()),
        )
        lines = pc.binary_join_element_wise(*columns, b'","').to_pylist()
        yield b'"' + b'"\n"'.join(lines) + b'"\n'


def _quoted(column: pa.Array) -> pa.Array:
    """Values as they are between quotes."""
    return pc.replace_substring(column, b'"', b'""')
