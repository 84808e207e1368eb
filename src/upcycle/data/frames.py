"""Every image decoded once into one file of 8-bit pixels that is mapped into memory, never loaded.

The file holds the whole frames, one after the other, then their shapes and checksums and the list of images
that could not be decoded, then a trailer with the checksum of that layout. It is named by what
it holds, so runs share it, and it takes its name only when it is whole. An image's checksum is compared when the
image is first read: comparing all of them would delay the start of a run.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import stat
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import PIL
import platformdirs

from upcycle.data import decode, isolation
from upcycle.data.fetching import NOTHING, Fetcher, Kept, fetching
from upcycle.data.index import Index, ProgressFunction, in_order, remaining
from upcycle.data.listing import Unusable
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DataError, DecodeError, NoRoomError, StorageError, shown
from upcycle.rundir import NO_ROOM, replacing, storage_errors

_FORMAT = 2
_TIFFS = 2
"""Of how the numbers of TIFFs are understood: files of other images keep their names when that changes."""
_MAGIC = b"upcycle\x02"
_TRAILER = struct.Struct("<Q32s8s")  # bytes of the layout, its sha256, magic
_ABANDONED = 24 * 3600  # seconds after which an unfinished file belongs to a run that was killed


@dataclass(frozen=True, eq=False)
class Cache:
    """Decoded images; `cache[i]` is a read-only view [H, W, 3] of uint8.

    `images`: memory map, all pixels in a row; `offsets`: int64 [n], where each image starts;
    `shapes`: int32 [n, 2], height and width; `sums`: CRC-32 of each image's pixels; `path`: the file; `seen`: which
    images have been read and found to have theirs.
    """

    images: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int32]
    sums: npt.NDArray[np.uint32]
    path: Path
    seen: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> npt.NDArray[np.uint8]:
        height, width = self.shapes[i].tolist()
        start = int(self.offsets[i])
        pixels = self.images[start : start + height * width * 3]
        if not self.seen[i]:
            if zlib.crc32(pixels.data) != self.sums[i]:
                self.path.unlink(missing_ok=True)
                raise StorageError(
                    f"the decoded images in {self.path} were damaged and have been removed. Resume with --resume"
                )
            self.seen[i] = True
        return pixels.reshape(height, width, 3)

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of image `i`."""
        height, width = self.shapes[i].tolist()
        return height, width

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return (self[i] for i in range(len(self)))

    def without(self, positions: Iterable[int]) -> "Cache":
        """The same images without those at `positions`: keeps step with `Index.without`."""
        left = remaining(len(self), positions)
        columns = ("offsets", "shapes", "sums", "seen")
        return replace(self, **{name: getattr(self, name)[left] for name in columns})


@dataclass(frozen=True, eq=False)
class _Layout:
    """The end of the file: shape and checksum of each image, and why some could not be decoded."""

    shapes: npt.NDArray[np.int32]
    sums: npt.NDArray[np.uint32]
    failures: dict[int, Unusable]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        return _offsets(self.shapes)

    def to_bytes(self) -> bytes:
        body = json.dumps({str(i): reason for i, reason in self.failures.items()}).encode()
        layout = struct.pack("<Q", len(self.shapes)) + self.shapes.astype("<i4").tobytes()
        layout += self.sums.astype("<u4").tobytes() + body
        return layout + _TRAILER.pack(len(layout), hashlib.sha256(layout).digest(), _MAGIC)

    @classmethod
    def from_bytes(cls, layout: bytes) -> "_Layout":
        (count,) = struct.unpack_from("<Q", layout)
        shapes = np.frombuffer(layout, "<i4", 2 * count, 8).reshape(count, 2).astype(np.int32)
        sums = np.frombuffer(layout, "<u4", count, 8 + 8 * count).astype(np.uint32)
        failures = json.loads(layout[8 + 12 * count :])
        return cls(shapes, sums, {int(i): Unusable(*failure) for i, failure in failures.items()})


