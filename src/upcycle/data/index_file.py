"""An index as bytes, for another process or a file: an Arrow stream, its columns as they are, the rest as JSON."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from upcycle.data.index import Index
from upcycle.data.listing import Quarantined
from upcycle.errors import DataError
from upcycle.remote import place

_FIXED = {"declared": "U5", "hashes": "S64", "formats": "S4"}
"""Columns of text of one width, with numpy's types."""
_PLAIN = ("labels", "widths", "heights")
_META = b"upcycle index"


def index_to_bytes(index: Index) -> bytes:
    """All of `index`, without what its files hold."""
    columns: dict[str, Any] = {"paths": index.paths, "groups": index.groups}
    columns |= {name: pa.array(getattr(index, name), pa.int32()) for name in _PLAIN}
    columns |= {name: _fixed(getattr(index, name)) for name in _FIXED}
    facts = {
        "root": str(index.root),
        "classes": index.classes,
        "quarantined": [asdict(file) for file in index.quarantined],
        "splits": sorted(index.splits),
        "notes": index.notes,
        "drop_empty": index.drop_empty,
    }
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(facts)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _fixed(column: Any) -> pa.Array:
    values = np.ascontiguousarray(column)
    width = max(1, values.dtype.itemsize)
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def index_from_bytes(data: bytes) -> Index:
    """The inverse of `index_to_bytes`; DataError for anything else."""
    try:
        table = pa.ipc.open_stream(data).read_all().combine_chunks()
        facts = json.loads(table.schema.metadata[_META])
        columns = {name: _chunk(table, name).to_numpy() for name in _PLAIN}
        for name, kind in _FIXED.items():
            held = _chunk(table, name)
            start = held.offset * np.dtype(kind).itemsize
            columns[name] = (
                np.frombuffer(held.buffers()[1], kind, len(table), start) if len(table) else np.empty(0, kind)
            )
        return Index(
            root=place(facts["root"]),
            classes=tuple(facts["classes"]),
            paths=_chunk(table, "paths"),
            groups=_chunk(table, "groups"),
            quarantined=tuple(Quarantined(**file) for file in facts["quarantined"]),
            splits=frozenset(facts["splits"]),
            notes=tuple(facts["notes"]),
            drop_empty=bool(facts["drop_empty"]),
            **columns,
        )
    except (pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise DataError(f"an index cannot be read ({type(error).__name__}: {error}): make it again") from error


def _chunk(table: pa.Table, name: str) -> Any:
    """A column as one array."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
