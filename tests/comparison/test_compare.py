from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.comparison.rundirs import predictions, write_run
from upcycle.comparison.compare import _f1, compare
from upcycle.comparison.paired import Arm, scored
from upcycle.comparison.runs import Group, grouped, read_run
from upcycle.errors import ConfigError
from upcycle.evaluation.metrics import evaluate
from upcycle.evaluation.predictions import Predictions
from upcycle.rundir import RunDir, append_line, read_json, write_json

IMAGES = 400


def answers(share: float, seed: int, images: int = IMAGES) -> np.ndarray:
    """Which images are answered right: all those of a common ease above 1 - share, with a little luck."""
    ease = np.random.default_rng(0).random(images)
    luck = np.random.default_rng(seed + 1).normal(0, 0.03, images)
    return (ease + luck > 1 - share).astype(int)


def ladder(folder: Path, rungs: dict[str, float], *, seeds: int = 1, images: int = IMAGES, **facts: Any) -> list[Group]:
    """A group a rung, whose models get that share of the images right."""
    groups = []
    for number, (name, share) in enumerate(rungs.items()):
        runs = []
        for seed in range(seeds):
            made = predictions(answers(share, 10 * number + seed, images))
            path = folder / "runs" / f"{name}-seed-{seed}"
            write_run(path, made, seconds=100.0 * (number + 1), recipe="classic", epochs=10 + number, seed=seed)
            runs.append(read_run(path))
        groups.append(Group(name, name.title(), f"what {name} does", tuple(runs), **facts))
    return groups


def pair(values: dict[str, Any], first: str, second: str) -> dict[str, Any]:
    (found,) = [one for one in values["pairs"] if (one["first"], one["second"]) == (first, second)]
    return found


def test_a_clear_gain_is_called_one_in_all_its_figures(tmp_path: Path) -> None:
    values = compare(ladder(tmp_path, {"low": 0.7, "high": 0.9}), folder=tmp_path)
    made = pair(values, "low", "high")
    low, high = made["difference"]["interval"]
    assert low < made["difference"]["value"] < high
    assert 0.1 < low
    assert made["mcnemar"]["p"] < 1e-6
    assert made["mcnemar"]["p"] == pytest.approx(made["difference"]["p"])
    assert ("gain", True) == (made["verdict"], made["holm"]["real"])
    said = "High gained 15.0 points of F1 over Low (95 % interval 11.4 to 18.6): for these models more than chance."
    assert made["says"].startswith(said)
    assert values["says"][0] == "As trained here, High is better than the rung before by more than chance."


def test_where_fine_tuning_hurts_it_says_so(tmp_path: Path) -> None:
    values = compare(ladder(tmp_path, {"probe": 0.95, "tuned": 0.8}), folder=tmp_path)
    assert "loss" == pair(values, "probe", "tuned")["verdict"]
    assert "Tuned lost 1" in pair(values, "probe", "tuned")["says"]
    assert "it hurts here, for these models by more than chance" in pair(values, "probe", "tuned")["says"]
    assert "As trained here, Tuned is worse than the rung before by more than chance." == values["says"][0]
    assert "probe" == values["recommendation"]["rung"]


def test_where_nothing_differs_it_says_so_and_how_many_images_would_tell(tmp_path: Path) -> None:
    values = compare(ladder(tmp_path, {"one": 0.9, "two": 0.9, "three": 0.905}, seeds=2), folder=tmp_path)
    assert {"unclear"} == {one["verdict"] for one in values["pairs"]}
    assert "400 test images are too few for a conclusion about any step; about " in values["says"][0]
    assert "Nothing here differs by more than chance" in values["says"][1]
    assert "not distinguishable from chance here; about " in values["pairs"][0]["says"]
    assert values["pairs"][0]["images_needed"] > IMAGES
    assert ("one", 2) == (values["recommendation"]["rung"], values["family"]["size"])


def test_where_models_answer_alike_any_difference_is_shown_to_be_small(tmp_path: Path) -> None:
    right = answers(0.95, 0, 2000)
    for name, epochs in (("a", 6), ("b", 7)):
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=epochs)
    values = compare(grouped([read_run(tmp_path / name) for name in ("a", "b")]), folder=tmp_path)
    assert ("same", None) == (values["pairs"][0]["verdict"], values["pairs"][0]["images_needed"])
    assert "any difference is smaller than a point" in values["pairs"][0]["says"]


