"""What is on disk: every image with its label, size and content hash, and every file that cannot be used."""

import contextlib
import errno
import gc
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from upcycle.data import isolation
from upcycle.data.archives import expand, is_archive, list_archives
from upcycle.data.fetching import NOTHING, Kept, fetching
from upcycle.data.found import Found, Memory
from upcycle.data.listing import Layout, Listing, Quarantined, Unusable, endings, list_folder
from upcycle.data.packed import list_packed
from upcycle.data.table import list_manifest
from upcycle.errors import ConfigError, DataError, DecodeError, UpcycleError, shown
from upcycle.remote import inside, place

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that are the system's and not a file's."""
USUAL = Layout()
ProgressFunction = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Index:
    """Usable images as columns of equal length n, sorted by path, and the files that are not usable.

    `labels`: int32 positions in `classes`; `declared`: "train", "val", "test" or "" where the data
    does not say; `groups`: "" where none; `hashes`: sha256 of each file's bytes in hex, as ASCII;
    `widths`, `heights`: int32 pixels of the upright image; `formats`: names of `formats.FORMATS`, as
    ASCII, by content; `paths`: relative to `root`, with "/". `splits`: those that the data declares, with usable images
    or without; `notes`: how it was read, where that is not plain; `drop_empty`: a class without images is left out.
    """

    root: Path
    classes: tuple[str, ...]
    paths: pa.StringArray
    labels: npt.NDArray[np.int32]
    declared: npt.NDArray[np.str_]
    groups: pa.StringArray
    hashes: npt.NDArray[np.bytes_]
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    formats: npt.NDArray[np.bytes_]
    quarantined: tuple[Quarantined, ...] = ()
    splits: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    drop_empty: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, i: int) -> str:
        """Path of image `i` relative to `root` (absolute when the manifest says so)."""
        return str(self.paths[int(i)].as_py())

    def file(self, i: int) -> Path:
        """Path of image `i` to open."""
        return inside(self.root, self.path(i))

    def label(self, i: int) -> str:
        """Class name of image `i`."""
        return self.classes[int(self.labels[i])]

    def group(self, i: int) -> str:
        """Group of image `i`, "" when it has none."""
        return str(self.groups[int(i)].as_py())

    def hash(self, i: int) -> str:
        """Sha256 of the bytes of image `i`, 64 hex digits."""
        return bytes(self.hashes[i]).decode("ascii")

    def take(self, positions: npt.NDArray[np.int64]) -> "Index":
        """The images at `positions`, in that order; the quarantine stays."""
        columns = ("labels", "declared", "hashes", "widths", "heights", "formats")
        return replace(
            self,
            paths=self.paths.take(pa.array(positions)),
            groups=self.groups.take(pa.array(positions)),
            **{name: getattr(self, name)[positions] for name in columns},
        )

    def without(self, reasons: Mapping[int, Unusable], *, trainable: bool = True) -> "Index":
        """Move the images at the keys of `reasons` to the quarantine; DataError when too few are left to train on.

        With `trainable` False there is no such check.
        """
        if not reasons:
            return self
        moved = tuple(
            Quarantined(self.path(i), why.reason, self.label(i), str(self.declared[i]), why.kind)
            for i, why in sorted(reasons.items())
        )
        quarantined = tuple(sorted(self.quarantined + moved, key=lambda file: file.path))
        left = replace(self.take(remaining(len(self), reasons)), quarantined=quarantined)
        if self.drop_empty:
            left = left.without_empty_classes()
        if trainable:
            left.check_trainable()
        return left

    def without_empty_classes(self) -> "Index":
        """The same with the classes alone that have images, and a note of the others."""
        counts = self.class_counts()
        empty = [name for name, count in counts.items() if not count]
        if not empty:
            return self
        kept = tuple(name for name in self.classes if counts[name])
        number = np.cumsum([counts[name] > 0 for name in self.classes]) - 1
        notes = (f"class {shown(name)!r} is dropped: {_lost(self, label=name)}" for name in empty)
        return replace(self, classes=kept, labels=number.astype(np.int32)[self.labels], notes=(*self.notes, *notes))

    def check_trainable(self) -> None:
        """DataError when nothing could be learned from these images, or a declared split has no usable one."""
        _check_some(self, {})
        where = shown(self.root)
        for name, count in self.class_counts().items():
            if count < 2:
                few = f"has no usable image ({_lost(self, label=name)})" if not count else "has one usable image"
                do = "add some, or remove the class" + (", or give --drop-empty-classes" if not count else "")
                raise DataError(f"class {shown(name)!r} in {where} {few}: {do}")
        if len(self.classes) == 1:
            only = f"only one class, {shown(self.classes[0])!r}, in {where}: two are needed at least"
            raise DataError(". ".join([only, *self.notes]))
        trainable = (self.declared == "") | (self.declared == "train")
        if not trainable.any():
            raise DataError(f"no images in the training split of {where}: put some in train/CLASS/")
        for split in sorted(self.splits - set(self.declared.tolist()) - {"train"}):
            raise DataError(
                f"the {split} split of {where} has no usable image ({_lost(self, split=split)}): "
                "mend its files, or remove it to have one drawn"
            )
        lacking = np.setdiff1d(self.labels, self.labels[trainable])
        if len(lacking):
            name = self.classes[lacking[0]]
            split = self.declared[self.labels == lacking[0]][0]
            raise DataError(f"class {shown(name)!r} of the {split} split has no usable image in train, in {where}")

    def duplicates(self) -> list[tuple[int, ...]]:
        """Positions of byte-identical images, two or more a tuple, in order of the first."""
        return equal(self.hashes)

    def class_counts(self) -> dict[str, int]:
        """Images of each class."""
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))


def remaining(count: int, dropped: Iterable[int]) -> npt.NDArray[np.int64]:
    """The positions 0 to `count` - 1 without those that are `dropped`."""
    return np.setdiff1d(np.arange(count), np.fromiter(dropped, np.int64))


def equal(keys: npt.NDArray[np.generic]) -> list[tuple[int, ...]]:
    """Positions of equal `keys` [n], two or more a tuple, in order of the first."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    # a run begins where the one before is not the same, and ends where the next is not
    begins = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0) == 1).tolist()
    ends = np.flatnonzero(np.diff(same.astype(np.int8), append=0) == -1).tolist()
    return sorted(tuple(order[begin : end + 2].tolist()) for begin, end in zip(begins, ends, strict=True))


