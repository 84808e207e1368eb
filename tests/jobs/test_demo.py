import hashlib
import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from upcycle.errors import DataError, StorageError
from upcycle.jobs import demo

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None, reason="scikit-image (the demo extra) is not installed"
)


def counts(folder: Path) -> dict[str, int]:
    return dict(Counter(path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.png")))


def shape(file: Path) -> tuple[str, tuple[int, int]]:
    with Image.open(file) as image:
        return image.mode, image.size


def pixels(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): Image.open(path).tobytes() for path in folder.rglob("*.png")}


def test_faces_are_split_60_20_120_with_half_of_each_class(tmp_path: Path) -> None:
    expected = {
        "train/face": 30,
        "train/background": 30,
        "val/face": 10,
        "val/background": 10,
        "test/face": 60,
        "test/background": 60,
    }
    assert expected == counts(demo.write_faces(tmp_path / "faces"))


def test_every_face_is_a_gray_image_of_25_pixels_and_occurs_once(tmp_path: Path) -> None:
    folder = demo.write_faces(tmp_path / "faces")
    files = sorted(folder.rglob("*.png"))
    assert {("L", (25, 25))} == {shape(file) for file in files}
    assert len(set(pixels(folder).values())) == 200
    assert [f"{i:03}" for i in range(200)] == sorted(path.stem for path in files)


def test_the_first_hundred_images_of_the_set_are_the_faces(tmp_path: Path) -> None:
    folder = demo.write_faces(tmp_path / "faces")
    assert set(range(100)) == {int(path.stem) for path in folder.glob("*/face/*.png")}


def test_faces_keep_their_pixels(tmp_path: Path) -> None:
    source = Path(str(importlib.util.find_spec("skimage").origin)).parent / "data" / "lfw_subset.npy"
    (file,) = demo.write_faces(tmp_path / "faces").glob("*/*/007.png")
    np.testing.assert_allclose(np.asarray(Image.open(file)) / 255, np.load(source)[7], atol=0.5 / 255)


def test_textures_are_split_8_8_40_in_each_of_three_classes(tmp_path: Path) -> None:
    expected = {
        f"{split}/{label}": count
        for split, count in {"train": 8, "val": 8, "test": 40}.items()
        for label in ("brick", "grass", "gravel")
    }
    assert expected == counts(demo.write_textures(tmp_path / "textures"))


@pytest.mark.parametrize("seed", range(8))
def test_patches_of_two_splits_are_at_least_32_pixels_apart(tmp_path: Path, seed: int) -> None:
    folder = demo.write_textures(tmp_path / "textures", seed=seed)
    nearest = min(
        distance(one, other)
        for label in ("brick", "grass", "gravel")
        for first, second in (("train", "test"), ("val", "test"), ("train", "val"))
        for one in folder.glob(f"{first}/{label}/*.png")
        for other in folder.glob(f"{second}/{label}/*.png")
    )
    assert nearest == 32


def distance(one: Path, other: Path) -> int:
    """Pixels between two 64 x 64 patches named by their corners, along the axis that parts them."""
    places = zip(one.stem.split("-"), other.stem.split("-"), strict=True)
    return max(abs(int(a) - int(b)) - 64 for a, b in places)


@pytest.mark.parametrize("seed", range(4))
def test_a_patch_is_the_place_that_its_name_says(tmp_path: Path, seed: int) -> None:
    folder = demo.write_textures(tmp_path / "textures", seed=seed)
    photograph = demo.photograph("gravel")
    for file in folder.glob("*/gravel/*.png"):
        row, column = map(int, file.stem.split("-"))
        assert photograph.crop((column, row, column + 64, row + 64)).tobytes() == Image.open(file).tobytes()


def test_the_patches_of_a_class_do_not_overlap(tmp_path: Path) -> None:
    files = list(demo.write_textures(tmp_path / "textures").glob("*/brick/*.png"))
    nearest = min(distance(one, other) for one in files for other in files if one != other)
    assert nearest == 0


@pytest.mark.parametrize("write", [demo.write_faces, demo.write_textures])
def test_the_same_seed_writes_the_same_images_and_another_seed_other_splits(write, tmp_path: Path) -> None:
    first, again = write(tmp_path / "a", seed=3), write(tmp_path / "b", seed=3)
    other = write(tmp_path / "c", seed=4)
    assert pixels(first) == pixels(again)
    assert pixels(first).keys() != pixels(other).keys()


def test_the_split_of_a_seed_never_changes(tmp_path: Path) -> None:
    folder = demo.write_faces(tmp_path / "faces", seed=0)
    expected = ["003", "012", "014", "017", "021", "028", "058", "066", "072", "099"]  # the first ten drawn
    chosen = sorted(path.stem for path in folder.glob("train/face/*.png"))
    assert set(expected) < set(chosen)
    assert "9d9493de22ce6cc0" == hashlib.sha256(" ".join(chosen).encode()).hexdigest()[:16]


def test_a_file_in_the_folders_place_gives_one_line(tmp_path: Path) -> None:
    place = tmp_path / "faces"
    place.write_text("a file")
    with pytest.raises(StorageError, match=r"^cannot write "):
        demo.write_faces(place)
    assert [place] == list(tmp_path.iterdir())


def test_without_scikit_image_the_install_command_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    with pytest.raises(DataError, match=re.escape("run pip install 'upcycle[demo]'")):
        demo.write_faces(tmp_path / "faces")
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_would_need_a_download_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("lacks eagle.png and nothing is downloaded")):
        demo.photograph("eagle")
