import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import draw, write_classes
from upcycle.data import found, isolation
from upcycle.data.decode import Header
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Layout


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(found, "SETTLED", -(10**12))  # files are scanned as soon as they are written
    return write_classes(tmp_path / "data", {"across": 3, "down": 3})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    real = isolation.DECODERS.header

    def counted(file: Path) -> tuple[str, Header]:
        names.append(f"{file.parent.name}/{file.name}")
        return real(file)

    monkeypatch.setattr(isolation.DECODERS, "header", counted)
    return names


def scan(data: Path) -> Index:
    return index_images(data, memory=data.parent / "scans")


def same(one: Index, two: Index) -> bool:
    columns = ("labels", "declared", "hashes", "widths", "heights", "formats")
    return one.paths.equals(two.paths) and all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in columns
    )


def test_a_second_scan_reads_no_file_and_finds_the_same(data: Path, read: list[str]) -> None:
    first = scan(data)
    assert 6 == len(read)
    (file,) = (data.parent / "scans").iterdir()
    written = file.stat().st_mtime_ns
    assert same(first, scan(data))
    assert same(first, index_images(data))
    assert 12 == len(read)  # the last one's alone
    assert written == file.stat().st_mtime_ns


def test_a_changed_a_touched_and_a_new_file_are_read(data: Path, read: list[str]) -> None:
    first = scan(data)
    read.clear()
    draw(2, 7).save(data / "across" / "000.png")
    os.utime(data / "across" / "001.png")
    draw(2, 8).save(data / "down" / "009.png")
    second = scan(data)
    assert ["across/000.png", "across/001.png", "down/009.png"] == sorted(read)
    assert first.hash(0) != second.hash(0)
    assert first.hash(1) == second.hash(1)
    read.clear()
    assert same(second, scan(data))
    assert [] == read


def test_a_file_that_changed_is_read_even_at_its_size_and_time(data: Path, read: list[str]) -> None:
    first = scan(data)
    read.clear()
    file = data / "across" / "001.png"
    status, size = file.stat(), file.stat().st_size
    draw(2, 7).save(file)
    file.write_bytes(file.read_bytes()[:size].ljust(size, b"\0"))  # bytes behind the end do no harm
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert first.hash(1) != scan(data).hash(1)
    assert ["across/001.png"] == read


def test_removed_renamed_and_swapped_files(data: Path, read: list[str]) -> None:
    first = scan(data)
    read.clear()
    (data / "across" / "000.png").unlink()
    (data / "down" / "002.png").rename(data / "down" / "007.png")
    one, two, aside = (data / "down" / name for name in ("000.png", "001.png", "aside"))
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    second = scan(data)
    assert ["across/001.png", "across/002.png", "down/000.png", "down/001.png", "down/007.png"] == [
        second.path(at) for at in range(5)
    ]
    assert first.hashes[[1, 2, 4, 3, 5]].tolist() == second.hashes.tolist()
    assert {"down/000.png", "down/001.png", "down/007.png"} == set(read)


def test_a_file_written_just_before_the_scan_is_read_again(
    data: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "SETTLED", 3600 * 10**9)
    scan(data)
    scan(data)
    assert 12 == len(read)


def test_a_file_of_the_future_is_read_again(data: Path) -> None:
    stamps = found.stamps(data, ["across/000.png", "across/nothing.png"])
    now = time.time_ns()
    assert [True, False] == found.settled(stamps, now).tolist()
    stamps[0, 1] = now + 2 * 10**12
    assert [False, False] == found.settled(stamps, now).tolist()


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped", "version", "folder"])
def test_a_damaged_or_foreign_memory_is_made_again(
    data: Path, read: list[str], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(data)
    (memory,) = (data.parent / "scans").iterdir()
    content = bytearray(memory.read_bytes())
    if damage == "flipped":
        content[content.index(bytes.fromhex(first.hash(3))) + 5] ^= 1
    if damage == "folder":
        memory.unlink()
        memory.mkdir()
    else:
        memory.write_bytes(
            {"cut": bytes(content[:-40]), "garbage": b"x" * 100, "empty": b""}.get(damage, bytes(content))
        )
    if damage == "version":
        monkeypatch.setattr(found, "_VERSION", "another")
    assert same(first, scan(data))
    assert 12 == len(read)


def test_a_folder_that_cannot_be_written_costs_time_alone(data: Path, read: list[str]) -> None:
    (data.parent / "scans").write_bytes(b"")
    assert 6 == len(scan(data))
    assert 6 == len(scan(data))
    assert 12 == len(read)


def test_files_that_cannot_be_used_are_read_each_time(data: Path, read: list[str]) -> None:
    (data / "across" / "000.png").write_bytes(b"")
    first = scan(data)
    read.clear()
    second = scan(data)
    assert ["across/000.png"] == read
    assert same(first, second)
    assert first.quarantined == second.quarantined


def test_an_interrupted_scan_keeps_what_it_has_read(data: Path, read: list[str]) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_images(data, memory=data.parent / "scans", progress=stop)
    read.clear()
    scan(data)
    assert [] == read


def test_scans_at_the_same_time_do_not_harm_each_other(data: Path, read: list[str]) -> None:
    whole = index_images(data)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: scan(data), range(8)))
    assert all(same(whole, one) for one in made)
    read.clear()
    assert same(whole, scan(data))
    assert [] == read
    assert 1 == len(list((data.parent / "scans").iterdir()))


def test_a_copy_of_the_folder_has_a_memory_of_its_own(data: Path, read: list[str]) -> None:
    scan(data)
    shutil.copytree(data, data.parent / "copy")
    read.clear()
    scan(data.parent / "copy")
    assert 6 == len(read)
    assert 2 == len(list((data.parent / "scans").iterdir()))


def test_manifests_of_one_name_beside_other_images_do_not_share_paths(data: Path, read: list[str]) -> None:
    manifest = data.parent / "list.csv"
    manifest.write_text(
        "path,label\n" + "".join(f"{kind}/00{at}.png,{kind}\n" for kind in ("across", "down") for at in range(3))
    )
    shutil.copytree(data, data.parent / "other")
    draw(2, 7).save(data.parent / "other" / "across" / "000.png")
    for root in ("data", "other", "data", "other"):
        index = index_images(manifest, Layout(image_root=str(data.parent / root)), memory=data.parent / "scans")
        assert index.hash(0) == index_images(data.parent / root).hash(0)
