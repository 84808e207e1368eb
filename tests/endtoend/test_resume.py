"""A run that was stopped, or whose files were damaged, and what comes of going on with it."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import TINY
from tests.endtoend.kills import results
from upcycle.cli import main
from upcycle.errors import RunError
from upcycle.output.show import Silent
from upcycle.rundir import locked
from upcycle.training import loop

OPTIONS: dict[str, Any] = {
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

    def say(self, text: str) -> None:
        self.told.append(text)

    warn = say


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
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
    assert f"to go on: upcycle train --out {tmp_path / 'run'} --resume" in said.out
    assert said.err.splitlines()[-1].startswith("upcycle: ")
    assert "interrupted" == upcycle.Run(tmp_path / "run").directory.status()["state"]
    show = Said()
    upcycle.train(out=tmp_path / "run", resume=True, show=show)
    assert "going on after epoch 1 of 3 and 2 of 3 updates" in show.told
    assert results(whole) == results(tmp_path / "run")


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
    assert "going on after epoch 2 of 3" in show.told
    assert 1 == sum(text.endswith("; the other one is taken") for text in show.told)
    assert results(whole) == results(tmp_path / "run")
    for state in (older, newer):
        flip(tmp_path / "again" / state.relative_to(tmp_path / "run"))
    show = Said()
    upcycle.train(out=tmp_path / "again", resume=True, show=show)
    assert 2 == sum(text.endswith("; fine-tuning begins again") for text in show.told)
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


def test_two_runs_in_one_directory_are_refused(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(RunError, match="another upcycle is at work in"):
        upcycle.train(photos, out=tmp_path / "run", weights=str(tiny_weights), show=Silent(), **OPTIONS)
    assert [".lock"] == [path.name for path in (tmp_path / "run").iterdir()]
