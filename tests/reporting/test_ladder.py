import copy
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.reporting.comparisons import read_example, without_results, write_example
from upcycle.reporting.cost import time_ticks
from upcycle.reporting.ladder import cost_figure, ladder_figure, overlay_figure
from upcycle.reporting.overlay import curve
from upcycle.reporting.style import PALETTE, WIDE, png, stroke, svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ["<script>alert(1)</script>", "quo\"te's & $x^2$\nnext\u202eline", "猫" * 60, "\udcff", "x" * 300, "a " * 90]
TITLES = (
    "Simple CNN",
    "Frozen probe",
    "Constant rate",
    "Constant rate, tuned",
    "One-cycle, classic",
    "upcycle's default",
)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read_example(write_example(tmp_path_factory.mktemp("six")))


def words(figure: Figure) -> list[str]:
    """Every text of the figure, as its SVG has it."""
    return ["".join(node.itertext()) for node in ET.fromstring(svg(figure)).iter(f"{SVG}text")]


def changed(values: dict[str, Any], place: int, **more: Any) -> dict[str, Any]:
    """The comparison with some values of one rung replaced."""
    values = copy.deepcopy(values)
    values["rungs"][place] |= more
    return values


def many(values: dict[str, Any], titles: list[str]) -> dict[str, Any]:
    """A ladder of as many rungs as there are titles."""
    rungs = [copy.deepcopy(values["rungs"][at % 6]) | {"name": f"r{at}"} for at in range(len(titles))]
    for rung, title in zip(rungs, titles, strict=True):
        rung["title"] = title
    return {**values, "rungs": rungs, "pairs": []}


def rows(*losses: float | None, accuracy: float = 0.9) -> list[dict[str, Any]]:
    return [{"epoch": at, "val_loss": loss, "val_accuracy": accuracy + 0.01 * at} for at, loss in enumerate(losses, 1)]


# ------------------------------------------------------------------------------------------ ladder


NARROW = 3.9


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_each_rung_has_its_name_score_and_gain(six: dict[str, Any], width: float) -> None:
    found = words(ladder_figure(six, width=width))
    assert set(TITLES) <= set(found)
    assert {"0.861 (0.831 to 0.887)", "+12.1 points, real", "+0.3 points, not distinguishable"} <= set(found)
    assert 5 == len([word for word in found if " points, " in word])


def test_dots_intervals_and_seeds_stand_where_the_scores_are(six: dict[str, Any]) -> None:
    last = six["rungs"][-1]
    interval, seeds, dot = ladder_figure(six).axes[0].lines[-3:]
    assert [last["f1_macro"]["low"], last["f1_macro"]["high"]] == list(interval.get_xdata())
    assert [run["f1_macro"] for run in last["runs"]] == list(seeds.get_xdata())
    assert [last["f1_macro"]["value"]] == list(dot.get_xdata())


def test_a_rung_whose_runs_failed_keeps_its_row(six: dict[str, Any]) -> None:
    found = words(ladder_figure(without_results(six, "constant")))
    assert {"Constant rate", "no run finished"} <= set(found)


def test_a_score_without_an_interval_is_drawn_without_one(six: dict[str, Any]) -> None:
    scores = {"value": 0.9, "low": None, "high": None, "spread": None, "method": ""}
    one = changed(six, 0, f1_macro=scores, runs=six["rungs"][0]["runs"][:1])
    assert "0.900" in words(ladder_figure(one))
    assert "|" not in [line.get_marker() for line in ladder_figure(many(one, ["a"])).axes[0].lines]


def test_a_comparison_without_any_result_is_drawn_all_the_same(six: dict[str, Any]) -> None:
    empty = six
    for rung in six["rungs"]:
        empty = without_results(empty, rung["name"])
    assert 6 == words(ladder_figure(empty)).count("no run finished")
    assert "No rung has scores and a time." in words(cost_figure(empty))


def test_the_ladder_says_in_a_sentence_what_it_shows(six: dict[str, Any]) -> None:
    assert ladder_figure(six).summary.startswith("Test F1 by rung of the ladder, in its order: Simple CNN 0.861,")


