"""Which images train, validate and test: stratified, seeded, and never the same photo on two sides."""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from upcycle.data.folder import Index
from upcycle.data.listing import shown
from upcycle.errors import ConfigError, DataError, RunError
from upcycle.rundir import write_text

NAMES = ("train", "val", "test")
Positions = npt.NDArray[np.int64]

TINY_SPLIT = 50
"""A validation or test set with fewer images is warned about."""
TINY_CLASS = 10
"""A class with fewer training images is warned about."""
IMBALANCE = 5
"""Classes whose image counts differ by more than this factor are warned about."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Sorted positions in the index, int64; no image is in two of them."""

    train: Positions
    val: Positions
    test: Positions

    def of(self, name: str) -> Positions:
        """The positions of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class _Unit:
    """Images that must stay on one side, with how many of each class; `key` orders units by content."""

    key: str
    positions: tuple[int, ...]
    counts: Mapping[int, int]


def _components(index: Index) -> npt.NDArray[np.int32]:
    """A number for each image, the same for images tied by a group or by equal bytes, also in a chain."""
    groups = np.array(index.groups.to_pylist(), object)
    links = [np.empty((0, 2), np.int64)]
    for names, used in ((groups, groups != ""), (index.hashes, np.ones(len(index), bool))):
        positions = np.flatnonzero(used)
        order = positions[np.argsort(names[positions], kind="stable")]
        same = np.flatnonzero(names[order][1:] == names[order][:-1])
        links.append(np.stack([order[same], order[same + 1]], axis=1))
    one, other = np.concatenate(links).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(index), len(index)))
    numbers: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return numbers


def _units(index: Index, pool: Positions, seed: int) -> list[_Unit]:
    """The pool's images in units that must stay together, ordered by a hash of seed and content."""
    components = _components(index)[pool].tolist()
    members: defaultdict[int, list[int]] = defaultdict(list)
    for position, component in zip(pool.tolist(), components, strict=True):
        members[component].append(position)
    hashes, labels = index.hashes.tolist(), index.labels.tolist()
    units = [
        _Unit(
            key=hashlib.sha256(b"%d:" % seed + min(hashes[i] for i in positions)).hexdigest(),
            positions=tuple(positions),
            counts=Counter(labels[i] for i in positions),
        )
        for positions in members.values()
    ]
    return sorted(units, key=lambda unit: unit.key)


def _by_class(units: Sequence[_Unit]) -> dict[int, list[int]]:
    """Which units hold each class, in the units' order; the class in the fewest comes first.

    Rare classes are shared out first because they leave the least choice (iterative stratification:
    Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011).
    """
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for i, unit in enumerate(units):
        for label in unit.counts:
            holders[label].append(i)
    return {label: holders[label] for label in sorted(holders, key=lambda label: (len(holders[label]), label))}


def _fill(sizes: Mapping[int, int], *, have: int, target: int, spare: int) -> list[int]:
    """Keys of `sizes`, in order, to bring `have` nearer to `target`: `spare` at most, one if it is 0."""
    chosen: list[int] = []
    for key, size in sizes.items():
        if len(chosen) < spare and abs(have + size - target) < abs(have - target):
            chosen.append(key)
            have += size
    if not have and spare > 0:
        chosen.append(min(sizes, key=lambda key: sizes[key]))
    return chosen


def _draw(units: Sequence[_Unit], shares: Mapping[str, float]) -> list[str]:
    """The side of each unit: each name in `shares` gets that share of every class, "train" the rest."""
    sides = [""] * len(units)
    counts: dict[str, Counter[int]] = {name: Counter() for name in (*shares, "train")}

    def put(name: str, i: int) -> None:
        sides[i] = name
        counts[name].update(units[i].counts)

    for label, holders in _by_class(units).items():
        total = sum(units[i].counts[label] for i in holders)
        waiting = [name for name in counts if not counts[name][label]]
        for name, share in shares.items():
            free = {i: units[i].counts[label] for i in holders if not sides[i]}
            reserved = sum(other != name for other in waiting)
            target = max(1, round(share * total))
            for i in _fill(free, have=counts[name][label], target=target, spare=len(free) - reserved):
                put(name, i)
            waiting = [other for other in waiting if other != name]
        for i in holders:
            if not sides[i]:
                put("train", i)
    return sides


def _check_shared(index: Index, units: Sequence[_Unit], sides: Sequence[str], names: Sequence[str]) -> None:
    """DataError for a class that is missing from one of the sides `names`."""
    for label, holders in _by_class(units).items():
        missing = [name for name in names if name not in {sides[i] for i in holders}]
        if missing:
            raise DataError(
                f"class {shown(index.classes[label])!r} cannot be shared out: {len(holders)} different "
                f"images or groups for {', '.join(names)}, so {missing[0]} would have none; "
                "add images, use smaller groups, or put them into split folders yourself"
            )


def _positions(units: Sequence[_Unit], sides: Sequence[str], name: str) -> list[int]:
    return [i for unit, side in zip(units, sides, strict=True) if side == name for i in unit.positions]


def _sorted(*parts: Iterable[int]) -> Positions:
    return np.array(sorted(i for part in parts for i in part), np.int64)


