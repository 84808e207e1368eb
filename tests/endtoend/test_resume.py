"""A run that was stopped, or whose files were damaged, and what comes of going on with it."""

import importlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import upcycle
from tests.conftest import TINY, without_pages
from tests.endtoend.kills import results
from tests.reporting.pages import Page
from upcycle.cli import main
from upcycle.comparison.runs import read_run
from upcycle.errors import ConfigError, DivergenceError, RunError, UpcycleError
from upcycle.manifest import write_sealed
from upcycle.model.network import Network
from upcycle.reporting.progress import Silent
from upcycle.reporting.run_page import write_report
from upcycle.rundir import RunDir, locked, read_json, read_lines, write_json
from upcycle.training import loop

OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "arch": TINY,
    "image_size": 32,
    "precision": "fp32",
    "threads": 1,
    "batch_size": 8,
    "epochs": 3,
    "freeze": "none",
    "bn": "train",
}


class Said(Silent):
    """Keeps what a job says and warns of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)

    warn = message


@pytest.fixture(scope="module", autouse=True)
def _no_pages() -> Iterator[None]:
    with without_pages():
        yield


@pytest.fixture(scope="module")
def whole(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to: 3 epochs of 3 updates after its head."""
    out = tmp_path_factory.mktemp("whole") / "run"
    upcycle.train(photos, out=out, weights=str(tiny_weights), show=Silent(), **OPTIONS)
    return out


def words(photos: Path, weights: Path, out: Path) -> list[str]:
    options = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["train", str(photos), "--weights", str(weights), "--out", str(out), *options]


