from pathlib import Path

import numpy as np
import pytest

from tests.comparison.rundirs import predictions, write_run
from upcycle.comparison.runs import digest, grouped, read_run, shared_test
from upcycle.errors import RunError
from upcycle.rundir import RunDir, read_json, write_json

RIGHT = [1, 1, 1, 0] * 5


def test_runs_that_differ_in_their_seed_alone_are_one_group_named_by_the_first_folder(tmp_path: Path) -> None:
    for seed in (1, 0):
        write_run(tmp_path / f"a{seed}", predictions(RIGHT), recipe="classic", seed=seed, threads=seed + 1)
    write_run(tmp_path / "b", predictions(RIGHT), recipe="default")
    groups = grouped([read_run(tmp_path / name) for name in ("a1", "b", "a0")])
    assert [("a1", [1, 0]), ("b", [0])] == [(group.name, [run.seed for run in group.runs]) for group in groups]


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for name, epochs in (("x/run", 6), ("y/run", 9)):
        write_run(tmp_path / name, predictions(RIGHT), recipe="classic", epochs=epochs)
    groups = grouped([read_run(tmp_path / name) for name in ("x/run", "y/run")])
    assert [str(tmp_path / "x" / "run"), str(tmp_path / "y" / "run")] == [group.name for group in groups]
    assert [("run", "the run run")] * 2 == [(group.title, group.description) for group in groups]


def test_options_without_effect_make_no_other_recipe(tmp_path: Path) -> None:
    for seed, batch_size in ((0, 32), (1, 64)):
        write_run(tmp_path / str(seed), predictions(RIGHT), recipe="probe", seed=seed, batch_size=batch_size)
    (group,) = grouped([read_run(tmp_path / "0"), read_run(tmp_path / "1")])
    assert ("0", 2) == (group.name, len(group.runs))


def test_runs_with_other_functions_of_the_callers_are_other_configurations(tmp_path: Path) -> None:
    for name, source in (("a", "0" * 64), ("b", "1" * 64)):
        write_run(tmp_path / name, predictions(RIGHT), loss="custom")
        run = RunDir(tmp_path / name)
        loss = {"name": "mine.focal", "sha256": source}
        write_json(run.environment, {**read_json(run.environment), "callables": {"loss": loss}})
    groups = grouped([read_run(tmp_path / name) for name in ("a", "b")])
    assert ["a", "b"] == [group.name for group in groups]
    assert ["name mine.focal, sha256 00000000", "name mine.focal, sha256 11111111"] == [
        group.runs[0].options["loss"] for group in groups
    ]


def test_runs_of_a_version_that_made_other_updates_are_other_configurations(tmp_path: Path) -> None:
    for name, updates in (("a", 3), ("b", 4)):
        run = RunDir(write_run(tmp_path / name, predictions(RIGHT)))
        write_json(run.config, {**read_json(run.config), "updates": updates})
    assert ["a", "b"] == [group.name for group in grouped([read_run(tmp_path / name) for name in ("a", "b")])]


def test_a_split_is_the_same_however_its_file_is_written(tmp_path: Path) -> None:
    rows = [
        ["path", "label", "split", "group", "sha256"],
        ["a/1.jpg", "a", "train", "", "1"],
        ["b/2.jpg", "b", "val", "", "2"],
    ]
    plain, quoted, other = (tmp_path / name for name in ("plain.csv", "quoted.csv", "other.csv"))
    plain.write_text("".join(",".join(row) + "\n" for row in rows))
    quoted.write_text("".join(",".join(f'"{value}"' for value in row) + "\n" for row in rows))
    other.write_text(plain.read_text().replace("train", "test"))
    assert digest(plain) == digest(quoted) != digest(other)


def test_the_same_configuration_and_seed_twice_is_refused_for_a_run_is_not_its_own_repetition(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, predictions(RIGHT), seed=3)
    with pytest.raises(RunError, match=r"/a and .*/b are the same configuration and seed: give one of them"):
        grouped([read_run(tmp_path / "a"), read_run(tmp_path / "b")])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run: give folders that upcycle train wrote"):
        read_run(tmp_path)


