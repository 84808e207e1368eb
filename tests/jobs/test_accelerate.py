"""accelerate starts a training in several processes as torchrun does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY, write_classes
from tests.processes import free_port, results, several


def test_accelerate_launch_gives_the_bits_of_one_process(tiny_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    data = write_classes(tmp_path / "data", {"across": 20, "down": 20})
    words = ["train", data, "--arch", TINY, "--weights", tiny_weights, "--image-size", "32", "--epochs", "1"]
    words += ["--precision", "fp32", "--exact-shards", "2", "--cache", tmp_path / "cache", "--out"]
    (one,) = several(1, [*words, tmp_path / "one"])
    assert 0 == one.returncode, one.stderr
    start = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    start += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    place = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, "-m", "upcycle", *map(str, words), str(tmp_path / "two")],
        env=place,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert "2 processes, each on its part of every batch" in done.stdout
    assert results(tmp_path / "one") == results(tmp_path / "two")
