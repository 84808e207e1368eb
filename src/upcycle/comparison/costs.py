"""What training a rung once costs: seconds, with the decoding and features that runs share counted to each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from upcycle.comparison.runs import Group, Run

SHARED = ("decoding_seconds", "features_seconds")
"""Parts of a run whose result is kept in the cache folder: whoever comes first pays."""

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Shared:
    """The most seconds that any run spent on each part, by part and what it depends on."""

    most: dict[Key, float] = field(default_factory=dict)


def _key(part: str, run: Run) -> Key:
    network = run.model.get("arch") if part == "features_seconds" else None
    return part, run.size, network, run.config.get("data"), run.config.get("quarantine")


def shared(groups: Sequence[Group]) -> Shared:
    """What decoding and features cost the runs that did not find them in the cache."""
    most: dict[Key, float] = {}
    for run in (run for group in groups for run in (*group.runs, *group.trials)):
        for part in SHARED:
            if part in run.status:
                most[_key(part, run)] = max(most.get(_key(part, run), 0.0), float(run.status[part]))
    return Shared(most)


def own_seconds(run: Run) -> float:
    """Seconds of the run without what others may have cached for it: what a trial adds."""
    return float(run.status.get("seconds") or 0.0) - sum(float(run.status.get(part) or 0.0) for part in SHARED)


def mean_seconds(runs: Sequence[Run], costs: Shared) -> float | None:
    """The mean of `seconds` over a rung's runs; None where one of them has no clock."""
    if any(run.status.get("seconds") is None for run in runs):
        return None
    return mean(seconds(run, costs) for run in runs)


def seconds(run: Run, costs: Shared) -> float:
    """Seconds of the run had it been the only one: what others had cached for it is added.

    Features and decoded images that were in the cache before the first of the compared runs are not seen.
    """
    total = float(run.status.get("seconds") or 0.0)
    for part in SHARED:
        if part in run.status:
            total += costs.most[_key(part, run)] - float(run.status[part])
    return total
