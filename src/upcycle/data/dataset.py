"""Images ready to train on, as one value, and their batches, each a function of (seed, epoch, batch index) only.

Any batch can be made without those before it, so a run resumes in the middle of an epoch with the
same bits, and batches made ahead in a background thread are the batches made on demand.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upcycle.config import Config
from upcycle.data.augment import (
    Augment,
    Augmentation,
    Frames,
    augmented,
    center_crop,
    color,
    mixup,
    normalize,
    on_device,
    random_crop,
)
from upcycle.data.frames import Cache, Stream
from upcycle.data.index import Index, in_order
from upcycle.data.listing import Unusable
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import Splits
from upcycle.device import Hardware, seed_for
from upcycle.errors import ConfigError
from upcycle.task import Task
from upcycle.world import ALONE, Part, World

_Item = TypeVar("_Item")
_Positions = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images and what they show, on the device.

    `images`: float [B, 3, S, S], normalized, channels_last; `targets`: float32, as `Task.targets` has them;
    `labels`, `positions`: int64 [B], before mixup. `part`: which images of the batch these are, None for all.
    """

    images: Tensor
    targets: Tensor
    labels: Tensor
    positions: Tensor
    part: Part | None = None

    @property
    def whole(self) -> int:
        """Images of the whole batch."""
        return len(self.labels) if self.part is None else self.part.whole

    def take(self, rows: slice) -> "Batch":
        """Some of these images."""
        return Batch(self.images[rows], self.targets[rows], self.labels[rows], self.positions[rows])

    def split(self, images: int) -> tuple["Batch", ...]:
        """The same in parts of so many images, the last one smaller."""
        if images >= len(self.labels):
            return (self,)
        return tuple(self.take(slice(start, start + images)) for start in range(0, len(self.labels), images))


