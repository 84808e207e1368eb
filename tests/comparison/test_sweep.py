import math
from pathlib import Path
from typing import Any

import pytest

from upcycle.comparison.grid import Cell, Grid, seeds_from
from upcycle.comparison.ladder import rungs
from upcycle.comparison.sweep import Progress, remaining, rounds
from upcycle.errors import RunError
from upcycle.recipes import resolve
from upcycle.rundir import RunDir, append_line, read_json, write_json, write_text


def grid(out: Path, names: str = "probe,constant,constant-tuned", seeds: int = 2, **common: Any) -> Grid:
    return Grid(Path("/photos"), rungs(names.split(",")), seeds_from(0, seeds), common, out)


def finish(
    progress: Progress,
    cell: Cell | None,
    *,
    seconds: float = 10.0,
    val_loss: float = 0.5,
    weights: str = "a",
    retries: int = 0,
) -> None:
    assert cell is not None
    run = RunDir(progress.place(cell))
    run.set_status("finished", seconds=seconds)
    write_json(run.config, {**resolve(cell.options).to_dict(), "data": "/photos", "weights_sha256": weights})
    append_line(run.history, {"phase": "finetune", "val_loss": val_loss, "retries": retries})
    write_json(run.evaluation, {})
    write_text(run.predictions("test"), "path\n")


def test_cells_of_one_configuration_are_one_run(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path))
    _, constant, tuned = progress.grid.rungs
    trials = {trial.options["lr"]: progress.place(trial).name for trial in progress.trials(tuned)}
    assert "constant-seed-0" == trials[1e-4] == progress.place(progress.cell(constant, 0)).name
    assert "constant-tuned-rate-3e-05-seed-0" == trials[3e-5]


def trained(progress: Progress, losses: dict[float, float]) -> list[float]:
    """The rates that are tried one after the other, if their validation losses are these; infinite: it fails."""
    tuned, order = progress.grid.rungs[2], []
    while waiting := [cell for cell in progress.trials(tuned) if not progress.done(cell)]:
        order.append(float(waiting[-1].options["lr"]))
        if losses[order[-1]] == math.inf:
            progress.failed[progress.place(waiting[-1])] = "the loss is not finite"
        else:
            finish(progress, waiting[-1], val_loss=losses[order[-1]])
    return order


@pytest.mark.parametrize(
    ("losses", "order", "chosen"),
    [
        ((0.1, 0.3, 0.2, 0.4), [3e-4, 1e-4, 3e-5], 1e-4),  # the best of those tried lies between two others
        ((0.1, 0.3, 0.4, 0.2), [3e-4, 1e-4, 3e-5], 3e-4),  # there is no higher one
        ((0.4, 0.2, 0.3, 0.5), [3e-4, 1e-4, 3e-5, 1e-5], 3e-5),
        ((0.1, 0.2, 0.3, 0.5), [3e-4, 1e-4, 3e-5, 1e-5], 1e-5),
        ((0.1, 0.2, 0.3, math.inf), [3e-4, 1e-4, 3e-5, 1e-5], 1e-5),
        ((math.inf, 0.2, 0.3, 0.5), [3e-4, 1e-4, 3e-5, 1e-5], 3e-5),
        ((0.1, math.inf, 0.3, math.inf), [3e-4, 1e-4, 3e-5], 1e-4),
    ],
)
def test_rates_are_tried_from_the_middle_until_the_best_lies_between_others_or_there_is_none_beyond(
    tmp_path: Path, losses: tuple[float, ...], order: list[float], chosen: float
) -> None:
    progress = Progress(grid(tmp_path))
    tuned = progress.grid.rungs[2]
    assert (None, None) == (progress.chosen(tuned), progress.cell(tuned, 0))
    assert order == trained(progress, dict(zip(tuned.rates, losses, strict=True)))
    assert chosen == progress.chosen(tuned)
    assert f"seed-{1}" in progress.place(progress.cell(tuned, 1)).name


def test_a_chosen_rate_stays_when_its_trial_is_found_damaged_later(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path))
    tuned = progress.grid.rungs[2]
    trained(progress, {3e-5: 0.3, 1e-4: 0.2, 3e-4: 0.4})
    progress.failed[progress.place(progress.trials(tuned)[1])] = "damaged"
    assert 1e-4 == progress.chosen(tuned)
    assert 3 == len(progress.trials(tuned))


def test_a_rate_that_was_tried_besides_is_taken_as_well(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path))
    tuned = progress.grid.rungs[2]
    finish(progress, Cell(tuned, 0, progress.grid.options(tuned, 0, 1e-5), trial=True), val_loss=0.05)
    trained(progress, {3e-5: 0.3, 1e-4: 0.2, 3e-4: 0.4})
    assert [1e-5, 3e-5, 1e-4, 3e-4] == [trial.options["lr"] for trial in progress.trials(tuned)]
    assert 1e-5 == progress.chosen(tuned)


def test_the_rung_whose_rate_is_chosen_comes_last_of_the_first_round(tmp_path: Path) -> None:
    first, *_ = rounds(Progress(grid(tmp_path, "constant-tuned,probe,default")))
    assert ["probe", "default", "constant-tuned"] == [rung.name for rung, _ in first]


