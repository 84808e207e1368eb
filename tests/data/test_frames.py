import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from PIL import Image

from tests.conftest import small_files
from upcycle.data import decode, frames
from upcycle.data.frames import Stream, open_stream
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Unusable
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DataError, NoRoomError, StorageError

NOISE = np.random.default_rng(0)


def stored(size: tuple[int, int], kind: str) -> bytes:
    pixels = NOISE.integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for i, size in enumerate([(40, 30), (30, 40), (20, 20), (100, 10), (64, 48), (33, 17)]):
        file = tmp_path / "data" / "ab"[i % 2] / (f"{i}.jpg" if i < 3 else f"{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stored(size, "JPEG" if i < 3 else "PNG"))
    return index_images(tmp_path / "data")


@pytest.fixture
def damaged(index: Index) -> Index:
    """Like `index`, with two files more whose headers are whole and whose pixels are not."""
    for name in ("a/0cut.jpg", "b/9cut.png"):
        content = stored((60, 40), "JPEG" if name.endswith("jpg") else "PNG")
        (index.root / name).write_bytes(content[: len(content) // 2])
    return index_images(index.root)


def build(
    index: Index, root: Path, side: int = 16, scale: float | None = None, threads: int = 2
) -> tuple[frames.Cache, dict[int, Unusable]]:
    return frames.open_cache(index, Decoding(side, "bilinear", scale), root=root, threads=threads)


def counted(index: Index, root: Path) -> int:
    """How many images a build decodes."""
    done = [0]
    frames.open_cache(index, Decoding(16, "bilinear"), root=root, progress=lambda now, _: done.append(now))
    return done[-1]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_cache_holds_what_load_gives(index: Index, tmp_path: Path, threads: int) -> None:
    built, failures = build(index, tmp_path, threads=threads)
    assert failures == {}
    assert len(built) == 6
    for i in range(6):
        expected = decode.load_image(index.file(i), Decoding(16, "bilinear"))
        np.testing.assert_array_equal(built[i], expected)


def test_images_are_read_only_views(index: Index, tmp_path: Path) -> None:
    image = build(index, tmp_path)[0][0]
    assert not image.flags.writeable
    assert not image.flags.owndata


def test_offsets_and_shapes_lead_to_each_image(index: Index, tmp_path: Path) -> None:
    built, _ = build(index, tmp_path)
    height, width = built.shapes[3]
    start = built.offsets[3]
    np.testing.assert_array_equal(built.images[start : start + height * width * 3].reshape(height, width, 3), built[3])
    assert (built.offsets.dtype, built.shapes.dtype) == (np.int64, np.int32)


def test_iterating_gives_every_image_once(index: Index, tmp_path: Path) -> None:
    built, _ = build(index, tmp_path)
    assert [image.shape[:2] for image in built] == [tuple(shape) for shape in built.shapes.tolist()]


def test_a_valid_cache_is_opened_without_decoding(index: Index, tmp_path: Path) -> None:
    assert counted(index, tmp_path / "cache") == 6
    shutil.rmtree(index.root)
    assert counted(index, tmp_path / "cache") == 0


def test_side_interpolation_and_content_each_have_a_file_of_their_own(index: Index, tmp_path: Path) -> None:
    files = {
        build(index, tmp_path)[0].path,
        build(index, tmp_path, side=17)[0].path,
        frames.open_cache(index, Decoding(16, "bicubic"), root=tmp_path)[0].path,
        build(index.take(np.array([0, 1, 2])), tmp_path)[0].path,
        build(index.take(np.array([1, 0, 2])), tmp_path)[0].path,
    }
    assert len(files) == 5


def test_names_do_not_matter_to_the_cache(index: Index, tmp_path: Path) -> None:
    first = build(index, tmp_path / "cache")[0].path
    index.root.rename(tmp_path / "moved")
    assert build(index_images(tmp_path / "moved"), tmp_path / "cache")[0].path == first


def test_failures_are_zeros_with_a_reason_and_are_remembered(damaged: Index, tmp_path: Path) -> None:
    built, failures = build(damaged, tmp_path / "cache")
    assert [damaged.path(i) for i in failures] == ["a/0cut.jpg", "b/9cut.png"]
    assert all(failure.reason.startswith("damaged or cut short (") for failure in failures.values())
    assert {failure.kind for failure in failures.values()} == {"truncated"}
    assert not built[next(iter(failures))].any()
    again, remembered = build(damaged, tmp_path / "cache")
    assert remembered == failures
    np.testing.assert_array_equal(again.images, built.images)


def test_a_cache_whose_failures_have_no_code_is_rebuilt(damaged: Index, tmp_path: Path) -> None:
    built, failures = build(damaged, tmp_path / "cache")
    layout = frames._Layout(built.shapes, built.sums, {i: failure.reason for i, failure in failures.items()})
    content = built.images.tobytes() + layout.to_bytes()
    built.path.write_bytes(content)
    again, remembered = build(damaged, tmp_path / "cache")
    assert remembered == failures
    np.testing.assert_array_equal(again.images, built.images)


def test_dropping_the_failures_keeps_cache_and_index_in_step(damaged: Index, tmp_path: Path) -> None:
    built, failures = build(damaged, tmp_path / "cache")
    left, images = damaged.without(failures), built.without(failures)
    assert len(images) == len(left) == 6
    for i in range(6):
        expected = decode.load_image(left.file(i), Decoding(16, "bilinear"))
        np.testing.assert_array_equal(images[i], expected)


@pytest.mark.parametrize("damage", ["cut", "shorter", "flipped", "turned", "empty", "magic"])
def test_a_damaged_cache_is_rebuilt(index: Index, tmp_path: Path, damage: str) -> None:
    built, _ = build(index, tmp_path / "cache")
    whole, path = built.path.read_bytes(), built.path
    first = len(built.images) + 8  # where height and width of the first image stand
    changed = {
        "cut": whole[:-10],
        "shorter": whole[100:],
        "flipped": whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:],
        "turned": whole[:first] + whole[first + 4 : first + 8] + whole[first : first + 4] + whole[first + 8 :],
        "empty": b"",
        "magic": whole[:-1] + b"\x00",
    }[damage]
    path.unlink()
    path.write_bytes(changed)
    assert counted(index, tmp_path / "cache") == 6
    assert path.read_bytes() == whole


def test_a_flipped_bit_of_an_image_is_found_when_that_is_read_and_the_file_removed(
    index: Index, tmp_path: Path
) -> None:
    built, _ = build(index, tmp_path / "cache")
    content = bytearray(built.path.read_bytes())
    content[int(built.offsets[2]) + 7] ^= 1
    built.path.write_bytes(content)
    again, _ = build(index, tmp_path / "cache")
    again[1]
    with pytest.raises(StorageError, match=r"were damaged and have been removed. Resume with --resume$"):
        again[2]
    assert counted(index, tmp_path / "cache") == 6


def test_a_file_that_changed_since_the_scan_is_an_error_and_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.file(2).write_bytes(stored((20, 20), "PNG"))
    with pytest.raises(DataError, match=r"a/4.png changed since it was scanned: run again$"):
        build(index, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_gone_since_the_scan_is_an_error(index: Index, tmp_path: Path) -> None:
    index.file(0).unlink()
    with pytest.raises(DataError, match=r"cannot be read any more \(No such file or directory\): run again$"):
        build(index, tmp_path / "cache")


def test_an_interrupted_build_leaves_no_file_and_no_thread(index: Index, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frames.open_cache(index, Decoding(16, "bilinear"), root=tmp_path / "cache", progress=interrupt)
    assert list((tmp_path / "cache").iterdir()) == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("images")] == []


def test_no_room_is_an_error_before_anything_is_decoded(index: Index, tmp_path: Path) -> None:
    huge = 100_000_000  # pixels: more than any disk holds
    with pytest.raises(NoRoomError, match=r"^the decoded images need \d+\.\d GB and .* has \d+\.\d GB free"):
        build(index, tmp_path, side=huge)
    assert [file for file in tmp_path.iterdir() if file.is_file()] == []


def test_a_disk_that_fills_up_is_an_error_and_leaves_no_file_and_no_thread(index: Index, tmp_path: Path) -> None:
    with pytest.raises(NoRoomError) as caught, small_files():
        build(index, tmp_path / "cache")
    # the traceback that `caught` keeps must not keep the threads
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("images")] == []
    assert list((tmp_path / "cache").iterdir()) == []
    assert str(caught.value).endswith(".images: File too large")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_folder_that_cannot_be_made_is_an_error(index: Index) -> None:
    with pytest.raises(StorageError, match=r"^cannot write /dev/full/cache/.*: Not a directory$"):
        build(index, Path("/dev/full/cache"))


def test_two_runs_that_build_the_same_cache_at_once_are_both_right(index: Index, tmp_path: Path) -> None:
    begun = threading.Barrier(3)

    def together(done: int, total: int) -> None:
        if done == total:
            begun.wait(timeout=60)  # all have decoded everything before any has a whole file

    def run(_: int) -> frames.Cache:
        return frames.open_cache(index, Decoding(16, "bilinear"), root=tmp_path / "cache", progress=together)[0]

    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(run, range(3)))
    for images in built:
        for i in range(len(index)):
            np.testing.assert_array_equal(images[i], decode.load_image(index.file(i), Decoding(16, "bilinear")))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_killed_runs_left_behind_is_removed_after_a_day_before_room_is_looked_for(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / ".key.images.abc", tmp_path / ".key.images.def"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if old.exists() else 10**9))
    build(index, tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_the_shared_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPCYCLE_CACHE", str(tmp_path))
    assert frames.default_root() == tmp_path
    monkeypatch.delenv("UPCYCLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert frames.default_root() == tmp_path / "caches" / "upcycle"
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")  # to be ignored, as its specification says
    assert frames.default_root() == Path.home() / ".cache" / "upcycle"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_a_user_without_a_home_has_a_folder_of_their_own(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UPCYCLE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)
    root = frames.default_root()
    assert temporary == root.parent
    assert root == frames.spare_root()
    assert 0o700 == stat.S_IMODE(root.stat().st_mode)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="everything temporary is the user's own here")
@pytest.mark.parametrize("how", ["a link", "open to all", "a file"])
def test_a_spare_folder_that_may_be_somebody_elses_is_not_used(how: str, temporary: Path, tmp_path: Path) -> None:
    root = frames.spare_root()
    root.rmdir()
    (tmp_path / "theirs").mkdir()
    if how == "a link":
        root.symlink_to(tmp_path / "theirs")
    elif how == "a file":
        root.touch()
    else:
        root.mkdir()
        root.chmod(0o777)
    with pytest.raises(StorageError, match=str(root)):
        frames.spare_root()


def test_what_cannot_be_kept_where_it_should_be_is_kept_in_the_spare_folder(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert temporary / frames.spare_root().name / "statistics" == frames.written_in(
        tmp_path / "file" / "cache", "statistics"
    )
    assert tmp_path / "cache" / "statistics" == frames.written_in(tmp_path / "cache", "statistics")
    assert [] == list((tmp_path / "cache" / "statistics").iterdir())


def test_what_is_white_has_a_file_of_its_own_and_none_the_one_it_had(index: Index, tmp_path: Path) -> None:
    settings = json.dumps([frames._FORMAT, 16, "bilinear", PIL.__version__]).encode()
    name = hashlib.sha256(settings + np.ascontiguousarray(index.hashes).tobytes()).hexdigest()
    assert build(index, tmp_path)[0].path == tmp_path / f"{name}.images"
    assert build(index, tmp_path, scale=4095)[0].path != tmp_path / f"{name}.images"


@pytest.fixture
def half(tmp_path: Path) -> Index:
    """Five images; the pixels of the second and the last are cut off behind a whole header."""
    for i, size in enumerate([(40, 30), (30, 40), (20, 20), (64, 48), (33, 17)]):
        file = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = stored(size, "PNG")
        file.write_bytes(content[: len(content) // 2] if i in (3, 4) else content)
    return index_images(tmp_path / "data", trainable=False)


def opened(index: Index, threads: int = 2) -> tuple[Stream, dict[int, Unusable]]:
    return open_stream(index, Decoding(16, "bilinear"), threads=threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_gives_what_the_cache_holds(half: Index, tmp_path: Path, threads: int) -> None:
    kept, reasons = frames.open_cache(half, Decoding(16, "bilinear"), root=tmp_path / "cache")
    stream, failures = opened(half, threads)
    assert failures == reasons
    assert sorted(failures) == [2, 4]
    kept, stream = kept.without(failures), stream.without(failures)
    assert len(stream) == len(kept) == 3
    for i in range(3):
        np.testing.assert_array_equal(stream[i], kept[i])


def test_progress_is_told(half: Index) -> None:
    told: list[tuple[int, int]] = []
    open_stream(half, Decoding(16, "bilinear"), threads=1, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)


def test_a_file_that_changes_under_a_running_job_is_never_taken_for_the_one_scanned(half: Index) -> None:
    stream, _ = opened(half)
    half.file(0).write_bytes(stored((40, 30), "PNG"))
    with pytest.raises(DataError, match=r"a/0.png changed since it was scanned: run again$"):
        stream[0]
    half.file(1).unlink()
    with pytest.raises(DataError, match=r"cannot be read any more \(No such file or directory\): run again$"):
        stream[1]