# ------------------------------------------------------------------------------------------ curves


def test_a_curve_is_the_mean_of_the_seeds_that_reached_an_epoch_and_its_band_their_range() -> None:
    found = curve([rows(0.4, 0.2, 0.1), rows(0.6, 0.4)], "val_loss")
    assert [0.5, 0.3, 0.1] == pytest.approx(found.mean)
    assert [0.4, 0.2, 0.1] == pytest.approx(found.low)
    assert [0.6, 0.4, 0.1] == pytest.approx(found.high)
    assert (2, 2, (3, 0.1)) == (found.shared, found.seeds, found.last)


def test_a_value_that_is_unknown_counts_neither_as_zero_nor_at_all() -> None:
    found = curve([rows(0.4, None, None), rows(0.6, 0.2, None)], "val_loss")
    assert [0.5, 0.2] == pytest.approx(found.mean[:2])
    assert (2, 0.2) == found.last


def test_seeds_without_rows_are_no_seeds() -> None:
    assert (1, 1) == (curve([rows(0.4), []], "val_loss").seeds, curve([rows(0.4), []], "val_loss").shared)
    assert curve([[]], "val_loss").last is None


def test_every_line_is_named_where_it_ends() -> None:
    curves = [{"title": title, "runs": [rows(0.5, 0.1 + 0.01 * at)]} for at, title in enumerate(TITLES)]
    found = words(overlay_figure(curves))
    assert [2] * 6 == [found.count(title) for title in TITLES]


def test_names_at_the_ends_do_not_collide() -> None:
    curves = [{"title": f"rung {at}", "runs": [rows(0.5, 0.1 + 1e-4 * at)]} for at in range(12)]
    for axes in overlay_figure(curves).axes:
        heights = sorted(text.get_position()[1] for text in axes.texts if text.get_text().startswith("rung"))
        assert 12 == len(heights)
        assert min(high - low for low, high in pairwise(heights)) > 0.04


def test_lengths_that_differ_much_share_a_logarithmic_axis() -> None:
    short, long = {"title": "a", "runs": [rows(0.5, 0.4, 0.3)]}, {"title": "b", "runs": [rows(*[0.5] * 30)]}
    assert ["log", "linear"] == [
        overlay_figure(curves).axes[0].get_xscale() for curves in ([short, long], [short, short])
    ]
    assert {"1", "2", "4", "8", "16"} <= set(words(overlay_figure([short, long])))


def test_losses_far_apart_are_drawn_on_a_logarithmic_axis_that_says_so() -> None:
    curves = [{"title": "a", "runs": [rows(0.9, 0.8)]}, {"title": "b", "runs": [rows(0.05, 0.04)]}]
    assert "logarithmic axis" in "".join(words(overlay_figure(curves)))
    assert "logarithmic axis" not in "".join(words(overlay_figure(curves[:1])))


def test_an_accuracy_of_100_percent_lies_on_the_stretched_axis() -> None:
    runs = [[{"val_loss": 0.1, "val_accuracy": accuracy} for accuracy in (0.5, 0.9, 0.99, 1.0)]]
    (panel,) = [axes for axes in overlay_figure([{"title": "a", "runs": runs}]).axes if axes.get_yscale() == "function"]
    assert panel.get_ylim()[0] < 0.5 < 1.0 < panel.get_ylim()[1]
    assert 1.0 in panel.get_yticks()


def test_the_band_ends_where_a_seed_has_stopped_and_the_line_gets_thinner() -> None:
    loss = overlay_figure([{"title": "a", "runs": [rows(0.5, 0.4, 0.3, 0.3), rows(0.6, 0.5)]}]).axes[1]
    thick, thin = (line for line in loss.lines if len(line.get_xdata()) in (2, 3) and line.get_linewidth() != 0.7)
    assert ([1, 2], [2, 3, 4]) == (list(thick.get_xdata()), list(thin.get_xdata()))
    assert thick.get_linewidth() > thin.get_linewidth()
    (band,) = loss.collections
    assert 2 == band.get_paths()[0].vertices[:, 0].max()


