"""What lab/speed.md says was measured is what the readings kept beside the scripts come to."""

import json
import statistics
from pathlib import Path
from typing import Any

import peer_settings
import pytest
import throughput
import throughput_together
import time_to_accuracy

from upcycle.rundir import read_json, read_lines

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "lab" / "speed.md").read_text(encoding="utf-8")
READINGS = sorted((ROOT / "lab").glob("2026-11-26-peers/*/readings.jsonl"))
SERIES = ROOT / "lab" / "2026-11-26-peers" / "throughput_512_images"
STARTUPS = [ROOT / "lab" / day / "startup.json" for day in ("2026-11-25-peers", "2026-11-26-peers")]


def rows(text: str) -> list[str]:
    """The rows of the first Markdown table, without its head."""
    lines = [line for line in text.split("\n\n")[0].splitlines() if line.startswith("|")]
    return lines[2:]


def test_there_are_four_sets_of_readings() -> None:
    assert {file.parent.name for file in READINGS} == {"cats_dogs", "flowers5", "hymenoptera", "malaria_cells"}


@pytest.mark.parametrize("file", READINGS, ids=lambda file: file.parent.name)
def test_every_setting_is_on_the_page_as_its_readings_come_to(file: Path) -> None:
    readings = read_lines(file)
    found = [time_to_accuracy.summary(readings, tool) for tool in dict.fromkeys(one["tool"] for one in readings)]
    made = rows(time_to_accuracy.tables(found, [0.9]))
    assert len(made) == len(found)
    assert [row for row in made if row not in PAGE] == []


@pytest.mark.parametrize("file", READINGS, ids=lambda file: file.parent.name)
def test_a_tool_has_one_reading_a_seed(file: Path) -> None:
    kept = [(one["tool"], one["seed"]) for one in read_lines(file)]
    assert len(kept) == len(set(kept))


def test_the_rates_on_the_page_are_those_of_all_series() -> None:
    readings = throughput_together.together([read_json(file) for file in sorted(SERIES.glob("*.json"))])
    made = rows(throughput.table([throughput.summary(cell, some) for cell, some in readings.items()]))
    assert len(made) == 16
    assert [row for row in made if row not in PAGE] == []


def test_start_up_is_the_median_of_its_rounds_in_both_series() -> None:
    shown = {
        "`upcycle --help` has answered": "upcycle --help",
        "`import torch` is done": "import torch",
        "a program that imports timm has made one optimizer step": "timm, one optimizer step",
        "`classic` begins its first update": "classic, to its beginning",
        "`classic` has made its first update, 32 images at 224 px": "classic, to the first update",
    }
    series: list[dict[str, Any]] = [json.loads(file.read_text()) for file in STARTUPS]
    for words, name in shown.items():
        medians = ", ".join(f"{statistics.median(one[name]['readings_s']):.2f}" for one in series)
        assert f"| {words} | {medians} |" in PAGE


def test_what_was_tried_of_each_peer_is_on_the_page_as_it_was_read() -> None:
    kept = read_json(ROOT / "lab" / "2026-11-26-peers" / "peer_settings.json")
    readings = {}
    for one in kept["variants"]:
        some = one.pop("readings")
        readings[peer_settings.Variant(**{**one, "words": tuple(one["words"])})] = some
    made = rows(peer_settings.table(readings))
    assert len(made) == 23
    assert [row for row in made if row not in PAGE] == []


@pytest.mark.parametrize("data", ["hymenoptera", "cartoon7", "flowers5", "malaria_cells", "cats_dogs"])
def test_the_readme_has_the_means_of_the_readings(data: str) -> None:
    readings = read_lines(ROOT / "lab" / "2026-11-30-peers" / "default" / data / "readings.jsonl")
    ours, theirs, fastai = (
        {one["seed"]: one for one in readings if one["tool"].startswith(tool)} for tool in ("upcycle", "timm", "fastai")
    )
    assert ours.keys() == theirs.keys()
    f1 = [statistics.mean(one["f1"]["test"] for one in some.values()) + 1e-9 for some in (ours, theirs)]
    ratio = statistics.median(ours[seed]["seconds"] / theirs[seed]["seconds"] for seed in ours)
    changes = [100 * (ours[seed]["f1"]["test"] - theirs[seed]["f1"]["test"]) for seed in ours]
    error = f" ± {statistics.stdev(changes) / len(changes) ** 0.5:.1f}" if len(changes) > 2 else ""
    beside = "–"
    if fastai:
        mean = statistics.mean(one["f1"]["test"] for one in fastai.values()) + 1e-9
        times = statistics.median(fastai[seed]["seconds"] / ours[seed]["seconds"] for seed in fastai)
        beside = f"{mean:.3f} (n = {len(fastai)}), {times:.1f} times as long"
    row = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if f"| {data}:" in line)
    expected = (
        f"| {len(ours)} | {f1[0]:.3f} | {f1[1]:.3f} | {statistics.mean(changes):+.1f}{error} | {ratio:.1f} | {beside} |"
    )
    assert row.endswith(expected)
