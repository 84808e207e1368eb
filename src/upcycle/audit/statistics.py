"""Statistics of every image, as columns, remembered between scans; and which images they show to be copies.

They are stored in the cache folder by the files' content: a file that has not changed is not read again.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa

from upcycle.data import isolation, stored
from upcycle.data.found import Memory
from upcycle.data.index import (
    USUAL,
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
from upcycle.data.worker import SMALL, ImageStatistics
from upcycle.remote import inside

_VERSION = 5

RECORD = np.dtype(
    [
        ("sha256", "S64"),
        ("pixels", "S32"),
        ("perceptual", "<u8"),
        ("contrast", "<f4"),
        ("color", "<f4"),
        ("small", f"V{SMALL * SMALL}"),
        ("peak", "<f4"),
    ]
)
"""One image: sha256 of its file, and the fields of `ImageStatistics` but the header."""
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
_PAIRS = 4096
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
    known = Memory(folder.parent / "scans", data, listing.root, paths, threads=threads)
    kept = folder / f"{hashlib.sha256(os.fsencode(Path(data).absolute())).hexdigest()[:32]}.statistics"
    found, statistics = known.recall(), np.zeros(len(paths), RECORD)
    recalled = _recall(kept, found.hashes, statistics, _version(scale))
    new = np.flatnonzero(statistics["sha256"] == b"").tolist()

    def one(at: int) -> tuple[str, ImageStatistics] | Unusable:
        return attempt(inside(listing.root, paths[at]), lambda path: isolation.DECODERS.statistics(path, scale))

    read = in_order(one, new, threads=threads, progress=progress)
    try:
        with contextlib.closing(read):
            for at, result in zip(new, read, strict=True):
                if isinstance(result, Unusable):
                    found.put(at, result)
                    continue
                sha256, image = result
                found.put(at, (sha256, image.header))
                statistics[at] = (sha256.encode(), image.pixels.encode(), *image[2:])
    finally:
        known.remember(found)
        if recalled < np.count_nonzero(statistics["sha256"]):
            _remember(kept, statistics, _version(scale))
    index = index_of(listing, found, trainable=False)
    used = found.hashes != b""
    return index, statistics if used.all() else statistics[used]


# ------------------------------------------------------------------------------------------ memory


def _version(scale: float | None) -> str:
    """What the statistics depend on beside the files' content."""
    return f"{_VERSION} {PIL.__version__} {np.__version__} white {scale!r}"


def _recall(kept: Path, hashes: npt.NDArray[np.bytes_], statistics: Statistics, version: str) -> int:
    """Fill in the statistics that are known of the files with these hashes; returns how many are known in all."""
    columns = stored.recall(kept, {"record": pa.binary(RECORD.itemsize)}, version)
    if not columns:
        return 0
    records = np.frombuffer(columns["record"].buffers()[1], RECORD, len(columns["record"]))
    names = np.ascontiguousarray(records["sha256"])
    order = np.argsort(names, kind="stable")
    place = np.searchsorted(names, hashes, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)]
    at = np.flatnonzero((names[rows] == hashes) & (hashes != b""))
    statistics[at] = records[rows[at]]
    return len(records) if len(at) >= len(records) else 0


def _remember(kept: Path, statistics: Statistics, version: str) -> None:
    """Store the statistics of every file that could be used; a folder that may not be written costs time alone."""
    used = statistics["sha256"] != b""
    records = statistics if used.all() else statistics[used]
    stored.store(kept, {"record": stored.fixed(records.view(np.uint8), RECORD.itemsize)}, version)


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
    hashes, small = statistics["perceptual"][candidates], statistics["small"]
    kept, count = [np.empty((0, 2), np.int64)], 0
    for one, other in _close(hashes):
        agree = _agree(small, candidates[one], candidates[other])
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


def _agree(small: npt.NDArray[np.void], one: _Positions, other: _Positions) -> npt.NDArray[np.bool_]:
    """Which pairs of small gray pictures agree: pictures are made comparable for some pairs at a time, as each takes
    half a kilobyte then.
    """
    agree = np.zeros(len(one), np.bool_)
    for start in range(0, len(one), _PAIRS):
        some = slice(start, start + _PAIRS)
        places, which = np.unique(np.stack([one[some], other[some]]), return_inverse=True)
        pictures = _standardized(small[places])
        pairs = which.reshape(2, -1)
        products = np.einsum("ij,ij->i", pictures[pairs[0]], pictures[pairs[1]], dtype=np.float64)
        agree[some] = products >= CORRELATION
    return agree


def _standardized(small: npt.NDArray[np.void]) -> npt.NDArray[np.float16]:
    """Gray pictures [n, 256] whose products are their correlations, in half precision: 512 bytes each."""
    result = np.empty((len(small), SMALL * SMALL), np.float16)
    for start in range(0, len(small), 4096):
        some = np.frombuffer(small[start : start + 4096].tobytes(), np.uint8).reshape(-1, SMALL * SMALL)
        centered = some - some.mean(axis=1, keepdims=True, dtype=np.float32)
        result[start : start + 4096] = centered / (np.linalg.norm(centered, axis=1, keepdims=True) + 1e-6)
    return result
