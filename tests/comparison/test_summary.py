from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.comparison.rundirs import predictions, write_run
from upcycle.comparison.results import Comparison, Pair, read_comparison
from upcycle.comparison.runs import Facts, FailedSeed, VariantRuns, grouped, read_run
from upcycle.comparison.statistics import Arm, scored
from upcycle.comparison.summary import summarize
from upcycle.errors import ConfigError, RunError
from upcycle.evaluation.metrics import measure
from upcycle.evaluation.results import Predictions
from upcycle.rundir import RunDir, read_json, write_json

IMAGES = 400


def answers(share: float, seed: int, images: int = IMAGES) -> np.ndarray:
    """Which images are answered right: all those of a common ease above 1 - share, with a little luck."""
    ease = np.random.default_rng(0).random(images)
    luck = np.random.default_rng(seed + 1).normal(0, 0.03, images)
    return (ease + luck > 1 - share).astype(int)


def groups_of(folder: Path, shares: dict[str, float], *, seeds: int = 1, images: int = IMAGES) -> list[VariantRuns]:
    """A group per variant, whose models get that share of the images right."""
    groups = []
    for number, (name, share) in enumerate(shares.items()):
        runs = []
        for seed in range(seeds):
            made = predictions(answers(share, 10 * number + seed, images))
            path = folder / "runs" / f"{name}-seed-{seed}"
            write_run(path, made, seconds=100.0 * (number + 1), recipe="classic", epochs=10 + number, seed=seed)
            runs.append(read_run(path))
        groups.append(VariantRuns(name, name.title(), f"what {name} does", tuple(runs)))
    return groups


def compared(folder: Path, *names: str) -> Comparison:
    return summarize(grouped([read_run(folder / name) for name in names]), folder=folder)


def pair(made: Comparison, first: str, second: str) -> Pair:
    found = made.pair(first, second)
    assert found is not None
    return found


def test_a_clear_gain_is_called_one_in_all_its_figures(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"low": 0.7, "high": 0.9}), folder=tmp_path)
    one = pair(made, "low", "high")
    assert 0.1 < one.f1.low < one.f1.value < one.f1.high
    assert 0.1 < one.accuracy.low < one.accuracy.value < one.accuracy.high
    assert one.f1.p < 1e-6
    assert ("gain", True) == (one.verdict, one.f1.significant)
    assert "high" == made.best.name
    assert "Take High: F1 0.892 is the best here, all others are shown to be worse." == made.recommendation.reason


def test_where_fine_tuning_hurts_it_is_a_loss(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"probe": 0.95, "tuned": 0.8}), folder=tmp_path)
    assert ("loss", True) == (pair(made, "probe", "tuned").verdict, pair(made, "probe", "tuned").f1.significant)
    assert "probe" == made.recommendation.variant


def test_where_nothing_differs_it_says_how_many_images_would_tell(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"one": 0.9, "two": 0.9, "three": 0.905}, seeds=2), folder=tmp_path)
    assert {"unclear"} == {one.verdict for one in made.pairs}
    assert "400 test images are too few for any conclusion; about " in made.notes[0]
    assert made.pairs[0].images_needed > IMAGES
    assert ("one", 3) == (made.recommendation.variant, len(made.pairs))


def test_where_models_answer_alike_any_difference_is_shown_to_be_small(tmp_path: Path) -> None:
    right = answers(0.95, 0, 2000)
    for name, epochs in (("a", 6), ("b", 7)):
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=epochs)
    (one,) = compared(tmp_path, "a", "b").pairs
    assert ("same", None, False) == (one.verdict, one.images_needed, one.f1.significant)


def test_five_test_images_are_too_few_whatever_they_show(tmp_path: Path) -> None:
    for name, epochs, right in (("a", 6, 0), ("b", 7, 1)):
        write_run(tmp_path / name, predictions([right] * 5), recipe="classic", epochs=epochs)
    made = compared(tmp_path, "a", "b")
    assert ("too-small", False, None) == (made.pairs[0].verdict, made.pairs[0].f1.significant, made.recommendation)
    assert "5 test images are too few for any conclusion; about " in made.notes[0]


