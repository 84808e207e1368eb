"""`splits.csv`: every image of a run with its label, split, group and content hash."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from upcycle.data.folder import Index
from upcycle.data.listing import shown
from upcycle.data.splits import NAMES, Splits
from upcycle.errors import RunError
from upcycle.rundir import replacing


class Recorded(NamedTuple):
    """One row of a splits file."""

    path: str
    label: str
    split: str
    group: str
    sha256: str


def write_splits(path: Path, index: Index, splits: Splits) -> None:
    """Write every image that is in a split as CSV `path,label,split,group,sha256`, in the index's order."""
    # the csv module leaves a lone carriage return unquoted and then cannot read it back
    odd = any(pc.any(pc.match_substring(texts, "\r")).as_py() for texts in (index.paths, index.groups))
    odd = odd or any("\r" in name for name in index.classes)
    # surrogateescape: names of files are any bytes
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL)
        writer.writerow(Recorded._fields)
        writer.writerows(_rows(index, splits))


def _rows(index: Index, splits: Splits) -> Iterator[Recorded]:
    sides = np.full(len(index), -1, np.int8)
    for number, name in enumerate(NAMES):
        sides[splits.of(name)] = number
    for i in np.flatnonzero(sides >= 0).tolist():
        yield Recorded(index.path(i), index.label(i), NAMES[sides[i]], index.group(i), index.hash(i))


def read_splits(path: Path) -> list[Recorded]:
    """The rows of a file that `write_splits` wrote; RunError when it is missing or damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = list(csv.reader(file, strict=True)) or [[]]
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if head != list(Recorded._fields):
        raise RunError(f"{path} is no splits file: its first line is not {','.join(Recorded._fields)}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise RunError(f"{path} cannot be read: row {number} has {len(row)} values, not {len(head)}")
    return [Recorded(*row) for row in rows]


def changes(before: Iterable[Recorded], after: Iterable[Recorded]) -> str:
    """What differs between two lists of images, counted by kind with the first of each; "" for nothing."""
    old, new = ({row.path: row for row in rows} for rows in (before, after))
    both = [(old[path], new[path]) for path in old if path in new]
    kinds = {
        "gone": [path for path in old if path not in new],
        "new": [path for path in new if path not in old],
        "of other content": [one.path for one, two in both if one.sha256 != two.sha256],
        "of another class": [one.path for one, two in both if one.label != two.label],
        "of another group": [one.path for one, two in both if one.group != two.group],
        "in another split": [one.path for one, two in both if one.split != two.split],
    }
    return ", ".join(
        f"{len(paths):,} {kind}: {shown(paths[0])}{', ...' * (len(paths) > 1)}"
        for kind, paths in kinds.items()
        if paths
    )
