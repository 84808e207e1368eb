"""What a call of train means before anything is done."""

import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from upcycle.cli import app, main
from upcycle.config import Config, from_words
from upcycle.errors import ConfigError, RunError
from upcycle.jobs.start import UPDATES, begin, timed
from upcycle.recipes import resolve
from upcycle.rundir import RunDir, read_json, write_json, write_text


def begun(folder: Path, data: Path, state: str = "interrupted", **options: object) -> RunDir:
    """A run as it stands once its training has begun."""
    run = RunDir(folder)
    run.set_status(state, seconds=1.0)  # type: ignore[arg-type]
    write_json(run.environment, {"command": "upcycle train photos"})
    write_json(
        run.config,
        {**Config(**options).to_dict(), "data": str(data.resolve()), "weights_sha256": "ab", "updates": UPDATES},
    )
    write_json(run.plan, {"phases": []})
    return run


def test_the_command_that_is_recorded_repeats_the_run(tmp_path: Path) -> None:
    options = {"recipe": "classic", "epochs": 7, "moms": (0.9, 0.8, 0.9)}
    start = begin(tmp_path / "my photos", options, out=tmp_path / "out", resume=False)
    expected = (
        f"upcycle train '{tmp_path}/my photos' --recipe classic --epochs 7 --moms 0.9 0.8 0.9 --out {tmp_path}/out"
    )
    assert expected == start.command


def test_a_slurm_job_is_told_of_its_deadline_and_commands_record_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = begin(tmp_path / "photos", {}, out=tmp_path / "out", resume=False)
    assert () == timed(start, deadline=None, began=0.0, plan=None).warnings
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3630))
    (hint,) = timed(start, deadline=None, began=0.0, plan=None).warnings
    assert hint == "this Slurm job ends in 60 min: with --deadline slurm the run ends before it"
    asked = timed(start, deadline="10m", began=time.monotonic(), plan=None)
    assert asked.command == f"{start.command} --deadline 10m"
    assert asked.deadline is not None
    assert asked.deadline.seconds == 600.0
    auto = begin(tmp_path / "photos", {"lr": "auto"}, out=tmp_path / "auto", resume=False)
    with pytest.raises(ConfigError, match="a range test has no time in a deadline"):
        timed(auto, deadline="10m", began=0.0, plan=None)


def test_a_switch_is_recorded_as_the_command_line_spells_it(tmp_path: Path) -> None:
    for value, word in ((True, "--lr-adapt"), (False, "--no-lr-adapt")):
        start = begin(tmp_path / "photos", {"lr_adapt": value}, out=tmp_path / "out", resume=False)
        assert f"upcycle train {tmp_path}/photos {word} --out {tmp_path}/out" == start.command


def test_paths_are_recorded_independently_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = begin(Path("photos"), {"weights": "w.safetensors", "cache": "c"}, out=Path("out"), resume=False)
    assert (tmp_path / "photos", str(tmp_path / "w.safetensors")) == (start.data, start.config.weights)


def test_without_out_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "photos-classic-1").mkdir(parents=True)
    start = begin(Path("photos"), {"recipe": "classic"}, out=None, resume=False)
    assert Path("runs/photos-classic-2") == start.run.root


def test_runs_that_start_at_one_moment_get_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: begin(Path("photos"), {}, out=None, resume=False).run.root, range(16)))
    assert {Path(f"runs/photos-default-{number}") for number in range(1, 17)} == set(made)
    assert all(path.is_dir() for path in made)


def test_processes_that_start_at_one_moment_get_names_of_their_own(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from upcycle.jobs.start import reserve; print(reserve('photos-scan'))"]
    started = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0].strip() for process in started}
    assert {"runs/photos-scan-1", "runs/photos-scan-2", "runs/photos-scan-3"} == said


