"""Features of a split's images, as heads read them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CHUNK = 4096
"""Images whose features are read at once."""

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of `features` [N, D] at `positions` [n], with the `labels` [n] of these images.

    `features` may be a memory map. `groups` [n] has equal numbers for images that must stay on one side.
    """

    features: Features
    positions: npt.NDArray[np.int64]
    labels: Labels
    groups: Labels | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def chunks(self) -> Iterator[Tensor]:
        """Features of all images in order, at most `CHUNK` at a time, [m, D]."""
        for start in range(0, len(self), CHUNK):
            yield torch.from_numpy(self.features[self.positions[start : start + CHUNK]])

    def first(self, width: int) -> "Split":
        """The same images with their first `width` features."""
        return Split(self.features[:, :width], self.positions, self.labels, self.groups)

    def some(self, at: npt.NDArray[np.int64]) -> "Split":
        """Those of the images at the places `at`."""
        groups = None if self.groups is None else self.groups[at]
        return Split(self.features, self.positions[at], self.labels[at], groups)
