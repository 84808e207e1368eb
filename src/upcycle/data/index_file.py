"""An index as bytes, for another process or a file: an Arrow stream, its columns as they are, the rest as JSON."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from upcycle.data.index import Index
from upcycle.data.listing import Quarantined
from upcycle.errors import DataError, shown
from upcycle.remote import place

_FIXED = ("declared", "hashes", "formats")
"""Columns of text of one width, whose numpy types are told beside them."""
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
        "images": len(index),
        "types": {name: getattr(index, name).dtype.str for name in _FIXED},
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
        table.validate(full=True)
        facts = json.loads((table.schema.metadata or {})[_META])
        if len(table) != facts["images"]:
            raise ValueError(f"{len(table)} of {facts['images']} images are there")
        columns = {name: _chunk(table, name).to_numpy() for name in _PLAIN}
        columns |= {name: _text(_chunk(table, name), np.dtype(facts["types"][name])) for name in _FIXED}
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
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        problem = shown(f"{type(error).__name__}: {error}")
        raise DataError(f"an index cannot be read ({problem}): make it again") from error


def _text(held: Any, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """A column of text of one width as numpy has it, in the same memory; ValueError where the widths differ."""
    if held.type != pa.binary(max(1, kind.itemsize)):
        raise ValueError(f"{held.type} where {kind.str} is needed")
    if not len(held):
        return np.empty(0, kind)
    return np.frombuffer(held.buffers()[1], kind, len(held), held.offset * kind.itemsize)


def _chunk(table: pa.Table, name: str) -> Any:
    """A column as one array."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
