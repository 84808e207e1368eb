"""Durations as people write them, and when a process was started."""

import time
from typing import Any

import pytest

from upcycle.errors import ConfigError
from upcycle.jobs.clock import SLURM_MARGIN, Deadline, parse_duration, process_began


@pytest.mark.parametrize(
    "text", ["5", "m", "0s", "-5m", "5 m", "5M", "1e3s", "5m30s", "", "infs", "nans", "99999999s", "٥s", 5]
)
def test_a_duration_is_read_strictly(text: Any) -> None:
    with pytest.raises(ConfigError, match=r"^within = .* is no duration: give a number with s, m or h"):
        parse_duration(text, "within")


def test_durations_are_seconds() -> None:
    assert [90.0, 300.0, 3600.0, 5400.0] == [parse_duration(text, "x") for text in ("90s", "5m", "1h", "1.5h")]


def test_a_deadline_counts_from_when_the_command_began() -> None:
    began = time.monotonic() - 20
    assert Deadline.of("90s", began).left() == pytest.approx(70, abs=1)


def test_slurm_says_when_its_job_ends() -> None:
    began = time.monotonic() - 7
    asked = Deadline.of("slurm", began, {"SLURM_JOB_END_TIME": str(int(time.time()) + 600)})
    assert asked.left() == pytest.approx(600 - SLURM_MARGIN, abs=1.5)
    with pytest.raises(ConfigError, match="needs SLURM_JOB_END_TIME"):
        Deadline.of("slurm", began, {})
    with pytest.raises(ConfigError, match="ends in less than half a minute"):
        Deadline.of("slurm", began, {"SLURM_JOB_END_TIME": str(int(time.time()) + 20)})


def test_a_command_began_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/upcycle", "train"])
    assert time.monotonic() - process_began() > 0.2  # this test's process has loaded torch
    monkeypatch.setattr("sys.argv", ["notebook.py"])
    assert time.monotonic() - process_began() < 0.1
