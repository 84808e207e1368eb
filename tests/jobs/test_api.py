"""The Python interface: what its words mean, before anything is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import upcycle
from upcycle.errors import ConfigError


@pytest.mark.parametrize("place", [["a", "b"], {"train": "a"}, np.zeros((2, 2)), 5, b"photos"], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        upcycle.train,
        upcycle.scan,
        upcycle.compare,
        upcycle.load,
        upcycle.Run,
        lambda place: upcycle.train("photos", out=place),
        lambda place: upcycle.scan("photos", out=place),
        lambda place: upcycle.compare("photos", out=place),
        lambda place: upcycle.train("photos", config=place),
    ],
)
def test_what_is_no_path_is_one_line(call: Callable[[Any], object], place: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"^a value of type {type(place).__name__} is no path: give one [a-zA-Z ,]+$"
    ):
        call(place)


@pytest.mark.parametrize("options", [{"seeds": True}, {"seeds": "3"}, {"smallest_difference": "1"}])
def test_what_is_no_number_is_one_line(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^(seeds|smallest_difference) = .* is (not a whole number|not a number of points)$"
    ):
        upcycle.compare(tmp_path, **options)


def test_the_path_of_a_result_outlives_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [kind(Path("out")) for kind in (upcycle.Run, upcycle.Scan)]
    monkeypatch.chdir("/")
    assert [tmp_path / "out"] * 2 == [result.path for result in made]


def test_a_deadline_that_is_none_leaves_no_folder(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="deadline = 'soon' is no duration"):
        upcycle.train(photos, weights=str(tiny_weights), deadline="soon")
    assert not list(tmp_path.iterdir())
