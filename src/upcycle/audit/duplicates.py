"""What belongs together: equal images, near-duplicates, and groups that file names show."""

import csv
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from upcycle.audit.statistics import Facts
from upcycle.data.index import Index, equal
from upcycle.data.splits import components
from upcycle.data.worker import SMALL
from upcycle.rundir import replacing

BITS = 4
"""Perceptual hashes at most this many of 64 bits apart may be of the same picture (decision 0009 has the evidence)."""
CORRELATION = 0.98
"""And their small gray pictures must agree at least this well (Pearson)."""
BLANK = 3.0
"""Gray levels that vary less (standard deviation) show nothing: what is left of them is noise, and so is its hash."""
MOST = 50
"""With more pairs than this for each image, the pictures are too alike for any hash to tell them apart."""

Positions = npt.NDArray[np.int64]
Groups = list[tuple[int, ...]]


def blank(facts: Facts) -> Positions:
    """Images that show nothing."""
    return np.flatnonzero(facts["contrast"] < BLANK)


def same_pixels(facts: Facts) -> Groups:
    """Positions of images whose upright pixels are equal, however they are stored."""
    return equal(facts["pixels"])


def near(facts: Facts) -> Groups | None:
    """Positions of near-duplicate images, equal ones among them, in order of the first.

    Blank images are left out. None where the pictures are too alike to tell.
    """
    seen = np.flatnonzero(facts["contrast"] >= BLANK)
    _, first, which = np.unique(facts["pixels"][seen], return_index=True, return_inverse=True)
    copies = np.stack([seen[first][which], seen], axis=1)  # each with the first of the same pixels
    candidates = np.sort(seen[first])
    hashes, small = facts["perceptual"][candidates], _standardized(facts["small"][candidates])
    kept, count = [np.empty((0, 2), np.int64)], 0
    for one, other in _close(hashes):
        agree = np.einsum("ij,ij->i", small[one], small[other], dtype=np.float64) >= CORRELATION
        kept.append(np.stack([one[agree], other[agree]], axis=1))
        count += int(agree.sum())
        if count > MOST * len(candidates):
            return None
    pairs = np.concatenate([candidates[np.concatenate(kept)], copies])
    return [group for group in _components(pairs, len(facts)) if len(set(facts["pixels"][list(group)].tolist())) > 1]


def _close(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[Positions, Positions]]:
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


def _components(pairs: Positions, count: int) -> Groups:
    """Positions that pairs connect, also in a chain."""
    one, other = pairs.T
    graph: Any = coo_array((np.ones(len(pairs), bool), (one, other)), shape=(count, count))
    numbers = connected_components(graph, directed=False)[1]
    return equal(numbers)


FEWEST = 8
"""Different beginnings that there must be at least: fewer are batches or classes."""
SHARED = 0.25
"""Fraction of the images that must share their beginning with another image."""
LARGEST = 0.2
"""Largest fraction of the images that one beginning may have."""
REPEATED = 0.01
"""Where more names than this fraction are in several folders, each folder numbers its own: names say less."""
LEVELS = 6
"""Parts that are taken off a name at most."""

_BETWEEN = re.compile(r"[\W_]+")
_PART = re.compile(r"\d+|[^\W\d_]+")
_NUMBER = re.compile(r"\d")
_DATE = re.compile(r"\D*(19|20)\d\d[\W_]?[01]\d[\W_]?[0-3]\d")


@dataclass(frozen=True, eq=False)
class NameGroups:
    """`names`: the beginning that each group's file names share, [m]; `codes`: int64 [n], each image's, -1 for none."""

    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    def across(self, sides: npt.NDArray[np.int8]) -> list[tuple[int, ...]]:
        """Positions of the groups with images on more than one of `sides` [n] (-1: on none), the largest first."""
        order = np.argsort(self.codes, kind="stable")
        order = order[(self.codes[order] >= 0) & (sides[order] >= 0)]
        parts = np.split(order, np.flatnonzero(np.diff(self.codes[order])) + 1) if len(order) else []
        mixed = [tuple(part.tolist()) for part in parts if len(np.unique(sides[part])) > 1]
        return sorted(mixed, key=lambda group: (-len(group), group))


