import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upcycle.data import cache
from upcycle.data.folder import Index, scan
from upcycle.data.stream import Stream, open_stream
from upcycle.errors import DataError

NOISE = np.random.default_rng(0)


def stored(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Five images; the pixels of the second and the last are cut off behind a whole header."""
    for i, size in enumerate([(40, 30), (30, 40), (20, 20), (64, 48), (33, 17)]):
        file = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = stored(*size)
        file.write_bytes(content[: len(content) // 2] if i in (3, 4) else content)
    return scan(tmp_path / "data", trainable=False)


def opened(index: Index, threads: int = 2) -> tuple[Stream, dict[int, str]]:
    return open_stream(index, side=16, interpolation="bilinear", threads=threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_gives_what_the_cache_holds(index: Index, tmp_path: Path, threads: int) -> None:
    kept, reasons = cache.build(index, side=16, interpolation="bilinear", root=tmp_path / "cache")
    stream, failures = opened(index, threads)
    assert failures == reasons
    assert sorted(failures) == [2, 4]
    kept, stream = kept.without(failures), stream.without(failures)
    assert len(stream) == len(kept) == 3
    for i in range(3):
        np.testing.assert_array_equal(stream[i], kept[i])


def test_progress_is_told(index: Index) -> None:
    told: list[tuple[int, int]] = []
    open_stream(
        index, side=16, interpolation="bilinear", threads=1, progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (5, 5)


def test_a_file_that_changes_under_a_running_job_is_never_taken_for_the_one_scanned(index: Index) -> None:
    stream, _ = opened(index)
    index.file(0).write_bytes(stored(40, 30))
    with pytest.raises(DataError, match=r"a/0.png changed since it was scanned: run again$"):
        stream[0]
    index.file(1).unlink()
    with pytest.raises(DataError, match=r"cannot be read any more \(No such file or directory\): run again$"):
        stream[1]
