"""How fast training is, and how many updates a deadline leaves room for. Nothing here decides without a clock."""

import time
from typing import NamedTuple

from upcycle.errors import counted
from upcycle.jobs.clock import Deadline
from upcycle.planning import Phase, Plan
from upcycle.reporting.text import clock

REPORT = 5.0
"""Seconds of the report, of files and of what else does not depend on the number of images."""
SLACK = 1.6
"""What is left for the end is so many times its estimate: once training is over nothing can be left out."""
FEWEST = 5
"""Updates of fine-tuning that are worth making."""
RECENT, RECENT_PART = 4.0, 0.02
"""Seconds of updates whose mean is the pace: so many, or this part of what is left."""
ROOM = 0.93
"""More updates are planned where those that are left need less than this part of the time."""
LATE, LATE_PART = 0.1, 0.04
"""Fewer updates are planned where the end would lose more than this part of its time and of the time until then."""
EVERY, EVERY_PART = 1.0, 0.005
"""Seconds between looks at the pace: so many, or this part of what is left."""


class End(NamedTuple):
    """What comes after training: forward passes of `images`, and `fixed` seconds of writing and the report."""

    images: int
    fixed: float


class Pace:
    """How fast training is now, and how many updates the deadline leaves room for.

    `update`: seconds of one; `forward`: of one image; `closing`: of an epoch's end, with its validation and
    weights; `most`: updates that the recipe makes.
    """

    def __init__(self, deadline: Deadline, update: float, forward: float, closing: float, end: End, most: int) -> None:
        self.deadline, self.update, self.forward, self.closing = deadline, update, forward, closing
        self._end, self._most = end, most
        self._last = time.monotonic()
        self._next_look = 0.0

    @property
    def reserve(self) -> float:
        """Seconds that are left for the end."""
        return SLACK * (self._end.images * self.forward + self._end.fixed)

    @property
    def fewest(self) -> int:
        """Updates that are worth making: a recipe may have fewer in all."""
        return min(FEWEST, self._most)

    def updated(self) -> None:
        """An update was made just now. The mean forgets what is older than some seconds."""
        seconds = self._since()
        recent = max(RECENT, RECENT_PART * self.deadline.left())
        self.update += min(0.5, seconds / recent) * (seconds - self.update)

    def closed(self) -> None:
        """An epoch has ended just now: its images are predicted and its weights are written."""
        self.closing += 0.5 * (self._since() - self.closing)

    def _since(self) -> float:
        """Seconds since the last of these, which is now."""
        before, self._last = self._last, time.monotonic()
        return self._last - before

    def needed(self, steps: int, phase: Phase, step: int) -> float:
        """Seconds from the run's update `step` to the last of so many, with the validations after each epoch."""
        done = step - phase.first_step
        epochs = -(-steps // phase.steps_per_epoch) - done // phase.steps_per_epoch
        return (steps - done) * self.update + epochs * self.closing

    def fits(self, phase: Phase, step: int) -> int:
        """The most updates in all, of those that the recipe makes, for which there is time; at least those made."""
        left = self.deadline.left() - self.reserve
        low, high = step - phase.first_step, self._most
        while low < high:
            middle = (low + high + 1) // 2
            if self.needed(middle, phase, step) <= left:
                low = middle
            else:
                high = middle - 1
        return low

    def to_look(self) -> bool:
        """Whether it is time to look at the plan again: once a second at most, less often in a long run."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + max(EVERY, EVERY_PART * self.deadline.left())
        return True

    def steps_for(self, plan: Plan, step: int) -> int | None:
        """The updates in all to plan from the run's update `step` on; None while the plan is right."""
        phase = plan.last
        done, left = step - phase.first_step, self.deadline.left() - self.reserve
        if done >= phase.steps:
            return None
        needed = self.needed(phase.steps, phase, step)
        longer = needed < ROOM * left and phase.steps < self._most and plan.ending is None
        if not longer and needed <= left + LATE * self.reserve + LATE_PART * max(0.0, left):
            return None
        steps = self.fits(phase, step)
        return steps if steps != phase.steps and (longer or steps < phase.steps) else None

    def describe(self) -> str:
        """How fast it is, in words."""
        return f"an update takes {self.update:.2g} s and {clock(max(0.0, self.deadline.left()))} are left"

    def plan_text(self, steps: int, per_epoch: int) -> str:
        """What the time is for."""
        if not steps:
            return (
                f"fine-tuning is skipped: {self.describe()}, which is too little for {counted(self.fewest, 'update')}"
            )
        epochs = -(-steps // per_epoch)
        training = steps * self.update + epochs * self.closing
        test, rest = self._end.images * self.forward, self._end.fixed
        slack = self.deadline.left() - training - test - rest
        return (
            f"{clock(training)} training ({steps / per_epoch:.1f} epochs, {counted(steps, 'update')}), "
            f"{clock(test)} test, {clock(rest)} report, {clock(max(0.0, slack))} slack"
        )
