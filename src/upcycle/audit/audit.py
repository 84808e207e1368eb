"""What a person should know about the images and their split before trusting the numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from upcycle.audit.checks import HEADERS, check
from upcycle.audit.findings import Audited, Finding, sides_of
from upcycle.data.folder import Index
from upcycle.data.listing import shown
from upcycle.data.splits import NAMES, Splits

TINY_SPLIT = 50
"""A validation or test set with fewer images is warned about."""
TINY_CLASS = 10
"""A class with fewer training images is warned about."""
IMBALANCE = 5
"""Classes whose image counts differ by more than this factor are warned about."""

NO_TEST = "no test set: test_fraction is 0, so every score is of images that chose the model"


def audit(index: Index, splits: Splits | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """What is to be known about the data, as plain values for `audit.json`; `splits` where there is one."""
    parts = {name: index.take(splits.of(name)).class_counts() for name in NAMES} if splits is not None else {}
    return {
        "images": len(index),
        "classes": index.class_counts(),
        "splits": parts,
        "quarantined": [{"path": file.path, "reason": file.reason, "kind": file.kind} for file in index.quarantined],
        "duplicates": [[index.path(at) for at in run] for run in index.duplicates()],
        "conflicts": [[{"path": index.path(at), "label": index.label(at)} for at in run] for run in index.conflicts()],
        "leaks": [[index.path(at) for at in run] for run in (leaks(index, splits) if splits is not None else ())],
        "warnings": warnings(index, splits) if splits is not None else [],
        "findings": [finding.to_dict() for finding in findings],
    }


def leaks(index: Index, splits: Splits) -> list[tuple[int, ...]]:
    """Byte-identical images on more than one side: only declared splits can hold them."""
    sides = sides_of(index, splits)
    return [run for run in index.duplicates() if len(set(sides[list(run)].tolist()) - {-1}) > 1]


def warnings(index: Index, splits: Splits) -> list[str]:
    """What a person should know before trusting the numbers, one plain sentence each."""
    found = [*index.notes, *_size_warnings(index, splits)]
    duplicates, conflicts, leaking = index.duplicates(), index.conflicts(), leaks(index, splits)
    said = (
        (duplicates, "of byte-identical images"),
        (conflicts, "of byte-identical images with different labels"),
        (leaking, "of byte-identical images in more than one split"),
    )
    found += [f"{_count(len(runs), 'set')} {what}: {_named(index, runs)}" for runs, what in said if runs]
    return found + [finding.warning for finding in check(Audited(index, splits), HEADERS, unusable_too=False)]


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
        for name in splits.held_out
        if len(splits.of(name)) < TINY_SPLIT
    ]
    if "test" not in splits.held_out:
        found.append(NO_TEST)
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
    for name in splits.held_out:
        absent = np.setdiff1d(np.arange(len(index.classes)), index.labels[splits.of(name)])
        found += [f"the {name} split has no image of class {shown(index.classes[i])!r}" for i in absent]
    return found
