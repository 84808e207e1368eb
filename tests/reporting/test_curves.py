import math

import numpy as np
import pytest

from tests.reporting.pages import words
from tests.reporting.values import classic, history, phase, two_phases
from upcycle.history import History
from upcycle.reporting.curves import curves_figure, planned, schedule_figure

# ---------------------------------------------------------------------------------------- schedule


def test_the_classic_schedule_names_its_first_peak_and_last_rate() -> None:
    found = words(schedule_figure(classic()))
    assert {"first 1e-5", "peak 1e-4", "last 1e-5"} <= set(found)
    assert "50 epochs of 63 steps, set every epoch" in found


def test_a_rate_set_per_epoch_is_drawn_in_steps_over_epochs() -> None:
    line = schedule_figure(classic()).subfigs[0].axes[0].lines[0]
    assert "steps-post" == line.get_drawstyle()
    assert [0, 1, 49] == [line.get_xdata()[at] for at in (0, 1, -1)]


def test_a_constant_rate_is_named_first_and_peak_at_once() -> None:
    assert {"first and peak 1e-4", "last 1e-4"} <= set(words(schedule_figure([phase("train", [1e-4] * 3)])))


def test_momentum_has_a_panel_where_it_varies() -> None:
    still = [phase("train", [1e-4, 2e-4], [0.9, 0.9])]
    assert [1, 2] == [len(schedule_figure(plan).subfigs[0].axes) for plan in (still, two_phases())]


def test_two_phases_stand_beside_each_other() -> None:
    cells = [cell.bbox for cell in schedule_figure(two_phases()).subfigs]
    assert (2, 1) == (len({cell.x0 for cell in cells}), len({cell.y0 for cell in cells}))


def test_the_phases_of_a_plan_that_have_rates_are_drawn() -> None:
    made = {"name": "train", "epochs": 2, "steps_per_epoch": 3, "per": "step", "rates": [{"step": 0, "lr": 0.1}]}
    assert ["train"] == [found.name for found in planned({"phases": [made, {**made, "rates": []}]})]
    assert () == planned(None)


# ------------------------------------------------------------------------------------------ curves


def test_curves_show_both_phases_with_their_best_epochs() -> None:
    found = words(curves_figure(history(4, 6)))
    assert {"Head on frozen features", "○ best: epoch 3", "Fine-tuning", "○ best: epoch 5"} <= set(found)
    assert [1, 1] == [found.count(name) for name in ("training", "validation")]


def test_training_and_validation_differ_in_stroke_and_marker() -> None:
    training, validation = curves_figure(history(0, 6)).axes[0].lines[:2]
    assert [0.5, 0.6] == [training.get_ydata()[0], validation.get_ydata()[0]]
    assert ("--", "s") == (training.get_linestyle(), training.get_marker())
    assert ("-", "o") == (validation.get_linestyle(), validation.get_marker())


def test_a_dashed_line_divides_the_phases() -> None:
    first, second = curves_figure(history(4, 6)).axes[:2]
    styles = [axes.spines["left"].get_linestyle() for axes in (first, second)]
    assert ["solid", (0, (5, 3))] == styles


def test_losses_of_all_phases_share_one_scale() -> None:
    first, second = curves_figure(history(4, 6)).axes[:2]
    assert first.get_ylim() == second.get_ylim()


@pytest.mark.parametrize("rows", [history(0, 1), history(1, 1), history(1, 300)])
def test_short_and_long_runs_can_be_drawn(rows: History) -> None:
    assert "training" in words(curves_figure(rows))


def test_values_that_were_not_finite_leave_a_gap() -> None:
    figure = curves_figure(history(0, 3, val_loss=(0.6, math.nan, 0.2)))
    assert [False, True, False] == np.isnan(figure.axes[0].lines[1].get_ydata()).tolist()


def test_a_run_that_diverged_at_once_can_be_drawn() -> None:
    unknown = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), (math.nan,))
    assert "epoch" in words(curves_figure(history(0, 1, **unknown)))


def test_no_rows_give_a_sentence() -> None:
    assert ["No epoch has finished yet."] == words(curves_figure(History()))


def test_a_loss_that_leaps_leaves_the_others_apart() -> None:
    losses = (0.8, 361.0, 0.6, 0.5)
    figure = curves_figure(history(0, 4, loss=losses, val_loss=losses))
    loss, accuracy = figure.axes[0], figure.axes[1]
    assert ("log", "linear") == (loss.get_yscale(), accuracy.get_yscale())
    assert "logarithmic axis" in words(figure)
    heights = loss.transLimits.transform(loss.transScale.transform([(1, 0.8), (1, 0.5)]))[:, 1]
    assert heights[0] - heights[1] > 0.04
    assert "linear" == curves_figure(history(0, 30)).axes[0].get_yscale()
