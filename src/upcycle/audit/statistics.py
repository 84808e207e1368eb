"""What an audit knows of every image, as columns, and remembers between scans.

The columns are kept in the cache folder: a file whose size and times are those that were noted is not read again.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa

from upcycle.data import decode, isolation
from upcycle.data.index import USUAL, Index, Layout, Progress, Read, attempt, in_order, listed
from upcycle.data.listing import Failure
from upcycle.data.worker import SMALL, ImageStatistics
from upcycle.errors import StorageError
from upcycle.rundir import replacing

VERSION = 3

RECORD = np.dtype(
    [
        ("size", "<i8"),
        ("modified", "<i8"),
        ("changed", "<i8"),
        ("sha256", "S64"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("format", "S4"),
        ("pixels", "S32"),
        ("perceptual", "<u8"),
        ("contrast", "<f4"),
        ("color", "<f4"),
        ("small", f"V{SMALL * SMALL}"),
        ("peak", "<f4"),
    ]
)
"""One image: size in bytes and times in ns of the file, and the fields of `ImageStatistics`."""
Facts = npt.NDArray[np.void]
"""Records [n] of `RECORD`."""


class _Stamp(NamedTuple):
    """By what a file is known not to have changed."""

    size: int
    modified: int
    changed: int


def _stamp(file: Path) -> _Stamp | None:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return _Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def inspect(
    data: Path,
    *,
    folder: Path,
    layout: Layout = USUAL,
    scale: float | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> tuple[Index, Facts]:
    """What `scan` gives and the facts of the same images, every one of them decoded, `scale` being white.

    Facts are remembered in `folder`, also of a scan that is interrupted. An image that cannot be
    decoded is quarantined. DataError where nothing is left.
    """
    listing = listed(data, layout)
    paths = [row.path for row in listing.rows]
    memory = folder / f"{hashlib.sha256(os.fsencode(Path(data).absolute())).hexdigest()[:32]}.parquet"
    known, facts = _recall(memory, scale), np.zeros(len(paths), RECORD)

    def one(at: int) -> Failure | None:
        """Why a file cannot be used; None where its facts are there, remembered or new."""
        file = listing.root / paths[at]
        stamp, place = _stamp(file), known.places.get(paths[at])
        if stamp is not None and place is not None and tuple(known.facts[place].tolist()[:3]) == stamp:
            facts[at] = known.facts[place]
            return None
        seen = attempt(file, lambda path: isolation.SHARED.statistics(path, scale))
        if isinstance(seen, Failure):
            return seen
        facts[at] = _record(*seen, stamp or _Stamp(-1, -1, -1))
        return None

    def results() -> Iterator[Read | Failure]:
        try:
            reasons = in_order(one, range(len(paths)), threads=threads, progress=progress)
            with contextlib.closing(reasons):
                for at, reason in enumerate(reasons):
                    yield reason or _read_of(facts[at])
        finally:
            _remember(memory, paths, facts, known, scale)

    index = listing.index(results(), trainable=False)
    return index, facts[facts["sha256"] != b""]


def _record(sha256: str, seen: ImageStatistics, stamp: _Stamp) -> Any:
    width, height, kind = seen.header
    return (*stamp, sha256.encode(), width, height, kind.encode(), seen.pixels.encode(), *seen[2:])


def _read_of(record: np.void) -> Read:
    header = decode.Header(int(record["width"]), int(record["height"]), record["format"].decode())
    return record["sha256"].decode(), header


# ------------------------------------------------------------------------------------------ memory


class _Known(NamedTuple):
    """What an earlier scan noted: where each path's record is."""

    places: dict[str, int]
    facts: Facts


def _key(scale: float | None) -> bytes:
    """What the facts depend on beside the files."""
    white = "" if scale is None else f" white {scale!r}"
    return f"{VERSION} {PIL.__version__} {np.__version__}{white}".encode()


def _recall(memory: Path, scale: float | None) -> _Known:
    """The facts in a file; none where it is missing, damaged or of other versions."""
    import pyarrow.parquet as pq  # takes a tenth of a second, and a run does not need it

    nothing = _Known({}, np.zeros(0, RECORD))
    try:
        table = pq.read_table(memory, page_checksum_verification=True).combine_chunks()
        if (table.schema.metadata or {}).get(b"upcycle") != _key(scale):
            return nothing
        facts = np.zeros(len(table), RECORD)
        for name in RECORD.names or ():
            facts[name] = _values(table.column(name), RECORD[name])
        return _Known({path: at for at, path in enumerate(table.column("path").to_pylist())}, facts)
    except (OSError, pa.ArrowException, KeyError, ValueError, IndexError, MemoryError):
        return nothing


def _values(column: Any, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """A column without nulls as numpy values."""
    if kind.kind not in "SV":
        return np.asarray(column.to_numpy())
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)


def _remember(memory: Path, paths: list[str], facts: Facts, known: _Known, scale: float | None) -> None:
    """Write down the facts of every file that could be used, those `known` before where it was not come to.

    A folder that may not be written costs time alone.
    """
    import pyarrow.parquet as pq

    facts = facts.copy()
    for at in np.flatnonzero(facts["sha256"] == b"").tolist():
        if paths[at] in known.places:
            facts[at] = known.facts[known.places[paths[at]]]
    used = np.flatnonzero(facts["sha256"] != b"")
    columns = {"path": pa.array([paths[at] for at in used], pa.string())}
    for name in RECORD.names or ():
        columns[name] = _column(np.ascontiguousarray(facts[name][used]))
    table = pa.table(columns).replace_schema_metadata({"upcycle": _key(scale)})
    try:
        with replacing(memory) as temporary:
            pq.write_table(table, temporary, write_page_checksum=True)
    except StorageError:
        return


def _column(values: npt.NDArray[Any]) -> pa.Array:
    if values.dtype.kind not in "SV":
        return pa.array(values)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(values.dtype.itemsize), len(values), [None, pa.py_buffer(values.tobytes())]
    )
