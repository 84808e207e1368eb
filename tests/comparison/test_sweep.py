import json
import math
from pathlib import Path
from typing import Any

import pytest

from upcycle.comparison.sweep import Cell, Grid, Sweep, read_grid, resumed, seeds_from
from upcycle.comparison.variants import variants_of
from upcycle.errors import ConfigError, RunError
from upcycle.history import Row
from upcycle.rundir import RunDir, append_line, read_json, write_json, write_text


def grid(out: Path, names: str = "probe,constant,constant-tuned", seeds: int = 2, **common: Any) -> Grid:
    return Grid(Path("/photos"), variants_of(names.split(",")), seeds_from(0, seeds), common, out)


def finish(cell: Cell, *, seconds: float = 10.0, val_loss: float = 0.5, weights: str = "a", retries: int = 0) -> None:
    run = RunDir(cell.path)
    run.set_status("finished", seconds=seconds)
    write_json(run.config, {**cell.config.to_dict(), "data": "/photos", "weights_sha256": weights})
    append_line(run.history, Row("finetune", 1, 1, 1e-4, 0.9, 0.5, 0.9, val_loss, 0.9, 0.9, retries=retries).to_dict())
    write_json(run.evaluation, {})
    write_text(run.predictions("test"), "path\n")


# ----------------------------------------------------------------------------------------- grid


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


# ---------------------------------------------------------------------------------------- cells


def test_cells_of_one_configuration_are_one_run(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path))
    _, constant, tuned = sweep.grid.variants
    trials = {trial.lr: trial.path.name for trial in sweep.trials(tuned)}
    assert "constant-seed-0" == trials[1e-4] == sweep.cells(constant)[0].path.name
    assert "constant-tuned-rate-3e-05-seed-0" == trials[3e-5]


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [((0.1, 0.3, 0.2, 0.4), 1e-5), ((0.1, math.inf, 0.3, math.inf), 1e-5), ((math.inf, 0.2, 0.3, 0.5), 3e-5)],
)
def test_every_rate_is_tried_and_the_lowest_validation_loss_chosen(
    tmp_path: Path, losses: tuple[float, ...], chosen: float
) -> None:
    sweep = Sweep(grid(tmp_path))
    tuned = sweep.grid.variants[2]
    for trial, loss in zip(sweep.trials(tuned), losses, strict=True):
        assert (None, ()) == (sweep.rate(tuned), sweep.cells(tuned))
        if loss == math.inf:
            sweep.failed[trial.path] = "the loss is not finite"
        else:
            finish(trial, val_loss=loss)
    assert chosen == sweep.rate(tuned)
    assert [f"constant-tuned-rate-{chosen:g}-seed-{seed}" for seed in (0, 1)] == [
        cell.path.name for cell in sweep.cells(tuned)
    ]


def test_a_rate_at_which_the_loss_exploded_is_not_chosen(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path))
    tuned = sweep.grid.variants[2]
    for trial in sweep.trials(tuned):
        high = trial.lr == 3e-4
        finish(trial, val_loss=0.1 if high else 0.4, retries=int(high))
    assert sweep.rate(tuned) != 3e-4


def test_the_time_left_is_that_of_the_runs_to_come_once_their_variants_are_timed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path))
    probe, constant, tuned = sweep.grid.variants
    assert (0, 8, None) == sweep.progress()
    finish(sweep.cells(probe)[0], seconds=10)
    finish(sweep.cells(constant)[0], seconds=100)
    assert (2, 8, None) == sweep.progress()
    finish(sweep.trials(tuned)[0], seconds=50)
    # a probe, a constant, two trials and a tuned run
    assert (3, 8, 10 + 100 + 2 * 50 + 50) == sweep.progress()


def test_a_failed_run_is_done(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    sweep.failed[sweep.cells(sweep.grid.variants[0])[0].path] = "no room"
    assert (1, 4) == sweep.progress()[:2]


def test_runs_of_one_variant_with_another_input_are_not_mixed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    first, second = sweep.cells(sweep.grid.variants[0])
    for cell, value in ((first, 0.5), (second, 0.1)):
        finish(cell)
        write_json(RunDir(cell.path).model, {"preprocessing": {"mean": [value] * 3, "source": cell.path.name}})
    assert sweep.finished(first)
    with pytest.raises(RunError, match="were trained with other input for the variant probe"):
        sweep.finished(second)


def test_two_networks_have_weights_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "lite.toml").write_text('arch = "tf_efficientnet_lite0"', encoding="utf-8")
    sweep = Sweep(grid(tmp_path, f"probe,{tmp_path / 'lite.toml'}"))
    cells = [sweep.cells(variant)[0] for variant in sweep.grid.variants]
    for cell, weights in zip(cells, "ab", strict=True):
        finish(cell, weights=weights)
    assert all(sweep.finished(cell) for cell in cells)


def test_runs_of_other_weights_under_the_same_name_are_not_mixed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    first, second = sweep.cells(sweep.grid.variants[0])
    finish(first, weights="a")
    finish(second, weights="b")
    assert sweep.finished(first)
    with pytest.raises(RunError, match="were trained with other weights auto of resnet50. Choose another --out"):
        sweep.finished(second)


def test_runs_of_another_split_are_not_mixed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    cells = [sweep.cells(variant)[0] for variant in sweep.grid.variants]
    for cell in cells:
        finish(cell)
        RunDir(cell.path).splits.write_text(cell.path.name)
    assert sweep.finished(cells[0])
    with pytest.raises(RunError, match="were trained with other images or split"):
        sweep.finished(cells[1])


@pytest.mark.parametrize("name", ["config.json", "model.json"])
def test_a_strangers_run_in_the_grid_is_one_error(tmp_path: Path, name: str) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    cell = sweep.cells(sweep.grid.variants[0])[0]
    finish(cell)
    (cell.path / name).write_text("[1]")
    with pytest.raises(RunError, match=f"{name} is damaged"):
        sweep.finished(cell)


def test_a_damaged_run_counts_as_failed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    cell = sweep.cells(sweep.grid.variants[0])[0]
    finish(cell)
    group, other = sweep.groups()
    assert ((), 1, ()) == (group.runs, len(group.failed), other.failed)
