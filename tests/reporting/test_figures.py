import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.reporting.pages import words
from tests.reporting.values import PETS, classic, evaluation, history, metric, one_cycle, phase
from upcycle.evaluation.calibration import Bin
from upcycle.evaluation.results import Metric
from upcycle.history import History
from upcycle.reporting.figures import (
    confusion_figure,
    curves_figure,
    metrics_figure,
    overlaid_figure,
    phase_name,
    planned,
    reliability_figure,
    schedule_figure,
)
from upcycle.reporting.style import png

HOSTILE = ["<script>alert(1)</script>", "a\"b'c & $\\frac{$\x00\n\u202e", "猫", "\udcff", "x" * 300]

# ---------------------------------------------------------------------------------------- schedule


def test_the_classic_schedule_names_its_first_peak_and_last_rate() -> None:
    found = words(schedule_figure(classic()))
    assert {"first 1e-5", "peak 1e-4", "last 1e-5"} <= set(found)
    assert "Training: 50 epochs of 63 steps, set every epoch" in found


def test_a_rate_set_per_epoch_is_drawn_in_steps_over_epochs() -> None:
    line = schedule_figure(classic()).axes[0].lines[0]
    assert "steps-post" == line.get_drawstyle()
    assert [0, 1, 49] == [line.get_xdata()[at] for at in (0, 1, -1)]


def test_a_constant_rate_is_named_first_and_peak_at_once() -> None:
    assert {"first and peak 1e-4", "last 1e-4"} <= set(words(schedule_figure(phase("train", [1e-4] * 3))))


def test_momentum_has_a_panel_where_it_varies() -> None:
    still = phase("train", [1e-4, 2e-4], [0.9, 0.9])
    assert [1, 2] == [len(schedule_figure(plan).axes) for plan in (still, one_cycle())]


def test_several_plans_share_their_axes_and_differ_in_stroke_and_marker() -> None:
    figure = overlaid_figure({"a $x_1$": one_cycle(), "b": phase("train", [2e-4] * 3, [0.9] * 3), "c": one_cycle()})
    rates, momenta = figure.axes
    assert [3, 3] == [len(rates.lines), len(momenta.lines)]
    assert 3 == len({str(line._dash_pattern) for line in rates.lines})
    assert 3 == len({line.get_marker() for line in rates.lines})
    assert [0, 1, 2] == list(rates.lines[0].get_xdata())
    assert ("linear", "learning rate") == (rates.get_yscale(), rates.get_title(loc="left"))
    assert {"a $x_1$", "b", "c"} <= {text.get_text() for text in figure.legends[0].get_texts()}
    assert png(figure)


def test_rates_far_apart_are_drawn_on_a_logarithmic_axis() -> None:
    figure = overlaid_figure({"a": phase("train", [1e-2, 1e-3], [0.9, 0.9]), "b": classic()})
    assert "log" == figure.axes[0].get_yscale()
    assert "steps-post" == figure.axes[0].lines[1].get_drawstyle()


def test_the_phase_of_a_plan_that_has_rates_is_drawn() -> None:
    made = {"name": "train", "epochs": 2, "steps_per_epoch": 3, "per": "step", "rates": [{"step": 0, "lr": 0.1}]}
    found = planned({"phases": [{**made, "name": "head"}, made, {**made, "name": "finetune", "rates": []}]})
    assert found is not None
    assert "train" == found.name
    assert planned({}) is None


def test_a_phase_of_another_name_keeps_it() -> None:
    assert ["Fine-tuning", "warm"] == [phase_name("finetune"), phase_name("warm")]


# ------------------------------------------------------------------------------------------ curves


def test_curves_show_loss_and_accuracy_with_a_ring_at_the_best_epoch() -> None:
    figure = curves_figure(history(6))
    found = words(figure)
    assert {"loss", "accuracy"} <= set(found)
    assert [1, 1] == [found.count(name) for name in ("training", "validation")]
    assert [5, 5] == [axes.lines[-1].get_xdata()[0] for axes in figure.axes]


def test_training_and_validation_differ_in_stroke_and_marker() -> None:
    training, validation = curves_figure(history(6)).axes[0].lines[:2]
    assert [0.5, 0.6] == [training.get_ydata()[0], validation.get_ydata()[0]]
    assert ("--", "s") == (training.get_linestyle(), training.get_marker())
    assert ("-", "o") == (validation.get_linestyle(), validation.get_marker())


@pytest.mark.parametrize("rows", [history(1), history(2), history(300)])
def test_short_and_long_runs_can_be_drawn(rows: History) -> None:
    assert "training" in words(curves_figure(rows))


def test_values_that_were_not_finite_leave_a_gap() -> None:
    figure = curves_figure(history(3, val_loss=(0.6, math.nan, 0.2)))
    assert [False, True, False] == np.isnan(figure.axes[0].lines[1].get_ydata()).tolist()


def test_a_run_that_diverged_at_once_can_be_drawn() -> None:
    unknown = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), (math.nan,))
    assert "epoch" in words(curves_figure(history(1, **unknown)))


def test_no_rows_give_a_sentence() -> None:
    assert ["No epoch has finished yet."] == words(curves_figure(History()))


def test_a_loss_that_leaps_leaves_the_others_apart() -> None:
    losses = (0.8, 361.0, 0.6, 0.5)
    figure = curves_figure(history(4, loss=losses, val_loss=losses))
    loss, accuracy = figure.axes[0], figure.axes[1]
    assert ("log", "linear") == (loss.get_yscale(), accuracy.get_yscale())
    assert "logarithmic axis" in words(figure)
    heights = loss.transLimits.transform(loss.transScale.transform([(1, 0.8), (1, 0.5)]))[:, 1]
    assert heights[0] - heights[1] > 0.04
    assert "linear" == curves_figure(history(30)).axes[0].get_yscale()


