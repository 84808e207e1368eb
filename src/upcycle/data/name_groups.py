"""Groups that file names give away: `patient12_003.png` and `patient12_007.png` are of one patient.

A guess, made so that it is seldom wrong: what a name says of a class, a date or a camera is no group.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from upcycle.data.folder import Index

FEWEST = 8
"""Different beginnings that there must be at least: fewer are batches or classes."""
SHARED = 0.25
"""Fraction of the images that must share their beginning with another image."""
LARGEST = 0.2
"""Largest fraction of the images that one beginning may have."""
REPEATED = 0.01
"""Where more names than this fraction are in several folders, numbers begin anew in each: names say less."""
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
