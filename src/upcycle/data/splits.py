"""Which images train, validate and test: stratified, seeded, never the same photo on two sides; and `splits.csv`."""

import csv
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from upcycle.config import Config
from upcycle.data.index import Index
from upcycle.data.split_lines import split_lines
from upcycle.errors import ConfigError, DataError, RunError, shown
from upcycle.rundir import replacing

_Positions = npt.NDArray[np.int64]


def components(index: Index) -> npt.NDArray[np.int32]:
    """A number for each image, the same for images of one group or of equal bytes, also in a chain."""
    grouped = pc.not_equal(index.groups, "").to_numpy(zero_copy_only=False)
    codes = index.groups.dictionary_encode().indices.to_numpy()
    pairs = [np.empty((0, 2), np.int64)]
    for names, used in ((codes, grouped), (index.hashes, np.ones(len(index), bool))):
        positions = np.flatnonzero(used)
        order = positions[np.argsort(names[positions], kind="stable")]
        same = np.flatnonzero(names[order][1:] == names[order][:-1])
        pairs.append(np.stack([order[same], order[same + 1]], axis=1))
    return connected(np.concatenate(pairs), len(index))


def connected(pairs: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.int32]:
    """A number for each of `count` positions, the same for those that `pairs` [n, 2] connect, also in a chain."""
    one, other = pairs.T
    graph = coo_array((np.ones(len(pairs), bool), (one, other)), shape=(count, count))
    numbers: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return numbers