def test_five_test_images_are_too_few_whatever_they_show(tmp_path: Path) -> None:
    for name, epochs, right in (("a", 6, 0), ("b", 7, 1)):
        write_run(tmp_path / name, predictions([right] * 5), recipe="classic", epochs=epochs)
    values = compare(grouped([read_run(tmp_path / name) for name in ("a", "b")]), folder=tmp_path)
    assert "too-small" == values["pairs"][0]["verdict"]
    assert "5 test images are too few for any conclusion; about " in values["pairs"][0]["says"]
    assert "5 test images are too few for a conclusion about any step; about " in values["says"][0]


def test_a_step_that_counts_alone_may_not_count_as_one_of_five(tmp_path: Path) -> None:
    base, rungs = [0] * 10 + [1] * 390, {"zero": 0, "one": 8, "two": 0, "three": 8, "four": 0, "five": 8}
    for number, (name, more) in enumerate(rungs.items()):
        right = [1] * more + base[more:]
        right[395] = 1 - more // 8
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=6 + number)
    values = compare(grouped([read_run(tmp_path / name) for name in rungs]), folder=tmp_path)
    step = pair(values, "zero", "one")
    assert (True, False) == (step["difference"]["p"] < 0.05, step["holm"]["real"])
    assert "unclear" == step["verdict"]
    assert "not as one of several comparisons" in step["says"]


def test_three_seeds_answer_for_the_models_and_not_for_the_recipe(tmp_path: Path) -> None:
    again = compare(ladder(tmp_path, {"low": 0.7, "high": 0.9}, seeds=3), folder=tmp_path)["pairs"][0]["again"]
    assert (False, None, "3 seeds in common; 5 or more are needed") == (
        again["answerable"],
        again["interval"],
        again["reason"],
    )


def test_five_seeds_answer_for_the_recipe(tmp_path: Path) -> None:
    made = compare(ladder(tmp_path, {"low": 0.7, "high": 0.9}, seeds=5), folder=tmp_path)["pairs"][0]
    assert (True, 4) == (made["again"]["answerable"], made["again"]["df"])
    assert made["again"]["interval"][0] > 0.1
    assert 5 == len(made["mcnemar"]["pairs"])


def test_every_rung_is_compared_with_the_one_before_the_first_and_the_best(tmp_path: Path) -> None:
    values = compare(ladder(tmp_path, {"a": 0.6, "b": 0.95, "c": 0.8}), folder=tmp_path)
    kinds = {(one["first"], one["second"]): one["kinds"] for one in values["pairs"]}
    assert {
        ("a", "b"): ["step", "first", "best"],
        ("b", "c"): ["step"],
        ("a", "c"): ["first"],
        ("c", "b"): ["best"],
    } == kinds


def test_paths_of_runs_are_relative_to_the_comparison(tmp_path: Path) -> None:
    values = compare(ladder(tmp_path, {"a": 0.6, "b": 0.9}), folder=tmp_path)
    assert "runs/a-seed-0" == values["rungs"][0]["runs"][0]["path"]


def test_a_rung_that_failed_stands_beside_the_others(tmp_path: Path) -> None:
    failed = Group("broken", "Broken", "", (), failed=({"seed": 0, "reason": "the loss is not finite"},))
    groups = ladder(tmp_path, {"a": 0.6, "b": 0.9})
    values = compare([groups[0], failed, groups[1]], folder=tmp_path)
    assert (None, [{"seed": 0, "reason": "the loss is not finite"}]) == (
        values["rungs"][1]["f1_macro"],
        values["rungs"][1]["failed"],
    )
    assert ["step", "first", "best"] == pair(values, "a", "b")["kinds"]
    assert "Broken: 1 of its runs failed." in values["says"]


def test_one_rung_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 or more runs that differ in more than their seed"):
        compare(ladder(tmp_path, {"a": 0.6}, seeds=2), folder=tmp_path)


def test_the_cheapest_rung_that_is_not_shown_to_be_worse_is_recommended(tmp_path: Path) -> None:
    values = compare(ladder(tmp_path, {"bad": 0.6, "cheap": 0.9, "dear": 0.92}), folder=tmp_path)
    says = values["recommendation"]["says"]
    assert "cheap" == values["recommendation"]["rung"]
    assert "the best, Dear (F1 0.9" in says
    assert "takes 1.5 times as long and is not shown to be better." in says
    assert "is not excluded" in says