@dataclass(frozen=True, eq=False)
class Batches:
    """One split's training batches, the same for the same seed, epoch and batch index.

    `labels[i]` belongs to `cache[i]`; `positions` are those to use. A last batch of one image joins
    the one before, since BatchNorm cannot train on one. `workers` background threads make two
    batches each ahead, at most two more than there are threads; with 0 they are made on demand. That changes no bit of
    any batch. Of several processes each makes its own part of every batch, in `shards` where there are some.
    """

    cache: Frames
    labels: _Positions
    positions: _Positions
    _: KW_ONLY
    preprocessing: Preprocessing
    batch_size: int
    augmentation: Augmentation
    seed: int
    task: Task
    device: torch.device | str = "cpu"
    shuffle: bool = True
    dtype: torch.dtype = torch.float32
    workers: int = 0
    augment: Augment | None = None
    """A custom augmentation, of the center crops, before they are normalized, in place of the built-in augmentation."""
    world: World = ALONE
    shards: int = 0

    def __post_init__(self) -> None:
        _check(self.batch_size, self.workers)

    def __len__(self) -> int:
        count, rest = divmod(len(self.positions), self.batch_size)
        joins = rest == 1 and count > 0
        return count + (rest > 0) - joins

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch`, from batch `start` on; closing it early ends its thread."""
        order, indices = self._order(epoch), range(start, len(self))
        coming = (position for index in indices for position in self._needed(order, index).tolist())
        with ahead(self.cache, coming) as frames:
            yield from _ahead(
                lambda index: self._batch(frames, order, epoch, index),
                indices,
                workers=self.workers,
            )

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        positions = np.asarray(self.positions, np.int64)
        if not self.shuffle:
            return positions
        generator = _generator(self.seed, "order", epoch)
        shuffled: npt.NDArray[np.int64] = positions[torch.randperm(len(positions), generator=generator).numpy()]
        return shuffled

    def _chosen(self, order: npt.NDArray[np.int64], index: int) -> tuple[npt.NDArray[np.int64], Part]:
        """Positions of a batch, and this process's part of it."""
        start = index * self.batch_size
        stop = len(order) if index == len(self) - 1 else start + self.batch_size
        chosen = order[start:stop]
        return chosen, self.world.part(len(chosen), shard=shard_of(self.batch_size, self.shards), shards=self.shards)

    @property
    def _mixes(self) -> bool:
        """Whether an image depends on the others of its batch, or may."""
        return self.augment is not None or self.augmentation.mixup > 0

    def _needed(self, order: npt.NDArray[np.int64], index: int) -> npt.NDArray[np.int64]:
        """Positions of the images that this process reads for a batch."""
        chosen, part = self._chosen(order, index)
        return chosen if self._mixes else chosen[part.rows]

    def _batch(self, frames: Frames, order: npt.NDArray[np.int64], epoch: int, index: int) -> Batch:
        chosen, part = self._chosen(order, index)
        if not self._mixes:
            return replace(self._made(frames, chosen, epoch, index, part), part=part)
        whole = self._made(frames, chosen, epoch, index, Part(0, len(chosen), len(chosen)))
        return replace(whole.take(part.rows), part=part)

    def _made(self, held: Frames, chosen: npt.NDArray[np.int64], epoch: int, index: int, part: Part) -> Batch:
        """The batch of the positions `chosen`, or a part of it."""
        generator = _generator(self.seed, "batch", epoch, index)
        some = chosen[part.rows]
        own = np.asarray(self.labels)[some].astype(np.int64)
        labels = on_device(torch.from_numpy(own), self.device)
        targets = on_device(torch.from_numpy(self.task.targets(own)), self.device)
        positions = on_device(torch.from_numpy(some.copy()), self.device)
        frames, size = [held[position] for position in some.tolist()], self.preprocessing.size
        # as bytes to the device: a quarter of the transfer
        if not frames:
            images = torch.empty(0, 3, size, size, device=self.device)
        elif self.augment is None:
            shapes = None if len(part) == part.whole else shapes_of(held, chosen)
            kind, rows = self.augmentation, part.rows
            pixels = random_crop(frames, size, augmentation=kind, generator=generator, shapes=shapes, rows=rows)
            pixels = on_device(pixels, self.device)
            if kind.color > 0:
                pixels = pixels.float()
                pixels = color(pixels, strength=kind.color, generator=generator, whole=part.whole, rows=rows)
            images = normalize(pixels, self.preprocessing)
        else:
            pixels = on_device(center_crop(frames, size), self.device)
            drawing = _generator(self.seed, "augment", epoch, index)
            images = augmented(pixels, self.augment, drawing, self.preprocessing)
        if self.augmentation.mixup > 0:
            images, targets = mixup(images, targets, alpha=self.augmentation.mixup, generator=generator)
        return Batch(images.to(self.dtype), targets, labels, positions)


def shard_of(batch_size: int, shards: int) -> int:
    """Images of each of so many shards of a batch."""
    return math.ceil(batch_size / shards) if shards else 0


def shapes_of(frames: Frames, positions: npt.NDArray[np.int64]) -> Tensor:
    """Height and width, int64 [n, 2], of frames that need not be decoded for it, where they know that."""
    if isinstance(frames, Cache | Stream):
        return torch.tensor([frames.shape(position) for position in positions.tolist()])
    return torch.tensor([frames[position].shape[:2] for position in positions.tolist()])


@contextlib.contextmanager
def ahead(frames: Frames, order: Iterable[int]) -> Iterator[Frames]:
    """The frames; those that are read when they are asked for are fetched ahead in this order."""
    if not isinstance(frames, Stream):
        yield frames
        return
    with frames.ahead(order) as fetched:
        yield fetched


def eval_batches(
    cache: Frames,
    positions: _Positions,
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
) -> Iterator[tuple[Tensor, int]]:
    """Yield (images, count) in the order of `positions`, every batch of one and the same shape.

    `images`: float [batch_size, 3, S, S], normalized, channels_last, of which the first `count` are
    wanted; the rest repeats the last one. One shape makes an image's result independent of its neighbours. `workers`
    background threads make batches ahead as in `Batches`; with 0 they are made on demand.
    """
    _check(batch_size, workers)
    return _evaluated(cache, np.asarray(positions), preprocessing, batch_size, device, dtype, workers)


def _evaluated(
    cache: Frames,
    positions: _Positions,
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device | str,
    dtype: torch.dtype,
    workers: int,
) -> Iterator[tuple[Tensor, int]]:
    def make(held: Frames, index: int) -> tuple[Tensor, int]:
        chosen = positions[index * batch_size : (index + 1) * batch_size].tolist()
        frames = [held[position] for position in chosen]
        frames += frames[-1:] * (batch_size - len(frames))
        pixels = on_device(center_crop(frames, preprocessing.size), device)
        return normalize(pixels, preprocessing).to(dtype), len(chosen)

    count = math.ceil(len(positions) / batch_size)
    with ahead(cache, positions.tolist()) as held:
        yield from _ahead(partial(make, held), range(count), workers=workers)


def _ahead(make: Callable[[int], _Item], indices: range, *, workers: int) -> Iterator[_Item]:
    """Yield make(index) in order, up to two for each of the `workers` threads made ahead by them, and two over all."""
    if workers == 0:
        return (make(index) for index in indices)
    # few: each is held in the device's memory
    return in_order(make, indices, threads=workers, chunk=1, ahead=min(2 * workers, workers + 2))


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(*parts))


def _check(batch_size: int, workers: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size} is out of range: use 1 or more")
    if workers < 0:
        raise ConfigError(f"workers {workers} is out of range: use 0 or more")


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images of an index, decoded, and their splits: position i is the same image in each.

    `frames[i]`: uint8 [H, W, 3] as `preprocessing` decodes image i; `splits`: empty before the images are split.
    """

    index: Index
    frames: Cache | Stream
    preprocessing: Preprocessing
    splits: Splits = field(default_factory=Splits.empty)
    world: World = ALONE
    """The processes that hold the same value, and compute together."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def task(self) -> Task:
        """What tells the classes apart."""
        return Task.of(self.index.classes)

    def without(self, reasons: Mapping[int, Unusable]) -> "Dataset":
        """The images at the keys of `reasons` moved to the index's quarantine; DataError when too few are left."""
        return replace(
            self,
            index=self.index.without(reasons),
            frames=self.frames.without(reasons),
            splits=self.splits.without(reasons),
        )

    def workers(self, machine: Hardware) -> int:
        """Threads that make batches ahead: those asked for; else decoding files keeps all of them busy."""
        decoding = isinstance(self.frames, Stream) and machine.workers is None
        return machine.threads if decoding else machine.feeders

    def batches(self, config: Config, machine: Hardware, augment: str = "") -> Batches:
        """The training split's batches, augmented as a whole, as `augment` or else `config` says, before division."""
        return Batches(
            self.frames,
            self.index.labels,
            self.splits.train,
            preprocessing=self.preprocessing,
            batch_size=config.batch_size,
            augmentation=Augmentation.of(augment or config.augment, mixup=config.mixup),
            seed=config.seed,
            task=self.task,
            device=machine.device,
            workers=self.workers(machine),
            shards=config.exact_shards,
        )
