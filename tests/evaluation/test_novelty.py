"""P-values of images unlike the training photos: at the rate that they state, whatever the neighbors in a batch."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from scipy.stats import betabinom

from tests.conftest import small_files
from upcycle.errors import RunError, StorageError
from upcycle.evaluation import novelty as module
from upcycle.evaluation.novelty import Novelty, read_novelty


def features(rng: np.random.Generator, images: int, width: int = 16, *, turned: bool = False) -> np.ndarray:
    """Those of images that vary in a few directions and a little in all; the `turned` ones in others."""
    usual = np.zeros(width)
    usual[: width // 2] = 1
    rows = (usual[::-1] if turned else usual) + rng.normal(size=(images, width)) * np.linspace(0.4, 0.02, width)
    return rows.astype(np.float32)


def fitted(rng: np.random.Generator, train: int = 60, val: int = 99) -> Novelty:
    return Novelty.fitted(features(rng, train), features(rng, val), units=val)


def table(distances: list[float], units: int | None = None) -> Novelty:
    along = np.array([[1, 0]], np.float16)
    known = np.array(distances, np.float32)
    return Novelty(np.zeros(2, np.float32), along, known, len(distances) if units is None else units)


def test_a_p_value_is_the_part_of_validation_images_that_are_as_far_away() -> None:
    made = table([0.0, 0.4, 0.9])
    images = np.array([[3, 0], [4, 3], [1, 1], [0, 2]], np.float32)  # at 0, 0.36, 0.5 and 1 from (1, 0)'s line
    np.testing.assert_allclose([0, 0.36, 0.5, 1], made.away(images), atol=1e-6)
    np.testing.assert_array_equal([1, 0.75, 0.5, 0.25], made.p_values(images))


def test_usual_images_are_called_unlike_at_the_stated_rate() -> None:
    rng = np.random.default_rng(0)
    p_values = np.concatenate([fitted(rng).p_values(features(rng, 20)) for _ in range(1_000)])
    for level in (0.01, 0.05, 0.2):  # 99 validation images: exact
        rate = float((p_values <= level).mean())
        assert level == pytest.approx(rate, abs=4 * (level / 1_000) ** 0.5 * 0.5)


def test_images_of_another_kind_have_the_least_p_value() -> None:
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal([0.01] * 40, fitted(rng).p_values(features(rng, 40, turned=True)))


def test_the_length_of_features_tells_nothing() -> None:
    rng = np.random.default_rng(2)
    made, images = fitted(rng), features(rng, 50)
    np.testing.assert_array_equal(made.p_values(images), made.p_values(4 * images))


def test_features_of_zeros_or_no_numbers_are_unlike_all() -> None:
    made = fitted(np.random.default_rng(3))
    images = np.array([[0.0] * 16, [np.nan] * 16], np.float32)
    np.testing.assert_array_equal([0.01, 0.01], made.p_values(images))


def test_an_image_has_one_distance_whatever_its_neighbors() -> None:
    rng = np.random.default_rng(4)
    made, images = fitted(rng), features(rng, 75)
    together = made.p_values(images)
    np.testing.assert_array_equal(together, [made.p_values(images[at : at + 1])[0] for at in range(75)])
    np.testing.assert_array_equal(together[::-1], made.p_values(images[::-1]))


def test_validation_images_have_the_ranks_of_their_own_distances() -> None:
    rng = np.random.default_rng(5)
    val = features(rng, 40)
    made = Novelty.fitted(features(rng, 60), val, units=40)
    np.testing.assert_allclose(np.arange(2, 42) / 41, np.sort(made.p_values(val)))


@pytest.mark.parametrize(("images", "level"), [(99, 0.01), (150, 1 / 151), (199, 0.01), (1000, 10 / 1001), (9, 0.1)])
def test_the_level_is_one_percent_or_the_least_that_the_validation_images_allow(images: int, level: float) -> None:
    assert level == table([0.5] * images).level


LINE = "31 of 400 images are unlike the training photos (4 expected): the report's F1 does not hold for them"


@pytest.mark.parametrize(
    ("validation", "unlike", "images", "line"),
    [
        (199, 31, 400, LINE),
        (199, 12, 400, ""),  # by a binomial of 1 % too many; 199 validation images place that 1 % no better
        (99, 0, 400, ""),
        (
            99,
            1,
            1,
            "1 of 1 image is unlike the training photos (less than 1 expected): the report's F1 does not hold for it",
        ),
        (50, 1, 1, ""),  # so few cannot tell that of one image at 1 %
        (99, 9_000, 10_000, None),
    ],
)
def test_more_unlike_images_than_chance_explains_are_reported(
    validation: int, unlike: int, images: int, line: str | None
) -> None:
    made = table([0.5] * validation)
    found = made.warning([0.0] * unlike + [0.7] * (images - unlike))
    assert found.startswith("9,000 of 10,000 images are unlike") if line is None else line == found


def test_few_independent_validation_images_are_trusted_less() -> None:
    values = [0.0] * 31 + [0.7] * 369
    assert "" == table([0.5] * 199, units=20).warning(values)


def test_usual_images_bring_a_warning_for_one_set_in_a_hundred_at_most() -> None:
    rng = np.random.default_rng(6)
    told = 0
    for _ in range(2_000):
        distances = np.sort(rng.random(150)).astype(np.float32)
        new = rng.random(400)
        farther = len(distances) - np.searchsorted(distances, new)
        told += bool(table(distances.tolist()).warning(((1 + farther) / 151).tolist()))
    assert 5 <= told <= 33  # 1 % of 2,000, give or take three standard errors; a little less as numbers are whole


@pytest.mark.parametrize("found", [0, 1, 20, 199, 200, 201, 400])
def test_the_chance_of_so_many_is_scipys(found: int) -> None:
    assert betabinom.sf(found - 1, 400, 2, 198) == pytest.approx(module._chance(found, 400, 2, 198), abs=1e-9)


def test_a_table_comes_back_from_its_file_with_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    made, images = fitted(rng), features(rng, 30)
    made.save(tmp_path / "one.safetensors")
    again = read_novelty(tmp_path / "one.safetensors")
    assert again is not None
    np.testing.assert_array_equal(made.p_values(images), again.p_values(images))
    assert 99 == again.units
    again.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_run_without_a_table_has_none(tmp_path: Path) -> None:
    assert read_novelty(tmp_path / "novelty.safetensors") is None


GOOD = {
    "mean": np.zeros(2, np.float32),
    "directions": np.eye(2, dtype=np.float16),
    "distances": np.array([0, 1], np.float32),
    "units": np.array([2]),
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing of the kind" * 10,
        save({"mean": GOOD["mean"]}),
        save({**GOOD, "mean": np.zeros(3, np.float32)}),
        save({**GOOD, "mean": np.array([0, np.inf], np.float32)}),
        save({**GOOD, "directions": np.ones(2, np.float16)}),
        save({**GOOD, "directions": np.eye(2, dtype=np.float32)}),
        save({**GOOD, "distances": np.array([1, 0], np.float32)}),
        save({**GOOD, "distances": np.array([0, np.nan], np.float32)}),
        save({**GOOD, "distances": np.array([], np.float32)}),
        save({**GOOD, "units": np.array([1, 2])}),
    ],
)
def test_another_file_in_its_place_is_an_error_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "novelty.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match="does not hold what a run writes") as raised:
        read_novelty(path)
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_told_and_leaves_no_table(tmp_path: Path) -> None:
    path = tmp_path / "novelty.safetensors"
    made = fitted(np.random.default_rng(8), val=2_000)
    with small_files(), pytest.raises(StorageError):
        made.save(path)
    assert [] == list(tmp_path.iterdir())


def test_a_table_is_half_a_megabyte_with_the_features_of_three_stages(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    fitted = Novelty.fitted(features(rng, 150, 3584), features(rng, 1_000, 3584), units=1_000)
    fitted.save(tmp_path / "novelty.safetensors")
    assert (64, 3584) == fitted.directions.shape
    assert 477_376 == (tmp_path / "novelty.safetensors").stat().st_size // 8 * 8


@pytest.mark.parametrize("rows", [np.ones((10, 16), np.float32), np.ones((1, 16), np.float32)])
def test_training_photos_that_are_all_alike_leave_no_directions(rows: np.ndarray) -> None:
    made = Novelty.fitted(rows, np.eye(16, dtype=np.float32)[:3], units=3)
    assert (0, 16) == made.directions.shape
    np.testing.assert_array_equal([1.0], made.p_values(np.ones((1, 16), np.float32)))


def test_a_training_photo_whose_features_are_no_numbers_spoils_no_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    train, val = features(rng, 60), features(rng, 99)
    train[0], val[0] = np.nan, np.inf
    Novelty.fitted(train, val, units=99).save(tmp_path / "novelty.safetensors")
    made = read_novelty(tmp_path / "novelty.safetensors")
    assert made is not None
    np.testing.assert_array_equal([0.01] * 5, made.p_values(features(rng, 5, turned=True)))
