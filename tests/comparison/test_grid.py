from pathlib import Path
from typing import Any

import pytest

from upcycle.comparison.grid import Grid, check_same, read_grid, seeds_from, write_grid
from upcycle.comparison.ladder import rungs
from upcycle.errors import ConfigError, RunError
from upcycle.rundir import write_json


def grid(out: Path, names: str = "probe,constant", seeds: int = 2, **common: Any) -> Grid:
    return Grid(Path("/photos"), rungs(names.split(",")), seeds_from(0, seeds), common, out)


def test_more_rungs_and_more_seeds_are_welcome_later(tmp_path: Path) -> None:
    write_grid(grid(tmp_path, "probe,default", seeds=1, image_size=64))
    check_same(grid(tmp_path, "probe,constant,default", seeds=3, image_size=64))


def test_options_that_change_no_result_may_differ_later(tmp_path: Path) -> None:
    write_grid(grid(tmp_path, image_size=64, cache="/a"))
    check_same(grid(tmp_path, image_size=64, cache="/b", workers=2, checkpoint_every=0))


def test_options_that_change_no_result_are_remembered(tmp_path: Path) -> None:
    write_grid(grid(tmp_path, image_size=64, cache="/a", on_divergence="retry"))
    assert {"cache": "/a", "on_divergence": "retry"} == read_grid(tmp_path / "grid.json")["free"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": "probe,default"}, "has the rung constant already: name all, --rungs probe,constant,default"),
        ({"seeds": 1}, "was begun with 2 seeds: give as many or more"),
    ],
)
def test_what_was_compared_is_not_left_out_later(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write_grid(grid(tmp_path))
    with pytest.raises(RunError, match=message):
        check_same(grid(tmp_path, **changed))


@pytest.mark.parametrize("changed", [{"image_size": 32}, {}])
def test_other_options_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    write_grid(grid(tmp_path, image_size=64))
    with pytest.raises(RunError, match="was begun with options"):
        check_same(grid(tmp_path, **changed))


def test_another_rung_of_the_same_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for text in ("epochs = 5", "epochs = 6"):
        file.write_text(text)
        made = grid(tmp_path / "out", f"probe,{file}")
        if not made.file.exists():
            write_grid(made)
    with pytest.raises(RunError, match="other options for the rung mine"):
        check_same(made)


@pytest.mark.parametrize("count", [0, -1, 101])
def test_seeds_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="out of range: use 1 to 100"):
        seeds_from(0, count)


@pytest.mark.parametrize("text", ["[1]", '{"version": 1}', '{"data": 3}'])
def test_a_damaged_grid_is_refused(tmp_path: Path, text: str) -> None:
    made = grid(tmp_path)
    made.file.write_text(text)
    with pytest.raises(RunError, match="does not hold a comparison's grid"):
        check_same(made)


@pytest.mark.parametrize(
    "changed", [{"rungs": {"../../zz": {}}}, {"rungs": {"a": [1]}}, {"smallest_difference": -3.0}, {"seeds": 10**9}]
)
def test_a_strangers_grid_leads_nowhere(tmp_path: Path, changed: dict[str, Any]) -> None:
    made = grid(tmp_path)
    write_json(made.file, {**made.to_dict(), **changed})
    with pytest.raises(RunError, match="does not hold a comparison's grid"):
        check_same(made)
