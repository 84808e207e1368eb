"""Groups that file names give away: `patient12_003.png` and `patient12_007.png` are of one patient.

A guess, made so that it is seldom wrong: what a name says of a class, a date or a camera is no group.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

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

_LAST = re.compile(r"(?<=\d)(?=\D*$)[\W_]*[^\W\d_]+[\W_]*$|[\W_]*\d+[\W_]*$|[\W_]+[^\W_]+[\W_]*$")
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


def shorter(stem: str) -> Iterator[str]:
    """`stem` with ever more of its last parts taken off: a number, or a word behind a separator or a number."""
    for _ in range(LEVELS):
        stem = _LAST.sub("", stem, count=1) if _LAST.search(stem) else ""
        if not stem:
            return
        yield stem


def name_groups(index: Index) -> NameGroups | None:
    """The widest groups that the file names show; None where they show none, or DATA names groups itself."""
    if any(group for group in index.groups.to_pylist()):
        return None
    files = [PurePosixPath(path) for path in index.paths.to_pylist()]
    distinct = len({file.stem for file in files})
    inside = len(files) - distinct > REPEATED * len(files)
    begins = [list(shorter(file.stem)) for file in files]
    for level in reversed(range(LEVELS)):
        keys = [
            _key(names[level], file, inside=inside) if len(names) > level else ""
            for names, file in zip(begins, files, strict=True)
        ]
        found = _grouped(keys, index)
        if found is not None:
            return found
    return None


def _key(beginning: str, file: PurePosixPath, *, inside: bool) -> str:
    """The group a beginning stands for; "" for one without a number, or with nothing but a date."""
    if not re.search(r"\d", beginning) or _DATE.fullmatch(beginning):
        return ""
    return str(file.parent / beginning) if inside else beginning


def _grouped(keys: list[str], index: Index) -> NameGroups | None:
    """The groups of equal `keys`, if they look like groups."""
    names, codes, counts = np.unique(np.array(keys), return_inverse=True, return_counts=True)
    codes = codes.astype(np.int64)
    if len(names) and names[0] == "":
        names, counts, codes = names[1:], counts[1:], codes - 1
    if len(names) < FEWEST or counts.max() > LARGEST * len(keys):
        return None
    if counts[counts > 1].sum() < SHARED * len(keys):
        return None
    labels = index.labels[codes >= 0]
    pairs = len(np.unique(np.stack([codes[codes >= 0], labels]), axis=1).T)
    if pairs == len(names) == len(np.unique(labels)):  # another spelling of the classes
        return None
    return NameGroups(tuple(names.tolist()), codes)
