import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.comparison.test_selection import candidate
from tests.reporting.pages import Page, words
from upcycle.comparison.selection import Behind, Gain, Selection
from upcycle.reporting.choice_page import (
    amount,
    choice_figure,
    minutes_text,
    plain_names,
    selection_table,
    write_choice,
)

HOSTILE = "<script>alert(1)</script>"
MADE = Selection(
    "/data/photos",
    "hgnetv2_b2.ssld_stage2_ft_in1k",
    (
        candidate("hgnetv2_b2.ssld_stage2_ft_in1k"),
        candidate("tf_efficientnet_lite0", minutes=2.0, behind=Behind(0.02, 0.004, 0.036)),
        candidate("resnet50", images=200, dropped="worse on 200 images", minutes=50.0, local=False, megabytes=102.2),
    ),
    ("hgnetv2_b2.ssld_stage2_ft_in1k",),
    Gain("resnet50", 0.029, 0.011, 0.048, 0.8),
    (200, 400, 800),
    400,
    left_out=("convnext_nano is left out: no weights",),
    train="upcycle train /data/photos --arch hgnetv2_b2.ssld_stage2_ft_in1k",
    command="upcycle choose /data/photos",
)


def test_the_table_fits_into_80_columns_and_has_every_candidate() -> None:
    console = Console(width=80, record=True, file=None)
    with console.capture() as shown:
        console.print(selection_table(MADE))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert 2 == sum("+0.020 [0.004, 0.036]" in line or "102 MB" in line for line in lines)
    assert any("BSD" in line or "Apache-2.0" in line for line in lines)


def test_the_picture_names_every_candidate_and_says_what_the_axes_are() -> None:
    shown = words(choice_figure(MADE))
    for name in ("hgnetv2_b2", "tf_efficientnet_lite0", "resnet50"):
        assert name in shown
    assert "about so many minutes to train, decoding left out" in shown


@pytest.mark.parametrize("minutes", [(1.0, 1.0, 1.0), (0.0001, 1.0, 900.0), (3.0, 3.1, 3.2)])
def test_the_picture_can_be_drawn_for_any_times(minutes: tuple[float, ...]) -> None:
    rows = tuple(replace(one, minutes=value) for one, value in zip(MADE.candidates, minutes, strict=True))
    assert "resnet50" in words(choice_figure(replace(MADE, candidates=rows)))


def test_a_tag_is_named_where_names_would_be_the_same() -> None:
    rows = [candidate(name) for name in ("resnet50", "resnet50.a1_in1k", "convnext_nano.in12k_ft_in1k")]
    assert ["resnet50", "resnet50.a1_in1k", "convnext_nano"] == plain_names(rows)


def test_minutes_are_rough() -> None:
    assert ["0.4 min", "12 min", "3.1 h"] == [minutes_text(value) for value in (0.41, 12.2, 186)]


def test_the_page_has_verdict_picture_and_numbers_and_needs_nothing_else(tmp_path: Path) -> None:
    file = write_choice(tmp_path / "choice.html", MADE)
    page = Page(file)
    assert ([], []) == (page.unbalanced, page.open)
    for text in (MADE.verdict[:20], "worse on 200 images", "No weights", "102 MB", MADE.train, MADE.command):
        assert text[1:] in page.text
    assert [] == page.all("script")
    assert [] == [value for value in page.values("src", "href") if not value.startswith(("data:", "#"))]
    assert not re.search(r"url\(|@import", " ".join(page.styles))


def test_names_are_only_text(tmp_path: Path) -> None:
    rows = (candidate(HOSTILE), candidate(f"{HOSTILE}2$x$"))
    page = Page(write_choice(tmp_path / "x.html", replace(MADE, candidates=rows, winner=HOSTILE, data=HOSTILE)))
    assert [] == page.all("script")


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.123"), (15.42, "15.4"), (999.6, "1,000"), (1083.2, "1,083")])
def test_speeds_and_times_are_written_without_powers_of_ten(value: float, text: str) -> None:
    assert text == amount(value)
