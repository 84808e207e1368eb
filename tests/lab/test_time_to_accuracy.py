"""lab/time_to_accuracy.py: which setting answers for a tool, and what becomes of a reading."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import time_to_accuracy


def reading(tool: str, seconds: float, val: float, test: float, seed: int = 0) -> dict[str, Any]:
    return {"tool": tool, "seed": seed, "seconds": seconds, "f1": {"val": val, "test": test}}


def summaries(*readings: dict[str, Any]) -> list[dict[str, Any]]:
    tools = dict.fromkeys(one["tool"] for one in readings)
    return [time_to_accuracy.summary(list(readings), tool) for tool in tools]


def test_the_quickest_setting_that_reaches_the_goal_on_validation_answers() -> None:
    slow, quick = reading("fastai 3", 400, 0.99, 0.98), reading("fastai 1", 200, 0.98, 0.975)
    worse = reading("fastai 1 @128", 90, 0.94, 0.95)
    assert time_to_accuracy.to_goal(summaries(slow, quick, worse), 0.97) == "200 s (fastai 1, test F1 0.9750)"


def test_a_test_score_chooses_nothing() -> None:
    chosen, lucky = reading("fastai 1", 200, 0.98, 0.96), reading("fastai 3", 400, 0.975, 0.99)
    told = time_to_accuracy.to_goal(summaries(chosen, lucky), 0.97)
    assert told == "not reached: 0.9600 after 200 s (fastai 1)"


def test_where_none_reaches_the_goal_the_best_on_validation_answers() -> None:
    told = time_to_accuracy.to_goal(summaries(reading("a", 5, 0.8, 0.9), reading("b", 9, 0.85, 0.7)), 0.95)
    assert told == "not reached: 0.7000 after 9 s (b)"


def test_seeds_are_summed_up_by_mean_f1_and_median_seconds() -> None:
    seeds = [reading("a", seconds, 0.9, test, at) for at, (seconds, test) in enumerate([(3, 0.8), (9, 0.9), (4, 0.7)])]
    table = time_to_accuracy.tables(summaries(*seeds, reading("b", 1, 0.5, 0.5)), [0.95])
    first, second = table.splitlines()[2:4]
    assert first == "| b | 1 | 0.5000 | 0.5000 | 1 |"
    assert second == "| a | 3 | 0.9000 | 0.8000 (0.8000, 0.9000, 0.7000) | 4 (3 to 9) |"


@pytest.mark.parametrize(
    ("tool", "family"),
    [
        ("fastai 8, best @128", "fastai"),
        ("Keras article 20", "Keras"),
        ("timm + scikit-learn, best", "timm"),
        ("upcycle full 1", "upcycle full"),
        ("upcycle classic @128", "upcycle classic"),
    ],
)
def test_recipes_of_upcycle_answer_for_themselves_alone(tool: str, family: str) -> None:
    assert time_to_accuracy.family(tool) == family
    assert time_to_accuracy.command(tool)[1] == (128 if "@" in tool else None)


def test_an_unknown_tool_is_told_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="unknown tool 'fastai': use .*fastai N"):
        time_to_accuracy.command("fastai")


def test_a_command_is_timed_and_its_last_words_are_told_where_it_fails(tmp_path: Path) -> None:
    asked = argparse.Namespace(threads=1, folder=tmp_path)
    text, seconds = time_to_accuracy.ran([sys.executable, "-c", "import time; time.sleep(0.2); print(3)"], asked)
    assert (text, seconds >= 0.2) == ("3\n", True)
    with pytest.raises(SystemExit, match="no room"):
        time_to_accuracy.ran([sys.executable, "-c", "import sys; sys.exit('no room')"], asked)


def test_readings_of_something_else_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "readings.jsonl"
    kept.write_text(json.dumps(reading("upcycle probe", 1, 1, 1) | {"of": {"data": "/elsewhere"}}) + "\n")
    words = [str(tmp_path), "--data", str(tmp_path), "--weights", "none", "--tools", "upcycle probe"]
    monkeypatch.setattr(sys, "argv", ["time_to_accuracy.py", *words])
    with pytest.raises(SystemExit, match="use another FOLDER"):
        time_to_accuracy.main()


def test_the_kept_command_names_all_that_was_read_in_however_many_commands() -> None:
    found = [{"tool": "upcycle probe", "n": 1}, {"tool": "fastai 1, best", "n": 3}]
    words = ["a.py", "OUT", "--tools", "upcycle probe", "--seeds", "1", "--goals", "0.9"]
    expected = "python a.py OUT --goals 0.9 --tools 'upcycle probe;fastai 1, best' --seeds 3"
    assert expected == " ".join(time_to_accuracy.repeats(words, found))


def test_a_commit_is_told() -> None:
    assert re.fullmatch(r"[0-9a-f]{7,}|", time_to_accuracy.commit())