def test_a_difference_that_counts_alone_may_not_count_as_one_of_fifteen(tmp_path: Path) -> None:
    base, more = [0] * 10 + [1] * 390, {"zero": 0, "one": 8, "two": 0, "three": 8, "four": 0, "five": 8}
    for number, (name, count) in enumerate(more.items()):
        right = [1] * count + base[count:]
        right[395] = 1 - count // 8
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=6 + number)
    alone, among = compared(tmp_path, "zero", "one"), compared(tmp_path, *more)
    assert (True, False) == (pair(alone, "zero", "one").f1.significant, pair(among, "zero", "one").f1.significant)
    assert pair(among, "zero", "one").f1.p == pytest.approx(15 * pair(alone, "zero", "one").f1.p)


def test_three_seeds_answer_for_the_models_and_not_for_retraining(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"low": 0.7, "high": 0.9}, seeds=3), folder=tmp_path)
    assert (None, 3, True) == (made.pairs[0].retrained, made.pairs[0].seeds, made.pairs[0].f1.significant)
    assert "Not enough seeds to tell whether this holds on retraining: 5 or more are needed." == made.notes[-1]


def test_five_seeds_answer_for_retraining(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"low": 0.7, "high": 0.9}, seeds=5), folder=tmp_path)
    assert made.pairs[0].retrained is not None
    assert made.pairs[0].retrained.low > 0.1
    assert not any("retraining" in note for note in made.notes)


def test_every_two_variants_are_a_pair_and_the_first_is_the_baseline(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"a": 0.6, "b": 0.95, "c": 0.8}), folder=tmp_path)
    assert [("a", "b"), ("a", "c"), ("b", "c")] == [(one.first, one.second) for one in made.pairs]
    assert (None, made.pairs[1]) == (made.over_baseline("a"), made.over_baseline("c"))


def test_a_comparison_is_written_and_read_whole(tmp_path: Path) -> None:
    failed = VariantRuns("broken", "Broken", "", (), failed=(FailedSeed(0, "the loss is not finite"),))
    made = summarize([*groups_of(tmp_path, {"a": 0.6, "b": 0.9}, seeds=5), failed], folder=tmp_path)
    made.save()
    assert made == read_comparison(tmp_path)
    assert made.to_dict() == read_json(tmp_path / "comparison.json")


def test_paths_of_runs_are_relative_to_the_comparison(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"a": 0.6, "b": 0.9}), folder=tmp_path)
    assert "runs/a-seed-0" == made.variants[0].runs[0].path


def test_a_variant_that_failed_stands_beside_the_others(tmp_path: Path) -> None:
    failed = VariantRuns("broken", "Broken", "", (), failed=(FailedSeed(0, "the loss is not finite"),))
    groups = groups_of(tmp_path, {"a": 0.6, "b": 0.9})
    made = summarize([groups[0], failed, groups[1]], folder=tmp_path)
    assert (None, None, (FailedSeed(0, "the loss is not finite"),)) == (
        made.variants[1].f1_macro,
        made.variants[1].cost,
        made.variants[1].failed,
    )
    assert [("a", "b")] == [(one.first, one.second) for one in made.pairs]


def test_one_variant_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 or more runs that differ in more than their seed"):
        summarize(groups_of(tmp_path, {"a": 0.6}, seeds=2), folder=tmp_path)


def test_the_cheapest_variant_that_is_not_shown_to_be_worse_is_recommended(tmp_path: Path) -> None:
    made = summarize(groups_of(tmp_path, {"bad": 0.6, "cheap": 0.9, "dear": 0.92}), folder=tmp_path)
    reason = made.recommendation.reason
    assert "cheap" == made.recommendation.variant
    assert "Take Cheap (F1 0.8" in reason
    assert "takes 1.5 times as long and is not shown to be better. A gain of up to " in reason


def test_two_variants_that_are_the_same_runs_do_not_differ(tmp_path: Path) -> None:
    one, two = groups_of(tmp_path, {"one": 0.8, "two": 0.82}, images=60)
    made = summarize([one, replace(one, name="same", title="Same"), two], folder=tmp_path)
    difference = pair(made, "one", "same").f1
    assert (0.0, 1.0, False) == (difference.value, difference.p, difference.significant)


def test_a_variant_that_is_worse_by_less_than_matters_may_be_recommended(tmp_path: Path) -> None:
    for name, wrong, epochs in (("cheap", 40, 6), ("dear", 20, 7)):
        right = [0] * wrong + [1] * (4000 - wrong)
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=epochs, seconds=100.0 * epochs)
    made = compared(tmp_path, "cheap", "dear")
    assert ("gain", "cheap") == (made.pairs[0].verdict, made.recommendation.variant)
    assert "takes 1.2 times as long and is better by 0.5 points, less than matters." in made.recommendation.reason


