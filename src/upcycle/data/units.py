"""Images that must stay together, as columns: a group, equal bytes, or one image alone."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from upcycle.data.folder import Index

Positions = npt.NDArray[np.int64]


def components(index: Index) -> npt.NDArray[np.int32]:
    """A number for each image, the same for images tied by a group or by equal bytes, also in a chain."""
    grouped = pc.not_equal(index.groups, "").to_numpy(zero_copy_only=False)
    codes = index.groups.dictionary_encode().indices.to_numpy()
    links = [np.empty((0, 2), np.int64)]
    for names, used in ((codes, grouped), (index.hashes, np.ones(len(index), bool))):
        positions = np.flatnonzero(used)
        order = positions[np.argsort(names[positions], kind="stable")]
        same = np.flatnonzero(names[order][1:] == names[order][:-1])
        links.append(np.stack([order[same], order[same + 1]], axis=1))
    one, other = np.concatenate(links).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(index), len(index)))
    numbers: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return numbers


@dataclass(frozen=True, eq=False)
class Units:
    """m units in the order of a hash of seed and content, whatever the images' names and order.

    `positions`: int64 [n], images in the index, those of one unit in a row; `starts`: int64 [m + 1], where
    each unit's begin; `labels`: int32 [n], of `positions`. `holders` and `holding`, [p]: for each class, in
    turn, the units with images of it, and how many; `first`: int64 [classes + 1], where each class begins.
    """

    positions: Positions
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
        begins, sizes = self.starts[chosen], np.diff(self.starts)[chosen]
        before = np.cumsum(sizes) - sizes
        return np.repeat(begins - before, sizes) + np.arange(sizes.sum())

    def tally(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Images of each class in the units `chosen`."""
        return np.bincount(self.labels[self.members(chosen)], minlength=self.classes)

    def images(self, chosen: npt.NDArray[np.int64]) -> Positions:
        """Sorted positions of the images in the units `chosen`."""
        return np.sort(self.positions[self.members(chosen)])

    def take(self, chosen: npt.NDArray[np.int64]) -> "Units":
        """The units `chosen`, in that order."""
        kept = self.members(chosen)
        return _columns(self.positions[kept], np.diff(self.starts)[chosen], self.labels[kept], self.classes)


def units(index: Index, pool: Positions, seed: int) -> Units:
    """The images at `pool` in units, ordered by sha256 of the seed and the unit's smallest content hash."""
    tied, hashes = components(index)[pool], index.hashes[pool]
    order = np.lexsort((hashes, tied))
    begins = np.flatnonzero(np.diff(tied[order], prepend=-1))
    sizes = np.diff(begins, append=len(pool))
    keys = np.fromiter((_key(seed, bytes(name)) for name in hashes[order[begins]]), "S64", len(begins))
    rank = np.argsort(keys, kind="stable")
    in_order = _columns(pool[order], sizes, index.labels[pool[order]], len(index.classes))
    return in_order.take(rank)


def _key(seed: int, smallest: bytes) -> bytes:
    return hashlib.sha256(b"%d:" % seed + smallest).hexdigest().encode()


def _columns(positions: Positions, sizes: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], classes: int) -> Units:
    """The columns that follow from these."""
    number = np.repeat(np.arange(len(sizes)), sizes)
    pairs, holding = np.unique(labels.astype(np.int64) * max(1, len(sizes)) + number, return_counts=True)
    label, holders = np.divmod(pairs, max(1, len(sizes)))
    first = np.searchsorted(label, np.arange(classes + 1))
    return Units(positions, np.concatenate([[0], np.cumsum(sizes)]), labels, holders, holding, first)