@dataclass(frozen=True, eq=False)
class Units:
    """m units in the order of a hash of seed and content, whatever the images' names and order.

    `positions`: int64 [n], images in the index, those of one unit in a row; `starts`: int64 [m + 1], where
    each unit's begin; `labels`: int32 [n], of `positions`. `holders` and `holding`, [p]: for each class, in
    turn, the units with images of it, and how many; `first`: int64 [classes + 1], where each class begins.
    """

    positions: _Positions
    starts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    holders: npt.NDArray[np.int64]
    holding: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def classes(self) -> int:
        """How many classes the index has."""
        return len(self.first) - 1

    def of_class(self, label: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The units with images of a class, in order, and how many each has."""
        part = slice(self.first[label], self.first[label + 1])
        return self.holders[part], self.holding[part]

    def rarest_first(self) -> list[int]:
        """The classes that occur, the one in the fewest units first.

        Rare classes are shared out first because they leave the least choice (iterative
        stratification: Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011).
        """
        held = np.diff(self.first)
        return [label for label in np.argsort(held, kind="stable").tolist() if held[label]]

    def members(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where in `positions` and `labels` the images of the units `chosen` are, unit by unit."""
        return _members(self.starts[chosen], np.diff(self.starts)[chosen])

    def tally(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Images of each class in the units `chosen`."""
        return np.bincount(self.labels[self.members(chosen)], minlength=self.classes)

    def images(self, chosen: npt.NDArray[np.int64]) -> _Positions:
        """Sorted positions of the images in the units `chosen`."""
        return np.sort(self.positions[self.members(chosen)])

    def take(self, chosen: npt.NDArray[np.int64]) -> "Units":
        """The units `chosen`, in that order."""
        kept = self.members(chosen)
        return _columns(self.positions[kept], np.diff(self.starts)[chosen], self.labels[kept], self.classes)


def units(index: Index, pool: _Positions, seed: int, together: npt.NDArray[np.int32] | None = None) -> Units:
    """The images at `pool` in units, ordered by sha256 of the seed and the unit's smallest content hash.

    `together`: the `components` of the index, where they are known.
    """
    groups, hashes = (components(index) if together is None else together)[pool], index.hashes[pool]
    alone = bool((np.bincount(groups) <= 1).all())
    order = np.argsort(groups, kind="stable") if alone else np.lexsort((hashes, groups))
    begins = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(begins, append=len(pool))
    prefix = b"%d:" % seed
    keys = [hashlib.sha256(prefix + name).digest() for name in hashes[order[begins]].tolist()]
    rank = np.argsort(np.array(keys, "S32"), kind="stable")
    kept = pool[order[_members(begins[rank], sizes[rank])]]
    return _columns(kept, sizes[rank], index.labels[kept], len(index.classes))


def _members(begins: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """So many places in a row from each of `begins` on."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(begins - before, sizes) + np.arange(sizes.sum())


def _columns(positions: _Positions, sizes: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], classes: int) -> Units:
    """The columns that follow from these."""
    number = np.repeat(np.arange(len(sizes)), sizes)
    pairs, holding = np.unique(labels.astype(np.int64) * max(1, len(sizes)) + number, return_counts=True)
    label, holders = np.divmod(pairs, max(1, len(sizes)))
    first = np.searchsorted(label, np.arange(classes + 1))
    return Units(positions, np.concatenate([[0], np.cumsum(sizes)]), labels, holders, holding, first)


NAMES = ("train", "val", "test")
_Sides = npt.NDArray[np.int64]
"""The number of each unit's side, [m]."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Sorted positions in the index, int64; no image is in two of them."""

    train: _Positions
    val: _Positions
    test: _Positions

    @classmethod
    def empty(cls) -> "Splits":
        """Splits without images."""
        return cls(*(np.empty(0, np.int64) for _ in NAMES))

    def without(self, positions: Iterable[int]) -> "Splits":
        """The splits of what is left when images are dropped from the index: keeps step with `Index.without`."""
        dropped = np.sort(np.fromiter(positions, np.int64))
        left = (np.setdiff1d(self.of(name), dropped) for name in NAMES)
        return Splits(*(own - np.searchsorted(dropped, own) for own in left))

    def of(self, name: str) -> _Positions:
        """The positions of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def sides(self, count: int) -> npt.NDArray[np.int8]:
        """The number in `NAMES` of the split of each of `count` images, -1 for none."""
        sides = np.full(count, -1, np.int8)
        for number, name in enumerate(NAMES):
            sides[self.of(name)] = number
        return sides

    @property
    def held_out(self) -> tuple[str, ...]:
        """The names of those that do not train: "val", and "test" where there are test images."""
        return ("val", "test") if len(self.test) else ("val",)


def split(
    index: Index, *, seed: int, val_fraction: float = 0.15, test_fraction: float = 0.15, regroup: bool = False
) -> Splits:
    """Train, validation and test positions: declared splits are kept, missing ones are drawn.

    They are drawn from the images without a split where those have enough of every class, else from those declared
    train as well. The fractions are of the images drawn from. Classes are stratified; groups and
    byte-identical images stay on one side. The choice depends on the seed and on the images'
    content, not on their names or order. With a `test_fraction` of 0 no test images are drawn. With `regroup` images
    of groups on several declared sides count as undeclared: they train, or the sides that are left empty are drawn
    from them. DataError when a class has too few images to be on every side.
    """
    shares = {"test": test_fraction, "val": val_fraction}
    _check_fractions(val_fraction=val_fraction, **({"test_fraction": test_fraction} if test_fraction != 0 else {}))
    groups = components(index)
    declared = _declared(without_crossing(index) if regroup else index, groups)
    undeclared = np.ones(len(index), np.bool_)
    undeclared[np.concatenate(list(declared.values()))] = False
    pool = np.flatnonzero(undeclared)
    together = units(index, pool, seed, groups)
    missing = {name: share for name, share in shares.items() if share and not len(declared[name])}
    if missing and (np.diff(together.first) <= len(missing)).any():
        pool, declared["train"] = np.union1d(pool, declared["train"]), pool[:0]
        together = units(index, pool, seed, groups)
    sides = _draw(together, missing)
    names = [*missing, "train"]
    _check_shared(index, together, sides, {name: names.index(name) for name in ("train", *missing)})
    drawn = {name: together.images(np.flatnonzero(sides == number)) for number, name in enumerate(names)}
    parts = {name: np.concatenate([drawn.get(name, pool[:0]), declared[name]]) for name in NAMES}
    return Splits(**{name: np.sort(part, kind="stable") for name, part in parts.items()})


def split_by(config: Config, index: Index) -> Splits:
    """The split that DATA declares, or else that of the configuration's seed and fractions."""
    return split(
        index,
        seed=config.seed_of_split,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        regroup=config.regroup,
    )


def folds(index: Index, *, k: int, seed: int, val_fraction: float = 0.15) -> list[Splits]:
    """`k` splits for cross-validation: each image is in exactly one test set; declared splits are not used.

    Stratified and grouped as in `split`; `val_fraction` of the rest validates.
    """
    if k < 2:
        raise ConfigError(f"folds {k} is out of range: use 2 at least")
    _check_fractions(val_fraction=val_fraction)
    together = units(index, np.arange(len(index)), seed)
    dealt = _deal(together, k)
    _check_shared(index, together, dealt, {str(fold): fold for fold in range(k)})
    return [_fold(index, together, dealt, fold, val_fraction) for fold in range(k)]


def _check_fractions(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 < value < 1:
            raise ConfigError(f"{name} {value} is out of range: use more than 0, less than 1")
    if sum(fractions.values()) >= 1:
        raise ConfigError(f"{' and '.join(fractions)} leave nothing to train on: use less than 1 together")


def without_crossing(index: Index) -> Index:
    """`index` with images of groups (or of equal bytes) on several declared sides as undeclared."""
    together = components(index)
    spread = np.zeros(int(together.max(initial=-1)) + 1, np.int64)
    for name in NAMES:
        spread[np.unique(together[index.declared == name])] += 1
    return replace(index, declared=np.where(spread[together] > 1, "", index.declared))


def _declared(index: Index, groups: npt.NDArray[np.int32]) -> dict[str, _Positions]:
    """Images declared for a split, and undeclared ones of the same group or bytes: they belong on that side."""
    free, declared = index.declared == "", {}
    for name in ("test", "val", "train"):
        own = index.declared == name
        claimed = free & np.isin(groups, groups[own])
        free &= ~claimed
        declared[name] = np.flatnonzero(own | claimed)
    return declared


def _draw(together: Units, shares: Mapping[str, float]) -> _Sides:
    """The side of each unit: each of `shares`, numbered in order, gets that share of every class, the rest trains."""
    train = len(shares)
    sides = np.full(len(together), -1, np.int64)
    counts = np.zeros((train + 1, together.classes), np.int64)

    def put(side: int, chosen: npt.NDArray[np.int64]) -> None:
        sides[chosen] = side
        counts[side] += together.tally(chosen)

    for label in together.rarest_first():
        holders, holding = together.of_class(label)
        waiting = [side for side in range(train + 1) if not counts[side, label]]
        for side, share in enumerate(shares.values()):
            free = sides[holders] < 0
            target = max(1, round(share * int(holding.sum())))
            spare = int(free.sum()) - sum(other != side for other in waiting)
            have = int(counts[side, label])
            put(side, holders[free][_fill(holding[free].tolist(), have=have, target=target, spare=spare)])
            waiting = [other for other in waiting if other != side]
        put(train, holders[sides[holders] < 0])
    return sides


def _fill(sizes: Sequence[int], *, have: int, target: int, spare: int) -> list[int]:
    """Which of `sizes`, in order, to take to bring `have` nearer to `target`: `spare` at most, one if it is 0."""
    chosen: list[int] = []
    for at, size in enumerate(sizes):
        if len(chosen) >= spare or have >= target:
            break
        if abs(have + size - target) < target - have:
            chosen.append(at)
            have += size
    if not have and spare > 0:
        chosen.append(min(range(len(sizes)), key=sizes.__getitem__))
    return chosen


def _deal(together: Units, k: int) -> _Sides:
    """The fold of each unit, 0 to k - 1: every class spread evenly, large units first."""
    sides = np.full(len(together), -1, np.int64)
    counts = [[0] * together.classes for _ in range(k)]
    totals = [0] * k
    for label in together.rarest_first():
        holders, holding = together.of_class(label)
        free = sides[holders] < 0
        for unit in holders[free][np.argsort(-holding[free], kind="stable")].tolist():
            fold = min(range(k), key=lambda f: (counts[f][label], totals[f], f))
            sides[unit] = fold
            members = together.labels[together.starts[unit] : together.starts[unit + 1]].tolist()
            totals[fold] += len(members)
            for member in members:
                counts[fold][member] += 1
    return sides


def _fold(index: Index, together: Units, dealt: _Sides, fold: int, val_fraction: float) -> Splits:
    """The splits whose test set is the units dealt to `fold`."""
    rest = together.take(np.flatnonzero(dealt != fold))
    sides = _draw(rest, {"val": val_fraction})
    _check_shared(index, rest, sides, {"train": 1, "val": 0})
    train, val = (rest.images(np.flatnonzero(sides == side)) for side in (1, 0))
    return Splits(train, val, together.images(np.flatnonzero(dealt == fold)))


def _check_shared(index: Index, together: Units, sides: _Sides, names: Mapping[str, int]) -> None:
    """DataError for a class that is missing from one of the sides `names`."""
    for label in together.rarest_first():
        holders, _ = together.of_class(label)
        there = set(np.unique(sides[holders]).tolist())
        missing = [name for name, side in names.items() if side not in there]
        if missing:
            raise DataError(
                f"class {shown(index.classes[label])!r} cannot be shared out: {len(holders)} different "
                f"images or groups for {', '.join(names)}, so {missing[0]} would have none; "
                "add images, use smaller groups, or put them into split folders yourself"
            )


class Recorded(NamedTuple):
    """One row of a splits file."""

    path: str
    label: str
    split: str
    group: str
    sha256: str


def write_splits(path: Path, index: Index, splits: Splits) -> None:
    """Write every image that is in a split as CSV `path,label,split,group,sha256`, in the index's order."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(split_lines(index, splits.sides(len(index)), NAMES))


def are_written(path: Path, index: Index, splits: Splits) -> bool:
    """Whether a file holds just what `write_splits` would write."""
    with path.open("rb") as file:
        lines = split_lines(index, splits.sides(len(index)), NAMES)
        return all(file.read(len(part)) == part for part in lines) and not file.read(1)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table with every value quoted: csv leaves a lone carriage return unquoted and cannot read it back."""
    # surrogateescape: names of files are any bytes
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        writer.writerows(rows)


def read_splits(path: Path) -> list[Recorded]:
    """The rows of a file that `write_splits` wrote; RunError when it is missing or damaged."""
    rows: list[Recorded] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            head = next(reader, [])
            if head != list(Recorded._fields):
                raise RunError(f"{path} is no splits file: its first line is not {','.join(Recorded._fields)}")
            for row in reader:
                if len(row) != len(head):
                    raise RunError(f"{path} cannot be read: row {len(rows) + 1} has {len(row)} values, not {len(head)}")
                name, *shared, sha256 = row
                rows.append(Recorded(name, *map(sys.intern, shared), sha256))  # type: ignore[call-arg]
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    return rows


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
