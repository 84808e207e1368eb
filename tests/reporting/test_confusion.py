import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.reporting.pages import words
from tests.reporting.values import PETS, evaluation
from upcycle.evaluation.results import Metric
from upcycle.reporting.confusion import confusion_figure, metrics_figure
from upcycle.reporting.style import png

HOSTILE = ["<script>alert(1)</script>", "a\"b'c & $\\frac{$\x00\n\u202e", "猫", "\udcff", "x" * 300]


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