def in_order(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    threads: int,
    progress: ProgressFunction | None = None,
    chunk: int = 8,
    ahead: int | None = None,
) -> Generator[_Result]:
    """Yield `function(item)` for each item in order, computed by `threads` threads a little ahead.

    `ahead`: chunks that are computed or waiting at once, else two more than twice the threads. `progress(done, total)`
    is called after each `chunk`. Closing the iterator early ends the threads.
    """

    def work(start: int) -> list[_Result]:
        return [function(item) for item in items[start : start + chunk]]

    starts = iter(range(0, len(items), chunk))
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="images")
    try:
        some = islice(starts, ahead or 2 * threads + 2)
        waiting: deque[Future[list[_Result]]] = deque(pool.submit(work, start) for start in some)
        done = 0
        while waiting:
            results = waiting.popleft().result()
            waiting.extend(pool.submit(work, start) for start in islice(starts, 1))
            yield from results
            done += len(results)
            if progress is not None:
                progress(done, len(items))
    finally:
        pool.shutdown(cancel_futures=True)


def attempt(
    file: Path, read: Callable[[Path | bytes], _Result], content: Callable[[], Path | bytes] | None = None
) -> _Result | Unusable:
    """What `read` makes of an image file, or of its `content`, or the reason it cannot be used."""
    try:
        return read(content() if content else file)
    except DecodeError as error:
        return Unusable(str(error), error.kind)
    except FileNotFoundError:
        return Unusable("no such file", "misplaced")
    except (OSError, ValueError, MemoryError) as error:
        if getattr(error, "errno", None) in _SHORTAGES:
            raise UpcycleError(
                f"{shown(file)} cannot be read now ({error}): run again, with fewer --threads"
            ) from error
        return Unusable(f"cannot be read ({getattr(error, 'strerror', None) or error})")


def index_of(listing: Listing, found: Found, *, trainable: bool = True) -> Index:
    """Columns of the files that could be read, from what reading them gave; DataError as for `index_images`."""
    rows, classes = listing.rows, tuple(sorted(listing.classes))
    number = {name: i for i, name in enumerate(classes)}
    bad = [
        Quarantined(rows[i].path, why.reason, rows[i].label, rows[i].split, why.kind) for i, why in found.bad.items()
    ]
    good = found.hashes != b""
    used = rows if good.all() else [row for row, usable in zip(rows, good.tolist(), strict=True) if usable]
    index = Index(
        root=listing.root,
        classes=classes,
        paths=pa.array([row.path for row in used], pa.string()),
        labels=np.fromiter([number[row.label] for row in used], np.int32, len(used)),
        declared=np.array([row.split for row in used], "U5"),
        groups=pa.array([row.group for row in used], pa.string()),
        hashes=found.hashes[good],
        widths=found.widths[good],
        heights=found.heights[good],
        formats=found.formats[good],
        quarantined=tuple(sorted([*listing.excluded, *bad], key=lambda file: file.path)),
        splits=listing.splits,
        notes=listing.notes,
        drop_empty=listing.layout.drop_empty_classes,
    )
    index = index.without_empty_classes() if index.drop_empty else index
    _check_some(index, listing.others)
    if trainable:
        index.check_trainable()
    return index


