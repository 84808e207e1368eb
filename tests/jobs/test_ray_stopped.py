"""Work on a Ray cluster that is stopped and resumed, and what a cluster has no room for."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import parquet

import upcycle
from tests.clusters import Listening, plain
from tests.conftest import TINY, without_pages, write_classes
from tests.processes import RUN
from upcycle.data.index import index_images
from upcycle.data.index_file import index_to_bytes
from upcycle.errors import ConfigError
from upcycle.jobs import on_ray, ray_prediction, ray_training
from upcycle.reporting.progress import Silent
from upcycle.rundir import RunDir, locked

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Ray's own
FAST = ["--arch", TINY, "--image-size", "32", "--precision", "fp32", "--threads", "1"]


def stopped(words: list[Any], when: Callable[[], bool], how: int) -> tuple[int, str]:
    """Start a command and send it a signal as soon as `when` holds; its exit code and what it said."""
    command = [sys.executable, "-c", RUN, *map(str, words)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until = time.monotonic() + 120
        while not when():
            assert running.poll() is None, running.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.02)
        running.send_signal(how)
        said = running.communicate(timeout=120)[0]
    finally:
        running.kill()
    return running.returncode, said


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_comparison_that_is_stopped_keeps_its_checkpoints_and_resumes(
    nodes: Any, tiny_weights: Path, tmp_path: Path, how: int, code: int
) -> None:
    data = write_classes(tmp_path / "data", {"across": 40, "down": 40})
    words: list[Any] = [
        "compare",
        data,
        "--variants",
        "probe,constant",
        "--seeds",
        "1",
        "--weights",
        tiny_weights,
        *FAST,
    ]
    words += ["--epochs", "12", "--cache", tmp_path / "cache", "--on", "ray"]
    there = tmp_path / "there"
    run = RunDir(there / "runs" / "constant-seed-0")

    def rows() -> int:
        return len(run.history.read_text().splitlines()) if run.history.exists() else 0

    given, said = stopped([*words, "--out", there], lambda: rows() >= 1, how)
    assert code == given, said
    assert f"to resume: upcycle compare --out {there} --resume --on ray" in said.splitlines()
    assert "interrupted" == run.status()["state"]
    assert not list(there.glob(".s*"))
    assert 12 > rows()
    show = Listening()
    upcycle.compare(out=there, resume=True, on="ray", show=show)
    assert any(line.startswith("constant-seed-0 starts on ") for line in show.lines)
    here = tmp_path / "here"
    with without_pages():
        upcycle.compare(
            data,
            variants=["probe", "constant"],
            seeds=1,
            out=here,
            show=Silent(),
            weights=str(tiny_weights),
            epochs=12,
            arch=TINY,
            image_size=32,
            precision="fp32",
            threads=1,
            cache=str(tmp_path / "cache"),
        )
    one, two = (plain(json.loads((out / "comparison.json").read_text()), without=out) for out in (here, there))
    assert one == two


def test_a_prediction_whose_process_was_killed_resumes_after_its_parts(
    nodes: Any, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_classes(tmp_path / "data", {"across": 20, "down": 20})
    with without_pages():
        run = upcycle.train(
            data, out=tmp_path / "run", arch=TINY, weights=str(tiny_weights), image_size=32, epochs=0, threads=1
        )
    listed, out = tmp_path / "list.txt", tmp_path / "out.parquet"
    listed.write_text("\n".join(map(str, sorted(data.rglob("*.png")) * 256)))
    words = ["predict", str(run.path), "--list", str(listed), "--out", str(out), "--on", "ray"]
    partial = tmp_path / "out.parquet.partial"
    noted: dict[str, int] = {}

    def two_are_there() -> bool:
        noted.update({file.name: file.stat().st_mtime_ns for file in partial.glob("00000?.json")})
        return len(noted) >= 2

    stopped(words, two_are_there, signal.SIGKILL)
    assert not out.exists()
    kept: dict[str, int] = {}
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for name in noted:
                try:
                    kept[name] = (partial / name).stat().st_mtime_ns
                except FileNotFoundError:
                    return
            time.sleep(0.01)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    command = [sys.executable, "-c", RUN, *words]
    again = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=os.environ)
    done.set()
    looking.join(10)
    assert 0 == again.returncode, again.stderr
    assert noted == kept
    assert 40 * 256 == parquet.read_table(out).num_rows


def test_a_training_waits_for_the_process_of_a_lost_node(
    photos: Path, tiny_weights: Path, tmp_path: Path, no_page: None
) -> None:
    out = tmp_path / "runs" / "probe-seed-0"
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(out):
            held.set()
            free.wait(30)

    lost = threading.Thread(target=hold, daemon=True)
    lost.start()
    assert held.wait(30)
    threading.Timer(1.0, free.set).start()
    options = {"arch": TINY, "weights": str(tiny_weights), "image_size": 32, "epochs": 0, "recipe": "probe"}
    index = index_to_bytes(index_images(photos))
    found = ray_training.train_there(photos, {**options, "threads": 1}, out, index, 1)
    assert "" == found["failed"]
    assert "finished" == RunDir(out).status()["state"]


def test_what_no_node_has_room_for_is_told() -> None:
    has = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}]
    ray = SimpleNamespace(nodes=lambda: [*has, {"Alive": False, "Resources": {"CPU": 64.0}}])
    assert 3 == on_ray.at_once(ray, {"num_cpus": 2})
    assert 1 == on_ray.at_once(ray, {"num_cpus": 1, "num_gpus": 1})
    assert "" == on_ray.too_large(ray, {"num_cpus": 4, "num_gpus": 0})
    for wanted, what in (({"num_cpus": 8}, "8 processors"), ({"num_cpus": 4, "num_gpus": 1}, "4 processors and a GPU")):
        text = f"no Ray node has {what} for one process: it waits until one joins; give other --threads or --device"
        assert text == on_ray.too_large(ray, wanted)


def test_a_prediction_through_a_ray_client_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="Ray Data needs a process in the cluster"),
        ray_prediction.parts_on(
            "ray://127.0.0.1:1", tmp_path, tmp_path / "a.csv", int8=False, device="cpu", threads=1, show=Silent()
        ),
    ):
        pass


def test_a_warning_is_told_once() -> None:
    show, before = Listening(), set[str]()
    for name in ("a", "b"):
        ray_training.heard({"warnings": ["rough"], "kind": "", "failed": ""}, name, show, before)
    assert ["warning: a: rough"] == show.lines


def test_a_run_that_starts_again_is_told(tmp_path: Path) -> None:
    started = ray_training.Started(tmp_path)
    assert [] == list(started.new())
    started.folder.mkdir()
    file = started.folder / "probe-seed-0"
    file.write_text("one")
    assert [("probe-seed-0", "one", False)] == list(started.new())
    assert [] == list(started.new())
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert [("probe-seed-0", "two", True)] == list(started.new())