def test_where_only_the_whole_climb_is_real_the_headline_says_so(tmp_path: Path) -> None:
    for number in range(6):
        right = [1] * (500 + 5 * number) + [0] * (100 - 5 * number)
        write_run(tmp_path / str(number), predictions(right), recipe="classic", epochs=6 + number)
    values = compare(grouped([read_run(tmp_path / str(number)) for number in range(6)]), folder=tmp_path)
    assert {"unclear"} == {one["verdict"] for one in values["pairs"] if "step" in one["kinds"]}
    assert "gain" == pair(values, "0", "5")["verdict"]
    assert (
        "No single step is shown to be real, but 5 is better than 0 by 4.2 points of F1, more than chance."
        == values["says"][0]
    )
    assert not any("too few" in text for text in values["says"])


def test_a_step_between_the_same_runs_is_no_conclusion(tmp_path: Path) -> None:
    one, two = ladder(tmp_path, {"one": 0.8, "two": 0.82}, images=60)
    values = compare([one, replace(one, name="same", title="Same"), two], folder=tmp_path)
    assert "same" == pair(values, "one", "same")["verdict"]
    assert values["says"][0].startswith("60 test images are too few for a conclusion about any step; about ")
    assert values["says"][1].startswith("Nothing here differs by more than chance")


def test_rungs_that_are_all_the_same_runs_are_said_to_be(tmp_path: Path) -> None:
    (one,) = ladder(tmp_path, {"one": 0.8})
    values = compare([one, replace(one, name="same", title="Same")], folder=tmp_path)
    assert ["All rungs came out as the same runs: there is no difference."] == values["says"]


def test_a_rung_that_is_worse_by_less_than_matters_may_be_recommended(tmp_path: Path) -> None:
    for name, wrong, epochs in (("cheap", 40, 6), ("dear", 20, 7)):
        right = [0] * wrong + [1] * (4000 - wrong)
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=epochs, seconds=100.0 * epochs)
    values = compare(grouped([read_run(tmp_path / name) for name in ("cheap", "dear")]), folder=tmp_path)
    assert ("gain", "cheap") == (values["pairs"][0]["verdict"], values["recommendation"]["rung"])
    assert (
        "takes 1.2 times as long and is better by 0.5 points, not more than a point."
        in values["recommendation"]["says"]
    )


def test_what_the_models_show_and_the_correction_takes_back_is_both_said(tmp_path: Path) -> None:
    base = [0] * 12 + [1] * 388
    for number, more in enumerate((0, 8, 1, 2, 3)):
        right = [1] * more + base[more:]
        write_run(
            tmp_path / str(number), predictions(right), seconds=10.0 + number, recipe="classic", epochs=6 + number
        )
    groups = grouped([read_run(tmp_path / str(number)) for number in range(5)])
    values = compare(groups, folder=tmp_path)
    assert ("gain", True) == (
        pair(values, "0", "1")["verdict"],
        pair(values, "0", "1")["corrected"]["best"] > 0.05,
    )
    assert (
        "is better as these models were trained, which does not hold as the best of all pairs of rungs."
        in values["recommendation"]["says"]
    )


def test_where_the_best_are_the_same_runs_the_cheaper_way_to_them_is_recommended(tmp_path: Path) -> None:
    (one,) = ladder(tmp_path, {"one": 0.8})
    tuned = replace(one, name="tuned", title="Tuned", trials=(replace(one.runs[0], config={"lr": 1.0}),), lr=0.1)
    values = compare([tuned, one], folder=tmp_path)
    assert "one" == values["recommendation"]["rung"]
    assert values["recommendation"]["says"].endswith("takes 2.0 times as long and came out as the same runs.")


def test_a_rung_without_a_clock_is_not_recommended_by_its_cost(tmp_path: Path) -> None:
    groups = ladder(tmp_path, {"one": 0.8, "two": 0.82})
    bare = replace(groups[0].runs[0], status={"state": "finished"})
    values = compare([replace(groups[0], runs=(bare,)), groups[1]], folder=tmp_path)
    assert (None, None) == (values["rungs"][0]["seconds"], values["recommendation"])


def test_the_answer_for_recipes_is_corrected_where_the_best_was_chosen_by_its_score(tmp_path: Path) -> None:
    values = compare(ladder(tmp_path, {"a": 0.7, "b": 0.75, "c": 0.9}, seeds=5), folder=tmp_path)
    one = pair(values, "a", "c")["again"]
    assert one["corrected_interval"][0] < one["interval"][0] < one["interval"][1] < one["corrected_interval"][1]
    assert pair(values, "a", "b")["again"]["corrected_interval"] is None


