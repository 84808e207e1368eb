import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from tests.reporting.comparisons import changed, renamed, without_results, write_example
from upcycle.comparison.results import Comparison
from upcycle.comparison.runs import Epoch
from upcycle.reporting.comparison_figures import Curves, cost_figure, curve, overlay_figure, scores_figure, time_ticks
from upcycle.reporting.style import png, svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ["<script>alert(1)</script>", "quo\"te's & $x^2$\nnext\u202eline", "猫" * 60, "\udcff", "x" * 300, "$a_"]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return write_example(tmp_path_factory.mktemp("six"), n=200)


def rows(*losses: float | None, accuracy: float = 0.9) -> list[Epoch]:
    return [Epoch(phase="finetune", val_loss=loss, val_accuracy=accuracy) for loss in losses]


def curves(made: Comparison, *lengths: int) -> Curves:
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
    assert "Constant rate" not in [*words(scores_figure(made)), *words(cost_figure(made))]


def test_cost_is_time_with_tuning_and_the_recommended_has_a_ring(six: Comparison) -> None:
    figure = cost_figure(six)
    tuned = six.variants[3]
    assert tuned.cost is not None
    points = {tuple(line.get_xdata()) for line in figure.axes[0].lines}
    assert (tuned.cost.total,) in points
    assert six.recommendation is not None
    assert 16 in [line.get_markersize() for line in figure.axes[0].lines]
    assert 16 not in [line.get_markersize() for line in cost_figure(replace(six, recommendation=None)).axes[0].lines]


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.9), (3.0, 50.0), (20.0, 5000.0), (1.0, 1e6)])
def test_ticks_of_time_are_round_and_few(low: float, high: float) -> None:
    ticks = time_ticks(low, high, most=8)
    assert len(ticks) <= 8
    assert all(low <= seconds <= high for seconds, _ in ticks)


def test_ticks_of_time_have_their_units() -> None:
    assert [(10.0, "10 s"), (30.0, "30 s"), (120.0, "2 min"), (600.0, "10 min")] == time_ticks(8, 1000, most=5)


def test_a_curve_is_the_mean_of_the_seeds_that_reached_an_epoch_and_its_band_their_range() -> None:
    found = curve([rows(0.4, 0.2, 0.1), rows(0.6, 0.4), []], "val_loss")
    assert [0.5, 0.3, 0.1] == pytest.approx(found.mean.tolist())
    assert [0.4, 0.2, 0.1] == pytest.approx(found.low.tolist())
    assert [0.6, 0.4, 0.1] == pytest.approx(found.high.tolist())
    assert 2 == found.shared


def test_a_value_that_is_unknown_does_not_count() -> None:
    found = curve([rows(0.4, None, None), rows(0.6, 0.2, None)], "val_loss")
    assert [0.5, 0.2, True] == [*pytest.approx(found.mean[:2].tolist()).expected, bool(found.mean[2] != found.mean[2])]


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
    for figure in (scores_figure(made), cost_figure(made), overlay_figure(made, curves(made, 3, 3, 3, 3, 3, 3))):
        found = words(figure)
        assert "<script>alert(1)</script>" in found
        assert "quo\"te's & $x^2$\\nnext\\u202eline" in found
        assert png(figure, dpi=40).startswith(b"\x89PNG")


def test_equal_comparisons_give_equal_figures(six: Comparison) -> None:
    assert svg(scores_figure(six)) == svg(scores_figure(changed(six, "probe")))