def _offsets(shapes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Where each image starts, and where the last one ends."""
    ends = np.cumsum(shapes.astype(np.int64).prod(axis=1) * 3)
    return np.concatenate([np.zeros(1, np.int64), ends])


def default_root() -> Path:
    """The folder that runs share: $UPCYCLE_CACHE, else the user's own by the system's rules (~/.cache/upcycle)."""
    if os.environ.get("UPCYCLE_CACHE"):
        return Path(os.environ["UPCYCLE_CACHE"])
    try:
        root = platformdirs.user_cache_path("upcycle", appauthor=False)
    except RuntimeError:  # a container's user may have no home; earlier versions leave its path relative
        return spare_root()
    return root if root.is_absolute() else spare_root()


def spare_root() -> Path:
    """A folder of this user alone below the system's temporary one, made if need be; StorageError where it cannot be.

    One that somebody else has made there, or may write, is not used: it could hold anything.
    """
    owner = os.getuid() if hasattr(os, "getuid") else None
    with storage_errors(Path("a temporary folder")):
        root = Path(tempfile.gettempdir()) / ("upcycle" if owner is None else f"upcycle-{owner}")
    with storage_errors(root):
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
    own = owner is None or (stat.S_ISDIR(status.st_mode) and status.st_uid == owner and not status.st_mode & 0o022)
    if not own:
        raise StorageError(f"{root} may be written by others: remove it, or give --cache FOLDER")
    return root


def written_in(root: Path, part: str) -> Path:
    """The folder `part` of `root`; where it cannot be written, that of `spare_root()`."""
    folder = root / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if error.errno in NO_ROOM:
            return folder
    try:
        return spare_root() / part
    except StorageError:
        return folder


def rules(index: Index) -> list[str]:
    """What decoding depends on beside its settings, by the formats among the images: versions, where there are some."""
    return [f"TIFF {_TIFFS}"] if (index.formats == b"TIFF").any() else []


def _file(index: Index, decoding: Decoding, root: Path) -> Path:
    """The file's path, named by all that its content depends on."""
    white = [] if decoding.scale is None else [f"white {decoding.scale!r}"]
    settings = json.dumps([_FORMAT, decoding.side, decoding.interpolation, PIL.__version__, *white, *rules(index)])
    key = hashlib.sha256(settings.encode())
    key.update(np.ascontiguousarray(index.hashes).data)
    return root / f"{key.hexdigest()}.images"


def is_cached(index: Index, decoding: Decoding, root: Path) -> bool:
    """Whether the images of `index` are decoded already, in a cache below `root`."""
    return _file(index, decoding, root).exists()


def _read_layout(file: BinaryIO) -> _Layout | None:
    """The layout of a whole file; None for one cut short, damaged or of another version."""
    size = file.seek(0, os.SEEK_END)
    if size < _TRAILER.size:
        return None
    file.seek(size - _TRAILER.size)
    length, digest, magic = _TRAILER.unpack(file.read(_TRAILER.size))
    pixels = size - _TRAILER.size - length
    if magic != _MAGIC or pixels < 0:
        return None
    file.seek(pixels)
    layout = file.read(length)
    if hashlib.sha256(layout).digest() != digest:
        return None
    try:
        read = _Layout.from_bytes(layout)
    except TypeError:  # an earlier version's: failures without a code
        return None
    return read if read.offsets[-1] == pixels else None


def _opened(path: Path) -> tuple[Cache, dict[int, Unusable]] | None:
    """The cache in `path`; None when there is no valid one."""
    layout = None
    with contextlib.suppress(OSError), path.open("rb") as file:
        layout = _read_layout(file)
    if layout is None:
        return None
    images = np.memmap(path, np.uint8, "r", shape=(int(layout.offsets[-1]),))
    seen = np.zeros(len(layout.shapes), np.bool_)
    return Cache(images, layout.offsets[:-1], layout.shapes, layout.sums, path, seen), layout.failures


def _check_room(path: Path, needed: int, most: float) -> None:
    if needed > most:
        raise NoRoomError(
            f"the decoded images would take {needed / 1e9:.3g} GB, and the budget is {most / 1e9:.3g} GB: "
            "give a larger --cache-budget"
        )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if needed > free:
        sizes = [f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" for count in (needed, free)]
        raise NoRoomError(
            f"the decoded images need {sizes[0]} and {path.parent} has {sizes[1]} free: "
            "make room, or set UPCYCLE_CACHE to another folder"
        )


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed runs left half-written: it would fill the disk, unseen."""
    for file in folder.glob(".*.images.*"):
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < time.time() - _ABANDONED:
                file.unlink()


def decoded(
    index: Index, i: int, decoding: Decoding, fetched: Fetcher | None = None
) -> npt.NDArray[np.uint8] | Unusable:
    """Pixels of image `i` or why it has none; DataError when the file is not the one that was scanned."""
    try:
        source = fetched(i) if fetched else index.file(i)
        return isolation.DECODERS.load(source, decoding, sha256=index.hash(i))
    except FileNotFoundError as error:
        raise DataError(f"{shown(index.file(i))} cannot be read any more (it is not there): run again") from error
    except DecodeError as error:
        return Unusable(str(error), error.kind)


def _write(file: BinaryIO, frames: Iterable[npt.NDArray[np.uint8] | Unusable], shapes: npt.NDArray[np.int32]) -> None:
    """Write the frames in order, zeros for those that failed, and the layout behind them."""
    failures: dict[int, Unusable] = {}
    sums = np.zeros(len(shapes), np.uint32)
    for i, frame in enumerate(frames):
        if isinstance(frame, Unusable):
            failures[i] = frame
        pixels = bytes(3 * int(shapes[i].prod())) if isinstance(frame, Unusable) else frame.data
        sums[i] = zlib.crc32(pixels)
        file.write(pixels)
    file.write(_Layout(shapes, sums, failures).to_bytes())


def open_cache(
    index: Index,
    decoding: Decoding,
    *,
    root: Path | None = None,
    threads: int = 2,
    progress: ProgressFunction | None = None,
    kept: Kept = NOTHING,
    most: float = math.inf,
) -> tuple[Cache, dict[int, Unusable]]:
    """All images of `index` decoded as `decode.load_image` does, and position -> why for those that failed.

    The rows of failures hold zeros: drop them with `Cache.without` and `Index.without`. A valid file
    of the same content in `root` (default: `images` in `default_root()`) is opened without decoding.
    NoRoomError when they do not fit, or would take more than `most` bytes; StorageError when the folder may not be
    written.
    """
    path = _file(index, decoding, root or default_root() / "images")
    earlier = _opened(path)
    if earlier is not None:
        return earlier
    sizes = zip(index.widths.tolist(), index.heights.tolist(), strict=True)
    shapes = np.array([decode.target_size(*size, decoding.side)[::-1] for size in sizes], np.int32).reshape(-1, 2)
    _remove_abandoned(path.parent)
    _check_room(path, int(_offsets(shapes)[-1]), most)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        fetching(index.file, range(len(index)), kept=kept, sha256=index.hash) as fetched,
    ):
        decode_one = partial(decoded, index, decoding=decoding, fetched=fetched)
        frames = in_order(decode_one, range(len(index)), threads=threads, progress=progress)
        with contextlib.closing(frames):
            _write(file, frames, shapes)
    built = _opened(path)
    if built is None:
        raise StorageError(f"cannot read back {path}: remove it, or set UPCYCLE_CACHE to another folder")
    return built


@dataclass(frozen=True, eq=False)
class Stream:
    """What a Cache of `index` would hold, to the bit; `stream[i]` reads and decodes the file, [H, W, 3] of uint8.

    DataError when a file is no longer the one that was scanned.
    """

    index: Index
    decoding: Decoding
    kept: Kept = NOTHING
    """Photos that lie elsewhere and were fetched before."""
    fetched: Fetcher | None = None
    """What fetches them ahead."""

    def __len__(self) -> int:
        return len(self.index)

    @contextlib.contextmanager
    def ahead(self, order: Iterable[int]) -> Iterator["Stream"]:
        """The same, photos that lie elsewhere being fetched ahead in this order."""
        with fetching(self.index.file, order, kept=self.kept, sha256=self.index.hash) as fetched:
            yield replace(self, fetched=fetched)

    def __getitem__(self, i: int) -> npt.NDArray[np.uint8]:
        frame = decoded(self.index, i, self.decoding, self.fetched)
        if isinstance(frame, Unusable):
            path = self.index.path(i)
            raise DataError(f"{path} could be decoded before and cannot be now ({frame.reason}): run again")
        return frame

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of image `i`, by its header."""
        width, height = decode.target_size(int(self.index.widths[i]), int(self.index.heights[i]), self.decoding.side)
        return height, width

    def without(self, positions: Iterable[int]) -> "Stream":
        """The same images without those at `positions`: keeps step with `Index.without`."""
        return replace(self, index=self.index.take(remaining(len(self), positions)))


def open_stream(
    index: Index,
    decoding: Decoding,
    *,
    threads: int = 2,
    progress: ProgressFunction | None = None,
    kept: Kept = NOTHING,
) -> tuple[Stream, dict[int, Unusable]]:
    """All images of `index`, and position -> reason for those that cannot be decoded, as `open_cache` gives them.

    Each is decoded once, to find out which those are.
    """

    with fetching(index.file, range(len(index)), kept=kept, sha256=index.hash) as fetched:

        def attempt(i: int) -> Unusable | None:
            frame = decoded(index, i, decoding, fetched)
            return frame if isinstance(frame, Unusable) else None

        reasons = in_order(attempt, range(len(index)), threads=threads, progress=progress)
        failures = {i: reason for i, reason in enumerate(reasons) if reason is not None}
    return Stream(index, decoding, kept), failures
