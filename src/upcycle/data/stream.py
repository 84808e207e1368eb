"""Images decoded from their files each time they are asked for: where the decoded ones cannot be kept."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from upcycle.data.cache import decoded
from upcycle.data.folder import Index, Progress, in_order
from upcycle.data.listing import Failure
from upcycle.data.preprocessing import Interpolation
from upcycle.errors import DataError


@dataclass(frozen=True, eq=False)
class Stream:
    """What a Cache of `index` would hold, to the bit; `stream[i]` reads and decodes the file, [H, W, 3] of uint8.

    DataError when a file is no longer the one that was scanned.
    """

    index: Index
    side: int
    interpolation: Interpolation
    scale: float | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> npt.NDArray[np.uint8]:
        frame = decoded(self.index, i, side=self.side, interpolation=self.interpolation, scale=self.scale)
        if isinstance(frame, Failure):
            path = self.index.path(i)
            raise DataError(f"{path} could be decoded before and cannot be now ({frame.reason}): run again")
        return frame

    def without(self, positions: Iterable[int]) -> "Stream":
        """The same images without those at `positions`: keeps step with `Index.without`."""
        kept = np.setdiff1d(np.arange(len(self)), np.fromiter(positions, np.int64))
        return replace(self, index=self.index.take(kept))


def open_stream(
    index: Index,
    *,
    side: int,
    interpolation: Interpolation,
    scale: float | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> tuple[Stream, dict[int, Failure]]:
    """All images of `index`, and position -> reason for those that cannot be decoded, as `cache.build` gives them.

    Each is decoded once, to know which those are.
    """

    def attempt(i: int) -> Failure | None:
        frame = decoded(index, i, side=side, interpolation=interpolation, scale=scale)
        return frame if isinstance(frame, Failure) else None

    reasons = in_order(attempt, range(len(index)), threads=threads, progress=progress)
    failures = {i: reason for i, reason in enumerate(reasons) if reason is not None}
    return Stream(index, side, interpolation, scale), failures