def test_the_time_left_is_that_of_the_runs_to_come_as_far_as_their_rungs_are_timed(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path))
    probe, constant, tuned = progress.grid.rungs
    assert (0, 7, 0.0, ("probe", "constant", "constant-tuned")) == (*vars(remaining(progress)).values(),)
    finish(progress, progress.cell(probe, 0), seconds=10)
    finish(progress, progress.cell(constant, 0), seconds=100)
    rest = remaining(progress)
    # a probe, a constant, two trials that take as long as the one that is constant's too, and a tuned run
    assert (2, 7, 10 + 100 + 2 * 100 + 100, ()) == (rest.done, rest.total, rest.seconds, rest.untimed)
    for trial in progress.trials(tuned):
        if not progress.finished(trial):
            finish(progress, trial, seconds=50, val_loss=0.4 if trial.options["lr"] == 3e-4 else 0.9)
    assert (4, 7) == (remaining(progress).done, remaining(progress).total)


def test_a_failed_run_is_done_with(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path, "probe,default"))
    progress.failed[progress.place(progress.cell(progress.grid.rungs[0], 0))] = "no room"
    rest = remaining(progress)
    assert (1, 4) == (rest.done, rest.total)


def test_a_trial_that_succeeds_later_may_change_the_chosen_rate_without_a_clash(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path))
    tuned = progress.grid.rungs[2]
    trained(progress, {3e-5: 0.4, 1e-4: 0.2, 3e-4: math.inf})
    finish(progress, progress.cell(tuned, 1))
    again = Progress(grid(tmp_path))
    finish(again, again.trials(tuned)[2], val_loss=0.1)
    assert not again.finished(again.cell(tuned, 1))


def test_a_rung_that_is_added_later_takes_over_the_run_that_is_its_own(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path, "probe,constant-tuned"))
    finish(progress, progress.trials(progress.grid.rungs[1])[1])
    more = Progress(grid(tmp_path))
    assert more.finished(more.cell(more.grid.rungs[1], 0))


def test_runs_of_one_rung_with_another_input_are_not_mixed(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path, "probe,default"))
    for seed, mean in ((0, 0.5), (1, 0.1)):
        cell = progress.cell(progress.grid.rungs[0], seed)
        finish(progress, cell)
        write_json(RunDir(progress.place(cell)).model, {"preprocessing": {"mean": [mean] * 3, "source": str(seed)}})
    assert progress.finished(progress.cell(progress.grid.rungs[0], 0))
    with pytest.raises(RunError, match="were trained with other input for the rung probe"):
        progress.finished(progress.cell(progress.grid.rungs[0], 1))


def test_two_networks_have_weights_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "lite.toml").write_text('arch = "tf_efficientnet_lite0"', encoding="utf-8")
    progress = Progress(grid(tmp_path, f"probe,{tmp_path / 'lite.toml'}"))
    for rung, weights in zip(progress.grid.rungs, "ab", strict=True):
        finish(progress, progress.cell(rung, 0), weights=weights)
    assert all(progress.finished(progress.cell(rung, 0)) for rung in progress.grid.rungs)


def test_a_rate_that_did_not_hold_is_not_chosen(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path))
    tuned = progress.grid.rungs[2]
    while waiting := [cell for cell in progress.trials(tuned) if not progress.done(cell)]:
        high = waiting[-1].options["lr"] == 3e-4
        finish(progress, waiting[-1], val_loss=0.1 if high else 0.4, retries=int(high))
    assert progress.chosen(tuned) != 3e-4


def test_runs_of_other_weights_under_the_same_name_are_not_mixed(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path, "probe,default"))
    probe = progress.grid.rungs[0]
    finish(progress, progress.cell(probe, 0), weights="a")
    finish(progress, progress.cell(probe, 1), weights="b")
    assert progress.finished(progress.cell(probe, 0))
    with pytest.raises(RunError, match="were trained with other weights auto of resnet50: give another --out"):
        progress.finished(progress.cell(probe, 1))


def test_a_run_that_differs_in_an_option_without_effect_is_taken(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path, "probe,classic"))
    probe, classic = (progress.cell(rung, 0) for rung in progress.grid.rungs)
    finish(progress, probe)
    finish(progress, classic)
    for cell, other in ((probe, {"batch_size": 64}), (classic, {"lr_adapt": True})):
        file = RunDir(progress.place(cell)).config
        write_json(file, {**read_json(file), **other})
    assert all(Progress(progress.grid).finished(cell) for cell in (probe, classic))


def test_runs_of_another_split_are_not_mixed(tmp_path: Path) -> None:
    progress = Progress(grid(tmp_path, "probe,default"))
    for seed, rung in enumerate(progress.grid.rungs):
        cell = progress.cell(rung, 0)
        finish(progress, cell)
        RunDir(progress.place(cell)).splits.write_text(f"another {seed}")
    assert progress.finished(progress.cell(progress.grid.rungs[0], 0))
    with pytest.raises(RunError, match="were trained with other images or split"):
        progress.finished(progress.cell(progress.grid.rungs[1], 0))