def test_no_curves_are_a_sentence() -> None:
    assert ["No learning curves are there."] == words(overlay_figure([{"title": "a", "runs": []}]))


def test_a_rung_without_curves_leaves_the_strokes_of_the_others_as_they_are() -> None:
    figure = overlay_figure([{"title": "gone", "runs": []}, {"title": "there", "runs": [rows(0.5, 0.4)]}])
    assert stroke(1)["color"] == figure.axes[0].lines[0].get_color()


def test_strokes_of_twelve_rungs_all_differ() -> None:
    looks = [stroke(at) for at in range(12)]
    assert 12 == len({look["marker"] for look in looks})
    assert 12 == len({(look["color"], str(look["linestyle"])) for look in looks})


# -------------------------------------------------------------------------------------------- cost


def test_points_stand_at_the_time_of_training_and_tuning(six: dict[str, Any]) -> None:
    rung = six["rungs"][3]
    marked = [line for line in cost_figure(six).axes[0].lines if line.get_marker() == stroke(3)["marker"]]
    assert [rung["seconds"] + rung["tuning_seconds"]] == list(marked[0].get_xdata())
    assert rung["tuning_seconds"] > 3 * rung["seconds"] * 0.9


def test_every_rung_is_named_with_its_time_and_the_recommended_one_marked(six: dict[str, Any]) -> None:
    found = words(cost_figure(six))
    assert {*TITLES, "recommended", "14 min 4 s"} <= set(found)
    assert 1 == found.count("recommended")


def test_a_rung_without_a_time_is_left_out_of_the_costs(six: dict[str, Any]) -> None:
    assert "Frozen probe" not in words(cost_figure(changed(six, 1, seconds=None)))


def test_times_are_told_as_people_do() -> None:
    assert ["10 s", "1 min", "10 min", "1 h", "10 h"] == [words for _, words in time_ticks(8, 50_000, most=8)]
    assert [60, 120, 300, 600] == [seconds for seconds, _ in time_ticks(50, 700, most=8)]


def test_one_rung_alone_has_a_place_on_the_axis(six: dict[str, Any]) -> None:
    assert "Simple CNN" in words(cost_figure(many(six, ["Simple CNN"])))


# ------------------------------------------------------------------------------------- all of them


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("count", [2, 12])
def test_hostile_names_are_taken_as_they_are_and_fit(six: dict[str, Any], count: int, width: float) -> None:
    values = many(six, (HOSTILE * 2)[:count])
    curves = [{"title": title, "runs": [rows(0.5, 0.4), rows(0.3)]} for title in (HOSTILE * 2)[:count]]
    for figure in (
        ladder_figure(values, width=width),
        cost_figure(values, width=width),
        overlay_figure(curves, width=width),
    ):
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text()]
        assert max(box.x1 for box in boxes) / figure.dpi <= width + 0.01
        assert min(box.x0 for box in boxes) >= -1
        assert figure.get_figwidth() == width
        assert any(word.startswith("<script>") for word in words(figure))
        assert not any("\n" in word or "\u202e" in word for word in words(figure))
        assert b"\x89PNG" == png(figure, dpi=30)[:4]


def test_only_colours_of_the_palette_are_used(six: dict[str, Any]) -> None:
    curves = [{"title": str(at), "runs": [rows(0.5, 0.4), rows(0.3)]} for at in range(12)]
    drawn = "".join(svg(figure) for figure in (ladder_figure(six), cost_figure(six), overlay_figure(curves)))
    assert set(PALETTE.values()) >= set(re.findall(r"#[0-9a-f]{6}\b", drawn))


def test_drawing_again_gives_the_same_document(six: dict[str, Any]) -> None:
    assert 1 == len({svg(figure(six)) for figure in (ladder_figure,) * 3})
    assert 1 == len({svg(figure(six)) for figure in (cost_figure,) * 3})
