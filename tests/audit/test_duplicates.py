import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from tests.conftest import draw
from tests.data.made import made
from upcycle.audit import duplicates
from upcycle.audit.duplicates import blank, name_groups, near_duplicates, same_pixels, shorter, write_grouped
from upcycle.audit.statistics import RECORD, Statistics, inspect
from upcycle.data.index import Index, index_images
from upcycle.data.worker import ImageStatistics, image_statistics


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
        pair for one, other in duplicates._close(hashes) for pair in zip(one.tolist(), other.tolist(), strict=True)
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


def test_memory_does_not_grow_with_the_square_of_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

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


def index_of(paths: list[str], groups: list[str] | None = None) -> Index:
    """An index of these paths; the class is the first letter of the path's last folder."""
    index = made("".join(path.split("/")[-2][0] for path in paths), groups=groups)
    return replace(index, paths=pa.array(paths, pa.string()))


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("patient12_003", ["patient12", "patient"]),
        ("cat.4251", ["cat"]),
        ("0013035", []),
        ("10_left", ["10"]),
        ("_x_1", ["_x"]),
        ("video3frame0012", ["video3frame", "video3", "video"]),
        ("100080576_f52e8ee070_n", ["100080576_f52e8ee070", "100080576"]),
    ],
)
def test_names_lose_their_last_part_first(stem: str, expected: list[str]) -> None:
    assert expected == shorter(stem)


def test_images_of_one_patient_are_a_group() -> None:
    paths = [f"{'ab'[patient % 2]}/patient{patient:02}_{image:03}.png" for patient in range(12) for image in range(5)]
    found = name_groups(index_of(paths))
    assert found is not None
    assert tuple(f"patient{patient:02}" for patient in range(12)) == found.names
    assert [tuple(range(5 * patient, 5 * patient + 5)) for patient in range(12)] == found.positions()


def test_the_widest_groups_are_taken() -> None:
    paths = [
        f"{'ab'[patient % 2]}/C{patient + 100}P_IMG_2015091{slide}_cell_{image}.png"
        for patient in range(10)
        for slide in range(3)
        for image in range(4)
    ]
    found = name_groups(index_of(paths))
    assert found is not None
    assert tuple(f"C{patient + 100}" for patient in range(10)) == found.names


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param([f"{'cd'[n % 2]}/{'cd'[n % 2]}at.{n}.jpg" for n in range(100)], id="the class's name"),
        pytest.param([f"{'cd'[n % 2]}/{n:05}.jpg" for n in range(100)], id="numbers alone"),
        pytest.param([f"{'cd'[n % 2]}/IMG_201509{n % 20 + 10}_{n:06}.jpg" for n in range(100)], id="dates"),
        pytest.param([f"{'cd'[n % 2]}/{n * 7919}_f52e8e{n:03}_n.jpg" for n in range(100)], id="one a photo"),
        pytest.param([f"{'cd'[n % 2]}/batch{n % 4}_{n:03}.jpg" for n in range(100)], id="a few batches"),
        pytest.param([f"{'abcdefghij'[n % 10]}/n0{n % 10}_{n}.jpg" for n in range(100)], id="classes by number"),
        pytest.param([f"{'cd'[n % 2]}/photo{n:03}.jpg" for n in range(100)], id="one word and a number"),
    ],
)
def test_names_that_say_nothing_of_groups_are_left_alone(paths: list[str]) -> None:
    assert name_groups(index_of(paths)) is None


def test_numbers_that_begin_anew_in_each_folder_are_of_that_folder() -> None:
    paths = [f"{split}/a/film{n // 5:02}_{n:03}.jpg" for split in ("train", "test") for n in range(60)]
    found = name_groups(index_of(paths))
    assert found is not None
    assert 24 == len(found.names)
    assert [5] * 24 == [len(group) for group in found.positions()]


def test_groups_that_data_names_itself_are_not_guessed() -> None:
    paths = [f"{'ab'[n % 2]}/patient{n // 5:02}_{n:03}.png" for n in range(60)]
    assert name_groups(index_of(paths, groups=["x"] + [""] * 59)) is None


@pytest.mark.parametrize("name", ["flowers5", "hymenoptera", "cats_dogs"])
def test_real_photos_without_groups_raise_no_alarm(assets: Path, name: str) -> None:
    assert name_groups(index_images(assets / "data" / name, trainable=False)) is None


def test_the_patients_of_real_microscope_images_are_found(assets: Path) -> None:
    index = index_images(assets / "data" / "malaria_cells")
    found = name_groups(index)
    assert found is not None
    assert "C100P61" in found.names
    assert 324 == len(found.names)


def test_the_manifest_ties_copies_near_copies_and_names_in_a_chain(tmp_path: Path) -> None:
    index = made("aabbab", contents=[0, 1, 2, 3, 0, 5])  # 0 and 4 have equal bytes
    write_grouped(tmp_path / "g.csv", index, [(4, 1), (1, 2)], without={"b/0005.jpg"})
    rows = list(csv.DictReader(io.StringIO((tmp_path / "g.csv").read_text(encoding="utf-8"))))
    assert ["a", "a", "b", "b", "a"] == [row["label"] for row in rows]
    groups = [row["group"] for row in rows]
    assert 1 == len({groups[0], groups[1], groups[2], groups[4]})
    assert "" == groups[3] != groups[0]
    assert str(index.file(0)) == rows[0]["path"]
