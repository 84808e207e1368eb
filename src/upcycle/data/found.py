"""What reading files gave, as columns, and remembered from scan to scan: a file that has not changed is not read again.

A file has not changed where its size, times and inode are those that were noted, as git has it; and as in git those of
a file that was written within `SETTLED` of the scan are not noted, since a later write might leave them as they are.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa
import pyarrow.compute as pc

from upcycle.data import stored
from upcycle.data.decode import Header
from upcycle.data.listing import Unusable
from upcycle.remote import Address, inside, stamp

HashedHeader = tuple[str, Header]
"""What reading a file gives: the sha256 of its bytes in hex, and its header."""
Stamps = npt.NDArray[np.int64]
"""Of each file its size in bytes, when it was modified and when its inode changed in ns, and its inode, [n, 4]."""
SETTLED = 2 * 10**9
"""Nanoseconds after which a file's times are trusted to change with its content: FAT's are that coarse."""
NOWHERE = (-1, -1, -1, -1)
"""The stamp of a file that cannot be asked for one."""
_VERSION = f"scan 1, Pillow {PIL.__version__}"
_NAMES = ("size", "modified", "changed", "inode")
_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Found:
    """What reading n files gave: sha256 in hex, size and format, all zero where `bad` has why a file cannot be used."""

    hashes: npt.NDArray[np.bytes_]
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    formats: npt.NDArray[np.bytes_]
    bad: dict[int, Unusable] = field(default_factory=dict)

    @classmethod
    def empty(cls, count: int) -> "Found":
        """Of files that have not been read yet."""
        sides = np.zeros(count, np.int32), np.zeros(count, np.int32)
        return cls(np.zeros(count, "S64"), *sides, np.zeros(count, "S4"))

    def put(self, at: int, result: HashedHeader | Unusable) -> None:
        """Take down what reading file `at` gave."""
        if isinstance(result, Unusable):
            self.bad[at], self.hashes[at] = result, b""  # its header may have been known
            return
        sha256, header = result
        self.hashes[at], self.formats[at] = sha256.encode(), header.format.encode()
        self.widths[at], self.heights[at] = header[:2]


def stamps(root: Path, paths: Sequence[str], *, threads: int = 1) -> Stamps:
    """Those of files below `root`; `NOWHERE` for one that is not there."""
    with _opened(root) as folder, ThreadPoolExecutor(max(1, threads)) as pool:

        def some(start: int) -> Stamps:
            return np.array([_stamp(path, root, folder) for path in paths[start : start + _CHUNK]], np.int64)

        return np.concatenate([np.empty((0, 4), np.int64), *pool.map(some, range(0, len(paths), _CHUNK))])


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[int | None]:
    """A handle of the folder, from which files are found a third faster than from the top; None where there is none."""
    handle = None
    if os.stat in os.supports_dir_fd:
        with contextlib.suppress(OSError):
            handle = os.open(root, os.O_RDONLY)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _stamp(path: str, root: Path, folder: int | None) -> tuple[int, int, int, int]:
    if isinstance(root, Address):
        known = stamp(inside(root, path))
        return (*known, 0, 0) if known else NOWHERE
    try:
        # `os.stat`, as making a Path for each of a million files takes longer than asking
        status = os.stat(path, dir_fd=folder) if folder is not None else (root / path).stat()
    except (OSError, ValueError):
        return NOWHERE
    inode = status.st_ino & (2**63 - 1)  # some systems use all 64 bits
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode


def settled(stamps: Stamps, now: int) -> npt.NDArray[np.bool_]:
    """Which files had been left alone for a while when they were read, from `now` on, by `time.time_ns`."""
    latest: npt.NDArray[np.int64] = stamps[:, 1:3].max(axis=1, initial=0)
    return (stamps[:, 0] >= 0) & (latest < now - SETTLED)


class Memory:
    """What scans of one DATA found, in a file of `folder`; with None nothing is remembered."""

    def __init__(self, folder: Path | None, data: Path, root: Path, paths: Sequence[str], *, threads: int = 1) -> None:
        key = os.fsencode(Path(data).absolute()) + b"\0" + os.fsencode(root)
        self.file = folder / f"{hashlib.sha256(key).hexdigest()[:32]}.scan" if folder else None
        self.now = time.time_ns()
        self.paths = pa.array(paths, pa.string()) if folder else pa.array([], pa.string())
        self.stamps = stamps(root, paths, threads=threads) if folder else np.empty((0, 4), np.int64)
        self._kept = 0
        """Files whose record is as they are now, where there is no other record."""

    def recall(self) -> Found:
        """What is known of the files as they are now; the others are empty."""
        found = Found.empty(len(self.paths))
        known = stored.recall(self.file, _KINDS, _VERSION) if self.file else {}
        if not known:
            return found
        count = len(known["path"])
        if known["path"].equals(self.paths):
            rows = np.arange(count)
        else:
            rows = pc.index_in(self.paths, value_set=known["path"]).fill_null(-1).to_numpy()
        at = np.flatnonzero((rows >= 0) & (self.stamps[:, 0] >= 0))
        for column, name in enumerate(_NAMES):
            at = at[self.stamps[at, column] == known[name].to_numpy()[rows[at]]]
        rows = rows[at]
        raw = np.frombuffer(known["sha256"].buffers()[1], "V32", count)[rows]
        found.hashes[at] = np.frombuffer(raw.tobytes().hex().encode(), "S64")
        found.formats[at] = np.frombuffer(known["format"].buffers()[1], "S4", count)[rows]
        found.widths[at] = known["width"].to_numpy()[rows]
        found.heights[at] = known["height"].to_numpy()[rows]
        self._kept = count if len(at) == count else 0
        return found

    def remember(self, found: Found) -> None:
        """Store what was found of the files that had settled; a folder that cannot be written costs time alone."""
        if self.file is None:
            return
        at = np.flatnonzero(settled(self.stamps, self.now) & (found.hashes != b""))
        if len(at) == self._kept:
            return
        columns: dict[str, Any] = {"path": self.paths.take(pa.array(at))}
        columns |= {name: self.stamps[at, column] for column, name in enumerate(_NAMES)}
        columns |= {"width": found.widths[at], "height": found.heights[at]}
        columns["sha256"] = stored.fixed(bytes.fromhex(found.hashes[at].tobytes().decode()), 32)
        columns["format"] = stored.fixed(found.formats[at].tobytes(), 4)
        stored.store(self.file, columns, _VERSION)


_KINDS = {
    "path": pa.string(),
    **dict.fromkeys(_NAMES, pa.int64()),
    **dict.fromkeys(("width", "height"), pa.int32()),
    "sha256": pa.binary(32),
    "format": pa.binary(4),
}
