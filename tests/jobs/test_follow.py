"""One training in several real processes: its results beside those of one, kills, and what cannot take part."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_classes
from tests.processes import free_port, results, several, torchrun
from upcycle.rundir import read_lines

EXACT = ("--exact-shards", "4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 photos of three classes; batches of 16 leave one of 9 at the end of an epoch of 57."""
    return write_classes(tmp_path_factory.mktemp("several"), {"across": 28, "down": 28, "disc": 25})


@pytest.fixture(scope="module")
def words(data: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command but for --out: all layers trained, mirror images looked at."""
    options = {
        "arch": "test_resnet",
        "weights": tiny_weights,
        "image-size": 32,
        "batch-size": 16,
        "epochs": 3,
        "freeze": "none",
        "lr": 0.01,
        "views": "flip",
        "precision": "fp32",
        "cache": tmp_path_factory.mktemp("cache"),
    }
    return ["train", str(data), *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def alone(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, with gradients added as several do."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    (done,) = several(1, [*words, "--out", run, *EXACT])
    assert 0 == done.returncode, done.stderr
    return run


@pytest.mark.parametrize("size", [2, 4])
def test_with_exact_shards_any_number_of_processes_gives_the_same_bits(
    size: int, words: list[str], alone: Path, tmp_path: Path
) -> None:
    done = several(size, [*words, "--out", tmp_path / "run", *EXACT, "--json"])
    assert [0] * size == [one.returncode for one in done], done[0].stderr
    assert results(alone) == results(tmp_path / "run")
    assert f"{size} processes, each on its part of every batch" in done[0].stderr
    assert "test" in json.loads(done[0].stdout)
    assert [("", "")] * (size - 1) == [(one.stdout, one.stderr) for one in done[1:]]


def test_without_them_the_first_updates_are_equal_to_one_in_ten_thousand(words: list[str], tmp_path: Path) -> None:
    """One update an epoch, so that each has its row."""
    own = [word for at, word in enumerate(words) if not {"--batch-size", "--epochs"} & {word, words[at - 1]}]
    own += ["--no-probe", "--batch-size", "64", "--epochs", "20"]
    for size in (1, 2):
        done = several(size, [*own, "--out", tmp_path / str(size)])
        assert [0] * size == [one.returncode for one in done], done[0].stderr
    one, two = (read_lines(tmp_path / name / "history.jsonl") for name in "12")
    assert [row["step"] for row in one] == list(range(1, 21))
    assert np.allclose([row["loss"] for row in one], [row["loss"] for row in two], rtol=0, atol=1e-4)
    assert one[-1]["loss"] < 0.8 * one[0]["loss"]


def test_a_killed_process_is_started_again_and_changes_no_bit(words: list[str], alone: Path, tmp_path: Path) -> None:
    """torchrun ends the other one and starts both; which is killed is drawn."""
    run, rank = tmp_path / "run", random.Random(time.time()).randrange(2)
    command = [*torchrun(2, "--max-restarts=2"), *words, "--out", str(run), *EXACT, "--checkpoint-every", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _await(lambda: any((run / "checkpoints" / "last").glob("*.safetensors")), process)
        os.kill(_workers(process.pid)[rank], signal.SIGKILL)
        said = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert 0 == process.returncode, said
    assert "resuming after epoch" in said, (rank, said)
    assert results(alone) == results(run)


def test_ctrl_c_keeps_the_last_update_and_one_process_goes_on_with_it(
    words: list[str], alone: Path, tmp_path: Path
) -> None:
    """The terminal sends SIGINT to all; torchrun adds SIGTERM."""
    run = tmp_path / "run"
    command = [*torchrun(2), *words, "--out", str(run), *EXACT]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        _await(lambda: (run / "history.jsonl").exists() and (run / "history.jsonl").stat().st_size > 0, process)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert "interrupted" == json.loads((run / "status.json").read_text())["state"], said
    assert f"to resume: upcycle train --out {run} --resume" in said
    (done,) = several(1, ["train", "--out", run, "--resume"])
    assert 0 == done.returncode, done.stderr
    assert "resuming after epoch" in done.stdout
    assert results(alone) == results(run)


def test_cross_validation_and_custom_parts_of_a_script_work_as_by_one_process(
    data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
import torch, upcycle
def loss(logits, targets):
    return -(targets * torch.log_softmax(logits, 1)).sum(1)
def augment(images, generator):
    return (images + 0.05 * torch.rand(len(images), 1, 1, 1, generator=generator)).clamp(0, 1)
run = upcycle.train({str(data)!r}, out=sys.argv[1], arch="test_resnet", weights={str(tiny_weights)!r}, image_size=32,
    batch_size=16, epochs=1, folds=2, loss=loss, augment=augment, exact_shards=2, freeze="none", probe=False)
print(run.path.name)
"""
    )
    for name, starter in (("one", [sys.executable]), ("two", torchrun(2)[:-2])):
        place = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*starter, str(script), str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=180,
            env=place,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        assert [name] * (1 + (name == "two")) == done.stdout.splitlines()[-2:][-1 - (name == "two") :]
    for fold in ("fold-1", "fold-2"):
        assert results(tmp_path / "one" / fold) == results(tmp_path / "two" / fold)