def test_another_split_another_machine_and_other_weights_are_told(tmp_path: Path) -> None:
    for name, recipe in (("a", "classic"), ("b", "default")):
        path = write_run(tmp_path / name, predictions(answers(0.8, 0)), recipe=recipe, seed=int(name == "b"))
        (path / "splits.csv").write_text(name)
    machine = RunDir(tmp_path / "b").environment
    write_json(machine, {**read_json(machine), "processor": "H100"})
    values = compare(grouped([read_run(tmp_path / name) for name in ("a", "b")]), folder=tmp_path)
    assert {"classic": 0, "default": 1} == values["options"]["split_seed"]
    assert "weights_sha256" not in values["options"]
    assert ["a processor, cpu, 2 threads", "H100, cpu, 2 threads"] == values["machines"]
    assert "trained on other splits of the photos" in values["says"][-2]
    assert "Times were taken on different machines" in values["says"][-1]
    assert values["recommendation"] is None


def test_options_are_told_where_rungs_differ_and_nowhere_else(tmp_path: Path) -> None:
    write_run(tmp_path / "probe", predictions(answers(0.8, 0)), recipe="probe")
    write_run(tmp_path / "classic", predictions(answers(0.8, 1)), recipe="classic", image_size=128, crop_pct=0.875)
    write_run(tmp_path / "constant", predictions(answers(0.8, 2)), recipe="classic", schedule="constant", lr=1e-4)
    runs = [read_run(tmp_path / name) for name in ("probe", "classic", "constant")]
    options = compare(grouped(runs), folder=tmp_path)["options"]
    assert {"classic": "ramp-sustain-decay", "constant": "constant"} == options["schedule"]
    assert {"probe": 224, "classic": 128, "constant": 224} == options["image_size"]
    assert {"classic": 5} == options["rampup"]
    assert (
        set()
        == {"arch", "weights", "pct_start", "seed", "recipe", "split_seed", "optimizer", "val_fraction", "crop_pct"}
        & options.keys()
    )


def test_a_crop_that_differs_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "probe", predictions(answers(0.8, 0)), recipe="probe")
    write_run(tmp_path / "default", predictions(answers(0.8, 1)), recipe="default", crop_pct=1.0)
    runs = [read_run(tmp_path / name) for name in ("probe", "default")]
    assert {"probe": 0.875, "default": 1.0} == compare(grouped(runs), folder=tmp_path)["options"]["crop_pct"]


def test_who_finds_decoded_images_and_features_in_the_cache_is_charged_for_them(tmp_path: Path) -> None:
    for name, recipe, seconds, decoding in (("a", "probe", 50.0, 30.0), ("b", "default", 100.0, 0.5)):
        status = {"decoding_seconds": decoding, "features_seconds": decoding / 2}
        write_run(tmp_path / name, predictions(answers(0.8, 0)), seconds=seconds, status=status, recipe=recipe)
    rungs = compare(grouped([read_run(tmp_path / name) for name in ("a", "b")]), folder=tmp_path)["rungs"]
    assert [50.0, pytest.approx(144.25)] == [rung["seconds"] for rung in rungs]


def test_a_run_whose_clock_lost_a_session_is_said_to_be_timed_in_part(tmp_path: Path) -> None:
    groups = ladder(tmp_path, {"whole": 0.8, "part": 0.9})
    for name, seconds in (("whole", 99.0), ("part", 201.0)):
        append_line(tmp_path / f"runs/{name}-seed-0/timings.jsonl", {"phase": "finetune", "seconds": seconds})
    groups = [replace(group, runs=tuple(read_run(run.path) for run in group.runs)) for group in groups]
    rungs = compare(groups, folder=tmp_path)["rungs"]
    assert [True, False] == [rung["runs"][0]["seconds_complete"] for rung in rungs]


def test_with_a_rare_class_nothing_is_called_smaller_than_a_point(tmp_path: Path) -> None:
    labels = np.array([1] * 5 + [0] * 995)
    for name, epochs in (("a", 6), ("b", 7)):
        made = predictions([1] * 1000)
        made = replace(made, labels=labels, logits=np.where(labels == 1, 2.0, -2.0)[:, None].astype(np.float32))
        write_run(tmp_path / name, made, recipe="classic", epochs=epochs)
    made = compare(grouped([read_run(tmp_path / name) for name in ("a", "b")]), folder=tmp_path)["pairs"][0]
    low, high = made["f1_difference"]["interval"]
    assert "unclear" == made["verdict"]
    assert low < -0.1 < 0.1 < high


