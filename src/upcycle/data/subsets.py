"""Nested parts of a split: classes keep their shares, and groups stay whole."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from upcycle.data.index import Index
from upcycle.data.splits import Units, units

_Positions = npt.NDArray[np.int64]


def nested(index: Index, pool: _Positions, sizes: Sequence[int], seed: int) -> tuple[_Positions, ...]:
    """For each of `sizes`, sorted positions from `pool`: as near to so many as whole groups allow, one group at least.

    Each part lies within the next. It has an image of every class before a second group of any, then each class in
    proportion. The parts depend on the seed and on the images' content, not on their names or order.
    """
    together = units(index, pool, seed)
    order = np.argsort(_turns(together), kind="stable")
    totals = np.cumsum(np.diff(together.starts)[order])
    counts = [1 + int(np.abs(totals - size).argmin()) for size in sizes]
    return tuple(together.images(order[:count]) for count in counts)


def _turns(together: Units) -> npt.NDArray[np.float64]:
    """When each unit is taken, 0 to 1: the share of its rarest class's images that come before it."""
    own = np.zeros(len(together), np.int64)
    for label in reversed(together.rarest_first()):
        own[together.of_class(label)[0]] = label
    sizes, turns = np.diff(together.starts), np.zeros(len(together))
    for label in np.unique(own):
        members = np.flatnonzero(own == label)
        turns[members] = (np.cumsum(sizes[members]) - sizes[members]) / sizes[members].sum()
    return turns
