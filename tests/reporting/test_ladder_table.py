from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.reporting.comparisons import read_example, renamed, without_results, write_example
from upcycle.reporting.ladder_table import ladder_table

NAMES = ("simple-cnn", "probe", "constant-tuned")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read_example(write_example(tmp_path_factory.mktemp("three"), NAMES))


def rendered(values: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(ladder_table(values))
    return captured.get()


def test_the_tables_read_without_colour(three: dict[str, Any]) -> None:
    expected = """\
Test scores
rung                       accuracy (95 %)             F1 (95 %)  spread
────────────────────────────────────────────────────────────────────────
Simple CNN            0.861 [0.832, 0.886]  0.861 [0.831, 0.887]   0.013
Frozen probe          0.983 [0.971, 0.990]  0.983 [0.970, 0.990]   0.003
Constant rate, tuned  0.983 [0.971, 0.990]  0.983 [0.970, 0.990]   0.003

What each choice bought, in points of F1
rung                  over the one before (95 %)  over the first (95 %)
───────────────────────────────────────────────────────────────────────
Frozen probe               +12.1 [+9.6, +14.7] ▲  +12.1 [+9.6, +14.7] ▲
Constant rate, tuned          0.0 [−0.6, +0.6] =  +12.1 [+9.6, +14.7] ▲

▲ real gain  ▼ real loss  = no difference that matters  ? not distinguishable

What it takes to train once
rung                  seeds  epochs         time      tuning  trained parameters
────────────────────────────────────────────────────────────────────────────────
Simple CNN                3    25.3   14 min 4 s           –          22,000,000
Frozen probe              3       0   1 min 14 s           –          22,000,000
Constant rate, tuned      3    11.7  28 min 15 s  1 h 21 min          22,000,000
"""
    assert expected == rendered(three)[: len(expected)]


def test_sentences_follow_the_tables_the_recommendation_last(three: dict[str, Any]) -> None:
    text = " ".join(rendered(three).split())
    places = [text.index(" ".join(said.split())) for said in (*three["says"], three["recommendation"]["says"])]
    assert sorted(places) == places
    assert text.index("Frozen probe gained 12.1 points of F1 over Simple CNN") < places[0]


def test_a_rung_whose_runs_failed_keeps_its_row(three: dict[str, Any]) -> None:
    lines = rendered(without_results(three, "probe")).splitlines()
    assert ["Frozen", "probe", "no", "run", "finished", "–", "–"] in [line.split() for line in lines]


def test_unknown_intervals_spreads_and_parameters_are_left_out(three: dict[str, Any]) -> None:
    rung = {**three["rungs"][1], "trained_parameters": None}
    rung["f1_macro"] = {"value": 0.9, "low": None, "high": None, "spread": None, "method": ""}
    line = next(
        line for line in rendered({**three, "rungs": [three["rungs"][0], rung]}).splitlines() if "0.900" in line
    )
    assert ["Frozen", "probe", "0.983", "[0.971,", "0.990]", "0.900", "–"] == line.split()


def test_a_comparison_without_a_recommendation_has_its_tables(three: dict[str, Any]) -> None:
    assert "What it takes to train once" in rendered({**three, "recommendation": None})


@pytest.mark.parametrize("width", [80, 100])
def test_names_are_text_and_give_way_so_that_numbers_fit(three: dict[str, Any], width: int) -> None:
    hostile = {"simple-cnn": "[red]a\x1b[31m\u202eb[/red]", "probe": "猫" * 70, "constant-tuned": "word " * 40}
    text = rendered(renamed(three, hostile), width)
    assert width >= max(map(cell_len, text.splitlines()))
    assert r"[red]a\x1b" in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert {"0.983 [0.970, 0.990]", "28 min 15 s  1 h 21 min"} <= {part for part in PARTS if part in text}


PARTS = ("0.983 [0.970, 0.990]", "28 min 15 s  1 h 21 min")


def test_the_table_needs_no_run_directories(three: dict[str, Any], tmp_path: Path) -> None:
    gone = [{**rung, "runs": [{**run, "path": str(tmp_path)} for run in rung["runs"]]} for rung in three["rungs"]]
    assert rendered(three) == rendered({**three, "rungs": gone})
