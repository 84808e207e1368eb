"""Bytes of photos that lie elsewhere, fetched ahead of their use by many threads, and kept on disk for a while.

What is kept is named by the sha256 of its content, which is compared when it is read. The files used least recently go
first once they take more than the budget.
"""

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from upcycle.remote import Address, read

THREADS = 32
"""Requests under way at once: with 50 ms each, 640 photos a second."""
WINDOW = 256
"""Photos that are fetched and not used yet, where they are asked for in their order."""
MOST = 4096
"""And where they are not: threads that make several batches at once ask for those of all of them."""
SWEEP = 64 * 2**20
"""Bytes that are written between two looks at what the folder holds."""


class Kept:
    """A folder of fetched photos of at most `budget` bytes, and of at most half of what is free there."""

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget = folder, budget
        self._written, self._lock = SWEEP, threading.Lock()  # the first one looks

    def get(self, sha256: str) -> bytes | None:
        """The photo with this checksum; None where it is not kept, or is damaged."""
        path = self.folder / sha256[:2] / sha256
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                os.utime(path)
                return data
            path.unlink()
        except OSError:
            pass
        return None

    def put(self, sha256: str, data: bytes) -> None:
        """Keep a photo, where there is room."""
        path = self.folder / sha256[:2] / sha256
        with contextlib.suppress(Exception):  # without it the photo is fetched again
            with self._lock:
                self._written += len(data)
                look = self._written >= SWEEP
                if look:
                    self._written = 0
            if look:
                self.sweep()
            if len(data) <= self._room():
                path.parent.mkdir(parents=True, exist_ok=True)
                # not flushed to disk, as its content is compared; and not by `replacing`, which sets the whole
                # process's umask for a moment
                temporary = path.with_name(f".{sha256}.{os.getpid()}.{threading.get_ident()}")
                try:
                    temporary.write_bytes(data)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)

    def _room(self) -> int:
        place = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return min(self.budget, shutil.disk_usage(place).free // 2)

    def sweep(self) -> None:
        """Remove the photos that were used least recently, until the others fit."""
        files = []
        for folder in self.folder.glob("??"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        status = entry.stat()
                        files.append((status.st_mtime_ns, status.st_size, entry.path))
        held = sum(size for _, size, _ in files)
        most = min(self.budget, held + shutil.disk_usage(self.folder).free // 2) if files else self.budget
        for _, size, path in sorted(files):
            if held <= most:
                break
            with contextlib.suppress(OSError):
                Path(path).unlink()
            held -= size


NOTHING = Kept(Path("/nonexistent"), 0)
"""Keeps nothing."""


class Fetcher:
    """Contents of `sources` by position, fetched ahead in the `order` in which they will be asked for.

    Local files are not read here: they are given as they are. With `sha256`, which names the content of a position
    where it is known, what is kept is not fetched.
    """

    def __init__(
        self,
        source: Callable[[int], Path],
        order: Iterable[int],
        *,
        kept: Kept = NOTHING,
        sha256: Callable[[int], str] | None = None,
    ) -> None:
        self._source, self._kept, self._sha256 = source, kept, sha256
        self._order = iter(order)
        self._lock = threading.Lock()
        self._fetched: dict[int, list[Future[bytes]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._held = 0

    def __call__(self, position: int) -> Path | bytes:
        """The content of a photo that lies elsewhere, or the path of a local one."""
        source = self._source(position)
        if not isinstance(source, Address):
            return source
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetching")
                self._ahead(WINDOW)
            if position not in self._fetched:
                self._ahead(MOST, until=position)
            waiting = self._fetched.get(position)
            future = waiting.pop(0) if waiting else None
            if waiting == []:
                del self._fetched[position]
            self._held -= future is not None
            self._ahead(WINDOW)
        return future.result() if future is not None else self._content(position)

    def _ahead(self, most: int, until: int | None = None) -> None:
        """Fetch on in the order, up to `most` photos that nobody has used, or up to the one at `until`."""
        assert self._pool is not None
        while self._held < most and until not in self._fetched:
            position = next(self._order, None)
            if position is None:
                return
            self._fetched.setdefault(position, []).append(self._pool.submit(self._content, position))
            self._held += 1

    def _content(self, position: int) -> bytes:
        known, source = self._sha256(position) if self._sha256 else None, self._source(position)
        if known and (data := self._kept.get(known)) is not None:
            return data
        data = read(source)
        if str(source).startswith("file://"):  # in a tar on this machine
            return data
        self._kept.put(known or hashlib.sha256(data).hexdigest(), data)
        return data

    def close(self) -> None:
        """Fetch no more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def fetching(
    source: Callable[[int], Path],
    order: Iterable[int],
    *,
    kept: Kept = NOTHING,
    sha256: Callable[[int], str] | None = None,
) -> Iterator[Fetcher]:
    """A fetcher, which ends with the work inside."""
    fetcher = Fetcher(source, order, kept=kept, sha256=sha256)
    try:
        yield fetcher
    finally:
        fetcher.close()
