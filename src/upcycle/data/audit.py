"""What a person should know about the images and their split before trusting the numbers."""

from collections.abc import Sequence

import numpy as np

from upcycle.data.folder import Index
from upcycle.data.listing import shown
from upcycle.data.splits import NAMES, Splits

TINY_SPLIT = 50
"""A validation or test set with fewer images is warned about."""
TINY_CLASS = 10
"""A class with fewer training images is warned about."""
IMBALANCE = 5
"""Classes whose image counts differ by more than this factor are warned about."""


def leaks(index: Index, splits: Splits) -> list[tuple[int, ...]]:
    """Byte-identical images on more than one side: only declared splits can hold them."""
    sides = np.full(len(index), -1, np.int8)
    for number, name in enumerate(NAMES):
        sides[splits.of(name)] = number
    return [run for run in index.duplicates() if len(set(sides[list(run)].tolist()) - {-1}) > 1]


def warnings(index: Index, splits: Splits) -> list[str]:
    """What a person should know before trusting the numbers, one plain sentence each."""
    found = _size_warnings(index, splits)
    duplicates, conflicts, leaking = index.duplicates(), index.conflicts(), leaks(index, splits)
    said = (
        (duplicates, "of byte-identical images"),
        (conflicts, "of byte-identical images with different labels"),
        (leaking, "of byte-identical images in more than one split"),
    )
    return found + [f"{_count(len(runs), 'set')} {what}: {_named(index, runs)}" for runs, what in said if runs]


def _named(index: Index, runs: Sequence[tuple[int, ...]], limit: int = 3) -> str:
    """The first few tuples of images by path."""
    named = "; ".join(" = ".join(shown(index.path(i)) for i in run) for run in runs[:limit])
    return named + (f"; and {len(runs) - limit} more" if len(runs) > limit else "")


def _count(count: int, noun: str = "image") -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _size_warnings(index: Index, splits: Splits) -> list[str]:
    """What is too small or too uneven to be judged well."""
    found = [
        f"the {name} split has only {_count(len(splits.of(name)))}: its metrics are rough"
        for name in ("val", "test")
        if len(splits.of(name)) < TINY_SPLIT
    ]
    counts = np.bincount(index.labels[splits.train], minlength=len(index.classes)).tolist()
    few, many = min(counts), max(counts)
    rare, common = index.classes[counts.index(few)], index.classes[counts.index(many)]
    if few < TINY_CLASS:
        found.append(f"class {shown(rare)!r} has only {_count(few)} to train on")
    if many > IMBALANCE * few:
        found.append(
            f"the classes are uneven: {_count(many)} of {shown(common)!r} to train on, "
            f"{few} of {shown(rare)!r} (see --class-weights)"
        )
    for name in ("val", "test"):
        absent = np.setdiff1d(np.arange(len(index.classes)), index.labels[splits.of(name)])
        found += [f"the {name} split has no image of class {shown(index.classes[i])!r}" for i in absent]
    return found