def test_a_run_without_predictions_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, predictions(RIGHT))
    RunDir(tmp_path).predictions("test").unlink()
    with pytest.raises(RunError, match=r"lacks predictions/test\.csv: its test cannot be compared. Train it again"):
        read_run(tmp_path)


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_run_that_is_not_finished_is_refused_with_the_command_that_finishes_it(tmp_path: Path, state: str) -> None:
    write_run(tmp_path, predictions(RIGHT))
    RunDir(tmp_path).set_status(state, seconds=1.0)
    with pytest.raises(RunError, match=f"is {state}, not finished: upcycle train --out .* --resume"):
        read_run(tmp_path)


def test_the_same_images_in_another_order_are_matched_by_their_content(tmp_path: Path) -> None:
    write_run(tmp_path / "a", predictions(RIGHT), recipe="classic")
    write_run(tmp_path / "b", predictions(RIGHT, shuffle=1), recipe="default")
    runs = [read_run(tmp_path / name) for name in ("a", "b")]
    test = shared_test(runs)
    first, second = (test.arm([run]).correct for run in runs)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.array([RIGHT], dtype=bool), first)


def test_copies_of_one_image_are_matched_one_to_one_and_are_one_unit(tmp_path: Path) -> None:
    for name, recipe in (("a", "classic"), ("b", "default")):
        path = write_run(tmp_path / name, predictions(RIGHT), recipe=recipe)
        file = path / "predictions" / "test.csv"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([*lines, lines[1].replace("0000.jpg", "copy.jpg")]) + "\n")
    test = shared_test([read_run(tmp_path / name) for name in ("a", "b")])
    assert (21, 20) == (len(test.reference), test.units.max() + 1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (predictions(RIGHT[:16]), "was tested on 16 images, .* on 20, 16 of them the same"),
        (predictions(RIGHT, first=10), "was tested on 20 images, .* on 20, 10 of them the same"),
        (predictions(RIGHT, classes=("cats", "wolves")), r"has other classes \(cats, wolves\) than .*\(cats, dogs\)"),
        (predictions(RIGHT, classes=("dogs", "cats")), "has other classes"),
    ],
)
def test_other_images_or_classes_are_refused_with_the_reason(tmp_path: Path, other: object, message: str) -> None:
    write_run(tmp_path / "a", predictions(RIGHT), recipe="classic")
    write_run(tmp_path / "b", other, recipe="default")
    with pytest.raises(RunError, match=message):
        shared_test([read_run(tmp_path / name) for name in ("a", "b")])


def test_the_same_images_under_other_labels_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", predictions(RIGHT), recipe="classic")
    path = write_run(tmp_path / "b", predictions(RIGHT), recipe="default")
    file = path / "predictions" / "test.csv"
    file.write_text(file.read_text().replace('0000.jpg","cats"', '0000.jpg","dogs"'))
    with pytest.raises(RunError, match="the same images with other labels"):
        shared_test([read_run(tmp_path / name) for name in ("a", "b")])


def test_a_cross_validated_run_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", predictions(RIGHT), folds=3)
    with pytest.raises(RunError, match="is cross-validated, each image tested by another model"):
        read_run(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluation.json", '{"test": {}}'),
        ("evaluation.json", "[]"),
        ("model.json", "3"),
        ("model.json", '{"preprocessing": "x"}'),
        ("model.json", '{"trained_parameters": "12"}'),
        ("config.json", '{"recipe": "probe", "epochs": 0, "weights_sha256": ["a"]}'),
        ("environment.json", "[]"),
        ("config.json", "[]"),
        ("status.json", '{"state": "finished", "seconds": "abc"}'),
        ("history.jsonl", '{"phase": "finetune", "val_loss": "x"}\n'),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    write_run(tmp_path / "a", predictions(RIGHT))
    (tmp_path / "a" / name).write_text(text)
    with pytest.raises(RunError, match="damaged|does not hold|holds no"):
        read_run(tmp_path / "a")


def test_a_package_that_was_not_installed_is_no_damage(tmp_path: Path) -> None:
    run = RunDir(write_run(tmp_path / "a", predictions(RIGHT)))
    write_json(run.environment, {**read_json(run.environment), "versions": {"scikit-learn": None}})
    assert {"scikit-learn": None} == read_run(run.root).environment["versions"]
