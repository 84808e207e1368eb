"""What belongs together: equal images, near-duplicates, and groups that file names show."""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from upcycle.audit.statistics import Statistics
from upcycle.data.index import Index, equal
from upcycle.data.splits import components, connected, write_csv
from upcycle.data.worker import SMALL

BITS = 4
"""Perceptual hashes at most this many of 64 bits apart may be of the same picture (decision 0009 has the evidence)."""
CORRELATION = 0.98
"""And their small gray pictures must agree at least this well (Pearson)."""
BLANK = 3.0
"""Gray levels that vary less (standard deviation) show nothing: what is left of them is noise, and so is its hash."""
_MOST = 50
"""With more pairs than this for each image, the pictures are too alike for any hash to tell them apart."""

_Positions = npt.NDArray[np.int64]
_Groups = list[tuple[int, ...]]


def blank(statistics: Statistics) -> _Positions:
    """Images that show nothing."""
    return np.flatnonzero(statistics["contrast"] < BLANK)


def same_pixels(statistics: Statistics) -> _Groups:
    """Positions of images whose upright pixels are equal, however they are stored."""
    return equal(statistics["pixels"])


def near_duplicates(statistics: Statistics) -> _Groups | None:
    """Positions of near-duplicate images, equal ones among them, in order of the first.

    Blank images are left out. None where the pictures are too alike to tell.
    """
    pixels = statistics["pixels"]
    seen = np.flatnonzero(statistics["contrast"] >= BLANK)
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


_FEWEST = 8
"""Different beginnings that there must be at least: fewer are batches or classes."""
_SHARED = 0.25
"""Fraction of the images that must share their beginning with another image."""
_LARGEST = 0.2
"""Largest fraction of the images that one beginning may have."""
_REPEATED = 0.01
"""Where more names than this fraction are in several folders, each folder numbers its own: names say less."""
_LEVELS = 6
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

    @classmethod
    def of(cls, names: Iterable[str]) -> "NameGroups":
        """The groups of equal names; "" is none."""
        encoded = pa.array([name or None for name in names], pa.string()).dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
        return cls(tuple(encoded.dictionary.to_pylist()), codes)

    def positions(self) -> _Groups:
        """Positions of the images of each group of two or more."""
        return [group for group in equal(self.codes) if self.codes[group[0]] >= 0]


def shorter(stem: str) -> list[str]:
    """`stem` without its last part, its last two parts, and so on: between separators, then numbers and letters."""
    cuts = [between.start() for between in _BETWEEN.finditer(stem) if between.start()]
    inner = [part.start() for part in _PART.finditer(stem, 0, cuts[0] if cuts else len(stem))]
    return [stem[:cut] for cut in sorted({*cuts, *inner[1:]}, reverse=True)][:_LEVELS]


def name_groups(index: Index) -> NameGroups | None:
    """The widest groups that the file names show; None where they show none, or DATA names groups itself."""
    if any(group for group in index.groups.to_pylist()):
        return None
    files = [_parted(path) for path in index.paths.to_pylist()]
    inside = len(files) - len({stem for _, stem in files}) > _REPEATED * len(files)
    begins = [shorter(stem) for _, stem in files]
    for level in reversed(range(_LEVELS)):
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
    groups = NameGroups.of(keys)
    names, codes = groups.names, groups.codes
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    if len(names) < _FEWEST or counts.max() > _LARGEST * len(keys):
        return None
    if counts[counts > 1].sum() < _SHARED * len(keys):
        return None
    labels = index.labels[codes >= 0]
    pairs = len(np.unique(np.stack([codes[codes >= 0], labels]), axis=1).T)
    if pairs == len(names) == len(np.unique(labels)):  # another spelling of the classes
        return None
    return groups


def write_grouped(path: Path, index: Index, groups: _Groups, *, without: Collection[str] = ()) -> None:
    """Write the images as a manifest whose column `group` keeps on one side what belongs together, also in a chain.

    `groups`: positions of copies, near-duplicates and groups that names show; `without`: paths to leave out. Paths are
    absolute, and there is no column `split`: one that cuts through groups is to be replaced.
    """
    numbers = components(index)  # DATA's own groups and equal bytes
    links = np.array([(group[0], other) for group in groups for other in group[1:]], np.int64).reshape(-1, 2)
    together = connected(numbers[links], len(index))[numbers]
    several = np.bincount(together)[together] > 1
    rows = (
        (str(index.file(at)), index.label(at), f"group-{together[at]}" if several[at] else "")
        for at in range(len(index))
        if index.path(at) not in without
    )
    write_csv(path, ("path", "label", "group"), rows)