def at_update(number: int, act: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Do something before the given update of this process."""
    plain, made = loop.train_step, [0]

    def step(*given: Any) -> Any:
        made[0] += 1
        if made[0] == number:
            act()
        return plain(*given)

    patch.setattr(loop, "train_step", step)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=["TERM", "INT", "HUP"]
)
def test_a_signal_ends_a_run_after_its_update_with_a_code_and_the_command_that_goes_on(
    number: signal.Signals,
    code: int,
    whole: Path,
    photos: Path,
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_update(5, lambda: os.kill(os.getpid(), number), patch)
        assert code == main(words(photos, tiny_weights, tmp_path / "run"))
    said = capsys.readouterr()
    assert f"to resume: upcycle train --out {tmp_path / 'run'} --resume" in said.out
    assert said.err.splitlines()[-1].startswith("upcycle: ")
    assert "interrupted" == upcycle.Run(tmp_path / "run").directory.status()["state"]
    show = Said()
    upcycle.train(out=tmp_path / "run", resume=True, show=show)
    assert "resuming after epoch 1 of 3 and 2 of 3 updates" in show.told
    assert results(whole) == results(tmp_path / "run")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_on_a_gpu_a_run_that_was_stopped_comes_to_nearly_the_same(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    found = {}
    for name, stop in (("whole", False), ("stopped", True)):
        with pytest.MonkeyPatch.context() as patch:
            if stop:
                at_update(5, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
            asked = words(photos, tiny_weights, tmp_path / name)
            code = main(["cuda" if word == "cpu" else word for word in asked])
        assert code == (143 if stop else 0)
        run = upcycle.train(out=tmp_path / name, resume=True, show=Silent()) if stop else upcycle.Run(tmp_path / name)
        found[name] = run
    losses = [[row.val_loss for row in run.history.of("finetune").rows] for run in found.values()]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    logits = [run.predictions().logits for run in found.values()]
    assert logits[0] == pytest.approx(logits[1], abs=0.05)


def stopped(photos: Path, weights: Path, out: Path) -> list[Path]:
    """A run stopped in its third epoch; its states, the older first."""
    with pytest.MonkeyPatch.context() as patch:
        at_update(8, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        assert 143 == main(words(photos, weights, out))
    return sorted((out / "checkpoints" / "last").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def flip(path: Path, place: int = -50) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damaged_states_are_told_and_the_result_is_the_same(
    whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    older, newer = stopped(photos, tiny_weights, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    flip(newer)
    show = Said()
    upcycle.train(out=tmp_path / "run", resume=True, show=show)
    assert "resuming after epoch 2 of 3" in show.told
    assert 1 == sum(text.endswith("; the other one is taken") for text in show.told)
    assert results(whole) == results(tmp_path / "run")
    for state in (older, newer):
        flip(tmp_path / "again" / state.relative_to(tmp_path / "run"))
    show = Said()
    upcycle.train(out=tmp_path / "again", resume=True, show=show)
    assert 2 == sum(text.endswith("; fine-tuning starts again") for text in show.told)
    assert results(whole) == results(tmp_path / "again")


def test_damaged_best_weights_are_told_and_the_result_is_the_same(
    whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    stopped(photos, tiny_weights, tmp_path / "run")
    flip(tmp_path / "run" / "checkpoints" / "best.safetensors")
    show = Said()
    upcycle.train(out=tmp_path / "run", resume=True, show=show)
    assert any("best.safetensors is damaged" in text for text in show.told)
    assert results(whole) == results(tmp_path / "run")


KEPT = ("config.json", "environment.json", "manifest.json", "splits.csv", "status.json", "plan.json", "model.json")
KEPT += ("audit.json", "history.jsonl", "timings.jsonl", "checkpoints/best.safetensors", "state")


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_a_bit_flipped_in_any_file_of_an_unfinished_run_changes_no_result(
    name: str, whole: Path, stopped_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    refused: list[str] = []
    for share in (0.1, 0.5, 0.9):
        shutil.copytree(stopped_run, out)
        states = sorted((out / "checkpoints" / "last").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        file = states[-1] if name == "state" else out / name
        flip(file, int(share * file.stat().st_size))
        try:
            upcycle.train(out=out, resume=True, show=Silent())
        except UpcycleError as error:
            refused.append(str(error))
        else:
            assert results(whole) == results(out)
        shutil.rmtree(out)
    assert all(len(text.splitlines()) == 1 for text in refused)
    must = {"config.json": 3, "environment.json": 3, "manifest.json": 3, "splits.csv": 3}
    assert len(refused) == must.get(name, len(refused))


@pytest.fixture(scope="module")
def stopped_run(photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped in its third epoch, with a state after the second and one within the third."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    stopped(photos, tiny_weights, out)
    return out


RESULTS = ("config.json", "environment.json", "model.json", "plan.json", "splits.csv", "history.jsonl")
RESULTS += ("evaluation.json", "predictions/test.csv", "predictions/val.csv", "checkpoints/best.safetensors")


@pytest.mark.parametrize("name", RESULTS)
def test_a_bit_flipped_in_a_result_is_found_by_whoever_reads_it(name: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    flip(tmp_path / "run" / name)
    with pytest.raises(RunError, match="damaged"):
        upcycle.load(tmp_path / "run")
    if name != "checkpoints/best.safetensors":  # which neither reads
        with pytest.raises(RunError, match="damaged"):
            read_run(tmp_path / "run")
        with pytest.raises(RunError, match="damaged"):
            write_report(RunDir(tmp_path / "run"))


# ------------------------------------------------- the machine changes under a run


def begin(photos: Path, weights: Path, out: Path, cache: Path, show: Silent | None = None) -> None:
    upcycle.train(photos, out=out, weights=str(weights), cache=str(cache), show=show or Silent(), **OPTIONS)


def test_a_cache_removed_while_a_run_trains_changes_nothing(
    whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_update(5, lambda: shutil.rmtree(tmp_path / "cache"), patch)
        begin(photos, tiny_weights, tmp_path / "run", tmp_path / "cache")
    assert results(whole) == results(tmp_path / "run")


@pytest.mark.parametrize("place", ["upcycle.data.frames:decoded", "upcycle.evaluation.forward:_part"])
def test_a_cache_removed_while_it_is_written_is_written_again(
    place: str, whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    module, name = place.split(":")
    plain, asked = getattr(importlib.import_module(module), name), []

    def remove(*given: Any, **more: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            written = {"decoded": "images/*", "_part": "features/*.parts/*"}[name]
            assert list((tmp_path / "cache").glob(written))
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return plain(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.replace(":", "."), remove)
        patch.setattr("upcycle.evaluation.forward.PART", 32)
        try:
            begin(photos, tiny_weights, tmp_path / "run", tmp_path / "cache")
        except UpcycleError:
            patch.undo()
            upcycle.train(out=tmp_path / "run", resume=True, show=Silent())
    assert len(asked) >= 2
    assert results(whole) == results(tmp_path / "run")


def test_a_clock_that_goes_backwards_changes_no_result(
    whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    plain, ahead = time.time, [0.0]

    def shift(by: float) -> None:
        ahead[0] += by

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: plain() + ahead[0])
        at_update(2, lambda: shift(-100 * 24 * 3600), patch)
        begin(photos, tiny_weights, tmp_path / "run", tmp_path / "cache")
    shift(200 * 24 * 3600)
    assert results(whole) == results(tmp_path / "run")
    assert 0 < RunDir(tmp_path / "run").status()["seconds"] < 1000
    assert all(row["seconds"] >= 0 for row in read_lines(RunDir(tmp_path / "run").root / "timings.jsonl"))


def test_files_dated_in_the_future_or_long_ago_change_no_result(
    whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    older, newer = stopped(photos, tiny_weights, tmp_path / "run")
    os.utime(older, (4e9, 4e9))
    os.utime(newer, (1, 1))
    for file in (tmp_path / "run").rglob("*.json"):
        os.utime(file, (4e9, 4e9))
    upcycle.train(out=tmp_path / "run", resume=True, show=Silent())
    assert results(whole) == results(tmp_path / "run")


def test_another_input_than_before_is_refused(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    seen = tmp_path / "input.json"
    seen.write_text('{"mean": [0.5, 0.5, 0.5]}', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        at_update(5, die, patch)
        options = {**OPTIONS, "input": str(seen), "weights": str(tiny_weights)}
        upcycle.train(photos, out=tmp_path / "run", show=Silent(), **options)
    seen.write_text('{"mean": [0.1, 0.1, 0.1]}', encoding="utf-8")
    with pytest.raises(RunError, match=r"was started with mean = \[0.5, 0.5, 0.5\], not \[0.1"):
        upcycle.train(out=tmp_path / "run", resume=True, show=Silent())


def test_a_new_run_takes_no_other_ones_place(whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    from upcycle.jobs.start import begin
    from upcycle.jobs.train import run_training

    options = {**OPTIONS, "weights": str(tiny_weights)}
    asked = begin(photos, {**options, "epochs": 5}, out=tmp_path / "run", resume=False)
    shutil.copytree(whole, tmp_path / "run")  # another process was quicker
    with pytest.raises(RunError, match="is not empty: give another --out"):
        run_training(asked, Silent())
    assert results(whole) == results(tmp_path / "run")


def test_a_run_whose_network_was_computed_otherwise_is_told(whole: Path, stopped_run: Path, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(whole, tmp_path / "run"))
    run.manifest.unlink()
    write_json(run.model, {name: value for name, value in read_json(run.model).items() if name != "linear_head"})
    assert upcycle.load(run.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "linear_in_name_alone", property(lambda _: True))
        with pytest.raises(RunError, match="is of an upcycle that computed test_resnet.* otherwise: train it again"):
            upcycle.load(run.root)
        run = RunDir(shutil.copytree(stopped_run, tmp_path / "stopped"))
        write_json(run.model, {name: value for name, value in read_json(run.model).items() if name != "linear_head"})
        with pytest.raises(RunError, match="is of an upcycle that computed test_resnet.* otherwise: give another"):
            upcycle.train(out=run.root, resume=True, show=Silent())


# ---------------------------------------------------------------- a loss that explodes


def exploding(number: int, patch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Poison the weights before the given update, counted over the whole run, the first few times it is made."""
    plain, left = loop.train_step, [times]

    def step(state: loop.State, *given: Any) -> Any:
        if state.step == number - 1 and left[0]:
            left[0] -= 1
            with torch.no_grad():
                next(state.model.parameters()).fill_(float("nan"))
        return plain(state, *given)

    patch.setattr(loop, "train_step", step)


class Killed(BaseException):
    """Ends a run where it is."""


def die() -> None:
    raise Killed


def rates(run: Path) -> list[float]:
    return [row.lr for row in upcycle.Run(run).history.of("finetune").rows]


def test_a_retry_goes_on_after_the_last_whole_epoch_at_half_the_rate(
    whole: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    show = Said()
    options = {**OPTIONS, "on_divergence": "retry", "weights": str(tiny_weights), "show": show}
    with pytest.MonkeyPatch.context() as patch:
        exploding(5, patch)
        run = upcycle.train(photos, out=tmp_path / "run", **options)
    (told,) = [text for text in show.told if "Resuming" in text]
    assert "the loss is not finite between updates 4 and 5 of phase finetune" in told
    assert told.endswith("Resuming after epoch 1 at half the rate")
    first, *others = rates(whole)
    assert [first, *(rate / 2 for rate in others)] == rates(tmp_path / "run")
    assert [0, 1, 1] == [row.retries for row in run.history.of("finetune").rows]
    assert 1 == len(read_lines(run.directory.events))
    (phase,) = [phase for phase in read_json(run.directory.plan)["phases"] if phase["name"] == "finetune"]
    assert ("scaled", rates(tmp_path / "run")[-1]) == (phase["schedule"]["kind"], phase["rates"][-1]["lr"])


def test_a_run_stopped_after_a_retry_goes_on_to_the_same(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "on_divergence": "retry", "weights": str(tiny_weights), "checkpoint_every": 1e-9}
    with pytest.MonkeyPatch.context() as patch:
        exploding(6, patch)
        upcycle.train(photos, out=tmp_path / "whole", show=Silent(), **options)
    for number in (6, 7):  # at the very update that explodes, and at the first one made again
        out = tmp_path / f"stopped-{number}"
        with pytest.MonkeyPatch.context() as patch:
            exploding(6, patch)
            at_update(number, die, patch)
            with pytest.raises(Killed):
                upcycle.train(photos, out=out, show=Silent(), **options)
        with pytest.MonkeyPatch.context() as patch:
            exploding(6, patch, times=0 if number == 7 else 1)
            upcycle.train(out=out, resume=True, show=Silent())
        assert results(tmp_path / "whole") == results(out)


def test_a_damaged_record_of_retries_is_told(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "on_divergence": "retry", "weights": str(tiny_weights), "show": Silent()}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        exploding(5, patch)
        at_update(9, die, patch)
        upcycle.train(photos, out=tmp_path / "run", **options)
    whole = (tmp_path / "run" / "plan.jsonl").read_text()
    for damaged in (whole.replace("0.5", "0.7"), whole[1:], "\n"):
        (tmp_path / "run" / "plan.jsonl").write_text(damaged)
        with pytest.raises(RunError, match=r"plan.jsonl is damaged or was changed"):
            upcycle.train(out=tmp_path / "run", resume=True, show=Silent())


def test_rows_before_a_retry_say_so_when_all_is_done_again(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "on_divergence": "retry", "weights": str(tiny_weights), "show": Silent()}
    with pytest.MonkeyPatch.context() as patch:
        exploding(5, patch)
        upcycle.train(photos, out=tmp_path / "whole", **options)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        exploding(5, patch)
        at_update(9, die, patch)
        upcycle.train(photos, out=tmp_path / "run", **options)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "last")
    upcycle.train(out=tmp_path / "run", resume=True, show=Silent())
    assert results(tmp_path / "whole") == results(tmp_path / "run")


def test_a_loss_that_goes_on_exploding_ends_the_run_after_two_retries_and_keeps_the_best_weights(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    options = {**OPTIONS, "on_divergence": "retry", "weights": str(tiny_weights), "show": Silent()}
    with pytest.MonkeyPatch.context() as patch:
        exploding(5, patch, times=9)
        with pytest.raises(DivergenceError, match=r"try --lr .*; .*best.safetensors holds the best weights until then"):
            upcycle.train(photos, out=tmp_path / "run", **options)
    run = upcycle.Run(tmp_path / "run")
    assert [0.5, 0.5] == [event["factor"] for event in read_lines(run.directory.events)]
    assert "failed" == run.directory.status()["state"]
    assert "across" == upcycle.load(run.path).predict(photos / "test" / "across" / "200.png").label


def test_a_run_that_stopped_as_its_loss_exploded_can_be_gone_on_with_by_retrying(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        exploding(5, patch)
        assert 6 == main(words(photos, tiny_weights, tmp_path / "run"))
    with pytest.MonkeyPatch.context() as patch:
        exploding(5, patch)
        upcycle.train(out=tmp_path / "run", resume=True, on_divergence="retry", show=Silent())
    run = upcycle.Run(tmp_path / "run")
    assert [0, 1, 1] == [row.retries for row in run.history.of("finetune").rows]
    assert "retry" == run.config.on_divergence
    assert read_json(run.directory.environment)["command"].endswith("--on-divergence retry")


# ---------------------------------------------------------------- a batch that memory has no room for


def tight(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Let there be room for so many images at a time."""
    monkeypatch.setattr(
        "upcycle.jobs.finetune.largest_micro_batch", lambda *_, batch, **__: (min(batch, images), 5 * 10**9)
    )


def test_a_batch_too_large_for_memory_is_taken_in_parts_with_the_same_updates(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "bn": "frozen", "weights": str(tiny_weights)}
    plain = upcycle.train(photos, out=tmp_path / "plain", show=Silent(), **options)
    tight(monkeypatch, 3)
    show = Said()
    run = upcycle.train(photos, out=tmp_path / "run", show=show, **options)
    (told,) = [text for text in show.told if "micro-batches" in text]
    assert told.startswith("training 8 images of 32 px at once takes about 5.0 GB and ")
    assert [3] == [event["images"] for event in read_lines(run.directory.events)]
    ours, theirs = ([row.val_loss for row in made.history.rows] for made in (run, plain))
    assert theirs == pytest.approx(ours, rel=1e-3)
    assert (
        "From update 0 on, micro-batches of 3 images: training 8 images of 32 px"
        in Page(write_report(run.directory)).text
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (2, "BatchNorm in training mode needs a whole batch: give --batch-size 2 or --bn frozen"),
        (0, "give a smaller --image-size or --arch"),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused_before_training(
    images: int, message: str, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight(monkeypatch, images)
    with pytest.raises(ConfigError, match=message):
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), show=Silent(), **OPTIONS)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")],
    ids=["torch", "cublas"],
)
def test_an_accelerator_out_of_memory_gets_half_the_images_at_a_time(
    error: RuntimeError, photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Network.forward

    def small(network: Network, images: Any) -> Any:
        if network.body.training and len(images) > 2:
            raise error
        return plain(network, images)

    monkeypatch.setattr(Network, "forward", small)
    options = {**OPTIONS, "weights": str(tiny_weights), "show": Silent()}
    run = upcycle.train(photos, out=tmp_path / "run", **{**options, "bn": "frozen"})
    assert [4, 2] == [event["images"] for event in read_lines(run.directory.events)]
    assert 3 == len(run.history.of("finetune"))
    with pytest.raises(UpcycleError, match="BatchNorm in training mode needs a whole batch: give --batch-size 4 or"):
        upcycle.train(photos, out=tmp_path / "other", **options)


def test_a_second_train_of_a_run_that_has_no_plan_yet_takes_nothing_from_it(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    def begun_again(*_: Any, **__: Any) -> None:
        with pytest.raises(RunError, match="another upcycle is at work in"):
            upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), show=Silent(), **OPTIONS)
        with pytest.raises(ConfigError, match="say which images to train on"):
            upcycle.train(out=tmp_path / "run", show=Silent())

    stages = importlib.import_module("upcycle.jobs.train")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stages, "run_stages", lambda *_: (begun_again(), die()))
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), show=Silent(), **OPTIONS)
    assert (tmp_path / "run" / "config.json").exists()
    upcycle.train(out=tmp_path / "run", resume=True, show=Silent())
    assert upcycle.load(tmp_path / "run").run.root == tmp_path / "run"


def test_two_runs_in_one_directory_are_refused(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(RunError, match="another upcycle is at work in"):
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), show=Silent(), **OPTIONS)
    assert [".lock"] == [path.name for path in (tmp_path / "run").iterdir()]


def test_a_run_is_not_gone_on_with_with_other_weights(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    shutil.copy(tiny_weights, mine)
    stopped(photos, mine, tmp_path / "run")
    tensors = load_file(mine)
    save_file({**tensors, "fc.bias": tensors["fc.bias"] + 1}, mine)
    with pytest.raises(RunError, match="was started with other weights than"):
        upcycle.train(out=tmp_path / "run", resume=True, show=Silent())


def test_other_threads_than_before_are_told(stopped_run: Path, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(stopped_run, tmp_path / "run"))
    write_sealed(run, run.environment, {**read_json(run.environment), "threads": 7})
    show = Said()
    upcycle.train(out=run.root, resume=True, show=show)
    assert any("was started with threads 7, now it is 1: bits may differ" in text for text in show.told)


def test_a_run_of_an_earlier_version_with_a_restart_can_be_read(whole: Path, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(whole, tmp_path / "run"))
    before = {name: value for name, value in read_json(run.config).items() if name not in ("on_divergence", "updates")}
    write_sealed(run, run.config, {**before, "epochs": 2, "more_epochs": [1]})
    assert 3 == upcycle.Run(run.root).config.epochs
    assert 3 == read_run(run.root).config.epochs
    assert upcycle.load(run.root)
    assert write_report(run)
    assert 0 == main(["evaluate", str(run.root)])
