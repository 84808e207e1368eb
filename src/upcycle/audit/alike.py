"""Pictures that are the same, or nearly: equal pixels, or perceptual hashes a few bits apart and a like look."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from upcycle.audit.facts import Facts
from upcycle.data.folder import equal
from upcycle.data.worker import SMALL

BITS = 4
"""Perceptual hashes at most this many of 64 bits apart may be of the same picture (decision 0009 has the evidence)."""
CORRELATION = 0.98
"""And their small grey pictures must agree at least this well (Pearson)."""
BLANK = 3.0
"""Grey levels that vary less (standard deviation) show nothing: what is left of them is noise, and so is its hash."""
MOST = 50
"""With more pairs than this for each image, the pictures are too alike for any hash to tell them apart."""

Positions = npt.NDArray[np.int64]
Groups = list[tuple[int, ...]]


def blank(facts: Facts) -> Positions:
    """Images that show nothing."""
    return np.flatnonzero(facts["contrast"] < BLANK)


def same_pixels(facts: Facts) -> Groups:
    """Positions of images whose upright pixels are equal, however they are stored."""
    return equal(facts["pixels"])


def near(facts: Facts) -> Groups | None:
    """Positions of images that are nearly the same picture, equal ones among them, in order of the first.

    Blank images are left out. None where the pictures are too alike to tell.
    """
    seen = np.flatnonzero(facts["contrast"] >= BLANK)
    _, first, which = np.unique(facts["pixels"][seen], return_index=True, return_inverse=True)
    copies = np.stack([seen[first][which], seen], axis=1)  # each with the first of the same pixels
    candidates = np.sort(seen[first])
    hashes, small = facts["perceptual"][candidates], _standardised(facts["small"][candidates])
    kept, count = [np.empty((0, 2), np.int64)], 0
    for one, other in _close(hashes):
        agree = np.einsum("ij,ij->i", small[one], small[other], dtype=np.float64) >= CORRELATION
        kept.append(np.stack([one[agree], other[agree]], axis=1))
        count += int(agree.sum())
        if count > MOST * len(candidates):
            return None
    pairs = np.concatenate([candidates[np.concatenate(kept)], copies])
    return [group for group in _components(pairs, len(facts)) if len(set(facts["pixels"][list(group)].tolist())) > 1]


def _close(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[Positions, Positions]]:
    """Pairs of positions, the smaller first, whose hashes are at most `BITS` apart, each once.

    Of `BITS` + 1 bands of bits such a pair has at least one in common. Hashes are sorted by each band in turn, and
    each is compared with the next, the next but one and so on, as far as the band is the same.
    """
    bounds = [64 * band // (BITS + 1) for band in range(BITS + 2)]
    masks = [np.uint64(2**last - 2**first) for first, last in pairwise(bounds)]
    for band, mask in enumerate(masks):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, ahead = keys[order], 0
        alike = np.arange(len(keys))
        while len(alike):
            ahead += 1
            alike = alike[: np.searchsorted(alike, len(keys) - ahead)]
            alike = alike[keys[alike] == keys[alike + ahead]]
            one, other = order[alike], order[alike + ahead]
            apart = hashes[one] ^ hashes[other]
            close = np.bitwise_count(apart) <= BITS
            for earlier in masks[:band]:  # those that have such a band in common were found by it
                close &= (apart & earlier) != 0
            # the sort is stable: of equal bands the smaller position comes first
            yield one[close], other[close]


def _standardised(small: npt.NDArray[np.void]) -> npt.NDArray[np.float16]:
    """Grey pictures [n, 256] whose products are their correlations, in half precision: 512 bytes each."""
    result = np.empty((len(small), SMALL * SMALL), np.float16)
    for start in range(0, len(small), 4096):
        some = np.frombuffer(small[start : start + 4096].tobytes(), np.uint8).reshape(-1, SMALL * SMALL)
        centred = some - some.mean(axis=1, keepdims=True, dtype=np.float32)
        result[start : start + 4096] = centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6)
    return result


def _components(pairs: Positions, count: int) -> Groups:
    """Positions that pairs connect, also in a chain."""
    one, other = pairs.T
    graph: Any = coo_array((np.ones(len(pairs), bool), (one, other)), shape=(count, count))
    numbers = connected_components(graph, directed=False)[1]
    return equal(numbers)