def shorter(stem: str) -> list[str]:
    """`stem` without its last part, its last two parts, and so on: between separators, then numbers and letters."""
    cuts = [between.start() for between in _BETWEEN.finditer(stem) if between.start()]
    inner = [part.start() for part in _PART.finditer(stem, 0, cuts[0] if cuts else len(stem))]
    return [stem[:cut] for cut in sorted({*cuts, *inner[1:]}, reverse=True)][:LEVELS]


def name_groups(index: Index) -> NameGroups | None:
    """The widest groups that the file names show; None where they show none, or DATA names groups itself."""
    if any(group for group in index.groups.to_pylist()):
        return None
    files = [_parted(path) for path in index.paths.to_pylist()]
    inside = len(files) - len({stem for _, stem in files}) > REPEATED * len(files)
    begins = [shorter(stem) for _, stem in files]
    for level in reversed(range(LEVELS)):
        keys = [
            _key(names[level], folder if inside else "") if len(names) > level else ""
            for names, (folder, _) in zip(begins, files, strict=True)
        ]
        found = _grouped(keys, index)
        if found is not None:
            return found
    return None


def _parted(path: str) -> tuple[str, str]:
    """Folder, with its "/", and name without ending of a path."""
    folder, slash, name = path.rpartition("/")
    return folder + slash, name.rpartition(".")[0] or name


def _key(beginning: str, folder: str) -> str:
    """The group a beginning stands for; "" for one without a number, or with nothing but a date."""
    return "" if not _NUMBER.search(beginning) or _DATE.fullmatch(beginning) else folder + beginning


def _grouped(keys: list[str], index: Index) -> NameGroups | None:
    """The groups of equal `keys`, if they look like groups."""
    encoded = pa.array([key or None for key in keys], pa.string()).dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    if len(names) < FEWEST or counts.max() > LARGEST * len(keys):
        return None
    if counts[counts > 1].sum() < SHARED * len(keys):
        return None
    labels = index.labels[codes >= 0]
    pairs = len(np.unique(np.stack([codes[codes >= 0], labels]), axis=1).T)
    if pairs == len(names) == len(np.unique(labels)):  # another spelling of the classes
        return None
    return NameGroups(tuple(names), codes)


def write_grouped(
    path: Path, index: Index, groups: Groups, codes: npt.NDArray[np.int64] | None, *, without: Collection[str] = ()
) -> None:
    """Write the images as a manifest whose column `group` keeps on one side what belongs together.

    `groups`: positions of copies and near copies; `codes` [n]: groups that names show, -1 for none; `without`: paths to
    leave out. Paths are absolute, and there is no column `split`: one that cuts through groups is to be replaced.
    """
    together = _together(index, groups, codes)
    several = np.bincount(together)[together] > 1
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(("path", "label", "group"))
        for at in range(len(index)):
            if index.path(at) not in without:
                group = f"group-{together[at]}" if several[at] else ""
                writer.writerow((str(index.file(at)), index.label(at), group))


def _together(index: Index, groups: Groups, codes: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int32]:
    """A number for each image, the same for those that belong together in any way, also in a chain."""
    numbers: npt.NDArray[np.int32] = components(index)  # DATA's own groups and equal bytes
    links = [(group[0], other) for group in groups for other in group[1:]]
    for group in equal(codes) if codes is not None else []:
        links += [(group[0], other) for other in group[1:] if codes is not None and codes[group[0]] >= 0]
    one, other = numbers[np.array(links, np.int64).reshape(-1, 2)].T
    count = int(numbers.max()) + 1
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    merged: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return merged[numbers]
