"""A finding: which images, what it would do to the result, what to do about it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from upcycle.audit.statistics import Facts
from upcycle.data.decode import MAX_PIXELS
from upcycle.data.index import Index
from upcycle.data.listing import Quarantined, shown
from upcycle.data.splits import NAMES, Splits
from upcycle.errors import FileProblem

Sides = npt.NDArray[np.int8]
TRAIN, VAL, TEST = range(3)


class Image(NamedTuple):
    """One image of a finding, with its class and split ("" where it has none) and a note."""

    path: str
    label: str = ""
    split: str = ""
    note: str = ""

    @property
    def words(self) -> str:
        """Its path, and what is said of it."""
        return shown(self.path) + (f" ({shown(self.note)})" if self.note else "")


Group = tuple[Image, ...]


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
    groups: tuple[Group, ...] = ()
    names: tuple[str, ...] = ()
    serious: bool = False

    @classmethod
    def counted(
        cls,
        kind: str,
        one: str,
        many: str,
        effect: str,
        advice: str,
        groups: tuple[Group, ...],
        *,
        names: tuple[str, ...] = (),
        serious: bool = False,
    ) -> "Finding":
        """A finding whose title is the count of its groups and `one` or `many`."""
        title = f"{len(groups):,} {one if len(groups) == 1 else many}"
        return cls(kind, title, effect, advice, groups, names, serious)

    @property
    def count(self) -> int:
        """How many groups, or images where each stands alone."""
        return len(self.groups)

    def named(self, limit: int = 3) -> str:
        """The first few by path, or by the names of the groups."""
        paths = [" = ".join(image.words for image in group[:4]) for group in self.groups[:limit]]
        named = "; ".join([shown(name) for name in self.names[:limit]] or paths)
        return named + (f"; and {self.count - limit:,} more" if self.count > limit else "")

    @property
    def warning(self) -> str:
        """It in one sentence, with its effect where that is serious."""
        return f"{self.title}: {self.named()}" + (f". {self.effect}" if self.serious else "")

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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Finding":
        """The inverse of `to_dict`."""
        groups = tuple(tuple(Image(**image) for image in group) for group in values["groups"])
        kind, title, effect, advice = (str(values[name]) for name in ("kind", "title", "effect", "advice"))
        return cls(kind, title, effect, advice, groups, tuple(values["names"]), bool(values["serious"]))


@dataclass(frozen=True, eq=False)
class Audited:
    """What checks look at: the images, their split where there is one, their facts where all were decoded."""

    index: Index
    splits: Splits | None = None
    facts: Facts | None = None

    @cached_property
    def sides(self) -> Sides:
        """The number of each image's split in `NAMES`, -1 for none."""
        return self.splits.sides(len(self.index)) if self.splits is not None else np.full(len(self.index), -1, np.int8)

    def image(self, at: int, note: str = "") -> Image:
        """One image as a finding names it."""
        side = int(self.sides[at])
        return Image(self.index.path(at), self.index.label(at), NAMES[side] if side >= 0 else "", note)

    def alone(self, positions: Iterable[int], note: str = "") -> tuple[Group, ...]:
        """Images that stand alone."""
        return tuple((self.image(at, note),) for at in positions)

    def together(self, groups: Iterable[Iterable[int]]) -> tuple[Group, ...]:
        """Images that belong together."""
        return tuple(tuple(self.image(at) for at in group) for group in groups)

    def across(self, groups: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The groups with images on more than one side of the split."""
        return [group for group in groups if len(set(self.sides[list(group)].tolist()) - {-1}) > 1]

    def of_several_classes(self, groups: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The groups with images of more than one class."""
        return [group for group in groups if len(np.unique(self.index.labels[list(group)])) > 1]

    def exposed(self, groups: Iterable[tuple[int, ...]]) -> str:
        """How far images that have others of their group in training flatter the test."""
        tested = [
            at
            for group in groups
            if {TRAIN, VAL} & set(self.sides[list(group)].tolist())
            for at in group
            if self.sides[at] == TEST
        ]
        total = int((self.sides == TEST).sum())
        if not tested:
            return "No test image is among them, but validation chooses the best epoch by images that were trained on"
        share = 100 * len(tested) / total
        return (
            f"Test images with such a counterpart in training or validation: {len(tested):,} of {total:,}, "
            f"so test accuracy may be flattered by up to {points(share)}"
        )

    def mostly(self, positions: npt.NDArray[np.int64]) -> str:
        """That nearly all of ten images or more are of one class, or ""."""
        counts = np.bincount(self.index.labels[positions], minlength=len(self.index.classes))
        top = int(counts.argmax())
        expected = float((self.index.labels == top).mean())
        if len(positions) < 10 or counts[top] < 0.9 * len(positions) or expected > 0.7:
            return ""
        return f"{counts[top]:,} of them are of class {shown(self.index.classes[top])!r}"


def points(share: float) -> str:
    """Percentage points: 1 point, 2.4 points, 12 points."""
    return f"{digits(share)} point{'s' * (digits(share) != '1')}"


def digits(share: float) -> str:
    """Percent in two digits."""
    return f"{share:.0f}" if share >= 10 else f"{share:.2g}"


class _Problem(NamedTuple):
    """How a kind of problem is reported: of one file, of several, its effect, and what to do."""

    one: str
    many: str
    effect: str
    advice: str = "They are excluded: fetch them again, or delete them"


_PROBLEMS: dict[FileProblem, _Problem] = {
    "excluded": _Problem(
        "file is excluded by the list",
        "files are excluded by the list",
        "None: they are neither trained on nor tested",
        "Edit the list to use them again",
    ),
    "empty": _Problem("file has zero bytes", "files have zero bytes", "Nothing can be learned from them"),
    "too-large": _Problem(
        "file is too large",
        "files are too large",
        f"An image of more than {MAX_PIXELS // 10**6} million pixels fills the memory when it is decoded",
    ),
    "truncated": _Problem(
        "file is truncated",
        "files are truncated",
        "Read on regardless, the missing part is gray, and gray is learned as the class",
    ),
    "misplaced": _Problem(
        "file is missing, badly named or not in a class folder",
        "files are missing, badly named or not in a class folder",
        "They are not trained on, nor tested",
    ),
    "unsupported": _Problem(
        "file has an unsupported extension or format",
        "files have an unsupported extension or format",
        "They are not trained on, nor tested",
        "Rename or convert them, or delete them",
    ),
    "limit": _Problem(
        "file exceeds the limits of decoding",
        "files exceed the limits of decoding",
        "They are not trained on, nor tested. The limit may have been this machine's",
    ),
    "unreadable": _Problem(
        "file cannot be read",
        "files cannot be read",
        "Tools that carry on regardless train on black images or on others under these labels",
    ),
}


def unusable(files: Sequence[Quarantined]) -> list[Finding]:
    """Files that are listed and never used, by kind."""
    by_kind: dict[FileProblem, list[Quarantined]] = {}
    for file in files:
        by_kind.setdefault(file.kind, []).append(file)
    return [
        Finding.counted(
            kind,
            problem.one,
            problem.many,
            problem.effect,
            problem.advice,
            tuple((Image(file.path, note=file.reason),) for file in by_kind[kind]),
        )
        for kind, problem in _PROBLEMS.items()
        if kind in by_kind
    ]
