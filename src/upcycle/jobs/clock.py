"""Durations, and the time at which a run must be over."""

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from upcycle.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600}
SLURM = "slurm"
"""The word for the end of the Slurm job that the command runs in."""
SLURM_MARGIN = 30.0
"""Seconds before Slurm ends a job that are left to it."""


def parse_duration(text: str, name: str) -> float:
    """The seconds that a duration like 90s, 5m or 1h stands for; ConfigError, naming the option, for anything else.

    >>> parse_duration("90s", "within"), parse_duration("1.5m", "within"), parse_duration("1h", "within")
    (90.0, 90.0, 3600.0)
    """
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", text) if isinstance(text, str) else None
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds:
        raise ConfigError(f"{name} = {text!r} is no duration: give a number with s, m or h, such as 90s, 5m or 1h")
    return seconds


@dataclass(frozen=True)
class Deadline:
    """So many `seconds` after `began`, a reading of time.monotonic."""

    seconds: float
    began: float

    @classmethod
    def of(cls, text: str, began: float, environment: Mapping[str, str] = os.environ) -> "Deadline":
        """The one that `text` asks for: a duration, or "slurm" for the end of the Slurm job less half a minute."""
        if text != SLURM:
            return cls(parse_duration(text, "deadline"), began)
        left = slurm_left(environment)
        if left is None:
            raise ConfigError("deadline = slurm needs SLURM_JOB_END_TIME, which Slurm sets in a job: give a duration")
        if left <= 0:
            raise ConfigError("deadline = slurm: this Slurm job ends in less than half a minute")
        now = time.monotonic()
        return cls(left + now - began, began)

    def left(self) -> float:
        """Seconds until then."""
        return self.began + self.seconds - time.monotonic()


def slurm_left(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds until the end of the Slurm job that this is, less half a minute; None outside of one."""
    end = environment.get("SLURM_JOB_END_TIME", "")
    return int(end) - time.time() - SLURM_MARGIN if end.isdigit() else None


def process_began() -> float:
    """When this command was started, as a reading of time.monotonic; now, where it is no process of its own."""
    now = time.monotonic()
    if Path(sys.argv[0]).stem not in ("upcycle", "__main__"):
        return now
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # not Linux
        return now
    return now - age if 0 <= age < 3600 else now
