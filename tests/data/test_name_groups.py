from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.data.made import made
from upcycle.data.folder import Index, scan
from upcycle.data.name_groups import name_groups, shorter


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


def test_images_of_a_patient_on_two_sides_are_found() -> None:
    paths = [f"{'ab'[patient % 2]}/patient{patient:02}_{image:03}.png" for patient in range(12) for image in range(5)]
    found = name_groups(index_of(paths))
    assert found is not None
    assert tuple(f"patient{patient:02}" for patient in range(12)) == found.names
    sides = np.repeat(np.arange(12) % 3, 5).astype(np.int8)
    assert [] == found.across(sides)
    sides[7], sides[59] = 0, -1  # one image of patient 1 trains; what is in no split does not count
    assert [(5, 6, 7, 8, 9)] == found.across(sides)


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
    assert [] == found.across(np.repeat([0, 2], 60).astype(np.int8))


def test_groups_that_data_names_itself_are_not_guessed() -> None:
    paths = [f"{'ab'[n % 2]}/patient{n // 5:02}_{n:03}.png" for n in range(60)]
    assert name_groups(index_of(paths, groups=["x"] + [""] * 59)) is None


@pytest.mark.parametrize("name", ["flowers5", "hymenoptera", "cats_dogs"])
def test_real_photos_without_groups_raise_no_alarm(assets: Path, name: str) -> None:
    assert name_groups(scan(assets / "data" / name, trainable=False)) is None


def test_the_patients_of_real_microscope_images_are_found(assets: Path) -> None:
    index = scan(assets / "data" / "malaria_cells")
    found = name_groups(index)
    assert found is not None
    assert "C100P61" in found.names
    assert 324 == len(found.names)