def test_a_variant_without_a_clock_is_not_recommended_by_its_cost(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, {"one": 0.8, "two": 0.82})
    bare = replace(groups[0].runs[0], facts=Facts())
    made = summarize([replace(groups[0], runs=(bare,)), groups[1]], folder=tmp_path)
    assert (None, None) == (made.variants[0].cost.seconds, made.recommendation)


def test_another_split_another_machine_and_other_weights_are_reported(tmp_path: Path) -> None:
    for name, recipe in (("a", "classic"), ("b", "default")):
        path = write_run(tmp_path / name, predictions(answers(0.8, 0)), recipe=recipe, seed=int(name == "b"))
        (path / "splits.csv").write_text(f"path,label,split,group,sha256\n1.jpg,cats,{name},,1\n")
    machine = RunDir(tmp_path / "b").environment
    write_json(machine, {**read_json(machine), "processor": "H100"})
    made = compared(tmp_path, "a", "b")
    assert {"a": 0, "b": 1} == made.options["split_seed"]
    assert "weights_sha256" not in made.options
    assert ("a processor, cpu, 2 threads", "H100, cpu, 2 threads") == made.machines
    assert "trained on different splits of the photos" in made.notes[1]
    assert "Times were taken on different machines" in made.notes[2]
    assert made.recommendation is None


def test_options_are_listed_where_variants_differ_and_nowhere_else(tmp_path: Path) -> None:
    write_run(tmp_path / "probe", predictions(answers(0.8, 0)), recipe="probe")
    write_run(tmp_path / "classic", predictions(answers(0.8, 1)), recipe="classic", image_size=128, crop_pct=0.875)
    write_run(tmp_path / "constant", predictions(answers(0.8, 2)), recipe="classic", schedule="constant", lr=1e-4)
    options = compared(tmp_path, "probe", "classic", "constant").options
    assert {"classic": "ramp-sustain-decay", "constant": "constant"} == options["schedule"]
    assert {"probe": 224, "classic": 128, "constant": 224} == options["image_size"]
    assert {"classic": 5} == options["rampup"]
    assert (
        set()
        == {"arch", "weights", "pct_start", "seed", "recipe", "split_seed", "optimizer", "val_fraction", "crop_pct"}
        & options.keys()
    )


def test_a_crop_that_differs_is_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "probe", predictions(answers(0.8, 0)), recipe="probe")
    write_run(tmp_path / "default", predictions(answers(0.8, 1)), recipe="default", crop_pct=1.0)
    assert {"probe": 0.875, "default": 1.0} == compared(tmp_path, "probe", "default").options["crop_pct"]


def test_who_finds_decoded_images_and_features_in_the_cache_is_charged_for_them(tmp_path: Path) -> None:
    for name, recipe, seconds, decoding in (("a", "probe", 50.0, 30.0), ("b", "default", 100.0, 0.5)):
        status = {"decoding_seconds": decoding, "features_seconds": decoding / 2}
        write_run(tmp_path / name, predictions(answers(0.8, 0)), seconds=seconds, status=status, recipe=recipe)
    made = compared(tmp_path, "a", "b")
    assert [50.0, pytest.approx(144.25)] == [one.cost.seconds for one in made.variants]


def test_a_run_pays_nothing_for_the_images_of_another(tmp_path: Path) -> None:
    for name, recipe, decoding in (("a", "probe", 30.0), ("b", "default", 0.5)):
        status = {"decoding_seconds": decoding}
        path = write_run(tmp_path / name, predictions(answers(0.8, 0)), seconds=50.0, status=status, recipe=recipe)
        write_json(path / "config.json", {**read_json(path / "config.json"), "data": f"/{name}"})
    assert [50.0, 50.0] == [one.cost.seconds for one in compared(tmp_path, "a", "b").variants]


def test_the_time_of_rates_that_were_not_chosen_is_tuning(tmp_path: Path) -> None:
    one, other = groups_of(tmp_path, {"one": 0.8, "other": 0.9})
    trials = []
    for lr in (1e-4, 1e-3):
        path = write_run(tmp_path / f"{lr}", predictions(answers(0.8, 0)), seconds=30.0, recipe="classic", lr=lr)
        trials.append(read_run(path))
    tuned = replace(one, trials=tuple(trials), lr=1e-3)
    made = summarize([tuned, other], folder=tmp_path).variants[0]
    assert ([1e-4, 1e-3], 30.0, 130.0) == (
        [trial.lr for trial in made.trials],
        made.cost.tuning_seconds,
        made.cost.total,
    )


