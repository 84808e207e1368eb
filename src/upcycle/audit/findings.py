"""What an audit finds, as values: a finding with its images, its effect and advice, and the whole of `audit.json`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from upcycle.audit.statistics import RECORD, Groups, Statistics
from upcycle.data.decode import MAX_PIXELS
from upcycle.data.index import Index
from upcycle.data.listing import Quarantined
from upcycle.data.splits import NAMES, Splits
from upcycle.errors import FileProblem, shown
from upcycle.rundir import read_value

TEST = NAMES.index("test")
NO_TEST = "no test set: test_fraction is 0, so every score is of images that chose the model"
_TINY_SPLIT = 50
"""A validation or test set with fewer images is warned about."""
_TINY_CLASS = 10
"""A class with fewer training images is warned about."""
_OF_SCANS = ("data", "created", "command", "seconds", "upcycle")


class FlaggedImage(NamedTuple):
    """One image of a finding, with its class and split ("" where it has none) and a note."""

    path: str
    label: str = ""
    split: str = ""
    note: str = ""

    @property
    def text(self) -> str:
        """Its path and note."""
        return shown(self.path) + (f" ({shown(self.note)})" if self.note else "")


@dataclass(frozen=True)
class Finding:
    """Some images and what is wrong with them.

    `title`: what was found, in a few words that begin with the count; `effect`: one sentence on the result; `advice`:
    one on what to do; `groups`: images that belong together, such as copies, or each alone, and `names` of them where
    they have some; `serious`: it changes the scores, where the others cost a little at most.
    """

    kind: str
    title: str
    effect: str
    advice: str
    groups: tuple[tuple[FlaggedImage, ...], ...] = ()
    names: tuple[str, ...] = ()
    serious: bool = False

    @classmethod
    def counted(
        cls,
        kind: str,
        groups: Iterable[tuple[FlaggedImage, ...]],
        title: str,
        effect: str,
        advice: str,
        *,
        names: Iterable[str] = (),
        serious: bool = False,
    ) -> "Finding | None":
        """A finding of `groups`, None where there are none; `title` is "image(s) with X": 1 image with X, 2 images."""
        groups = tuple(groups)
        title = f"{len(groups):,} {title.replace('(s)', 's' * (len(groups) != 1))}"
        return cls(kind, title, effect, advice, groups, tuple(names), serious) if groups else None

    @property
    def count(self) -> int:
        """How many groups, or images where each stands alone."""
        return len(self.groups)

    def named(self, limit: int = 3) -> str:
        """The first few by path, or by the names of the groups."""
        paths = [" = ".join(image.text for image in group[:4]) for group in self.groups[:limit]]
        named = "; ".join([shown(name) for name in self.names[:limit]] or paths)
        return named + (f"; and {self.count - limit:,} more" if self.count > limit else "")

    @property
    def warning(self) -> str:
        """The finding in a line, with its effect where that is serious, and the advice where it names no images."""
        images, effect = (f": {self.named()}" if self.groups else ""), (f". {self.effect}" if self.serious else "")
        return f"{self.title}{images}{effect}" + ("" if self.groups else f". {self.advice}")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "count": self.count,
            "images": sum(map(len, self.groups)),
            "title": self.title,
            "effect": self.effect,
            "advice": self.advice,
            "serious": self.serious,
            "names": list(self.names),
            "groups": [[image._asdict() for image in group] for group in self.groups],
        }


@dataclass(frozen=True, eq=False)
class Audited:
    """What checks read: the images, their split where there is one, their statistics where all were decoded."""

    index: Index
    splits: Splits = field(default_factory=Splits.empty)
    statistics: Statistics = field(default_factory=lambda: np.zeros(0, RECORD))

    @cached_property
    def sides(self) -> npt.NDArray[np.int8]:
        """The number of each image's split in `NAMES`, -1 for none."""
        return self.splits.sides(len(self.index))

    def image(self, at: int, note: str = "") -> FlaggedImage:
        """One image as a finding names it."""
        side = int(self.sides[at])
        return FlaggedImage(self.index.path(at), self.index.label(at), NAMES[side] if side >= 0 else "", note)

    def alone(self, positions: npt.NDArray[np.int64]) -> Iterable[tuple[FlaggedImage]]:
        """Images that stand alone."""
        return ((self.image(at),) for at in positions.tolist())

    def together(self, groups: Groups) -> Iterable[tuple[FlaggedImage, ...]]:
        """Images that belong together."""
        return (tuple(self.image(at) for at in group) for group in groups)

    def across(self, groups: Groups) -> Groups:
        """The groups with images on more than one side of the split."""
        return [group for group in groups if len(set(self.sides[list(group)].tolist()) - {-1}) > 1]

    def of_several_classes(self, groups: Groups) -> Groups:
        """The groups with images of more than one class."""
        return [group for group in groups if len(np.unique(self.index.labels[list(group)])) > 1]

    def exposed(self, groups: Groups) -> str:
        """How far images that have others of their group in training flatter the test."""
        sides = [self.sides[list(group)] for group in groups]
        tested = sum(int((own == TEST).sum()) for own in sides if ((own >= 0) & (own != TEST)).any())
        total = int((self.sides == TEST).sum())
        if not tested:
            return "No test image is among them, but validation chooses the best epoch by images that were trained on"
        return (
            f"Test images with such a counterpart in training or validation: {tested:,} of {total:,}, "
            f"so test accuracy may be flattered by up to {percentage_points(100 * tested / total)}"
        )

    def mostly(self, positions: npt.NDArray[np.int64]) -> str:
        """That nearly all of ten images or more are of one class, or ""."""
        counts = np.bincount(self.index.labels[positions], minlength=len(self.index.classes))
        top = int(counts.argmax())
        expected = float((self.index.labels == top).mean())
        if len(positions) < 10 or counts[top] < 0.9 * len(positions) or expected > 0.7:
            return ""
        return f"{counts[top]:,} of them are of class {shown(self.index.classes[top])!r}"


