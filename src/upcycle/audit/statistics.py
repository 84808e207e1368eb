"""Statistics of every image, as columns, remembered between scans.

They are stored in the cache folder: a file whose size and times are those that were noted is not read again.
"""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL

from upcycle.data import decode, isolation
from upcycle.data.index import (
    USUAL,
    HashedHeader,
    Index,
    ProgressFunction,
    attempt,
    in_order,
    index_of,
    listing_of,
)
from upcycle.data.listing import Layout, Unusable
from upcycle.data.worker import SMALL
from upcycle.errors import StorageError
from upcycle.rundir import replacing

_VERSION = 4

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
Statistics = npt.NDArray[np.void]
"""Records [n] of `RECORD`."""


def inspect(
    data: Path,
    *,
    folder: Path,
    layout: Layout = USUAL,
    scale: float | None = None,
    threads: int = 2,
    progress: ProgressFunction | None = None,
) -> tuple[Index, Statistics]:
    """What `index_images` gives and the statistics of the same images, all of them decoded, `scale` being white.

    Statistics are remembered in `folder`, also of a scan that is interrupted. An image that cannot be
    decoded is quarantined. DataError where nothing is left.
    """
    listing = listing_of(data, layout)
    paths = [row.path for row in listing.rows]
    memory = folder / f"{hashlib.sha256(os.fsencode(Path(data).absolute())).hexdigest()[:32]}.npz"
    earlier, found = _recall(memory, scale), np.zeros(len(paths), RECORD)

    def one(at: int) -> Unusable | None:
        """Why a file cannot be used; None where its statistics are there, remembered or new."""
        file = listing.root / paths[at]
        stamp, place = _stamp(file), earlier.places.get(paths[at])
        if stamp is not None and place is not None and tuple(earlier.statistics[place].tolist()[:3]) == stamp:
            found[at] = earlier.statistics[place]
            return None
        read = attempt(file, lambda path: isolation.DECODERS.statistics(path, scale))
        if isinstance(read, Unusable):
            return read
        sha256, image = read
        width, height, kind = image.header
        header = (sha256.encode(), width, height, kind.encode(), image.pixels.encode())
        found[at] = (*(stamp or (-1, -1, -1)), *header, *image[2:])
        return None

    def results() -> Iterator[HashedHeader | Unusable]:
        try:
            reasons = in_order(one, range(len(paths)), threads=threads, progress=progress)
            with contextlib.closing(reasons):
                for at, reason in enumerate(reasons):
                    yield reason or _header(found[at])
        finally:
            _remember(memory, paths, found, earlier, scale)

    index = index_of(listing, results(), trainable=False)
    return index, found[found["sha256"] != b""]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Size and times of a file: with the same ones it has not changed."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _header(record: np.void) -> HashedHeader:
    header = decode.Header(int(record["width"]), int(record["height"]), record["format"].decode())
    return record["sha256"].decode(), header


# ------------------------------------------------------------------------------------------ memory


class _Earlier(NamedTuple):
    """What an earlier scan noted: where each path's record is."""

    places: dict[str, int]
    statistics: Statistics


def _key(scale: float | None) -> str:
    """What the statistics depend on beside the files."""
    return f"{_VERSION} {PIL.__version__} {np.__version__} white {scale!r}"


def _recall(memory: Path, scale: float | None) -> _Earlier:
    """The statistics in a file; none where it is missing, damaged or of other versions."""
    unreadable = (OSError, EOFError, KeyError, ValueError, MemoryError, NotImplementedError, zipfile.BadZipFile)
    # a zip archive, whose checksums are compared as it is read
    with contextlib.suppress(*unreadable), memory.open("rb") as file, np.load(file) as stored:
        if str(stored["key"]) == _key(scale):
            paths = stored["paths"].tobytes().decode().split("\0")
            return _Earlier({path: at for at, path in enumerate(paths)}, stored["records"].astype(RECORD))
    return _Earlier({}, np.zeros(0, RECORD))


def _remember(memory: Path, paths: list[str], found: Statistics, earlier: _Earlier, scale: float | None) -> None:
    """Store the statistics of every file that could be used, earlier ones of files that were not reached.

    A folder that may not be written costs time alone.
    """
    found = found.copy()
    for at in np.flatnonzero(found["sha256"] == b"").tolist():
        if paths[at] in earlier.places:
            found[at] = earlier.statistics[earlier.places[paths[at]]]
    used = np.flatnonzero(found["sha256"] != b"")
    named = np.frombuffer("\0".join(paths[at] for at in used).encode(), np.uint8)
    with contextlib.suppress(StorageError), replacing(memory) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(_key(scale)), paths=named, records=found[used])
