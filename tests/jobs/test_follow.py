"""One training in several real processes: its results beside those of one, kills, and what cannot take part."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import upcycle
from tests.conftest import TINY, write_classes
from tests.processes import free_port, results, scripts, several, torchrun
from upcycle.cli import main
from upcycle.data.preprocessing import Preprocessing
from upcycle.device import detect
from upcycle.errors import ConfigError, UpcycleError
from upcycle.jobs import follow
from upcycle.jobs.finetune import check_shared, synchronize_statistics
from upcycle.model.network import ModelSpec, create
from upcycle.recipes import resolve
from upcycle.task import Task
from upcycle.world import Place, World

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


def test_two_nodes_give_the_bits_of_one_process(words: list[str], alone: Path, tmp_path: Path) -> None:
    """As on two machines: each process is the first of its node, and has a cache of its own."""
    apart = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    plain = [word for at, word in enumerate(words) if "--cache" not in (word, words[at - 1])]
    caches = {rank: {**apart, "UPCYCLE_CACHE": str(tmp_path / f"cache-{rank}")} for rank in range(2)}
    done = several(2, [*plain, "--out", tmp_path / "run", *EXACT, "--json"], environment=caches)
    assert [0, 0] == [one.returncode for one in done], done[0].stderr + done[1].stderr
    assert results(alone) == results(tmp_path / "run")
    assert "2 processes, each on its part of every batch" in done[0].stderr
    assert "test" in json.loads(done[0].stdout)
    assert ("", "") == (done[1].stdout, done[1].stderr)
    assert 1 == len(list((tmp_path / "cache-1" / "images").glob("*.images")))
    assert not (tmp_path / "cache-1" / "features").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_with_exact_shards_any_number_of_processes_gives_the_same_bits(
    size: int, words: list[str], alone: Path, tmp_path: Path
) -> None:
    done = several(size, [*words, "--out", tmp_path / "run", *EXACT])
    assert [0] * size == [one.returncode for one in done], done[0].stderr
    assert results(alone) == results(tmp_path / "run")


UPDATES = """
import os
from dataclasses import replace
from tests.training.test_loop import begin, setting
from upcycle.rendezvous import joined, place_in
from upcycle.training.loop import train_step
from upcycle.training.optim import set_training_mode
options = {"batch_size": 8, "bn": "frozen", "mixup": 0.2, "augment": "light", "lr": 1e-3}
own = setting(options, images=40)
with joined(place_in(os.environ)) as world:
    here = replace(own, world=world, batches=replace(own.batches, world=world))
    state, losses = begin(here.config), []
    set_training_mode(state.model.body, frozen=here.frozen, bn="frozen")
    for epoch in range(4):
        for batch in here.batches.epoch(epoch):
            losses.append(train_step(state, batch, here)[0].item())
print(losses[:20], float(sum(one.detach().double().abs().sum() for one in state.model.parameters())))
"""


def test_without_exact_shards_the_first_updates_are_equal_to_one_in_ten_thousand(tmp_path: Path) -> None:
    (one,), two = (scripts(UPDATES, size) for size in (1, 2))
    assert two[0] == two[1]
    first, second = (json.loads(text.partition("]")[0] + "]") for text in (one, two[0]))
    assert 20 == len(first)
    assert np.allclose(first, second, rtol=0, atol=1e-4)
    assert not np.allclose(first, first[0], atol=1e-2)


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("other", "code", "expected"),
    [
        (LACKING, 3, r"process 1, on \S+, .* does not exist: give a folder of images or a manifest"),
        (OLDER, 2, r"process 1, on \S+, has torch 2\.0, and process 0 \S+: install the same on every node"),
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


@dataclass(frozen=True, eq=False)
class Hearing(World):
    """Of two processes, the other one of which says `other`."""

    other: str = ""

    def reports(self, text: str) -> list[str]:
        return [text, json.dumps({**json.loads(text), "node": "node-b", **json.loads(self.other)})]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (
            {"precision": "bf16"},
            "process 1, on node-b, computes with precision bf16, and process 0 with fp32: give --precision",
        ),
        ({"device": "cuda"}, "process 1, on node-b, computes with device cuda, and process 0 with cpu: give --device"),
        ({"problem": "/data does not exist"}, "process 1, on node-b, /data does not exist"),
    ],
)
def test_what_another_process_says_is_told(other: dict[str, str], expected: str) -> None:
    mine = follow._facts(detect(precision="fp32", device="cpu", threads=1))
    with pytest.raises(UpcycleError, match=f"^{re.escape(expected)}$"):
        follow._compare(Hearing(Place(0, 2, 0, 2), other=json.dumps(other)), mine)


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({"bn": "train"}, 2, "BatchNorm in training mode estimates its statistics from a whole batch, and each of 2"),
        ({"bn": "train", "exact_shards": 2}, 1, "BatchNorm in training mode needs a whole batch, not shards"),
        ({"exact_shards": 4}, 3, "exact_shards = 4 is for a power of two of processes up to 4, and there are 3"),
        ({"exact_shards": 4}, 8, "exact_shards = 4 is for a power of two of processes up to 4, and there are 8"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(options: dict[str, object], size: int, expected: str) -> None:
    config = resolve({"batch_size": 8, **options})
    model = create(ModelSpec(TINY, Task.of(("a", "b")), Preprocessing(size=32), "test", ""))
    machine, world = detect(precision="fp32", device="cpu", threads=1), World(Place(0, size, 0, size))
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}"):
        check_shared(config, model, world, machine, images=100)
    gpu = replace(machine, device="cuda")
    if size == 2:
        check_shared(config, model, world, gpu, images=100)
        with pytest.raises(
            ConfigError, match="the last batch of an epoch has 3 images, and BatchNorm in training mode"
        ):
            check_shared(config, model, World(Place(0, 4, 0, 4)), gpu, images=99)


def test_statistics_of_several_gpus_are_synchronized_and_keep_their_names() -> None:
    model = create(ModelSpec(TINY, Task.of(("a", "b")), Preprocessing(size=32), "test", ""))
    names = list(model.state_dict())
    synchronize_statistics(model, resolve({"bn": "train"}), World(Place(0, 2, 0, 2)))
    assert names == list(model.state_dict())
    norms = [one for one in model.modules() if isinstance(one, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(one, torch.nn.SyncBatchNorm) for one in norms)
    assert (2, 1) == tuple(model.eval()(torch.zeros(2, 3, 32, 32)).shape)


TWO = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("command", [["doctor"], ["compare", "a", "b"], ["train", "photos", "--dry-run"]])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_other_commands_are_for_one_process(
    command: list[str], rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**TWO, "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    assert 2 == main(command)
    named = "--dry-run" if "--dry-run" in command else command[0]
    line = f"upcycle: 2 processes were started, and {named} is for one: leave torchrun or srun out\n"
    assert (line if rank == "0" else "") == capsys.readouterr().err


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


def test_a_run_that_torchrun_may_restart_needs_a_name(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    for name, value in {**TWO, "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="processes that torchrun restarts must find their run: give --out RUN"):
        upcycle.train(photos)


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
