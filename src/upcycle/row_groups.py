"""Images in rows of Parquet files, read a row group at a time; the latest groups are shared by all threads.

One thread at a time reads a file: pyarrow's readers are not made for several, and crash.
"""

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MOST_BYTES = 2**28
"""Bytes of row groups that are held, and the last one always."""
MOST_FILES = 32
"""Files that are open."""


class _File:
    """An open Parquet file, and after which row each of its groups ends."""

    def __init__(self, opened: Any) -> None:
        counts = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        self.opened, self.ends = opened, list(itertools.accumulate(counts))

    def read(self, group: int) -> Any:
        """The images of a row group; ValueError where they are damaged."""
        import pyarrow as pa

        try:
            return self.opened.read_row_group(group, columns=["image"]).column("image").combine_chunks()
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                raise  # the store's, not the content's
            raise ValueError(f"damaged Parquet: {error}") from error


class RowGroups:
    """The images of Parquet files that `opened` opens by name."""

    def __init__(self, opened: Callable[[str], Any]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[threading.Lock, list[_File]]] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def image(self, name: str, row: int) -> bytes | None:
        """The bytes of the image in a row; None where there is none. ValueError where the file is damaged."""
        with self._lock:
            lock, held = self._files.setdefault(name, (threading.Lock(), []))
            self._files.move_to_end(name)
            while len(self._files) > MOST_FILES:
                self._files.popitem(last=False)
        with lock:
            try:
                file = held[0] if held else _File(self._opened(name))
                held[:] = [file]
                group = bisect.bisect_right(file.ends, row)
                images = self._group(name, group, file) if group < len(file.ends) else None
            except Exception:
                held.clear()  # opened again by the next one
                raise
        if images is None:
            return None
        value = images[row - (file.ends[group - 1] if group else 0)].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        return content if isinstance(content, bytes) else None

    def _group(self, name: str, group: int, file: _File) -> Any:
        with self._lock:
            found = self._groups.get((name, group))
            if found is not None:
                self._groups.move_to_end((name, group))
                return found
        found = file.read(group)
        with self._lock:
            self._groups[name, group] = found
            while len(self._groups) > 1 and sum(one.nbytes for one in self._groups.values()) > MOST_BYTES:
                self._groups.popitem(last=False)
        return found

    def forget(self, name: str) -> None:
        """Read a file again, which may have changed."""
        with self._lock:
            self._files.pop(name, None)
            for key in [key for key in self._groups if key[0] == name]:
                del self._groups[key]
