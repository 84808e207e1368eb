"""Which images are unlike the training photos: a model's score says nothing about those. numpy alone.

The distance of an image is that of its features, which the head reads, from the training photos' (`Novelty`). How large
a distance is usual is known from the validation images, so that the p-value of an image is exact: where nothing has
changed, a share of at most p of the images has a p-value of p or less (conformal p-values: Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005; of distances: Bates et al. 2023, arXiv 2104.08279).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from upcycle.errors import RunError, counted
from upcycle.rundir import write_bytes

Features = npt.NDArray[np.float32]
DIRECTIONS = 64
"""Directions that are kept, at most: more find no more (lab/2026-11-30-novelty)."""
LEAN_SAMPLE = 200
"""Images of each that are looked at where a deadline is near."""
MOST_FITTED = 1_000
"""Training photos that the directions are made of, at most."""
MOST_CALIBRATED = 1_000
"""Validation images whose distances are kept."""
LEVEL = 0.01
"""Images with a p-value of at most this are called unlike the training photos."""
_SURE = 0.01
"""So seldom, at most, more images than expected are reported where nothing has changed."""
_ROUNDING = 1e-9
_ROWS = 32
"""Images whose distances are computed together, always so many: an image's distance depends on no other's."""
_LARGEST_FILE = 2**24


@dataclass(frozen=True, eq=False)
class Novelty:
    """What tells images that are unlike the training photos.

    `mean` [D], float32: that of the training photos' features, each image's at length 1. `directions` [k, D], float16:
    those in which they vary most. `distances` [n], float32, ascending: those of the validation images, from which
    nothing of this was made. `units`: how many of these images are independent, fewer than n where images belong
    together in groups. The p-value of an image of a new group is then right on average over groups, not for each: a
    group's images are unlike together. `warning` reckons with units.
    """

    mean: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float16]
    distances: npt.NDArray[np.float32]
    units: int

    @classmethod
    def fitted(cls, train: Features, val: Features, *, units: int) -> "Novelty":
        """By features of training photos, [m, D], and of validation images, [n, D]."""
        rows = _unit(train)
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        made = cls(mean, _main_directions(rows - mean), np.empty(0, np.float32), units)
        return replace(made, distances=np.sort(made.away(val)))

    def away(self, features: Features) -> npt.NDArray[np.float32]:
        """The distance [n] of images by their features [n, D]: squared, to the space of the main directions.

        The residual of Wang et al., "ViM: Out-of-Distribution with Virtual-logit Matching" (2022, arXiv 2203.10807),
        for features of length 1: their length tells how much there is in an image, not what.
        """
        turn, found = self.directions.astype(np.float32).T, np.empty(len(features), np.float32)
        block = np.zeros((_ROWS, len(self.mean)), np.float32)
        for start in range(0, len(features), _ROWS):
            some = features[start : start + _ROWS]
            block[: len(some)] = _unit(some) - self.mean
            beyond = (block**2).sum(axis=1) - ((block @ turn) ** 2).sum(axis=1)
            found[start : start + _ROWS] = beyond[: len(some)]
        return found

    @property
    def level(self) -> float:
        """The share of usual images that are called unlike: 1 %, or more where too few images calibrate."""
        n = len(self.distances) + 1
        return max(1, math.floor(LEVEL * n)) / n

    def p_values(self, features: Features) -> npt.NDArray[np.float64]:
        """The p-value of each image by its features [n, D]: 1 / (validation images + 1) at least."""
        farther = len(self.distances) - np.searchsorted(self.distances, self.away(features))
        return np.asarray((1 + farther) / (1 + len(self.distances)))

    def warning(self, p_values: Sequence[float]) -> str:
        """`warning_of` images with these p-values."""
        return self.warning_of(sum(value <= self.level for value in p_values), len(p_values))

    def warning_of(self, found: int, images: int) -> str:
        """That `found` of these images, with p-values of `level` or less, are more than chance explains; else "".

        Chance brings such a line for at most 1 % of sets of images; that the validation images are a sample counts.
        """
        level, weight = self.level, self.units + 1
        if not found or _chance(found, images, level * weight, (1 - level) * weight) > _SURE + _ROUNDING:
            return ""
        expected = level * images
        usual = f"{expected:.0f}" if expected >= 1 else "less than 1"
        return (
            f"{found:,} of {counted(images, 'image')} {'is' if found == 1 else 'are'} unlike the training "
            f"photos ({usual} expected): the report's F1 does not hold for {'it' if found == 1 else 'them'}"
        )

    def save(self, path: Path) -> None:
        """Write it as safetensors, atomically; StorageError where it does not fit."""
        arrays: dict[str, npt.NDArray[Any]] = {"mean": self.mean, "directions": self.directions}
        arrays |= {"distances": self.distances, "units": np.array([self.units])}
        write_bytes(path, save(arrays))


def read_novelty(path: Path) -> Novelty | None:
    """What `Novelty.save` wrote, None where there is no such file; RunError for a file that holds anything else."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is larger than any that upcycle writes")
        arrays = load(path.read_bytes())
        mean, directions, distances, units = (arrays[name] for name in ("mean", "directions", "distances", "units"))
        for array, kind, axes in ((mean, "float32", 1), (directions, "float16", 2), (distances, "float32", 1)):
            if array.dtype != kind or array.ndim != axes or not np.isfinite(array).all():
                raise ValueError(f"{array.dtype} {array.shape}, or no numbers")
        if directions.shape[1] != len(mean) or not len(distances) or (np.diff(distances) < 0).any():
            raise ValueError("its parts do not fit together")
        return Novelty(mean, directions, distances, max(1, int(units.item())))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise RunError(f"{path} does not hold what a run writes ({error})") from error


def _unit(features: Features) -> Features:
    """The rows at length 1; one of zeros stays one, and what is no number is a zero."""
    features = np.nan_to_num(np.asarray(features, np.float32), posinf=0, neginf=0)
    lengths = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    return np.asarray(features / np.maximum(lengths, 1e-30)[:, None], np.float32)


def _main_directions(rows: Features) -> npt.NDArray[np.float16]:
    """The directions [k, D] in which rows [m, D] of mean 0 vary most, of length 1."""
    wide = rows.astype(np.float64)
    values, vectors = np.linalg.eigh(wide @ wide.T)
    most = min(DIRECTIONS, len(rows) // 2, rows.shape[1] // 4)
    chosen = [at for at in range(len(values) - 1, -1, -1)[:most] if values[at] > 1e-9 * len(rows)]
    return np.asarray(vectors[:, chosen].T @ wide / np.sqrt(values[chosen])[:, None], np.float16)


def _chance(found: int, images: int, a: float, b: float) -> float:
    """How often so many of so many images, or more, are called unlike where nothing has changed.

    The part that are is Beta(a, b) distributed by chance of the validation images, their number beta-binomial.
    """

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def term(count: int) -> float:
        ways = -math.log(images + 1) - log_beta(images - count + 1, count + 1)
        return math.exp(ways + log_beta(count + a, images - count + b) - log_beta(a, b))

    if found <= images // 2:  # the shorter sum
        return 1 - math.fsum(map(term, range(found)))
    return math.fsum(map(term, range(found, images + 1)))
