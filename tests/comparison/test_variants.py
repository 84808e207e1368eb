import json
from pathlib import Path
from typing import Any

import pytest

from upcycle.comparison.variants import VARIANTS, Grid, check_common, read_grid, resumed, seeds_from, variants_of
from upcycle.errors import ConfigError, RunError
from upcycle.recipes import resolve, without_effect
from upcycle.rundir import read_json, write_json


def test_the_built_in_variants_end_with_our_default() -> None:
    assert ["simple-cnn", "probe-last", "probe", "constant", "constant-tuned", "classic", "default"] == list(VARIANTS)


def test_the_base_fine_tune_is_classic_but_for_the_schedule() -> None:
    constant, classic = (
        resolve(VARIANTS[name].over({"arch": "resnet50"}, seed=1, split_seed=0)).to_dict()
        for name in ("constant", "classic")
    )
    assert {"schedule": ("constant", "ramp-sustain-decay")} == {
        name: (constant[name], classic[name]) for name in constant if constant[name] != classic[name]
    }
    assert 1e-4 == constant["lr"]


def test_the_tuned_rate_is_chosen_from_four() -> None:
    assert (1e-5, 3e-5, 1e-4, 3e-4) == VARIANTS["constant-tuned"].rates
    assert 3e-4 == VARIANTS["constant-tuned"].over({}, seed=0, split_seed=0, lr=3e-4)["lr"]


def test_common_options_reach_every_variant_but_never_undo_what_makes_it() -> None:
    common = {"arch": "resnet18", "weights": "/w.safetensors", "image_size": 64, "epochs": 7, "bn": "frozen"}
    made = {
        name: resolve(variant.over(common, seed=4, split_seed=0))
        for name, variant in VARIANTS.items()
        if not variant.rates
    }
    assert {64} == {config.image_size for config in made.values()}
    assert {(4, 0)} == {(config.seed, config.split_seed) for config in made.values()}
    assert {"simple-cnn": "simple-cnn"} == {name: c.arch for name, c in made.items() if c.arch != "resnet18"}
    assert ("none", "train", "frozen") == (made["simple-cnn"].weights, made["simple-cnn"].bn, made["classic"].bn)
    assert {"probe-last": 0, "probe": 0} == {name: config.epochs for name, config in made.items() if config.epochs != 7}


def test_a_toml_file_is_a_variant_by_its_own_name_and_wins_over_common_options(tmp_path: Path) -> None:
    file = tmp_path / "gentle.toml"
    file.write_text('recipe = "default"\nlr_max = 1e-4\n')
    _, mine = variants_of(["probe", str(file)])
    config = resolve(mine.over({"batch_size": 8, "epochs": 5}, seed=0, split_seed=0))
    assert ("gentle", 1e-4, 8) == (mine.name, config.lr, config.batch_size)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["probe", "classik"], "unknown variant 'classik': choose from simple-cnn, probe-last, probe, constant"),
        (["probe"], "a comparison needs 2 or more variants"),
        (["probe", "probe"], "two variants are called 'probe'"),
        (["probe", "absent.toml"], "configuration absent.toml does not exist"),
    ],
)
def test_variants_that_cannot_be_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variants_of(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 3", "sets seed, which is the same for all variants"),
        ("test_fraction = 0.3", "sets test_fraction, which is the same for all variants"),
        ("epoch = 3", "unknown option 'epoch'"),
        ("lr = -1.0", "lr = -1.0"),
    ],
)
def test_a_toml_variant_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        variants_of(["probe", str(file)])


@pytest.mark.parametrize("name", ["classic", "x" * 101, "back\\slash"])
def test_a_toml_file_needs_a_name_of_its_own_that_fits_a_folders(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.toml"
    file.write_text("epochs = 9")
    with pytest.raises(ConfigError, match="a variant needs its own name of up to 100 bytes. Rename the file"):
        variants_of(["probe", str(file)])


@pytest.mark.parametrize(
    "options", [{"recipe": "classic"}, {"lr": 1e-4}, {"schedule": "constant"}, {"folds": 3}, {"split_seed": 1}]
)
def test_what_the_grid_sets_itself_is_no_common_option(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        check_common(options)


def test_an_option_of_another_schedule_is_reported() -> None:
    lines = without_effect({"pct_start": 0.3, "lr": 0.1}, resolve({"schedule": "constant", "pct_start": 0.3}))
    assert ["pct_start has no effect: it is for the schedule one-cycle, and this one is constant"] == lines
    assert [] == without_effect({"pct-start": 0.3, "lr_max": 0.1}, resolve({}))


# ----------------------------------------------------------------------------------------- grid


def grid(out: Path, names: str = "probe,constant,constant-tuned", seeds: int = 2, **common: Any) -> Grid:
    return Grid(Path("/photos"), variants_of(names.split(",")), seeds_from(0, seeds), common, out)


def test_a_grid_is_saved_whole(tmp_path: Path) -> None:
    made = grid(tmp_path, image_size=64, cache="/a", on_divergence="retry")
    made.save()
    assert made == read_grid(tmp_path)


def test_options_that_change_no_result_may_differ_on_resuming(tmp_path: Path) -> None:
    saved = grid(tmp_path, image_size=64, cache="/a", workers=2)
    made = resumed(saved, grid(tmp_path, image_size=64, cache="/b", checkpoint_every=0))
    assert {"image_size": 64, "cache": "/b", "workers": 2, "checkpoint_every": 0} == made.common


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": "probe,default"}, "was started with variants .*constant.*Choose another --out"),
        ({"seeds": 3}, "was started with seeds \\[0, 1\\], not \\[0, 1, 2\\]. Choose another --out"),
        ({"image_size": 32}, "was started with options {'image_size': 64}, not {'image_size': 32}"),
    ],
)
def test_another_grid_is_refused_in_one_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        resumed(grid(tmp_path, image_size=64), grid(tmp_path, **{"image_size": 64, **changed}))


def test_a_variant_whose_file_has_changed_is_refused(tmp_path: Path) -> None:
    file, made = tmp_path / "mine.toml", []
    for text in ("epochs = 5", "epochs = 6"):
        file.write_text(text)
        made.append(grid(tmp_path / "out", f"probe,{file}"))
    with pytest.raises(RunError, match="was started with variants"):
        resumed(made[0], made[1])


@pytest.mark.parametrize("count", [0, -1, 101])
def test_seeds_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="out of range: use 1 to 100"):
        seeds_from(0, count)


def test_a_grid_of_an_earlier_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_json(tmp_path / "grid.json", {"data": "/photos", "common": {}, "seeds": 3})
    with pytest.raises(RunError, match=r"by an earlier version and cannot resume. Compare its runs with `upcycle"):
        read_grid(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"variants": {"../../zz": {}}},
        {"variants": {"a": [1]}},
        {"smallest_difference": -3.0},
        {"seeds": [10**12]},
        {"seeds": []},
        {"data": 3},
    ],
)
def test_a_strangers_grid_leads_nowhere(tmp_path: Path, changed: dict[str, Any]) -> None:
    made = grid(tmp_path)
    made.save()
    made.file.write_text(json.dumps({**read_json(made.file), **changed}))
    with pytest.raises(RunError, match="does not hold a comparison's grid"):
        read_grid(tmp_path)
