import html
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.reporting.comparisons import changed, renamed, without_results, write_example
from tests.reporting.pages import Page, words
from upcycle.comparison.results import Comparison, Cost
from upcycle.comparison.runs import FailedSeed
from upcycle.evaluation.intervals import Estimate
from upcycle.history import Row
from upcycle.reporting.comparison_page import (
    CurvesByVariant,
    chance,
    comparison_table,
    epochs,
    overlay_figure,
    scores_figure,
    seeds,
    signed_points,
    write_page,
)
from upcycle.reporting.style import png, svg
from upcycle.rundir import RunDir, write_text

HOSTILE = {
    "simple-cnn": "<script>alert(1)</script>",
    "probe": "quo\"te's & $x^2$\nnext\u202eline",
    "constant": "x" * 300,
    "constant-tuned": "猫" * 80,
    "classic": "<img src=x onerror=alert(2)>",
}
CLASSES = ("<b>bold</b>", 'quo"te\nnext\u202eline')
SECTIONS = ["scores", "pairs", "curves", "options", "tuned", "methods", "repeat"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    made = write_example(tmp_path_factory.mktemp("six"))
    write_page(made)
    return made


@pytest.fixture(scope="module")
def six(compared: Comparison) -> Path:
    return compared.path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = "a 'b\n\"><img src=x onerror=alert(3)>"
    folder = tmp_path_factory.mktemp("hostile")
    made = renamed(write_example(folder, classes=CLASSES, data=data, seeds=(0,), n=200), HOSTILE)
    made = changed(made, "simple-cnn", failed=(FailedSeed(7, "<script>alert(4)</script> of 'x'"),))
    options = {**made.options, "<i>option</i>": {"probe": "<u>value</u>", "classic": "\u202e"}}
    write_page(replace(made, options=options))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    """Two variants of one seed each: the smallest comparison there is."""
    return write_example(tmp_path / "two", ("probe", "default"), seeds=(0,), n=60)


def page_of(made: Comparison) -> Page:
    return Page(write_page(made))


def read_page(folder: Path) -> Page:
    return Page(folder / "comparison.html")


# --------------------------------------------------------------------------------------- what it says


def test_a_page_comes_with_every_figure_as_svg_and_png(six: Path) -> None:
    expected = [f"{name}.{ending}" for name in ("curves", "scores") for ending in ("png", "svg")]
    assert expected == sorted(file.name for file in (six / "figures").iterdir())


def test_the_page_has_a_section_for_everything_a_comparison_knows(six: Path) -> None:
    assert SECTIONS == [found["id"] for found in read_page(six).all("h2")]


def test_the_headline_is_what_the_statistics_say(compared: Comparison) -> None:
    text = read_page(compared.path).text
    assert text.startswith("Variants compared on cats_dogs · upcycle")
    assert compared.recommendation is not None
    assert all(sentence in text for sentence in (*compared.notes, compared.recommendation.reason))
    significant = sum(pair.f1.significant for pair in compared.pairs)
    assert f"Significant differences {significant} of 15 pairs" in text


def test_a_row_of_the_table_has_scores_gain_and_costs(six: Path) -> None:
    text = read_page(six).text
    assert (
        "Frozen probe 3 seeds 98.3 97.1 to 99.0 0.983 0.970 to 0.990 0.003 "
        "+12.1 +9.6 to +14.7 ▲ significant gain 0 1 min 14 s 22,000,000"
    ) in text
    assert "28 min 15 s + 1 h 21 min tuning" in text
    assert "upcycle's default recommended 3 seeds" in text


def test_every_pair_has_its_verdict_and_corrected_p(six: Path) -> None:
    text = read_page(six).text
    assert "Simple CNN → Frozen probe +12.1 +9.6 to +14.7 ▲ significant gain < 0.0001 +12.1" in text
    assert "p corrected for 15 pairs (Holm)" in text
    assert re.search("Frozen probe → Constant rate −2.3 .* ▼ significant loss", text)


def test_with_enough_seeds_the_page_tells_whether_it_holds_on_retraining(two: Comparison) -> None:
    assert "1 seed" in page_of(two).text
    pairs = tuple(replace(pair, retrained=Estimate(0.02, 0.012, 0.03)) for pair in two.pairs)
    assert "+2.0 +1.2 to +3.0" in page_of(replace(two, pairs=pairs)).text


def test_only_options_that_differ_are_listed_those_with_one_value_apart(compared: Comparison, tmp_path: Path) -> None:
    options = {"lr": {"constant": 1e-4, "default": 1e-3}, "decay": {"classic": 0.8}}
    text = page_of(replace(compared, options=options, path=tmp_path)).text
    assert "lr – – 0.0001 – – 0.001" in text
    assert "1 option that only some variants use with one value" in text
    assert "decay – – – – 0.8 –" in text


def test_the_rates_that_were_tried_are_listed_and_the_one_used_marked(six: Path) -> None:
    assert "1e-5 0.0848 3e-5 0.0698 ✓ used 1e-4 0.0978 3e-4 0.3138" in read_page(six).text


def test_the_command_to_repeat_it_is_there(compared: Comparison) -> None:
    assert compared.about.command is not None
    assert compared.about.command in html.unescape((compared.path / "comparison.html").read_text())


def test_runs_that_failed_are_named_with_their_reason(two: Comparison) -> None:
    text = page_of(
        changed(two, "default", failed=(FailedSeed(2, "the loss is not finite between steps 4 and 5"),))
    ).text
    assert "upcycle's default, seed 2: the loss is not finite between steps 4 and 5" in text
    assert "1 seed, 1 failed" in text


def test_a_variant_without_any_finished_run_keeps_its_row(compared: Comparison, tmp_path: Path) -> None:
    text = page_of(replace(without_results(compared, "default"), path=tmp_path)).text
    assert "upcycle's default 0 seeds, 3 failed no run finished" in text
    assert "Recommended takes" not in text


def test_many_pairs_are_folded_away(compared: Comparison, tmp_path: Path) -> None:
    made = replace(compared, pairs=compared.pairs * 2, path=tmp_path)
    assert "30 pairs" in page_of(made).text
    assert len(page_of(made).all("details")) == len(read_page(compared.path).all("details")) + 1


# ------------------------------------------------------------------------------- what is not there


def test_missing_runs_cost_their_curves_alone(compared: Comparison, tmp_path: Path) -> None:
    found = page_of(replace(compared, path=tmp_path))
    assert [name for name in SECTIONS if name != "curves"] == [head["id"] for head in found.all("h2")]
    assert not (tmp_path / "figures" / "curves.svg").exists()
    assert "Learning curves are without simple-cnn-seed-0, " in found.text
    assert "Learning curves are without" not in read_page(compared.path).text


def test_a_damaged_run_costs_its_own_curves_alone(tmp_path: Path) -> None:
    made = write_example(tmp_path / "tuned", ("constant", "default"), seeds=(0,), n=60)
    write_text(RunDir(made.path / "runs" / "default-seed-0").history, "{\n{}\n")
    found = page_of(made)
    assert "curves" in {head["id"] for head in found.all("h2")}
    assert "Learning curves are without default-seed-0" in found.text


@pytest.mark.parametrize("path", ["/nowhere/at/all", "a\0b", "", "../../..", "x" * 5000])
def test_any_path_of_a_run_is_survived(two: Comparison, path: str) -> None:
    runs = (replace(two.variants[0].runs[0], path=path),)
    assert "scores" in {head["id"] for head in page_of(changed(two, "probe", runs=runs)).all("h2")}


def test_runs_may_lie_anywhere(two: Comparison, tmp_path: Path) -> None:
    shutil.move(two.path / "runs", tmp_path / "elsewhere")
    made = two
    for one in two.variants:
        place = str(tmp_path / "elsewhere" / Path(one.runs[0].path).name)
        made = changed(made, one.name, runs=(replace(one.runs[0], path=place),))
    assert "Learning curves are without" not in page_of(made).text


# ---------------------------------------------------------------------------------- anyone's names


def test_hostile_names_are_shown_as_text_and_nothing_else(hostile: Path) -> None:
    found = read_page(hostile)
    assert [] == found.all("script")
    assert [] == [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert [] == found.all("img")
    assert ([], []) == (found.unbalanced, found.open)
    assert "<script>alert(1)</script>" in found.text
    assert "quo\"te's & $x^2$\\nnext\\u202eline" in found.text
    assert "seed 7: <script>alert(4)</script> of 'x'" in found.text
    assert "<i>option</i>" in found.text
    assert "\u202e" not in (hostile / "comparison.html").read_text()


def test_tables_hold_long_names_cut_in_their_middle(hostile: Path) -> None:
    tables = re.findall("<table.*?</table>", (hostile / "comparison.html").read_text(), re.DOTALL)
    assert any("xxx…xxx" in table for table in tables)
    assert not any("x" * 60 in table for table in tables)


def test_the_page_needs_nothing_from_elsewhere(six: Path) -> None:
    page = read_page(six)
    assert [] == [value for value in page.values("src", "srcset", "poster", "data", "action") if value[:5] != "data:"]
    assert [] == [v for v in page.values("href", "xlink:href") if not v.startswith(("#", "data:,"))]
    assert not any(word in style for style in page.styles for word in ("url(", "@import"))
    assert "http" not in (six / "comparison.html").read_text().replace("http-equiv", "")
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_page_is_well_formed_and_readable_to_a_screen_reader(six: Path) -> None:
    page = read_page(six)
    assert ([], []) == (page.unbalanced, page.open)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set() == {value.removeprefix("#") for value in page.values("href") if value[:1] == "#"} - set(ids)
    assert set() == set(page.values("aria-labelledby")) - set(ids)
    assert all(found["role"] == "img" and found["aria-label"] for found in page.all("svg"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(found.get("scope") in {"row", "col"} for found in page.all("th"))


def test_writing_it_again_gives_the_same_page(compared: Comparison) -> None:
    before = compared.page.read_bytes()
    assert before == write_page(compared).read_bytes()


# ------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0214, "+2.1"), (-0.003, "−0.3"), (0.0001, "0.0"), (-0.0001, "0.0"), (None, "–")]
)
def test_differences_are_points_with_their_sign(share: float | None, expected: str) -> None:
    assert expected == signed_points(share)


@pytest.mark.parametrize(
    ("p", "expected"), [(0.37, "0.37"), (0.0213, "0.021"), (0.00213, "0.0021"), (1e-9, "< 0.0001")]
)
def test_chances_have_as_many_digits_as_say_something(p: float, expected: str) -> None:
    assert expected == chance(p)


@pytest.mark.parametrize(("mean", "expected"), [(3.0, "3"), (0.0, "0"), (25.333, "25.3")])
def test_epochs_have_a_decimal_where_seeds_differ(compared: Comparison, mean: float, expected: str) -> None:
    cost = Cost(mean, 62.0, 0.0, None, None)
    one = changed(compared, "probe", cost=cost).variants[1]
    assert (expected, "3 seeds") == (epochs(one), seeds(one))


# ---------------------------------------------------------------------------------------- terminal


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return write_example(tmp_path_factory.mktemp("three"), ("simple-cnn", "probe", "constant-tuned"))


def rendered(made: Comparison, width: int = 80) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(comparison_table(made))
    return captured.get()


def test_the_tables_read_without_color(three: Comparison) -> None:
    expected = """\
Test scores
variant                    accuracy (95 %)             F1 (95 %)  ± seeds
─────────────────────────────────────────────────────────────────────────
Simple CNN            0.861 [0.832, 0.886]  0.861 [0.831, 0.887]    0.013
Frozen probe          0.983 [0.971, 0.990]  0.983 [0.970, 0.990]    0.003
Constant rate, tuned  0.983 [0.971, 0.990]  0.983 [0.970, 0.990]    0.003

Differences
variant                       over         p    points of F1 (95 %)
───────────────────────────────────────────────────────────────────
Frozen probe            Simple CNN  < 0.0001  +12.1 [+9.6, +14.7] ▲
Constant rate, tuned    Simple CNN  < 0.0001  +12.1 [+9.6, +14.7] ▲
Constant rate, tuned  Frozen probe      1.00     0.0 [−0.6, +0.6] =

▲ ▼ significant  = no difference that matters  ? not significant

What it takes to train once
variant               seeds  epochs         time      tuning  trained parameters
────────────────────────────────────────────────────────────────────────────────
Simple CNN                3    25.3   14 min 4 s           –          22,000,000
Frozen probe              3       0   1 min 14 s           –          22,000,000
Constant rate, tuned      3    11.7  28 min 15 s  1 h 21 min          22,000,000
"""
    assert expected == rendered(three)[: len(expected)]


def test_sentences_follow_the_tables_the_recommendation_last(three: Comparison) -> None:
    text = " ".join(rendered(three).split())
    assert three.recommendation is not None
    places = [text.index(" ".join(said.split())) for said in (*three.notes, three.recommendation.reason)]
    assert sorted(places) == places


def test_a_variant_whose_runs_failed_keeps_its_row(three: Comparison) -> None:
    lines = rendered(without_results(three, "probe")).splitlines()
    assert ["Frozen", "probe", "no", "run", "finished", "–", "–"] in [line.split() for line in lines]


@pytest.mark.parametrize("width", [80, 100])
def test_names_are_text_and_give_way_so_that_numbers_fit(three: Comparison, width: int) -> None:
    hostile = {"simple-cnn": "[red]a\x1b[31m\u202eb[/red]", "probe": "猫" * 70, "constant-tuned": "word " * 40}
    text = rendered(renamed(three, hostile), width)
    assert width >= max(map(cell_len, text.splitlines()))
    assert r"[red]a\x1b" in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert all(part in text for part in ("0.983 [0.970, 0.990]", "28 min 15 s  1 h 21 min"))


# ----------------------------------------------------------------------------------------- figures

TITLES = ["<script>alert(1)</script>", "quo\"te's & $x^2$\nnext\u202eline", "猫" * 60, "\udcff", "x" * 300, "$a_"]


def rows(*losses: float) -> list[Row]:
    return [Row("finetune", at, at, 1e-3, 0.9, loss, 0.9, loss, 0.9, 0.9) for at, loss in enumerate(losses, 1)]


def curves(made: Comparison, *lengths: int) -> CurvesByVariant:
    """Two seeds of each variant, that lose steadily; the second is an epoch shorter."""
    return {
        one.name: [rows(*(0.5 / (at + 1) for at in range(length - seed))) for seed in (0, 1)]
        for one, length in zip(made.variants, lengths, strict=False)
    }


def test_every_variant_is_named_with_its_score_interval_and_seeds(compared: Comparison) -> None:
    figure = scores_figure(compared)
    assert {one.title for one in compared.variants} <= set(words(figure))
    last = compared.variants[-1]
    assert last.f1_macro is not None
    interval, seeds, dot = figure.axes[0].lines[-3:]
    assert [last.f1_macro.low, last.f1_macro.high] == list(interval.get_xdata())
    assert [run.f1_macro for run in last.runs] == list(seeds.get_xdata())
    assert [last.f1_macro.value] == list(dot.get_xdata())
    assert figure.summary.startswith("Test F1 by variant: Simple CNN 0.8")


def test_a_variant_without_results_is_left_out(compared: Comparison) -> None:
    made = without_results(compared, "constant")
    assert "Constant rate" not in words(scores_figure(made))


def test_a_curve_is_a_line_for_each_seed_and_their_mean_as_far_as_all_got(compared: Comparison) -> None:
    figure = overlay_figure(compared, {compared.variants[0].name: [rows(0.4, 0.2, 0.1), rows(0.6, 0.4), []]})
    first, second, mean, last = (line.get_ydata() for line in figure.axes[0].lines)
    assert ([0.4, 0.2, 0.1], [0.6, 0.4]) == (first.tolist(), second.tolist())
    assert [0.5, 0.3] == pytest.approx(mean.tolist())
    assert [0.3] == pytest.approx(list(last))


def test_a_value_that_is_unknown_leaves_a_gap(compared: Comparison) -> None:
    figure = overlay_figure(compared, {compared.variants[0].name: [rows(0.4, math.nan, 0.2)]})
    assert [False, True, False] == np.isnan(figure.axes[0].lines[0].get_ydata()).tolist()


def test_very_different_losses_and_lengths_have_logarithmic_axes(compared: Comparison) -> None:
    even, uneven = overlay_figure(compared, curves(compared, 4, 4)), overlay_figure(compared, curves(compared, 3, 40))
    assert ("linear", "linear") == (even.axes[0].get_xscale(), even.axes[0].get_yscale())
    assert ("log", "log") == (uneven.axes[0].get_xscale(), uneven.axes[0].get_yscale())
    assert "validation loss (logarithmic)" in words(uneven)


def test_variants_without_curves_keep_their_colors(compared: Comparison) -> None:
    both, second = curves(compared, 4, 4), dict(list(curves(compared, 4, 4).items())[1:])
    colors = [overlay_figure(compared, made).axes[0].lines[-1].get_color() for made in (both, second)]
    assert colors[0] == colors[1]


def test_names_are_text_in_every_figure(compared: Comparison) -> None:
    made = renamed(compared, {one.name: title for one, title in zip(compared.variants, TITLES, strict=True)})
    for figure in (scores_figure(made), overlay_figure(made, curves(made, 3, 3, 3, 3, 3, 3))):
        found = words(figure)
        assert "<script>alert(1)</script>" in found
        assert "quo\"te's & $x^2$\\nnext\\u202eline" in found
        assert png(figure, dpi=40).startswith(b"\x89PNG")


def test_equal_comparisons_give_equal_figures(compared: Comparison) -> None:
    assert svg(scores_figure(compared)) == svg(scores_figure(changed(compared, "probe")))


# -------------------------------------------------------------------------------- in a real browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("sample", ["six", "hostile"])
def test_a_browser_shows_it_all_without_scrolling_sideways_or_asking_for_anything(
    browser: Any, sample: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    address = (request.getfixturevalue(sample) / "comparison.html").as_uri()
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda sent: asked.append(sent.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    tab.goto(address)
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert width == tab.evaluate("document.documentElement.scrollWidth")
    assert {address} == {url for url in asked if not url.startswith("data:")}
    assert [] == complaints
    tab.close()


def test_no_table_of_the_page_scrolls_on_a_wide_screen(browser: Any, six: Path) -> None:
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    tab.goto((six / "comparison.html").as_uri())
    wide = "[...document.querySelectorAll('.scroll:has(table)')].filter(box => box.scrollWidth > box.clientWidth)"
    assert [] == tab.evaluate(f"{wide}.map(box => box.getAttribute('aria-label'))")
    tab.close()
