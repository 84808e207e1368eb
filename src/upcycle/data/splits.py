"""Which images train, validate and test: stratified, seeded, and never the same photo on two sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from upcycle.data.folder import Index
from upcycle.data.listing import shown
from upcycle.data.units import Positions, Units, components, units
from upcycle.errors import ConfigError, DataError

NAMES = ("train", "val", "test")
Sides = npt.NDArray[np.int64]
"""The number of each unit's side, [m]."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Sorted positions in the index, int64; no image is in two of them."""

    train: Positions
    val: Positions
    test: Positions

    def of(self, name: str) -> Positions:
        """The positions of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

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
    declared = _declared(without_crossing(index) if regroup else index)
    pool = np.setdiff1d(np.arange(len(index)), np.concatenate(list(declared.values())))
    together = units(index, pool, seed)
    missing = {name: share for name, share in shares.items() if share and not len(declared[name])}
    if missing and (np.diff(together.first) <= len(missing)).any():
        pool, declared["train"] = np.union1d(pool, declared["train"]), pool[:0]
        together = units(index, pool, seed)
    sides = _draw(together, missing)
    names = [*missing, "train"]
    _check_shared(index, together, sides, {name: names.index(name) for name in ("train", *missing)})
    drawn = {name: together.images(np.flatnonzero(sides == number)) for number, name in enumerate(names)}
    return Splits(**{name: np.union1d(drawn.get(name, pool[:0]), declared[name]) for name in NAMES})


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


def _declared(index: Index) -> dict[str, Positions]:
    """Images declared for a split, and undeclared ones tied to those by group or bytes: they belong on that side."""
    tied, free, declared = components(index), index.declared == "", {}
    for name in ("test", "val", "train"):
        own = index.declared == name
        claimed = free & np.isin(tied, tied[own])
        free &= ~claimed
        declared[name] = np.flatnonzero(own | claimed)
    return declared


def _draw(together: Units, shares: Mapping[str, float]) -> Sides:
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


def _deal(together: Units, k: int) -> Sides:
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


def _fold(index: Index, together: Units, dealt: Sides, fold: int, val_fraction: float) -> Splits:
    """The splits whose test set is the units dealt to `fold`."""
    rest = together.take(np.flatnonzero(dealt != fold))
    sides = _draw(rest, {"val": val_fraction})
    _check_shared(index, rest, sides, {"train": 1, "val": 0})
    train, val = (rest.images(np.flatnonzero(sides == side)) for side in (1, 0))
    return Splits(train, val, together.images(np.flatnonzero(dealt == fold)))


def _check_shared(index: Index, together: Units, sides: Sides, names: Mapping[str, int]) -> None:
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