@pytest.mark.parametrize(
    "words",
    [
        ["train", "photos", "--weights", "none"],
        ["scan", "photos"],
        ["compare", "photos", "--variants", "simple-cnn"],
        ["demo", "--seed", "-1"],
        ["train", "photos", "--weights", "none", "--probe"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_refused_before_it_began_leaves_no_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert 0 < main(words) < 8
    assert [tmp_path / "photos"] == list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_made_is_told_by_who_writes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    assert Path("runs/photos-default-1") == begin(Path("photos"), {}, out=None, resume=False).run.root


def test_a_run_inside_its_own_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lies inside .*, where its pictures would be taken for a class"):
        begin(tmp_path, {}, out=tmp_path / "runs" / "one", resume=False)


def test_a_run_that_failed_before_training_is_begun_anew(tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "phots", "failed")
    run.plan.unlink()
    start = begin(tmp_path / "photos", {}, out=run.root, resume=False)
    assert (tmp_path / "photos", False) == (start.data, start.finished)


def test_a_run_killed_before_it_had_a_configuration_can_be_begun_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "out")
    run.set_status("running", seconds=0.0)
    write_text(run.root / ".config.json.x1y2", "half")
    assert tmp_path / "photos" == begin(tmp_path / "photos", {}, out=run.root, resume=True).data


def test_a_temporary_file_alone_is_no_run_in_the_way(tmp_path: Path) -> None:
    write_text(tmp_path / "out" / ".status.json.x1y2", "half")
    assert tmp_path / "out" == begin(tmp_path / "photos", {}, out=tmp_path / "out", resume=False).run.root


def test_options_given_again_must_agree_in_the_runs_own_recipe(tmp_path: Path) -> None:
    classic = {"recipe": "classic", "epochs": 100, "schedule": "ramp-sustain-decay", "lr": 1e-4}
    run = begun(tmp_path / "out", tmp_path / "photos", **classic)
    start = begin(None, {"schedule": "ramp-sustain-decay", "epochs": 100}, out=run.root, resume=True)
    assert "upcycle train photos" == start.command
    with pytest.raises(RunError, match="was started with lr = 0.0001, not 0.01"):
        begin(None, {"lr": 0.01}, out=run.root, resume=True)


def test_the_cache_folder_may_change(tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos")
    start = begin(None, {"cache": str(tmp_path / "other")}, out=run.root, resume=True)
    assert str(tmp_path / "other") == start.config.cache


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_another_number_of_epochs_is_refused_with_what_trains_a_model_further(state: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos", state)
    assert 3 == begin(None, {"epochs": 3}, out=run.root, resume=True).config.epochs
    for epochs in (2, 5):
        with pytest.raises(RunError, match="was started with epochs = 3, .* start another run with --weights .*out$"):
            begin(None, {"epochs": epochs}, out=run.root, resume=True)


def test_arch_auto_resumes_a_run_that_was_started_with_it_alone(tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos", arch="resnet18")
    with pytest.raises(RunError, match="was started with arch = resnet18, not auto: give another --out"):
        begin(None, {"arch": "auto"}, out=run.root, resume=True)
    write_json(run.environment, {"command": "upcycle train photos --arch auto --epochs 3"})
    assert "resnet18" == begin(None, {"arch": "auto"}, out=run.root, resume=True).config.arch


def test_a_run_of_another_version_is_not_resumed(tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos")
    write_json(run.config, {**read_json(run.config), "updates": 3, "more_epochs": [2]})
    with pytest.raises(RunError, match="out was started by another version of upcycle, so it cannot be resumed"):
        begin(None, {}, out=run.root, resume=True)
    run.set_status("finished")
    start = begin(None, {}, out=run.root, resume=True)
    assert (True, 5) == (start.finished, start.config.epochs)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_without_its_configuration_is_told_apart(resume: bool, tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos")
    run.config.unlink()
    with pytest.raises(RunError, match=r"config.json is missing, so the run cannot be resumed: remove it, or give"):
        begin(tmp_path / "photos", {}, out=run.root, resume=resume)


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": [1, 2.5]},
        {"class_weights": {"dog": 2.5, "cat": 1}},
        {"class_weights": {"a=b": 1, "c,d e": 2.5, "'": 3}},
        {"recipe": "classic", "patience": None},
        {"image_size": None, "cache": None, "workers": 2},
        {"moms": (0.9, 0.8, 0.9), "lr_adapt": False, "weights": "none"},
    ],
)
def test_the_recorded_command_says_what_was_asked_for(options: dict[str, Any], tmp_path: Path) -> None:
    start = begin(tmp_path / "photos", options, out=tmp_path / "out", resume=False)
    _, bound, _ = app.parse_args(shlex.split(start.command)[1:], exit_on_error=False)
    given = from_words(bound.kwargs["options"])
    assert start.config == resolve(given)


def test_class_weights_by_name_are_the_same_in_any_form_when_a_run_goes_on(tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos", class_weights={"dog": 2.5, "cat": 1})
    for given in ({"cat": 1.0, "dog": 2.5}, "dog=2.5,cat=1"):
        assert "cat=1,dog=2.5" == begin(None, {"class_weights": given}, out=run.root, resume=True).config.class_weights
    with pytest.raises(RunError, match="was started with class_weights = cat=1,dog=2.5, not cat=2.5,dog=1"):
        begin(None, {"class_weights": {"cat": 2.5, "dog": 1}}, out=run.root, resume=True)


def test_random_weights_have_no_probe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a probe needs pretrained weights, and weights = none: leave probe out"):
        begin(tmp_path / "photos", {"weights": "none", "probe": True}, out=None, resume=False)
    begun(tmp_path / "out", tmp_path / "photos", weights="none", probe=True)  # of an earlier version
    assert begin(None, {}, out=tmp_path / "out", resume=True).config.probe


@pytest.mark.parametrize(("epochs", "probe"), [(0, False), (20, True)])
def test_a_run_of_earlier_versions_tells_by_its_head_epochs_whether_it_has_a_probe(
    epochs: int, probe: bool, tmp_path: Path
) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos", "finished")
    values = {name: value for name, value in read_json(run.config).items() if name != "probe"}
    write_json(run.config, {**values, "head_epochs": epochs})
    assert probe == begin(None, {}, out=run.root, resume=True).config.probe
    with pytest.raises(RunError, match="was started with epochs = 3, which a resumed run keeps"):
        begin(None, {"epochs": 9}, out=run.root, resume=True)


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    run = begun(tmp_path / "out", tmp_path / "photos", "finished")
    assert begin(None, {}, out=run.root, resume=True).finished


def test_folds_have_no_test_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folds test every image once"):
        begin(tmp_path / "photos", {"folds": 5, "test_split": "val"}, out=tmp_path / "out", resume=False)


@pytest.mark.parametrize(("given", "word"), [(True, "--weights auto"), (False, "--weights none")])
def test_pretrained_is_recorded_as_the_command_line_says_it(tmp_path: Path, given: bool, word: str) -> None:
    start = begin(tmp_path / "photos", {"pretrained": given}, out=tmp_path / "out", resume=False)
    assert f" {word} --out " in start.command
