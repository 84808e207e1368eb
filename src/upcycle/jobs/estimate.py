"""How long a run will take on this machine, told from its own first updates."""

import time
from collections.abc import Callable

from upcycle.recipes import Phase
from upcycle.reporting.show import Told

WORTH_ESTIMATING = 60
"""Updates from which on a run is long enough to be told about beforehand."""
TIMED = 4
"""Updates that are timed, after a first one that also allocates."""
FORWARD = 1 / 3
"""What an image costs in validation, of what it costs in training: backward takes twice as long as forward."""


def forecasting(
    told: Told,
    phase: Phase,
    *,
    batch_size: int,
    checked: int,
    say: Callable[[str], None],
    settle: Callable[[], None],
) -> Told:
    """`told`, and once a few updates are made, how long the phase takes at most with `checked` validation images.

    Nothing is computed for it: a trial would hold up the first update. Short phases are not worth a line. `settle`
    waits for updates that are queued and not yet made.
    """
    if phase.steps < WORTH_ESTIMATING:
        return told
    began: float | None = None
    made, said = 0, False

    def telling(done: int, total: int) -> None:
        nonlocal began, made, said
        told(done, total)
        if began is None:
            settle()
            began = time.perf_counter()
            return
        made += 1
        if not said and (made >= TIMED or done == total):
            said = True
            settle()
            update = (time.perf_counter() - began) / made
            # between two epochs of one update lies a validation already
            checks = phase.epochs * checked / batch_size * FORWARD if total > 1 else 0.0
            say(f"all epochs of {phase.name} take about {spoken((phase.steps + checks) * update)} on this machine")

    return telling


def across(told: Told, phase: Phase, epoch: Callable[[], int]) -> Told:
    """`told` of all updates of the phase, given those of an epoch; `epoch` says how many went before."""
    return lambda done, total: told(epoch() * total + done, phase.epochs * total)


def spoken(seconds: float) -> str:
    """A duration to one sensible unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
