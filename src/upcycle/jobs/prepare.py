"""From DATA to decoded images and splits: what is used and what is excluded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from upcycle.audit import quarantine
from upcycle.config import Config
from upcycle.data import frames as images
from upcycle.data.augment import Augmentation
from upcycle.data.batches import Batches
from upcycle.data.frames import Cache, Stream, open_stream
from upcycle.data.index import Index, scan
from upcycle.data.listing import Failure, Layout, shown
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import Splits, split
from upcycle.device import Hardware, detect
from upcycle.errors import DataError, NoRoomError, StorageError
from upcycle.reporting.progress import Observer
from upcycle.task import Task

SMALLEST_AUTO_SIZE = 128
"""Images smaller than the weights' own size are not blown up further than this."""


def machine_of(config: Config) -> Hardware:
    """What this configuration computes on here; ConfigError for what this machine does not have."""
    return detect(
        precision=config.precision,
        threads=config.threads,
        device=config.device,
        fold_bn=config.fold_bn,
        workers=config.workers,
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images ready to train on: `index`, `frames` and the positions of `splits` belong together."""

    index: Index
    frames: Cache | Stream
    splits: Splits
    preprocessing: Preprocessing

    @property
    def task(self) -> Task:
        """What tells the classes apart."""
        return Task.of(self.index.classes)

    def batches(self, config: Config, machine: Hardware) -> Batches:
        """The training split's batches, augmented as a whole before they are divided."""
        return Batches(
            self.frames,
            self.index.labels,
            self.splits.train,
            preprocessing=self.preprocessing,
            batch_size=config.batch_size,
            augmentation=Augmentation.of(config.augment, mixup=config.mixup),
            seed=config.seed,
            task=self.task,
            device=machine.device,
            workers=workers_for(self.frames, machine),
        )


def workers_for(frames: Cache | Stream, machine: Hardware) -> int:
    """Threads that make batches of `frames` ahead: those asked for; else decoding files keeps all of them busy."""
    decoding = isinstance(frames, Stream) and machine.workers is None
    return machine.threads if decoding else machine.feeders


def cache_root(config: Config) -> Path:
    """The folder shared by runs: the option, else the default."""
    return Path(config.cache) if config.cache else images.default_root()


def read_index(data: Path, config: Config, machine: Hardware, show: Observer) -> Index:
    """What DATA holds, without what `--quarantine` excludes; DataError when it cannot be trained on."""
    listed = quarantine.read(Path(config.quarantine)) if config.quarantine else []
    with show.progress("scanning") as progress:
        index = scan(data, Layout.of(config), progress=progress, threads=machine.threads)
    return without_listed(index, listed, config, show)


def without_listed(index: Index, listed: list[quarantine.Entry], config: Config, show: Observer) -> Index:
    """`index` without the images of the list; those that DATA does not hold are told."""
    index, unknown = quarantine.apply(index, listed, Path(config.quarantine or "").name)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        show.warn(f"{config.quarantine} lists files that are not there: {', '.join(map(shown, unknown[:3]))}{more}")
    return index


def fit_size(preprocessing: Preprocessing, index: Index, config: Config, *, fixed: bool) -> Preprocessing:
    """Preprocessing at the size to train at, and with the white that is asked for.

    Where no size is asked for, images smaller than the weights' own input are trained on at their own
    median size, rounded up to a multiple of 32, and at least at 128 pixels: pixels made by
    enlarging cost time and carry nothing. The classic recipe and networks of a fixed size are left alone.
    """
    preprocessing = replace(preprocessing, scale=config.scale)
    if config.image_size is not None or fixed or config.recipe == "classic":
        return preprocessing
    median = int(np.median(np.minimum(index.widths, index.heights)))
    own = -(-median // 32) * 32
    return replace(preprocessing, size=min(preprocessing.size, max(SMALLEST_AUTO_SIZE, own)))


def decode(
    index: Index, preprocessing: Preprocessing, config: Config, machine: Hardware, show: Observer
) -> tuple[Index, Cache | Stream]:
    """Decoded images, those that cannot be decoded moved to the index's quarantine.

    Where the default folder cannot be written they are kept in a temporary one. Where there is no room for them they
    are decoded each time they are needed.
    """
    frames: Cache | Stream
    side, interpolation, threads = preprocessing.resize_to, preprocessing.interpolation, machine.threads
    scale = preprocessing.scale
    with show.progress("decoding") as progress:
        try:
            build = partial(
                images.build,
                index,
                side=side,
                interpolation=interpolation,
                scale=scale,
                threads=threads,
                progress=progress,
            )
            frames, failures = _kept(build, config, show)
        except StorageError as error:
            if config.cache and not isinstance(error, NoRoomError):  # a folder that was asked for
                raise
            show.warn(f"{error}. Continuing without: every epoch reads and decodes the files again, which is slower")
            frames, failures = open_stream(
                index, side=side, interpolation=interpolation, scale=scale, threads=threads, progress=progress
            )
    if not failures:
        return index, frames
    limited = sum(failure.kind == "limit" for failure in failures.values())
    if limited and isinstance(frames, Cache):
        # never by itself: the runs that were started without them would have other images
        show.warn(
            f"the decoding of {limited} images met a limit of memory or time, which may have been the machine's: they "
            f"stay out of new runs too as long as {frames.path} is there; what was started without them needs it"
        )
    return index.without(failures), frames.without(failures)


def _kept(
    build: Callable[..., tuple[Cache, dict[int, Failure]]], config: Config, show: Observer
) -> tuple[Cache, dict[int, Failure]]:
    """What `build` gives in the cache folder, or in a spare one where nobody named a folder and the default fails."""
    root = cache_root(config)
    try:
        return build(root=root / "images")
    except NoRoomError:
        raise
    except StorageError as error:
        if config.cache:
            raise
        spare = images.spare_root()
        why = getattr(error.__cause__, "strerror", None) or error
        show.warn(f"cannot write {root}: {why}. Using {spare}: give --cache FOLDER, or set UPCYCLE_CACHE")
        return build(root=spare / "images")


def decodable(index: Index, config: Config, machine: Hardware, show: Observer) -> Index:
    """`index` without the images that cannot be decoded, found out at a small size."""
    return decode(index, Preprocessing(size=32, scale=config.scale), config, machine, show)[0]


def prepare(
    index: Index,
    preprocessing: Preprocessing,
    config: Config,
    machine: Hardware,
    show: Observer,
    splits: Splits | None = None,
) -> Prepared:
    """Decode and split, unless the caller has split already."""
    index, frames = decode(index, preprocessing, config, machine, show)
    if splits is None:
        splits = split(
            index,
            seed=config.seed_of_split,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            regroup=config.regroup,
        )
    elif sum(len(splits.of(name)) for name in ("train", "val", "test")) != len(index):
        kept = cache_root(config) / "images"
        raise DataError(f"an image that could be decoded before cannot be decoded now: remove {kept}, then run again")
    return Prepared(index, frames, splits, preprocessing)