def test_the_best_of_equal_rungs_is_not_called_better_than_the_others(tmp_path: Path) -> None:
    """The best was chosen by its score: against it p is corrected for every pair that might have been asked."""
    groups = ladder(tmp_path, {"a": 0.9, "b": 0.9, "c": 0.935, "d": 0.9})
    for pair in (one for one in compare(groups, folder=tmp_path)["pairs"] if "best" in one["kinds"]):
        assert pair["corrected"]["best"] == pytest.approx(min(1.0, 6 * pair["difference"]["p"]))


def test_a_dear_rung_that_is_better_by_less_than_matters_is_not_recommended(tmp_path: Path) -> None:
    groups = ladder(tmp_path, {"cheap": 0.90, "dear": 0.95}, images=1000)
    assert "dear" == compare(groups, folder=tmp_path)["recommendation"]["rung"]
    assert "cheap" == compare(groups, folder=tmp_path, smallest_difference=0.2)["recommendation"]["rung"]


def test_from_too_few_images_nothing_is_recommended(tmp_path: Path) -> None:
    for name, epochs, right in (("a", 6, 0), ("b", 7, 1)):
        write_run(tmp_path / name, predictions([right] * 5), recipe="classic", epochs=epochs)
    assert compare(grouped([read_run(tmp_path / n) for n in ("a", "b")]), folder=tmp_path)["recommendation"] is None


@pytest.mark.parametrize(("images", "wrong"), [(8, 4), (20, 5)])
def test_a_cheap_rung_that_scored_far_lower_is_not_recommended_where_nothing_can_be_told(
    images: int, wrong: int, tmp_path: Path
) -> None:
    for name, epochs, right in (("cheap", 6, [0] * wrong + [1] * (images - wrong)), ("dear", 7, [1] * images)):
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=epochs, seconds=100.0 * epochs)
    values = compare(grouped([read_run(tmp_path / name) for name in ("cheap", "dear")]), folder=tmp_path)
    assert {"unclear"} == {one["verdict"] for one in values["pairs"]}
    assert values["says"][0].startswith(f"{images} test images are too few for a conclusion about any step")
    assert values["recommendation"] is None


def test_with_groups_mcnemars_test_of_images_gives_no_p(tmp_path: Path) -> None:
    for name, epochs, share in (("a", 6, 0.8), ("b", 7, 0.9)):
        made = predictions(answers(share, epochs))
        groups = tuple(str(at // 10) if name == "b" else "" for at in range(IMAGES))
        write_run(tmp_path / name, replace(made, groups=groups), recipe="classic", epochs=epochs)
    for order in (("a", "b"), ("b", "a")):
        values = compare(grouped([read_run(tmp_path / name) for name in order]), folder=tmp_path)
        assert (40, None) == (values["test"]["units"], values["pairs"][0]["mcnemar"]["p"])


def test_the_interval_of_one_seed_is_that_of_the_runs_own_report() -> None:
    labels = np.repeat(np.arange(30), 10)
    guessed = labels.copy()
    guessed[[0, 50, 120]] += 1  # most classes show no error, and no resample could tell that they may
    names = tuple(str(at) for at in range(300))
    found = Predictions(
        classes=tuple(f"class {at}" for at in range(30)),
        paths=names,
        hashes=names,
        groups=("",) * 300,
        labels=labels,
        logits=np.eye(30, dtype=np.float32)[guessed] * 9,
    )
    own = evaluate(found).f1_macro
    arm = Arm(labels, guessed[None], np.arange(300), 30)
    made = _f1(scored(arm), arm)
    assert "combined" == own.method == made.method
    assert (own.low, own.high) == pytest.approx((made.low, made.high), abs=0.002)


def test_a_class_that_one_of_many_models_names_stretches_no_interval() -> None:
    labels = np.arange(300) % 2
    random = np.random.default_rng(0)
    predicted = np.where(random.random((20, 300)) < 0.96, labels, 1 - labels)
    plain = Arm(labels, predicted, np.arange(300), 3)
    odd = Arm(labels, predicted.copy(), np.arange(300), 3)
    odd.predicted[3, 7] = 2  # a class that no image is of
    one, other = _f1(scored(plain), plain), _f1(scored(odd), odd)
    assert ("bootstrap", "bootstrap") == (one.method, other.method)
    assert 0.9 < other.low < other.high < 0.97