# --------------------------------------------------------------------------- scores and confusion


def test_cells_hold_counts_and_shares_of_their_row() -> None:
    found = words(confusion_figure(PETS))
    assert ["71", "94.7 %", "4", "5.3 %", "3", "3.5 %", "82", "96.5 %"] == [word for word in found if word[0].isdigit()]
    assert {"cats", "dogs", "true class", "predicted class"} <= set(found)


@pytest.mark.parametrize("size", [2, 5, 12, 20, 50])
def test_confusion_matrices_of_up_to_50_classes_name_each_class_twice(size: int) -> None:
    found = words(confusion_figure(evaluation([f"species {at}" for at in range(size)])))
    assert [2] * size == [found.count(f"species {at}") for at in range(size)]


def test_of_more_than_50_classes_those_with_most_mistakes_are_shown() -> None:
    counts = np.eye(60, dtype=int)
    counts[3, 57] = 5
    found = words(confusion_figure(evaluation([f"species {at}" for at in range(60)], counts.tolist())))
    assert "The 50 classes with most mistakes; 10 more are left out." in found
    assert [2, 2, 0] == [found.count(f"species {at}") for at in (3, 57, 56)]


def test_a_class_without_test_images_has_an_empty_row() -> None:
    found = words(confusion_figure(evaluation(["a", "b"], [[0, 0], [1, 3]])))
    assert ["0", "0", "1", "25.0 %", "3", "75.0 %"] == [word for word in found if word[0].isdigit()]


def test_scores_are_drawn_with_their_intervals_best_first() -> None:
    figure = metrics_figure(evaluation(["low", "high"]))
    found = words(figure)
    assert {"0.500 (0.450 to 0.550)", "0.700 (0.650 to 0.750)"} <= set(found)
    assert ["low", "high", "macro average"] == [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [0.45, 0.55] == pytest.approx(figure.axes[0].lines[0].get_xdata())


def test_the_average_has_another_marker_than_the_classes() -> None:
    markers = [line.get_marker() for line in metrics_figure(PETS).axes[0].lines]
    assert ["|", "o", "|", "o", "|", "D"] == markers[:6]


def test_a_score_that_is_unknown_leaves_its_row_empty() -> None:
    values, unknown = evaluation(["a", "b"]), Metric(math.nan, math.nan, math.nan, "")
    scores = {**values.per_class, "a": replace(values.per_class["a"], f1=unknown)}
    labels = metrics_figure(replace(values, per_class=scores)).axes[0].get_yticklabels()
    assert ["a", "b", "macro average"] == [label.get_text() for label in labels]


def test_names_are_taken_as_they_are() -> None:
    for figure in (confusion_figure(evaluation(HOSTILE)), metrics_figure(evaluation(HOSTILE))):
        found = words(figure)
        assert any(word.startswith("<script>aler") for word in found)
        assert any(word.startswith("a\"b'c & $\\") for word in found)
        assert {"猫", "\\udcff"} <= set(found)
        assert b"\x89PNG" == png(figure, dpi=30)[:4]


@pytest.mark.parametrize("size", [2, 3, 6, 12, 25])
def test_what_a_cell_holds_is_no_wider_than_the_cell(size: int) -> None:
    counts = (np.eye(size, dtype=int) * 12_000 + 345).tolist()
    figure = confusion_figure(evaluation([f"{at:018}" for at in range(size)], counts))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    axes = figure.axes[0]
    cell = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    assert axes.texts
    assert max(text.get_window_extent(renderer).width for text in axes.texts) <= cell


def test_no_accuracy_above_100_percent_is_marked() -> None:
    axes = curves_figure(history(4, accuracy=[1.0] * 4, val_accuracy=[1.0] * 4)).axes[1]
    low, high = axes.get_ylim()
    assert 1.0 == pytest.approx(max(tick for tick in axes.get_yticks() if low <= tick <= high))


# ------------------------------------------------------------------------------------ reliability


def test_the_reliability_of_answers_is_drawn_beside_the_even_line() -> None:
    made = [Bin(20, 0.7, metric(0.5, 0.3, 0.7)), Bin(20, 0.95, metric(0.9, 0.7, 0.98))]
    found = reliability_figure({"without temperature": (made, metric(0.125, 0.05, 0.3))})
    even, *bars, line = found.axes[0].lines
    assert [0.7, 0.95] == list(line.get_xdata())
    assert [0.5, 0.9] == list(line.get_ydata())
    assert list(even.get_xdata()) == list(even.get_ydata())
    assert [[0.3, 0.7], [0.7, 0.98]] == [list(bar.get_ydata()) for bar in bars]
    assert "without temperature: error 12.5 % (5.0 to 30.0)" in words(found)


def test_without_and_with_temperature_are_two_panels_of_one_scale() -> None:
    wide, narrow = [Bin(9, 0.9, metric(0.4, 0.1, 0.8))], [Bin(9, 0.6, metric(0.5, 0.2, 0.8))]
    found = reliability_figure({"without": (wide, metric(0.5)), "with": (narrow, metric(0.1))})
    one, other = found.axes
    assert one.get_xlim() == other.get_xlim() == one.get_ylim() == other.get_ylim()
    assert one.get_xlim()[0] < 0.1