def percentage_points(share: float) -> str:
    """Percentage points: 1 point, 2.4 points, 12 points."""
    return f"{two_digits(share)} point{'s' * (two_digits(share) != '1')}"


def two_digits(share: float) -> str:
    """Percent in two digits."""
    return f"{share:.0f}" if share >= 10 else f"{share:.2g}"


# ---------------------------------------------------------------------- files that cannot be used

_NOT_USED = "They are not trained on, nor tested"
_DELETE = "They are excluded: fetch them again, or delete them"
_PROBLEMS: dict[FileProblem, tuple[str, str, str]] = {
    "excluded": ("file(s) excluded by the list", _NOT_USED, "Edit the list to use them again"),
    "empty": ("file(s) of zero bytes", "Nothing can be learned from them", _DELETE),
    "too-large": (
        "file(s) over the size limit",
        f"An image of more than {MAX_PIXELS // 10**6} million pixels fills the memory when it is decoded",
        _DELETE,
    ),
    "truncated": (
        "truncated file(s)",
        "Tools that read them regardless fill the missing part with gray, and gray is learned as the class",
        _DELETE,
    ),
    "misplaced": ("file(s) missing, badly named or not in a class folder", _NOT_USED, _DELETE),
    "unsupported": (
        "file(s) with an unsupported extension or format",
        _NOT_USED,
        "Rename or convert them, or delete them",
    ),
    "limit": (
        "file(s) over the limits of decoding",
        f"{_NOT_USED}. The limit may have been this machine's",
        _DELETE,
    ),
    "unreadable": (
        "unreadable file(s)",
        "Tools that carry on regardless train on black images or on others under these labels",
        _DELETE,
    ),
}
"""The title, the effect and the advice of each."""


def unusable(files: Sequence[Quarantined]) -> list[Finding]:
    """Files that are listed and never used, by kind."""
    found = [
        Finding.counted(
            kind, [(FlaggedImage(file.path, note=file.reason),) for file in files if file.kind == kind], *text
        )
        for kind, text in _PROBLEMS.items()
    ]
    return [finding for finding in found if finding is not None]


# ------------------------------------------------------------------------------------- audit.json


@dataclass(frozen=True)
class Audit:
    """What is known about the data: all of `audit.json`.

    `classes`: images of each; `splits`: the same of each split, where there is one; `warnings`: one sentence each. Of
    a scan alone: `data`, where its images are, when it was made and how long it took; `command` repeats it.
    """

    images: int
    classes: Mapping[str, int]
    splits: Mapping[str, Mapping[str, int]]
    quarantined: tuple[Quarantined, ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    data: str = ""
    created: str = ""
    command: str = ""
    seconds: float = 0.0
    upcycle: str = ""

    @classmethod
    def of(cls, data: Audited, findings: Sequence[Finding]) -> "Audit":
        """The images, their split where there is one, and what was found."""
        index, splits = data.index, data.splits
        parts: dict[str, dict[str, int]] = {}
        warnings: tuple[str, ...] = ()
        if len(splits.train):
            parts = {name: index.take(splits.of(name)).class_counts() for name in NAMES}
            elsewhere = (*_PROBLEMS, "reading")  # their files and notes are reported one by one
            found = (finding.warning for finding in findings if finding.kind not in elsewhere)
            warnings = (*index.notes, *_size_warnings(index, splits), *found)
        return cls(len(index), index.class_counts(), parts, index.quarantined, warnings, tuple(findings))

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
            "warnings": list(self.warnings),
            "findings": [finding.to_dict() for finding in self.findings],
            **({name: getattr(self, name) for name in _OF_SCANS} if self.command else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Audit":
        """The inverse of `to_dict`, of an earlier version's too; RunError where it is not what upcycle writes."""
        return read_value(cls, values, "the audit")


def _size_warnings(index: Index, splits: Splits) -> list[str]:
    """What is too small to be judged well."""

    def images(count: int) -> str:
        return f"{count} image{'s' * (count != 1)}"

    found = [
        f"the {name} split has only {images(len(splits.of(name)))}: its metrics are rough"
        for name in splits.held_out
        if len(splits.of(name)) < _TINY_SPLIT
    ]
    if "test" not in splits.held_out:
        found.append(NO_TEST)
    counts = np.bincount(index.labels[splits.train], minlength=len(index.classes))
    few = int(counts.min())
    if few < _TINY_CLASS:
        found.append(f"class {shown(index.classes[counts.argmin()])!r} has only {images(few)} to train on")
    for name in splits.held_out:
        absent = np.setdiff1d(np.arange(len(index.classes)), index.labels[splits.of(name)])
        found += [f"the {name} split has no image of class {shown(index.classes[i])!r}" for i in absent]
    return found
