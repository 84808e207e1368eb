"""Tables in the cache folder: Arrow streams with a checksum behind them, written whole and mapped into memory."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from upcycle.errors import StorageError
from upcycle.rundir import replacing

_DIGEST = 32
_MOST_BYTES = 2**34
"""Of a file that is read: some forty million photos."""


def store(path: Path, columns: dict[str, Any], version: str) -> None:
    """Write columns of equal length (arrays of numpy or Arrow); a folder that cannot be written costs time alone."""
    batch = pa.record_batch([pa.array(column) for column in columns.values()], list(columns))
    batch = batch.replace_schema_metadata({"version": version})
    with contextlib.suppress(StorageError), replacing(path) as temporary, temporary.open("wb") as file:
        hashing = _Hashing(file)
        with pa.ipc.new_stream(hashing, batch.schema) as writer:
            writer.write_batch(batch)
        file.write(hashing.digest.digest())


def recall(path: Path, kinds: dict[str, pa.DataType], version: str) -> dict[str, Any]:
    """The columns of a file, mapped; none where it is missing, damaged, of other columns or another version's."""
    with contextlib.suppress(OSError, ValueError, pa.ArrowException, StopIteration):
        if not _DIGEST < path.stat().st_size <= _MOST_BYTES:
            return {}
        with pa.memory_map(str(path)) as mapped:
            content = mapped.read_buffer()
        body = content.slice(0, content.size - _DIGEST)
        if hashlib.sha256(body).digest() != content.slice(body.size).to_pybytes():
            return {}
        batch = pa.ipc.open_stream(body).read_next_batch()
        batch.validate(full=True)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        fits = {name: column.type for name, column in columns.items()} == kinds
        if fits and batch.schema.metadata == {b"version": version.encode()} and not any(map(_has_gaps, batch.columns)):
            return columns
    return {}


def _has_gaps(column: pa.Array) -> bool:
    return bool(column.null_count)


def fixed(content: Any, width: int) -> pa.Array:
    """A column of values of `width` bytes each, from all of their bytes."""
    return pa.Array.from_buffers(
        pa.binary(width), len(memoryview(content).cast("B")) // width, [None, pa.py_buffer(content)]
    )


class _Hashing:
    """A file to write, and the checksum of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()