def _lost(index: Index, **of: str) -> str:
    """What became of the files of a `label` or `split` without usable images: the commonest reason, and how many."""
    files = [file for file in index.quarantined if all(getattr(file, name) == value for name, value in of.items())]
    if not files:
        return "its folder is empty"
    # what a reason says in brackets is of one file
    reasons = Counter(file.reason.partition(" (")[0] for file in files)
    reason, count = reasons.most_common(1)[0]
    first = next(file for file in files if file.reason.startswith(reason))
    if len(files) == 1:
        return f"its one file: {reason}"
    return f"{count:,} of {len(files):,} files, {shown(first.path)} for one: {first.reason}"


def _check_some(index: Index, others: Mapping[str, int]) -> None:
    """DataError when there is nothing to use, saying what is there instead."""
    if len(index):
        return
    where = shown(index.root)
    if index.quarantined:
        first = index.quarantined[0]
        raise DataError(
            f"none of the {len(index.quarantined)} images in {where} can be used; "
            f"the first, {shown(first.path)}: {first.reason}"
        )
    there = endings(sorted(others.items())) or "it is empty"
    raise DataError(f"no images in {where} ({there}); expected {where}/CLASS/*.jpg and the like")


def check_exists(data: Path) -> None:
    """DataError for a DATA that is not there."""
    if not data.exists():
        raise DataError(f"{shown(data)} does not exist: give a folder of images or a manifest")


def listing_of(data: Path, layout: Layout = USUAL, cache: Path | None = None) -> Listing:
    """The files of DATA in order of their paths; DataError, one line, where it cannot be used.

    DATA is a folder, a manifest, or tars or Parquet files of photos, whose headers are kept in `cache`.
    """
    data = place(data)
    with _collecting_later():
        listing = _listed(data, layout, cache or Path(tempfile.gettempdir()))
        listing.rows.sort(key=itemgetter(0))  # by path: no two are the same
    return replace(listing, root=listing.root.absolute())


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    """No garbage collection meanwhile: looking through a million rows, again and again, takes half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _listed(data: Path, layout: Layout, cache: Path) -> Listing:
    if is_archive(data):
        return list_archives(data.parent, [file.name for file in expand(data)], layout, cache)
    check_exists(data)
    if not data.is_dir():
        if layout.classes_at is not None:
            raise ConfigError(f"--classes-at is for a folder, and {shown(data)} is a file: leave it out")
        return list_manifest(data, layout)
    if (packed := list_packed(data, layout, cache)) is not None:
        return packed
    options = {f"{name}-column": value for name, value in layout.columns.items()}
    for name, value in {**options, "image-root": layout.image_root, "image-suffix": layout.image_suffix}.items():
        if value:
            raise ConfigError(f"--{name} is for a manifest, and {shown(data)} is a folder: leave it out")
    return list_folder(data, layout)


def index_images(
    data: Path,
    layout: Layout = USUAL,
    *,
    progress: ProgressFunction | None = None,
    threads: int = 2,
    trainable: bool = True,
    kept: Kept = NOTHING,
    memory: Path | None = None,
) -> Index:
    """Every image of a folder or a CSV or Parquet manifest, with its label, size and content hash.

    `data` holds `train|val|test/CLASS/*` (val and test may be missing; valid, validation, training
    and testing are understood), or `CLASS/*`, or is a manifest with the columns `path,label[,split][,group]`; `layout`
    names what is otherwise. Files that cannot be read as images are quarantined; DataError, one line, when what is
    left cannot be learned from, or with `trainable` False only when nothing is left. Photos at addresses are read
    through `kept`.

    What files hold is remembered in the folder `memory`, also of a scan that is interrupted: files that have not
    changed since are not read again.
    """
    listing = listing_of(data, layout, memory.parent if memory else None)
    with _collecting_later():
        paths = [row.path for row in listing.rows]
        known = Memory(memory, data, listing.root, paths, threads=threads)
        found = known.recall() if memory else Found.empty(len(paths))
        new = np.flatnonzero(found.hashes == b"").tolist()

    def file(at: int) -> Path:
        return inside(listing.root, paths[at])

    with fetching(file, new, kept=kept) as fetched:
        read = in_order(
            lambda at: attempt(file(at), isolation.DECODERS.header, lambda: fetched(at)),
            new,
            threads=threads,
            progress=progress,
        )
        try:
            with contextlib.closing(read):
                for at, result in zip(new, read, strict=True):
                    found.put(at, result)
        finally:
            known.remember(found)
    with _collecting_later():
        return index_of(listing, found, trainable=trainable)
