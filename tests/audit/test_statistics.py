import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.conftest import draw, write_classes
from upcycle.audit import statistics
from upcycle.audit.statistics import RECORD, Statistics, blank, inspect, near_duplicates, same_pixels
from upcycle.data import found, isolation
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
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(found, "SETTLED", -(10**12))  # files are scanned as soon as they are written
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
    for name in ("across/000.png", "down/002.png"):
        draw(2, 7).save(data / name)
    real = statistics.in_order
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(statistics, "in_order", lambda *some, **more: real(*some, **more, chunk=1))
        inspect(data, folder=tmp_path / "statistics", threads=1, progress=stop)
    read.clear()
    inspect(data, folder=tmp_path / "statistics")
    assert [(data / "down" / "002.png").stat().st_size] == read


def test_a_cache_folder_that_may_not_be_written_costs_nothing_but_time(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    index, known = inspect(data, folder=tmp_path / "file")
    assert (6, 6) == (len(index), len(known))


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        inspect(tmp_path, folder=tmp_path / "statistics")


def test_statistics_of_an_image_take_less_than_half_a_kilobyte() -> None:
    assert 372 == statistics.RECORD.itemsize


# -------------------------------------------------------------------------------------- copies


def photo(seed: int, side: int = 160) -> Image.Image:
    """Blobs of color at several scales, as a photograph has them."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((side, side, 3))
    for cells, share in ((4, 0.6), (9, 0.3), (24, 0.1)):
        blobs = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += share * np.asarray(blobs.resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray(pixels.astype(np.uint8))


def seen(image: Image.Image, kind: str = "PNG", **settings: object) -> ImageStatistics:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return image_statistics(buffer.getvalue())


def statistics_of(*images: ImageStatistics) -> Statistics:
    statistics = np.zeros(len(images), RECORD)
    for at, one in enumerate(images):
        for name in ("perceptual", "contrast", "color"):
            statistics[name][at] = getattr(one, name)
        statistics["pixels"][at], statistics["small"][at] = one.pixels.encode(), one.small
    return statistics


def test_equal_pixels_are_found_whatever_the_format() -> None:
    one, other = photo(1), photo(2)
    assert [(0, 2)] == same_pixels(statistics_of(seen(one), seen(other), seen(one, "BMP"), seen(one, "JPEG")))


def test_resized_recompressed_and_brightened_pictures_are_near_and_others_are_not() -> None:
    one = photo(1)
    variants = [
        seen(one),
        seen(photo(2)),
        seen(one.resize((90, 90), Image.Resampling.LANCZOS)),
        seen(photo(3)),
        seen(one, "JPEG", quality=30),
        seen(ImageEnhance.Brightness(one).enhance(0.7)),
        seen(one.convert("L")),
    ]
    assert [(0, 2, 4, 5, 6)] == near_duplicates(statistics_of(*variants))


def test_copies_alone_are_not_near() -> None:
    assert [] == near_duplicates(statistics_of(seen(photo(1)), seen(photo(1)), seen(photo(2))))


def test_unlike_photos_are_not_near() -> None:
    assert [] == near_duplicates(statistics_of(*(seen(photo(seed)) for seed in range(60))))


def test_blank_images_are_blank_and_never_near() -> None:
    random = np.random.default_rng(0)
    noise = [np.clip(random.normal(250, 1.5, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(4)]
    statistics = statistics_of(*(seen(Image.fromarray(pixels)) for pixels in noise), seen(draw(0, 1)))
    assert [0, 1, 2, 3] == blank(statistics).tolist()
    assert [] == near_duplicates(statistics)


def test_every_pair_within_four_bits_is_found() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 400, dtype=np.uint64)
    for at in range(0, 400, 2):  # a neighbour at 0 to 6 bits
        flipped = random.choice(64, at // 2 % 7, replace=False)
        hashes[at + 1] = hashes[at] ^ np.bitwise_or.reduce(np.uint64(1) << flipped.astype(np.uint64), initial=0)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero(apart <= 4), strict=True) if i < j}
    found = [
        pair for one, other in statistics._close(hashes) for pair in zip(one.tolist(), other.tolist(), strict=True)
    ]
    assert sorted(expected) == sorted(found)
    assert 100 < len(expected) < 200


def test_pictures_too_alike_to_tell_apart_are_said_to_be() -> None:
    one = statistics_of(seen(photo(1)))
    statistics = np.repeat(one, 200)
    statistics["pixels"] = [f"{at:032}".encode() for at in range(200)]
    assert near_duplicates(statistics) is None


def test_copies_of_a_picture_keep_no_near_ones_from_being_found() -> None:
    random = np.random.default_rng(0)
    others = statistics_of(*(seen(photo(seed)) for seed in range(20)), seen(photo(3).resize((120, 90))))
    statistics = np.concatenate([np.repeat(statistics_of(seen(draw(0, 1))), 400), others])
    statistics = statistics[random.permutation(len(statistics))]
    pictures = {bytes(statistics["pixels"][at]): at for at in range(len(statistics))}
    expected = {pictures[bytes(other["pixels"])] for other in (others[3], others[20])}
    assert [expected] == [set(group) for group in near_duplicates(statistics) or []]


def test_near_pictures_bring_their_copies_along() -> None:
    one, other = seen(photo(1)), seen(photo(1).resize((120, 90)))
    assert [(0, 1, 3)] == near_duplicates(statistics_of(one, other, seen(photo(2)), one))


def test_the_near_duplicates_of_real_photos(assets: Path, tmp_path: Path) -> None:
    index, statistics = inspect(assets / "data" / "flowers5", folder=tmp_path)
    groups = near_duplicates(statistics) or []
    assert 6 == len(same_pixels(statistics))
    assert 17 == len(groups)
    named = [tuple(index.path(at) for at in group) for group in groups]
    assert ("tulip/7166567320_0a2beb6d42.jpg", "tulip/7166567320_0a2beb6d42_n.jpg") in named
    assert all(len({index.label(at) for at in group}) == 1 for group in groups)


def test_memory_does_not_grow_with_the_square_of_the_number() -> None:
    random = np.random.default_rng(0)
    statistics = np.zeros(20_000, RECORD)
    statistics["perceptual"] = random.integers(0, 2**63, len(statistics), dtype=np.uint64)
    statistics["contrast"] = 50
    statistics["small"] = np.frombuffer(
        random.integers(0, 256, (len(statistics), 256), dtype=np.uint8).tobytes(), "V256"
    )
    statistics["pixels"] = [f"{at:032}".encode() for at in range(len(statistics))]
    tracemalloc.start()
    assert [] == near_duplicates(statistics)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all pairs at a byte each would be 400 MB
