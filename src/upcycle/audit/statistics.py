"""Statistics of every image, as columns, remembered between scans; and which images they show to be copies.

They are stored in the cache folder: a file whose size and times are those that were noted is not read again.
"""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator
from itertools import pairwise
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
    equal,
    in_order,
    index_of,
    listing_of,
)
from upcycle.data.listing import Layout, Unusable
from upcycle.data.splits import connected
from upcycle.data.worker import SMALL
from upcycle.errors import StorageError
from upcycle.remote import inside
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
Groups = list[tuple[int, ...]]
"""Positions of images that belong together, in an index."""
_Positions = npt.NDArray[np.int64]

BITS = 4
"""Perceptual hashes at most this many of 64 bits apart may be of the same picture (decision 0009 has the evidence)."""
CORRELATION = 0.98
"""And their small gray pictures must agree at least this well (Pearson)."""
BLANK = 3.0
"""Gray levels that vary less (standard deviation) show nothing: what is left of them is noise, and so is its hash."""
_MOST = 50
"""With more pairs than this for each image, the pictures are too alike for any hash to tell them apart."""


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
        file = inside(listing.root, paths[at])
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


# -------------------------------------------------------------------------------------- copies


def blank(statistics: Statistics) -> _Positions:
    """Images that show nothing."""
    return np.flatnonzero(statistics["contrast"] < BLANK)


def same_pixels(statistics: Statistics) -> Groups:
    """Positions of images whose upright pixels are equal, however they are stored."""
    return equal(statistics["pixels"])


def near_duplicates(statistics: Statistics) -> Groups | None:
    """Positions of near-duplicate images, equal ones among them, in order of the first.

    Blank images are left out. None where the pictures are too alike to tell.
    """
    pixels = statistics["pixels"]
    seen = np.flatnonzero(statistics["contrast"] >= BLANK)
    if not len(seen):
        return []
    _, first, which = np.unique(pixels[seen], return_index=True, return_inverse=True)
    copies = np.stack([seen[first][which], seen], axis=1)  # each with the first of the same pixels
    candidates = np.sort(seen[first])
    hashes, small = statistics["perceptual"][candidates], _standardized(statistics["small"][candidates])
    kept, count = [np.empty((0, 2), np.int64)], 0
    for one, other in _close(hashes):
        agree = np.einsum("ij,ij->i", small[one], small[other], dtype=np.float64) >= CORRELATION
        kept.append(np.stack([one[agree], other[agree]], axis=1))
        count += int(agree.sum())
        if count > _MOST * len(candidates):
            return None
    pairs = np.concatenate([candidates[np.concatenate(kept)], copies])
    groups = equal(connected(pairs, len(statistics)))
    return [group for group in groups if len(set(pixels[list(group)].tolist())) > 1]


def _close(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[_Positions, _Positions]]:
    """Pairs of positions, the smaller first, whose hashes are at most `BITS` apart, each once.

    Of `BITS` + 1 bands of bits such a pair has at least one in common. Hashes are sorted by each band in turn, and
    each is compared with the next, the next but one and so on, as far as the band is the same.
    """
    bounds = [64 * band // (BITS + 1) for band in range(BITS + 2)]
    masks = [np.uint64(2**last - 2**first) for first, last in pairwise(bounds)]
    for band, mask in enumerate(masks):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, ahead = keys[order], 0
        alike = np.arange(len(keys))
        while len(alike):
            ahead += 1
            alike = alike[: np.searchsorted(alike, len(keys) - ahead)]
            alike = alike[keys[alike] == keys[alike + ahead]]
            one, other = order[alike], order[alike + ahead]
            apart = hashes[one] ^ hashes[other]
            close = np.bitwise_count(apart) <= BITS
            for earlier in masks[:band]:  # those that have such a band in common were found by it
                close &= (apart & earlier) != 0
            # the sort is stable: of equal bands the smaller position comes first
            yield one[close], other[close]


def _standardized(small: npt.NDArray[np.void]) -> npt.NDArray[np.float16]:
    """Gray pictures [n, 256] whose products are their correlations, in half precision: 512 bytes each."""
    result = np.empty((len(small), SMALL * SMALL), np.float16)
    for start in range(0, len(small), 4096):
        some = np.frombuffer(small[start : start + 4096].tobytes(), np.uint8).reshape(-1, SMALL * SMALL)
        centered = some - some.mean(axis=1, keepdims=True, dtype=np.float32)
        result[start : start + 4096] = centered / (np.linalg.norm(centered, axis=1, keepdims=True) + 1e-6)
    return result