LACKING = """
import upcycle.jobs.follow as follow
from upcycle.errors import DataError
def absent(data):
    raise DataError(f"{data} does not exist: give a folder of images or a manifest")
follow.check_exists = absent
"""
OLDER = """
import upcycle.rendezvous as meeting
versions = meeting.versions
meeting.versions = lambda: {**versions(), "torch": "2.0"}
"""
COARSER = """
import dataclasses
import upcycle.jobs.follow as follow
detect = follow.machine_of
follow.machine_of = lambda config: dataclasses.replace(detect(config), precision="bf16")
"""


@pytest.mark.parametrize(
    ("other", "code", "expected"),
    [
        (LACKING, 3, r"process 1, on \S+, .* does not exist: give a folder of images or a manifest"),
        (OLDER, 2, r"process 1, on \S+, has torch 2\.0, and process 0 \S+: install the same on every node"),
        (COARSER, 2, r"process 1, on \S+, computes with precision bf16, and process 0 with fp32: give --precision"),
    ],
)
def test_a_process_that_cannot_take_part_is_named_in_one_line(
    other: str, code: int, expected: str, words: list[str], tmp_path: Path
) -> None:
    first, second = several(2, [*words, "--out", tmp_path / "run"], code={1: other})
    assert code == first.returncode, first.stderr
    (line,) = (line for line in first.stderr.splitlines() if line.startswith("upcycle:"))
    assert re.fullmatch(f"upcycle: {expected}", line), line
    assert (0, "", "") == (second.returncode, second.stdout, second.stderr)


def test_another_node_decodes_for_itself(words: list[str], alone: Path, tmp_path: Path) -> None:
    """As on another machine: the first of its processes, with a cache of its own."""
    apart = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    plain = [word for at, word in enumerate(words) if "--cache" not in (word, words[at - 1])]
    caches = {rank: {**apart, "UPCYCLE_CACHE": str(tmp_path / f"cache-{rank}")} for rank in range(2)}
    done = several(2, [*plain, "--out", tmp_path / "run", *EXACT], environment=caches)
    assert [0, 0] == [one.returncode for one in done], done[0].stderr + done[1].stderr
    assert results(alone) == results(tmp_path / "run")
    assert 1 == len(list((tmp_path / "cache-1" / "images").glob("*.images")))
    assert not (tmp_path / "cache-1" / "features").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--bn", "train"], "BatchNorm in training mode estimates its statistics from a whole batch, and each of 2"),
        (["--bn", "train", "--exact-shards", "2"], "BatchNorm in training mode needs a whole batch, not shards"),
        (["--exact-shards", "3"], "exact_shards = '3': use 2, 4, 8 or another power of two"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_in_one_line(
    more: list[str], expected: str, words: list[str], tmp_path: Path
) -> None:
    first, second = several(2, [*words, "--out", tmp_path / "run", *more])
    assert 2 == first.returncode, first.stdout
    assert f"upcycle: {expected}" in first.stderr
    assert "" == second.stderr


@pytest.mark.parametrize("command", [["doctor"], ["compare", "a", "b"], ["train", "photos", "--dry-run"]])
def test_other_commands_are_for_one_process(command: list[str]) -> None:
    done = several(2, command)
    assert [2, 2] == [one.returncode for one in done]
    named = "--dry-run" if "--dry-run" in command else command[0]
    assert f"2 processes were started, and {named} is for one: leave torchrun or srun out" in done[0].stderr


def test_processes_that_do_not_meet_say_where() -> None:
    script = """
import datetime, os
from upcycle.errors import ConfigError
from upcycle.rendezvous import joined, place_in
try:
    with joined(place_in(os.environ), patience=datetime.timedelta(seconds=2)):
        pass
except ConfigError as error:
    print(error)
"""
    port = free_port()
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith(f"process 0 of 2 did not meet the others at 127.0.0.1:{port} ("), done.stderr


def test_a_run_that_torchrun_may_restart_needs_a_name(words: list[str]) -> None:
    names = {rank: {"TORCHELASTIC_MAX_RESTARTS": "3"} for rank in range(2)}
    done = several(2, words, environment=names)
    assert [2, 2] == [one.returncode for one in done]
    assert "processes that torchrun restarts must find their run: give --out RUN" in done[0].stderr


def _workers(starter: int) -> list[int]:
    """The processes that torchrun has started, in order of rank."""
    children = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found = [entry for entry in environment if entry.startswith(b"RANK=")]
        if found:
            ranks[int(found[0][5:])] = child
    return [ranks[rank] for rank in sorted(ranks)]


def _await(condition: "object", process: "subprocess.Popen[str]", seconds: float = 90) -> None:
    """Wait until `condition()` holds."""
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)
