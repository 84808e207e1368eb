"""What a person should know about the images and their split before trusting the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from upcycle.audit.checks import HEADERS, UNEVEN, check
from upcycle.audit.findings import Audited, Finding
from upcycle.data.index import Index
from upcycle.data.listing import Quarantined, shown
from upcycle.data.splits import NAMES, Splits
from upcycle.errors import RunError

TINY_SPLIT = 50
"""A validation or test set with fewer images is warned about."""
TINY_CLASS = 10
"""A class with fewer training images is warned about."""

NO_TEST = "no test set: test_fraction is 0, so every score is of images that chose the model"


_OF_SCANS = ("data", "created", "command", "seconds", "upcycle")


class LabeledFile(NamedTuple):
    """One of several identical images, and the class it is in."""

    path: str
    label: str


@dataclass(frozen=True)
class Audit:
    """What is known about the data: all of `audit.json`.

    `classes`: images of each; `splits`: the same of each split, where there is one; `duplicates` and `leaks`: sets of
    byte-identical images by path, `conflicts` with their labels. Of a scan alone: `data`, where its images are, when it
    was made and how long it took; `command` repeats it.
    """

    images: int
    classes: Mapping[str, int]
    splits: Mapping[str, Mapping[str, int]]
    quarantined: tuple[Quarantined, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    conflicts: tuple[tuple[LabeledFile, ...], ...] = ()
    leaks: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    data: str = ""
    created: str = ""
    command: str = ""
    seconds: float = 0.0
    upcycle: str = ""

    @property
    def without_test(self) -> bool:
        """Whether the images were split without a test set."""
        test = self.splits.get("test", {})
        return bool(test) and not any(test.values())

    def to_dict(self) -> dict[str, object]:
        """Plain values for `audit.json`."""
        return {
            "images": self.images,
            "classes": dict(self.classes),
            "splits": {name: dict(counts) for name, counts in self.splits.items()},
            "quarantined": [{"path": file.path, "reason": file.reason, "kind": file.kind} for file in self.quarantined],
            "duplicates": [list(run) for run in self.duplicates],
            "conflicts": [[file._asdict() for file in run] for run in self.conflicts],
            "leaks": [list(run) for run in self.leaks],
            "warnings": list(self.warnings),
            "findings": [finding.to_dict() for finding in self.findings],
            **({name: getattr(self, name) for name in _OF_SCANS} if self.command else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Audit":
        """The inverse of `to_dict`, of an earlier version's too; RunError where it is not what upcycle writes."""
        try:
            scan = {name: values[name] for name in _OF_SCANS if name in values}
            return cls(
                images=int(values["images"]),
                classes=dict(values["classes"]),
                splits={name: dict(counts) for name, counts in values["splits"].items()},
                quarantined=tuple(
                    Quarantined(file["path"], file["reason"], kind=file.get("kind", "unreadable"))
                    for file in values["quarantined"]
                ),
                duplicates=tuple(tuple(run) for run in values["duplicates"]),
                conflicts=tuple(tuple(LabeledFile(**file) for file in run) for run in values["conflicts"]),
                leaks=tuple(tuple(run) for run in values["leaks"]),
                warnings=tuple(values["warnings"]),
                findings=tuple(Finding.from_dict(finding) for finding in values.get("findings", ())),
                **scan,
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"an audit does not hold what upcycle writes ({error!r}): scan again") from None


def audit(index: Index, splits: Splits | None, findings: Sequence[Finding]) -> Audit:
    """What is to be known about the images, and about `splits` where there is one."""

    def paths(runs: Sequence[tuple[int, ...]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(index.path(at) for at in run) for run in runs)

    parts = {name: index.take(splits.of(name)).class_counts() for name in NAMES} if splits is not None else {}
    return Audit(
        images=len(index),
        classes=index.class_counts(),
        splits=parts,
        quarantined=index.quarantined,
        duplicates=paths(index.duplicates()),
        conflicts=tuple(tuple(LabeledFile(index.path(at), index.label(at)) for at in run) for run in index.conflicts()),
        leaks=paths(leaks(index, splits)) if splits is not None else (),
        warnings=tuple(warnings(index, splits)) if splits is not None else (),
        findings=tuple(findings),
    )


def leaks(index: Index, splits: Splits) -> list[tuple[int, ...]]:
    """Byte-identical images on more than one side: only declared splits can hold them."""
    return Audited(index, splits).across(index.duplicates())


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
    if many > UNEVEN * few:
        found.append(
            f"the classes are uneven: {_count(many)} of {shown(common)!r} to train on, "
            f"{few} of {shown(rare)!r} (see --class-weights)"
        )
    for name in splits.held_out:
        absent = np.setdiff1d(np.arange(len(index.classes)), index.labels[splits.of(name)])
        found += [f"the {name} split has no image of class {shown(index.classes[i])!r}" for i in absent]
    return found
