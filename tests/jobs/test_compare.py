"""The comparison job on small real images with a small real network."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY, without_pages
from upcycle.cli import main
from upcycle.comparison.runs import FailedSeed
from upcycle.comparison.variants import Grid, seeds_from, variants_of
from upcycle.errors import ConfigError, DataError, DivergenceError, RunError, UpcycleError, WeightsError
from upcycle.history import Row
from upcycle.jobs import train as job
from upcycle.jobs.compare import Cell, Sweep
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, append_line, write_json, write_text

FAST: dict[str, Any] = {"arch": TINY, "image_size": 32, "precision": "fp32", "threads": 1, "device": "cpu"}
VARIANTS = ["simple-cnn", "probe", "constant-tuned", "default"]

pytestmark = pytest.mark.usefixtures("no_page")


class Listening(Silent):
    """Keeps the lines that are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


@pytest.fixture(scope="module")
def show() -> Listening:
    return Listening()


@pytest.fixture(scope="module")
def compared(photos: Path, tiny_weights: Path, tmp_path_factory: Any, show: Listening) -> upcycle.Comparison:
    out = tmp_path_factory.mktemp("compared") / "comparison"
    with without_pages():  # of the runs; the comparison has its own
        return upcycle.compare(
            photos,
            variants=VARIANTS,
            seeds=2,
            out=out,
            weights=str(tiny_weights),
            epochs=2,
            cache=str(out.parent / "cache"),
            show=show,
            **FAST,
        )


def test_every_variant_is_trained_with_every_seed(compared: upcycle.Comparison) -> None:
    assert {name: [0, 1] for name in VARIANTS} == {
        one.name: [run.seed for run in one.runs] for one in compared.variants
    }
    names = sorted(path.name for path in (compared.path / "runs").iterdir())
    assert 2 + 2 + 4 + 1 + 2 == len(names)
    assert "constant-tuned-rate-0.0003-seed-0" in names


def test_all_runs_share_one_split(compared: upcycle.Comparison) -> None:
    splits = {(path / "splits.csv").read_text() for path in (compared.path / "runs").iterdir()}
    assert 1 == len(splits)


def test_the_comparison_has_every_pair_and_the_tuned_rate(compared: upcycle.Comparison) -> None:
    assert 6 == len(compared.pairs)
    for pair in compared.pairs:
        assert pair.f1.low <= pair.f1.value <= pair.f1.high
        assert 0 <= pair.f1.p <= 1
        assert (2, None) == (pair.seeds, pair.retrained)
    tuned = compared.variants[2]
    assert [1e-5, 3e-5, 1e-4, 3e-4] == [trial.lr for trial in tuned.trials]
    assert tuned.lr == min(tuned.trials, key=lambda trial: trial.val_loss or 0.0).lr
    assert tuned.cost is not None
    assert tuned.cost.tuning_seconds > 0


def test_how_far_it_is_is_reported_with_the_time_left(compared: upcycle.Comparison, show: Listening) -> None:
    lines = [line for line in show.lines if line.startswith("run ")]
    assert "run 1 of 11: simple-cnn, seed 0" == lines[0]
    assert lines[-1].startswith("run 11 of 11: default, seed 1, about ")
    assert lines[-1].endswith("s left")


def test_the_page_and_the_figures_are_there(compared: upcycle.Comparison) -> None:
    assert len(compared.variants) + 1 == compared._repr_html_().count("<tr>")
    assert compared.page.read_text().startswith("<!DOCTYPE html>")
    assert list((compared.path / "figures").glob("*.svg"))


def test_features_are_computed_once_for_all_variants_and_seeds(compared: upcycle.Comparison) -> None:
    spent = {
        path.name: RunDir(path).status().get("features_seconds", 0.0) for path in (compared.path / "runs").iterdir()
    }
    first = spent.pop("probe-seed-0")
    assert max(spent.values()) < first


