import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.reporting.comparisons import changed, renamed, without_results, write_example
from upcycle.comparison.results import Comparison
from upcycle.history import Row
from upcycle.reporting.comparison_figures import CurvesByVariant, overlay_figure, scores_figure
from upcycle.reporting.style import png, svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ["<script>alert(1)</script>", "quo\"te's & $x^2$\nnext\u202eline", "猫" * 60, "\udcff", "x" * 300, "$a_"]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return write_example(tmp_path_factory.mktemp("six"), n=200)


def rows(*losses: float) -> list[Row]:
    return [Row("finetune", at, at, 1e-3, 0.9, loss, 0.9, loss, 0.9, 0.9) for at, loss in enumerate(losses, 1)]


def curves(made: Comparison, *lengths: int) -> CurvesByVariant:
    """Two seeds of each variant, that lose steadily; the second is an epoch shorter."""
    return {
        one.name: [rows(*(0.5 / (at + 1) for at in range(length - seed))) for seed in (0, 1)]
        for one, length in zip(made.variants, lengths, strict=False)
    }


def words(figure: Figure) -> list[str]:
    """Every text of the figure, as its SVG has it."""
    return ["".join(node.itertext()) for node in ET.fromstring(svg(figure)).iter(f"{SVG}text")]


def test_every_variant_is_named_with_its_score_interval_and_seeds(six: Comparison) -> None:
    figure = scores_figure(six)
    assert {one.title for one in six.variants} <= set(words(figure))
    last = six.variants[-1]
    assert last.f1_macro is not None
    interval, seeds, dot = figure.axes[0].lines[-3:]
    assert [last.f1_macro.low, last.f1_macro.high] == list(interval.get_xdata())
    assert [run.f1_macro for run in last.runs] == list(seeds.get_xdata())
    assert [last.f1_macro.value] == list(dot.get_xdata())
    assert figure.summary.startswith("Test F1 by variant: Simple CNN 0.8")


def test_a_variant_without_results_is_left_out(six: Comparison) -> None:
    made = without_results(six, "constant")
    assert "Constant rate" not in words(scores_figure(made))


def test_a_curve_is_a_line_for_each_seed_and_their_mean_as_far_as_all_got(six: Comparison) -> None:
    figure = overlay_figure(six, {six.variants[0].name: [rows(0.4, 0.2, 0.1), rows(0.6, 0.4), []]})
    first, second, mean, last = (line.get_ydata() for line in figure.axes[0].lines)
    assert ([0.4, 0.2, 0.1], [0.6, 0.4]) == (first.tolist(), second.tolist())
    assert [0.5, 0.3] == pytest.approx(mean.tolist())
    assert [0.3] == pytest.approx(list(last))


def test_a_value_that_is_unknown_leaves_a_gap(six: Comparison) -> None:
    figure = overlay_figure(six, {six.variants[0].name: [rows(0.4, math.nan, 0.2)]})
    assert [False, True, False] == np.isnan(figure.axes[0].lines[0].get_ydata()).tolist()


def test_very_different_losses_and_lengths_have_logarithmic_axes(six: Comparison) -> None:
    even, uneven = overlay_figure(six, curves(six, 4, 4)), overlay_figure(six, curves(six, 3, 40))
    assert ("linear", "linear") == (even.axes[0].get_xscale(), even.axes[0].get_yscale())
    assert ("log", "log") == (uneven.axes[0].get_xscale(), uneven.axes[0].get_yscale())
    assert "validation loss (logarithmic)" in words(uneven)


def test_variants_without_curves_keep_their_colors(six: Comparison) -> None:
    both, second = curves(six, 4, 4), dict(list(curves(six, 4, 4).items())[1:])
    colors = [overlay_figure(six, made).axes[0].lines[-1].get_color() for made in (both, second)]
    assert colors[0] == colors[1]


def test_names_are_text_in_every_figure(six: Comparison) -> None:
    made = renamed(six, {one.name: title for one, title in zip(six.variants, HOSTILE, strict=True)})
    for figure in (scores_figure(made), overlay_figure(made, curves(made, 3, 3, 3, 3, 3, 3))):
        found = words(figure)
        assert "<script>alert(1)</script>" in found
        assert "quo\"te's & $x^2$\\nnext\\u202eline" in found
        assert png(figure, dpi=40).startswith(b"\x89PNG")


def test_equal_comparisons_give_equal_figures(six: Comparison) -> None:
    assert svg(scores_figure(six)) == svg(scores_figure(changed(six, "probe")))
