"""The rates that reach another framework's optimizer are the schedule's own: every update, and one past the end."""

from pathlib import Path

import pytest

from tests.adapters.loops import LOOPS, Run
from upcycle.changed_schedules import Scaled
from upcycle.schedules import Constant, OneCycle, RampSustainDecay, Schedule, Step, WarmupStableDecay

SCHEDULES = {
    "one-cycle": OneCycle(0.1, 7),
    "three phases": OneCycle(0.1, 7, pct_start=0.4, anneal="linear", moms=(0.9, 0.8, 0.95), three_phase=True),
    "warmup-stable-decay": WarmupStableDecay(0.1, 7, warmup=0.3, cooldown=0.5, start=0.1),
    "ramp-sustain-decay": RampSustainDecay(0.01, 0.1, 0.01, rampup=1, sustain=1, steps_per_epoch=2),
    "step": Step(0.1, 2, steps_per_epoch=2),
    "scaled": Scaled(OneCycle(0.1, 7), 4, 0.5),
    "constant": Constant(0.1, 0.8),
}
UPDATES = 8
"""Of a schedule over 7."""


# what Lightning and Keras warn of are their own old calls
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("resume_after", [0, 3], ids=["through", "resumed"])
@pytest.mark.parametrize("micro", [1, 3], ids=["whole", "accumulated"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("framework", LOOPS)
def test_the_rates_that_reach_the_optimizer_are_the_schedules(
    framework: str, schedule: Schedule, micro: int, resume_after: int, tmp_path: Path
) -> None:
    loop, packages = LOOPS[framework]
    for package in packages:
        pytest.importorskip(package)
    seen = loop(schedule, Run(UPDATES, micro, resume_after, tmp_path))
    expected = [schedule(step) for step in range(UPDATES)]
    exact = framework in ("pytorch", "lightning", "transformers")
    assert [rate.lr for rate in expected] == pytest.approx([lr for lr, _ in seen], rel=1e-12 if exact else 1e-6)
    if framework != "keras":  # which has no schedule for the momentum
        assert [rate.momentum for rate in expected] == pytest.approx([m for _, m in seen], rel=1e-12 if exact else 1e-6)
