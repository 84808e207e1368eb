"""What `audit.json` holds, as values: the images of each class and split, and what is wrong with them."""

from dataclasses import dataclass
from typing import NamedTuple

from upcycle.audit.findings import Image
from upcycle.values import read_value


class ExcludedFile(NamedTuple):
    """A file that is not used, and why."""

    path: str
    reason: str
    kind: str = ""


class LabeledFile(NamedTuple):
    """One of several identical images, and the class it is in."""

    path: str
    label: str


@dataclass(frozen=True)
class FoundProblem:
    """A finding as it is reported: `groups` are images that belong together, or each alone."""

    kind: str
    count: int
    title: str
    effect: str
    advice: str
    serious: bool
    names: tuple[str, ...]
    groups: tuple[tuple[Image, ...], ...]


@dataclass(frozen=True)
class Audit:
    """All of `audit.json`, of a run or a scan. `splits` has the images of each class by split, where there is one."""

    images: int
    classes: dict[str, int]
    splits: dict[str, dict[str, int]]
    quarantined: tuple[ExcludedFile, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    conflicts: tuple[tuple[LabeledFile, ...], ...] = ()
    leaks: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[FoundProblem, ...] = ()
    data: str = ""
    created: str = ""
    command: str = ""
    upcycle: str = ""

    @property
    def without_test(self) -> bool:
        """Whether the images were split without a test set."""
        test = self.splits.get("test", {})
        return bool(test) and not any(test.values())

    @classmethod
    def from_dict(cls, values: object) -> "Audit":
        """What `audit.json` holds; RunError for anything else."""
        return read_value(cls, values, "audit.json")