def test_resuming_a_finished_comparison_trains_nothing(compared: upcycle.Comparison) -> None:
    files = sorted(compared.path.glob("runs/*/status.json"))
    before = [file.stat().st_mtime_ns for file in files]
    resumed = upcycle.compare(out=compared.path, resume=True, show=Silent())
    assert before == [file.stat().st_mtime_ns for file in files]
    assert (compared.variants, compared.pairs) == (resumed.variants, resumed.pairs)


@pytest.mark.parametrize("changed", [{"batch_size": 8}, {"seeds": 3}, {"variants": ["probe", "default"]}])
def test_another_grid_is_refused_on_resuming(compared: upcycle.Comparison, changed: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"was started with .* Choose another --out"):
        upcycle.compare(out=compared.path, resume=True, show=Silent(), **changed)


def test_a_folder_that_exists_is_refused_with_the_command_that_resumes(
    compared: upcycle.Comparison, photos: Path
) -> None:
    with pytest.raises(
        RunError, match=r"already exists. Resume it with `upcycle compare --out .* --resume`, or choose"
    ):
        upcycle.compare(photos, out=compared.path, show=Silent())


def test_killed_in_the_middle_it_resumes_where_it_was(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: upcycle.Comparison
) -> None:
    real, calls = job.run_training, []

    def killed(start: Any, show: Any, **given: Any) -> None:
        calls.append(start.run.root.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(start, show, **given)

    show, out = Listening(), tmp_path / "comparison"
    options = {
        "variants": ["simple-cnn", "probe", "default"],
        "seeds": 1,
        "weights": str(tiny_weights),
        "epochs": 2,
        **FAST,
    }
    monkeypatch.setattr(job, "run_training", killed)
    with pytest.raises(KeyboardInterrupt):
        upcycle.compare(photos, out=out, show=show, **options)
    assert f"to resume: upcycle compare --out {out} --resume" == show.lines[-1]
    monkeypatch.setattr(job, "run_training", real)
    resumed = upcycle.compare(out=out, resume=True, show=Silent())

    def scores(made: upcycle.Comparison) -> dict[str, list[float]]:
        there = [one for one in made.variants if one.name in options["variants"]]
        return {one.name: [run.f1_macro for run in one.runs if run.seed == 0] for one in there}

    assert ["simple-cnn", "probe", "default"] == list(scores(resumed))
    assert scores(compared) == scores(resumed)


def test_a_variant_that_fails_stands_beside_the_others(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = job.run_training

    def failing(start: Any, show: Any, **given: Any) -> None:
        if "classic" in start.run.root.name:
            raise DivergenceError("the loss is not finite between steps 3 and 4")
        real(start, show, **given)

    monkeypatch.setattr(job, "run_training", failing)
    show = Listening()
    made = upcycle.compare(
        photos,
        variants=["simple-cnn", "classic", "probe"],
        seeds=1,
        out=tmp_path / "comparison",
        weights=str(tiny_weights),
        epochs=6,
        show=show,
        **FAST,
    )
    failed = made.variants[1]
    assert ((), (FailedSeed(0, "the loss is not finite between steps 3 and 4"),)) == (failed.runs, failed.failed)
    assert [("simple-cnn", "probe")] == [(pair.first, pair.second) for pair in made.pairs]
    assert "warning: classic, seed 0 failed: the loss is not finite between steps 3 and 4" in show.lines


def test_an_error_of_another_kind_ends_its_run_and_not_the_grid(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = job.run_training

    def failing(start: Any, show: Any, **given: Any) -> None:
        if "default" in start.run.root.name:
            raise ValueError("expected more than 1 value per channel")
        real(start, show, **given)

    monkeypatch.setattr(job, "run_training", failing)
    options = {"weights": str(tiny_weights), "show": Silent(), "epochs": 1, **FAST}
    made = upcycle.compare(photos, variants=["simple-cnn", "probe", "default"], seeds=1, out=tmp_path / "l", **options)
    reasons = [failed.reason for failed in made.variants[2].failed]
    assert ["ValueError: expected more than 1 value per channel"] == reasons


def test_what_a_list_excludes_no_variant_trains_or_tests_on(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.glob("*/across/*"))[::7]]
    (tmp_path / "list.csv").write_text("excluded,path,reason\n" + "".join(f"yes,{name},looked odd\n" for name in names))
    (tmp_path / "short.toml").write_text("epochs = 0\nlabel_smoothing = 0.1\n")
    compared = upcycle.compare(
        photos,
        variants=["probe", str(tmp_path / "short.toml")],
        seeds=1,
        out=tmp_path / "out",
        weights=str(tiny_weights),
        quarantine=str(tmp_path / "list.csv"),
        show=Silent(),
        **FAST,
    )
    for run in (compared.path / "runs").iterdir():
        used = (run / "splits.csv").read_text()
        assert not [name for name in names if name in used]
        assert 56 - len(names) == len(used.splitlines()) - 1
        tested = (run / "predictions" / "test.csv").read_text().splitlines()[1:]
        assert 20 - sum(name.startswith("test/") for name in names) == len(tested)


def test_an_out_that_is_a_file_is_one_line(
    compared: upcycle.Comparison, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    runs = [str(compared.path / "runs" / name) for name in ("probe-seed-0", "default-seed-0")]
    for paths in (runs, [str(photos)]):
        assert 5 == main(["compare", *paths, "--out", str(file)])
        assert "is a file. Choose another --out" in capsys.readouterr().err
    assert "x" == file.read_text()


def test_if_everything_fails_there_is_nothing_to_compare(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(start: Any, show: Any, **given: Any) -> None:
        raise DivergenceError("the loss is not finite")

    monkeypatch.setattr(job, "run_training", failing)
    options = {"weights": str(tiny_weights), "show": Silent(), **FAST}
    with pytest.raises(UpcycleError, match="nothing to compare: 2 runs failed, first probe-seed-0: the loss is not"):
        upcycle.compare(photos, variants=["probe", "default"], seeds=1, out=tmp_path / "comparison", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arch": "resnet5O"}, WeightsError, "unknown architecture"),
        ({"weights": "/absent.safetensors"}, WeightsError, "absent"),
        ({"recipe": "classic"}, ConfigError, "choose them with --variants"),
        ({"seeds": 0}, ConfigError, "seeds = 0 is out of range"),
        ({"variants": ["probe"]}, ConfigError, "needs 2 or more variants"),
        ({"smallest_difference": 0}, ConfigError, "smallest_difference = 0 is out of range"),
        ({"epochs": 3}, ConfigError, "a ramp-up of 5"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    photos: Path, tiny_weights: Path, tmp_path: Path, options: dict[str, Any], error: type, message: str
) -> None:
    given = {"weights": str(tiny_weights), **FAST, **options}
    with pytest.raises(error, match=message):
        upcycle.compare(photos, out=tmp_path / "comparison", show=Silent(), **given)
    assert not (tmp_path / "comparison").exists()


def test_images_that_cannot_be_trained_on_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        upcycle.compare(
            tmp_path / "absent",
            out=tmp_path / "comparison",
            show=Silent(),
            variants=["simple-cnn", "default"],
            weights="none",
        )


# --------------------------------------------------------------------------------- runs that exist


def test_runs_that_exist_are_compared_without_training(
    compared: upcycle.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(compared.path / "runs" / name) for name in ("probe-seed-0", "default-seed-0", "default-seed-1")]
    out = tmp_path / "pair"
    assert 0 == main(["compare", *runs, "--out", str(out), "--smallest-difference", "5"])
    values = json.loads((out / "comparison.json").read_text())
    assert [("probe-seed-0", [0]), ("default-seed-0", [0, 1])] == [
        (one["name"], [run["seed"] for run in one["runs"]]) for one in values["variants"]
    ]
    assert 0.05 == values["smallest_difference"]
    assert f"comparison: {out / 'comparison.html'}" in capsys.readouterr().out


def test_runs_that_exist_are_compared_without_loading_torch(compared: upcycle.Comparison, tmp_path: Path) -> None:
    runs = [str(compared.path / "runs" / name) for name in ("probe-seed-0", "default-seed-0")]
    words = ["compare", *runs, "--out", str(tmp_path / "out")]
    code = (
        f"import sys; from upcycle.cli import main; assert main({words!r}) == 0; "
        "print([name for name in ('torch', 'timm', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "[]") == (done.returncode, done.stdout.splitlines()[-1]), done.stderr
    assert (tmp_path / "out" / "comparison.html").exists()


@pytest.mark.parametrize(
    ("names", "options", "code", "message"),
    [
        (["probe-seed-0"], [], 2, "a comparison needs 2 or more runs"),
        (["probe-seed-0", "absent"], [], 5, "is not a run"),
        (["probe-seed-0", "default-seed-0"], ["--seeds", "3"], 2, "seeds is for training"),
        (["probe-seed-0", "default-seed-0"], ["--lr", "1"], 2, "lr is for training"),
        ([], [], 2, "say what to compare"),
        ([], ["--resume"], 2, "--resume needs --out DIR"),
        ([], ["--smallest-difference", "x"], 2, "smallest-difference"),
    ],
)
def test_bad_input_gets_one_line_and_its_code(
    compared: upcycle.Comparison,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    assert code == main(["compare", *(str(compared.path / "runs" / name) for name in names), *options])
    said = capsys.readouterr().err
    assert said.startswith("upcycle: ")
    assert 1 == len(said.splitlines())
    assert message in said


def test_runs_tested_on_other_images_are_refused(
    photos: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat"
    for label in ("across", "down"):
        (flat / label).mkdir(parents=True)
        for file in (photos / "train" / label).iterdir():
            (flat / label / file.name).write_bytes(file.read_bytes())
    options = {"weights": str(tiny_weights), "show": Silent(), "recipe": "probe", **FAST}
    for seed in (0, 1):
        upcycle.train(flat, out=tmp_path / f"run-{seed}", seed=seed, label_smoothing=seed / 10, **options)
    assert 5 == main(["compare", str(tmp_path / "run-0"), str(tmp_path / "run-1"), "--out", str(tmp_path / "c")])
    assert "only runs with the same test images can be compared. Train them with one --split-seed" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "c").exists()


# ---------------------------------------------------------------------------------------- cells


def grid(out: Path, names: str = "probe,constant,constant-tuned", seeds: int = 2, **common: Any) -> Grid:
    return Grid(Path("/photos"), variants_of(names.split(",")), seeds_from(0, seeds), common, out)


def finish(cell: Cell, *, seconds: float = 10.0, val_loss: float = 0.5, weights: str = "a", retries: int = 0) -> None:
    run = RunDir(cell.path)
    run.set_status("finished", seconds=seconds)
    write_json(run.config, {**cell.config.to_dict(), "data": "/photos", "weights_sha256": weights})
    append_line(run.history, Row("finetune", 1, 1, 1e-4, 0.9, 0.5, 0.9, val_loss, 0.9, 0.9, retries=retries).to_dict())
    write_json(run.evaluation, {})
    write_text(run.predictions("test"), "path\n")


def test_cells_of_one_configuration_are_one_run(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path))
    _, constant, tuned = sweep.grid.variants
    trials = {trial.lr: trial.path.name for trial in sweep.trials(tuned)}
    assert "constant-seed-0" == trials[1e-4] == sweep.cells(constant)[0].path.name
    assert "constant-tuned-rate-3e-05-seed-0" == trials[3e-5]


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [((0.1, 0.3, 0.2, 0.4), 1e-5), ((0.1, math.inf, 0.3, math.inf), 1e-5), ((math.inf, 0.2, 0.3, 0.5), 3e-5)],
)
def test_every_rate_is_tried_and_the_lowest_validation_loss_chosen(
    tmp_path: Path, losses: tuple[float, ...], chosen: float
) -> None:
    sweep = Sweep(grid(tmp_path))
    tuned = sweep.grid.variants[2]
    for trial, loss in zip(sweep.trials(tuned), losses, strict=True):
        assert (None, ()) == (sweep.rate(tuned), sweep.cells(tuned))
        if loss == math.inf:
            sweep.failed[trial.path] = "the loss is not finite"
        else:
            finish(trial, val_loss=loss)
    assert chosen == sweep.rate(tuned)
    assert [f"constant-tuned-rate-{chosen:g}-seed-{seed}" for seed in (0, 1)] == [
        cell.path.name for cell in sweep.cells(tuned)
    ]


def test_a_rate_at_which_the_loss_exploded_is_not_chosen(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path))
    tuned = sweep.grid.variants[2]
    for trial in sweep.trials(tuned):
        high = trial.lr == 3e-4
        finish(trial, val_loss=0.1 if high else 0.4, retries=int(high))
    assert sweep.rate(tuned) != 3e-4


def test_the_time_left_is_that_of_the_runs_to_come_once_their_variants_are_timed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path))
    probe, constant, tuned = sweep.grid.variants
    assert (0, 8, None) == sweep.progress()
    finish(sweep.cells(probe)[0], seconds=10)
    finish(sweep.cells(constant)[0], seconds=100)
    assert (2, 8, None) == sweep.progress()
    finish(sweep.trials(tuned)[0], seconds=50)
    # a probe, a constant, two trials and a tuned run
    assert (3, 8, 10 + 100 + 2 * 50 + 50) == sweep.progress()


def test_a_failed_run_is_done(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    sweep.failed[sweep.cells(sweep.grid.variants[0])[0].path] = "no room"
    assert (1, 4) == sweep.progress()[:2]


def test_runs_of_one_variant_with_another_input_are_not_mixed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    first, second = sweep.cells(sweep.grid.variants[0])
    for cell, value in ((first, 0.5), (second, 0.1)):
        finish(cell)
        write_json(RunDir(cell.path).model, {"preprocessing": {"mean": [value] * 3, "source": cell.path.name}})
    assert sweep.finished(first)
    with pytest.raises(RunError, match="were trained with other input for the variant probe"):
        sweep.finished(second)


def test_two_networks_have_weights_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "lite.toml").write_text('arch = "tf_efficientnet_lite0"', encoding="utf-8")
    sweep = Sweep(grid(tmp_path, f"probe,{tmp_path / 'lite.toml'}"))
    cells = [sweep.cells(variant)[0] for variant in sweep.grid.variants]
    for cell, weights in zip(cells, "ab", strict=True):
        finish(cell, weights=weights)
    assert all(sweep.finished(cell) for cell in cells)


def test_runs_of_other_weights_under_the_same_name_are_not_mixed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    first, second = sweep.cells(sweep.grid.variants[0])
    finish(first, weights="a")
    finish(second, weights="b")
    assert sweep.finished(first)
    with pytest.raises(RunError, match="were trained with other weights auto of resnet50. Choose another --out"):
        sweep.finished(second)


def test_runs_of_another_split_are_not_mixed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    cells = [sweep.cells(variant)[0] for variant in sweep.grid.variants]
    for cell in cells:
        finish(cell)
        RunDir(cell.path).splits.write_text(f"path,label,split,group,sha256\n1.jpg,a,{cell.path.name},,1\n")
    assert sweep.finished(cells[0])
    with pytest.raises(RunError, match="were trained with other images or split"):
        sweep.finished(cells[1])


@pytest.mark.parametrize("name", ["config.json", "model.json"])
def test_a_strangers_run_in_the_grid_is_one_error(tmp_path: Path, name: str) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    cell = sweep.cells(sweep.grid.variants[0])[0]
    finish(cell)
    (cell.path / name).write_text("[1]")
    with pytest.raises(RunError, match=f"{name} is damaged"):
        sweep.finished(cell)


def test_a_damaged_run_counts_as_failed(tmp_path: Path) -> None:
    sweep = Sweep(grid(tmp_path, "probe,default"))
    cell = sweep.cells(sweep.grid.variants[0])[0]
    finish(cell)
    group, other = sweep.groups()
    assert ((), 1, ()) == (group.runs, len(group.failed), other.failed)