def test_with_a_rare_class_nothing_is_called_smaller_than_a_point(tmp_path: Path) -> None:
    labels = np.array([1] * 5 + [0] * 995)
    for name, epochs in (("a", 6), ("b", 7)):
        made = predictions([1] * 1000)
        made = replace(made, labels=labels, logits=np.where(labels == 1, 2.0, -2.0)[:, None].astype(np.float32))
        write_run(tmp_path / name, made, recipe="classic", epochs=epochs)
    (one,) = compared(tmp_path, "a", "b").pairs
    assert "unclear" == one.verdict
    assert one.f1.low < -0.1 < 0.1 < one.f1.high


def test_a_dear_variant_that_is_better_by_less_than_matters_is_not_recommended(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, {"cheap": 0.90, "dear": 0.95}, images=1000)
    made = [summarize(groups, folder=tmp_path, smallest_difference=goal) for goal in (0.01, 0.2)]
    assert ["dear", "cheap"] == [one.recommendation.variant for one in made]


@pytest.mark.parametrize(("images", "wrong"), [(8, 4), (20, 5)])
def test_a_cheap_variant_that_scored_far_lower_is_not_recommended_where_nothing_can_be_told(
    images: int, wrong: int, tmp_path: Path
) -> None:
    for name, epochs, right in (("cheap", 6, [0] * wrong + [1] * (images - wrong)), ("dear", 7, [1] * images)):
        write_run(tmp_path / name, predictions(right), recipe="classic", epochs=epochs, seconds=100.0 * epochs)
    made = compared(tmp_path, "cheap", "dear")
    assert ("unclear", None) == (made.pairs[0].verdict, made.recommendation)
    assert made.notes[0].startswith(f"{images} test images are too few for any conclusion")


def test_images_of_one_group_count_once(tmp_path: Path) -> None:
    for name, epochs, share in (("a", 6, 0.8), ("b", 7, 0.9)):
        made = predictions(answers(share, epochs))
        groups = tuple(str(at // 10) if name == "b" else "" for at in range(IMAGES))
        write_run(tmp_path / name, replace(made, groups=groups), recipe="classic", epochs=epochs)
    for order in (("a", "b"), ("b", "a")):
        assert 40 == compared(tmp_path, *order).test_units


def test_a_comparison_of_an_earlier_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_json(tmp_path / "comparison.json", {"version": 1, "pairs": []})
    with pytest.raises(
        RunError, match=r"by another version of upcycle. Compare its runs: `upcycle compare .*/runs/\*`"
    ):
        read_comparison(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"variants": []}'])
def test_a_damaged_comparison_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(RunError, match="comparison.json is damaged"):
        read_comparison(tmp_path)


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
    own = measure(found).f1_macro
    arm = Arm(labels, guessed[None], np.arange(300), 30)
    made = scored(arm).interval("f1_macro")
    assert "combined" == own.method == made.method
    assert (own.low, own.high) == pytest.approx((made.low, made.high), abs=0.002)


def test_a_class_that_one_of_many_models_names_stretches_no_interval() -> None:
    labels = np.arange(300) % 2
    random = np.random.default_rng(0)
    predicted = np.where(random.random((20, 300)) < 0.96, labels, 1 - labels)
    plain = Arm(labels, predicted, np.arange(300), 3)
    odd = Arm(labels, predicted.copy(), np.arange(300), 3)
    odd.predicted[3, 7] = 2  # a class that no image is of
    one, other = (scored(arm).interval("f1_macro") for arm in (plain, odd))
    assert ("bootstrap", "bootstrap") == (one.method, other.method)
    assert 0.9 < other.low < other.high < 0.97


@pytest.mark.parametrize(("scratch", "told"), [(0.9, True), (0.6, False)])
def test_a_network_from_random_weights_that_scores_highest_is_named(tmp_path: Path, scratch: float, told: bool) -> None:
    for name, share, options in (("scratch", scratch, {"recipe": "simple-cnn"}), ("known", 0.7, {"recipe": "probe"})):
        write_run(tmp_path / name, predictions(answers(share, 1)), **options)
    made = compared(tmp_path, "scratch", "known")
    assert told == any("trained from random weights, scores highest" in note for note in made.notes)