def _check_fractions(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 < value < 1:
            raise ConfigError(f"{name} {value} is out of range: use more than 0, less than 1")
    if sum(fractions.values()) >= 1:
        raise ConfigError(f"{' and '.join(fractions)} leave nothing to train on: use less than 1 together")


def _claimed(index: Index) -> dict[str, list[int]]:
    """Undeclared images tied by group or bytes to declared val or test images: they belong on that side."""
    components = _components(index)
    claimed: dict[str, list[int]] = {}
    undeclared = set(np.flatnonzero(index.declared == "").tolist())
    for name in ("test", "val"):
        tied = np.flatnonzero(np.isin(components, components[index.declared == name])).tolist()
        claimed[name] = [i for i in tied if i in undeclared]
        undeclared.difference_update(claimed[name])
    return claimed


def split(index: Index, *, seed: int, val_fraction: float = 0.15, test_fraction: float = 0.15) -> Splits:
    """Train, validation and test positions: declared splits are kept, missing ones are split off train.

    The fractions are of the images not declared val or test. Classes are stratified; groups and
    byte-identical images stay on one side. The choice depends on the seed and on the images'
    content, not on their names or order. DataError when a class has too few images to be on every side.
    """
    _check_fractions(val_fraction=val_fraction, test_fraction=test_fraction)
    claimed = _claimed(index)
    declared = {name: np.flatnonzero(index.declared == name).tolist() + claimed[name] for name in claimed}
    kept = declared["val"] + declared["test"]
    units = _units(index, np.setdiff1d(np.arange(len(index)), kept), seed)
    shares = {"test": test_fraction, "val": val_fraction}
    missing = {name: share for name, share in shares.items() if not declared[name]}
    sides = _draw(units, missing)
    _check_shared(index, units, sides, ["train", *missing])
    parts = {name: _sorted(_positions(units, sides, name), declared.get(name, [])) for name in NAMES}
    return Splits(**parts)


def _deal(units: Sequence[_Unit], k: int) -> list[str]:
    """The fold of each unit, "0" to k - 1: every class spread evenly, large units first."""
    sides = [""] * len(units)
    counts: list[Counter[int]] = [Counter() for _ in range(k)]
    totals = [0] * k
    for label, holders in _by_class(units).items():
        for i in sorted((i for i in holders if not sides[i]), key=lambda i: -units[i].counts[label]):
            fold = min(range(k), key=lambda f: (counts[f][label], totals[f], f))
            sides[i] = str(fold)
            counts[fold].update(units[i].counts)
            totals[fold] += len(units[i].positions)
    return sides


def folds(index: Index, *, k: int, seed: int, val_fraction: float = 0.15) -> list[Splits]:
    """`k` splits for cross-validation: each image is in exactly one test set; declared splits are not used.

    Stratified and grouped as in `split`; `val_fraction` of the rest validates.
    """
    if k < 2:
        raise ConfigError(f"folds {k} is out of range: use 2 at least")
    _check_fractions(val_fraction=val_fraction)
    units = _units(index, np.arange(len(index)), seed)
    dealt = _deal(units, k)
    _check_shared(index, units, dealt, [str(fold) for fold in range(k)])
    return [_fold(index, units, dealt, str(fold), val_fraction) for fold in range(k)]


def _fold(index: Index, units: Sequence[_Unit], dealt: Sequence[str], fold: str, val_fraction: float) -> Splits:
    """The splits whose test set is `fold`."""
    rest = [unit for unit, side in zip(units, dealt, strict=True) if side != fold]
    sides = _draw(rest, {"val": val_fraction})
    _check_shared(index, rest, sides, ["train", "val"])
    train, val = (_sorted(_positions(rest, sides, name)) for name in ("train", "val"))
    return Splits(train, val, _sorted(_positions(units, dealt, fold)))


def _sides_of(index: Index, splits: Splits) -> npt.NDArray[np.str_]:
    """The split of each image, "" for one in none."""
    sides = np.full(len(index), "", "U5")
    for name in NAMES:
        sides[splits.of(name)] = name
    return sides


def leaks(index: Index, splits: Splits) -> list[tuple[int, ...]]:
    """Byte-identical images on more than one side: only declared splits can hold them."""
    sides = _sides_of(index, splits)
    return [run for run in index.duplicates() if len(set(sides[list(run)].tolist()) - {""}) > 1]


class Recorded(NamedTuple):
    """One row of a splits file."""

    path: str
    label: str
    split: str
    group: str
    sha256: str


def write_splits(path: Path, index: Index, splits: Splits) -> None:
    """Write every image that is in a split as CSV `path,label,split,group,sha256`, in the index's order."""
    rows = [Recorded._fields] + [
        Recorded(index.path(i), index.label(i), side, index.group(i), index.hash(i))
        for i, side in enumerate(_sides_of(index, splits).tolist())
        if side
    ]
    # the csv module leaves a lone carriage return unquoted and then cannot read it back
    odd = any("\r" in value for row in rows for value in row)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL).writerows(rows)
    write_text(path, buffer.getvalue())


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


def restore(path: Path, index: Index) -> Splits:
    """The splits recorded in `path`; DataError when the images are no longer those of `index`."""
    place = {index.path(i): i for i in range(len(index))}
    sides: dict[str, list[int]] = {name: [] for name in NAMES}
    for row in read_splits(path):
        i = place.get(row.path)
        if i is None or (index.hash(i), index.label(i)) != (row.sha256, row.label):
            raise DataError(f"{shown(row.path)} is not the image recorded in {path}: it changed or is gone")
        if row.split not in sides:
            raise RunError(f"{path} names a split {shown(row.split)!r}, which is none of {', '.join(NAMES)}")
        sides[row.split].append(i)
    return Splits(**{name: _sorted(sides[name]) for name in NAMES})


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
