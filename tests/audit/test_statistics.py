import io
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw, write_classes
from upcycle.audit import statistics
from upcycle.audit.statistics import inspect
from upcycle.data import isolation
from upcycle.data.worker import ImageStatistics, image_statistics
from upcycle.errors import DataError, DecodeError


def stored(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def test_the_same_pixels_in_other_files_have_the_same_hash() -> None:
    image = draw(0, 1)
    png, bmp = image_statistics(stored(image, "PNG")), image_statistics(stored(image, "BMP"))
    assert png.pixels == bmp.pixels
    assert ("PNG", "BMP") == (png.header.format, bmp.header.format)


def test_pixels_are_hashed_upright() -> None:
    image = draw(0, 1).crop((0, 0, 48, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = image_statistics(stored(image, "PNG", exif=exif))
    assert image_statistics(stored(image.transpose(Image.Transpose.ROTATE_270), "PNG")).pixels == turned.pixels
    assert (32, 48) == turned.header[:2]


def test_a_blank_image_has_no_contrast_and_a_gray_one_no_color() -> None:
    blank = image_statistics(stored(Image.new("RGB", (40, 40), (90, 90, 90)), "PNG"))
    gray = image_statistics(stored(draw(1, 2).convert("L"), "JPEG"))
    color = image_statistics(
        stored(Image.merge("RGB", [draw(0, 1).convert("L"), *2 * [draw(1, 1).convert("L")]]), "JPEG")
    )
    assert (0.0, 0.0) == (blank.contrast, blank.color)
    assert gray.contrast > 20
    assert gray.color <= 2
    assert color.color > 50


def test_an_image_cut_short_is_an_error_though_its_header_is_whole() -> None:
    whole = stored(draw(0, 1), "PNG")
    with pytest.raises(DecodeError, match="damaged or cut short"):
        image_statistics(whole[: len(whole) // 2])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "data", {"across": 3, "down": 3})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every file that is read."""
    sizes: list[int] = []
    real = isolation.DECODERS.statistics

    def counted(file: Path, scale: float | None) -> tuple[str, ImageStatistics]:
        sizes.append(file.stat().st_size)
        return real(file, scale)

    monkeypatch.setattr(isolation.DECODERS, "statistics", counted)
    return sizes


def test_a_second_scan_reads_no_file_and_knows_the_same(data: Path, tmp_path: Path, read: list[int]) -> None:
    index, known = inspect(data, folder=tmp_path / "statistics")
    assert 6 == len(read)
    again, remembered = inspect(data, folder=tmp_path / "statistics")
    assert 6 == len(read)
    assert known.tolist() == remembered.tolist()
    assert index.hashes.tolist() == again.hashes.tolist()
    assert [index.widths.tolist(), index.formats.tolist()] == [again.widths.tolist(), again.formats.tolist()]


def test_a_file_that_changed_is_read_again_even_at_the_same_size_and_time(
    data: Path, tmp_path: Path, read: list[int]
) -> None:
    first, _ = inspect(data, folder=tmp_path / "statistics")
    file = data / "across" / "001.png"
    status, content = file.stat(), bytearray(file.read_bytes())
    draw(2, 7).save(file)
    changed = file.read_bytes()[: len(content)].ljust(len(content), b"\0")  # bytes behind the end do no harm
    file.write_bytes(changed)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    second, _ = inspect(data, folder=tmp_path / "statistics")
    assert 7 == len(read)
    assert first.hash(1) != second.hash(1)


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped", "version"])
def test_a_damaged_memory_is_built_again(data: Path, tmp_path: Path, read: list[int], damage: str) -> None:
    _, known = inspect(data, folder=tmp_path / "statistics")
    (memory,) = (tmp_path / "statistics").iterdir()
    content = bytearray(memory.read_bytes())
    at = content.index(bytes(known["sha256"][0])[:8]) if damage == "flipped" else 0
    if damage == "flipped":
        content[at + 3] ^= 1
    memory.write_bytes({"cut": content[:200], "garbage": b"PK nothing"}.get(damage, bytes(content)))
    with pytest.MonkeyPatch.context() as patch:
        if damage == "version":
            patch.setattr(statistics, "_VERSION", 0)
        _, again = inspect(data, folder=tmp_path / "statistics")
    assert 12 == len(read)
    assert known["sha256"].tolist() == again["sha256"].tolist()


def test_files_that_cannot_be_used_leave_no_gap_between_images_and_statistics(data: Path, tmp_path: Path) -> None:
    (data / "across" / "000.png").write_bytes(b"")
    whole = (data / "down" / "001.png").read_bytes()
    (data / "down" / "001.png").write_bytes(whole[: len(whole) // 2])
    index, known = inspect(data, folder=tmp_path / "statistics")
    assert ["across/000.png", "down/001.png"] == [file.path for file in index.quarantined]
    assert ["across/001.png", "across/002.png", "down/000.png", "down/002.png"] == index.paths.to_pylist()
    assert index.hashes.tolist() == known["sha256"].tolist()


def test_an_interrupted_scan_keeps_what_it_has_read(data: Path, tmp_path: Path, read: list[int]) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect(data, folder=tmp_path / "statistics", progress=stop)
    inspect(data, folder=tmp_path / "statistics")
    assert 6 == len(read)


def test_an_interrupted_scan_forgets_nothing_of_those_before(data: Path, tmp_path: Path, read: list[int]) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    inspect(data, folder=tmp_path / "statistics")
    real = statistics.in_order
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(statistics, "in_order", lambda *some, **more: real(*some, **more, chunk=2))
        inspect(data, folder=tmp_path / "statistics", threads=1, progress=stop)
    inspect(data, folder=tmp_path / "statistics")
    assert 6 == len(read)


def test_a_cache_folder_that_may_not_be_written_costs_nothing_but_time(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    index, known = inspect(data, folder=tmp_path / "file")
    assert (6, 6) == (len(index), len(known))


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        inspect(tmp_path, folder=tmp_path / "statistics")


def test_statistics_of_an_image_take_less_than_half_a_kilobyte() -> None:
    assert 408 == statistics.RECORD.itemsize
