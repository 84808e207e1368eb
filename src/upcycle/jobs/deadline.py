"""A run that must end on time: how large its images are, how many updates fit, and what to do when the machine slows.

The time counts from the start of the command to the report. What is decided by a clock is written to plan.jsonl before
it takes effect.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from upcycle.changes import Budget
from upcycle.config import Config
from upcycle.data.dataset import Dataset
from upcycle.data.frames import decoded, is_cached
from upcycle.data.index import Index
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import split_by
from upcycle.errors import ConfigError
from upcycle.evaluation.novelty import LEAN_SAMPLE, MOST_FITTED
from upcycle.jobs.pace import REPORT, SLACK, End, Pace
from upcycle.jobs.prepare import cache_root
from upcycle.jobs.session import Session
from upcycle.jobs.speed import before_decoding, seconds_per_image, seconds_per_update, seconds_to_write
from upcycle.model.network import ModelSpec, Network
from upcycle.planning import Phase, steps_per_epoch
from upcycle.reporting.text import clock

FIRST = 0.35
"""The most of the time that decoding, features and the probe may be planned to take."""
END = 0.15
"""The most of the time that the whole end may be planned to take; else it is a lean one."""
PROBE_FIT, PROBE_IMAGE = 2.0, 0.004
"""Seconds that a probe's fit takes, and for each training image."""
SMALLEST, STEP = 64, 32
"""Pixels: no smaller size is tried, and by how much the sizes that are differ."""
STATES = 3
"""What the end of an epoch writes, as a multiple of the weights: the best ones, and weights with their moments."""
SAMPLE = 8
"""Images that are decoded to see how long that takes."""


@dataclass(frozen=True)
class Counts:
    """Images by split."""

    train: int
    val: int
    test: int

    def first(self, config: Config, *, lean: bool) -> int:
        """Forward passes before fine-tuning: features of all images, of mirrored ones, of turned ones."""
        held_out = self.val + self.test
        views = 0 if lean or config.views == "none" else held_out
        return (self.train + held_out + views if config.probe else 0) + min(self.val, 1000)

    def end(self, config: Config, *, lean: bool) -> int:
        """Forward passes after it: validation images for the choice, test images, those of the table of unlike ones."""
        sample = LEAN_SAMPLE if lean else MOST_FITTED
        table = min(self.train, sample) + min(self.val, sample)
        if lean or not config.probe:
            return self.val + self.test + table
        candidates = 4 + (config.ema_decay > 0)
        views = {"none": 1, "square": 8}.get(config.views, 2)
        return candidates * self.val + 2 * views * (self.test + (self.val if views > 1 else 0)) + table


def fit_deadline(session: Session, network: ModelSpec, index: Index, *, fresh: bool, fixed: bool) -> Preprocessing:
    """The input of a run as its deadline allows; that of `network` where there is none.

    ConfigError, with a deadline that can be met, for one that cannot.
    """
    if session.plan.budget is None and session.deadline is not None and fresh:
        session.set_budget(_size(session, network, index, fixed=fixed))
    budget = session.plan.budget
    if budget is None:
        return network.preprocessing
    if session.deadline is None and not fresh:
        session.show.message("resuming without a deadline: what is left takes as long as it takes")
    asked = session.config.image_size
    if asked is not None and asked != budget.image_size:
        raise ConfigError(
            f"the plan is one of {budget.image_size} px, and image_size = {asked}: leave --image-size out"
        )
    if budget.lean:
        session.config = session.config.model_copy(update={"views": "none", "ema_decay": 0.0})
    return replace(network.preprocessing, size=budget.image_size)


def _size(session: Session, network: ModelSpec, index: Index, *, fixed: bool) -> Budget:
    """The largest size at which the probe takes a third of the time at most and one epoch of fine-tuning fits."""
    assert session.deadline is not None
    from upcycle.reporting import run_page  # noqa: F401  # what the report loads, it loads before the plan

    config, deadline, preprocessing = session.config, session.deadline, network.preprocessing
    splits = split_by(config, index)
    counts = Counts(len(splits.train), len(splits.val), len(splits.test))
    forward, update = before_decoding(network, config, session.machine)
    fit = PROBE_FIT + PROBE_IMAGE * counts.train if config.probe else 0.0
    updates = steps_per_epoch(counts.train, config.batch_size) if config.tunes else 0
    elapsed = deadline.seconds - deadline.left()
    sizes = [preprocessing.size]
    if config.image_size is None and not fixed:
        sizes += range(STEP * (math.ceil(preprocessing.size / STEP) - 1), SMALLEST - 1, -STEP)
    shortest = math.inf
    for size in sizes:
        share = (size / preprocessing.size) ** 2
        read = _decoding(replace(preprocessing, size=size), index, config, session)
        full = SLACK * (counts.end(config, lean=False) * forward * share + REPORT)
        lean = full > END * deadline.seconds
        first = read + counts.first(config, lean=lean) * forward * share + fit
        end = SLACK * (counts.end(config, lean=lean) * forward * share + REPORT + fit)
        epoch = updates * update * share + counts.val * forward * share
        least = elapsed + first + (end if config.probe else end + epoch)
        shortest = min(shortest, least)
        roomy = first <= FIRST * deadline.left() and first + epoch + end <= deadline.left()
        if roomy or (size == sizes[-1] and least <= deadline.seconds):
            if size != preprocessing.size:
                session.show.message(f"images of {size} px, not {preprocessing.size}, to be done in time")
            return Budget(deadline.seconds, size, lean)
    raise ConfigError(
        f"deadline = {clock(deadline.seconds)} is too short here for images, probe, test and report: "
        f"give --deadline {10 * math.ceil(shortest / 10)}s or more"
    )


def _decoding(preprocessing: Preprocessing, index: Index, config: Config, session: Session) -> float:
    """Seconds that decoding is estimated to take, by some images spread over all."""
    if is_cached(index, preprocessing.decoding, cache_root(config) / "images"):
        return 0.0
    at = np.unique(np.linspace(0, len(index) - 1, SAMPLE).astype(int)).tolist()
    started = time.perf_counter()
    for i in at:
        decoded(index, i, preprocessing.decoding)
    return (time.perf_counter() - started) / len(at) * len(index) / max(1, session.machine.threads)


# ---------------------------------------------------------------- once the probe is trained


def allow(session: Session, data: Dataset, model: Network, phase: Phase, freeze: str) -> tuple[bool, str]:
    """Whether there is time for fine-tuning, and the layers to freeze in it; sets the session's pace and its budget.

    Without a deadline there is, and it is `freeze`. Fewer layers are trained where that makes the difference between
    less than an epoch and more.
    """
    budget, deadline = session.plan.budget, session.deadline
    if budget is not None and budget.steps is not None:
        freeze = budget.freeze or freeze
        if deadline is None or not budget.steps:
            return budget.steps > 0, freeze
    if deadline is None:
        return True, freeze
    pace = _pace(session, data, model, phase, freeze)
    if budget is None or budget.steps is not None:  # resumed: planned again after its next update
        session.pace = pace
        return True, freeze
    steps = pace.fits(phase, phase.first_step)
    if freeze == "none" and session.config.freeze == "auto" and steps < min(phase.steps, phase.steps_per_epoch):
        freeze, pace = "auto", _pace(session, data, model, phase, "auto")
        steps = pace.fits(phase, phase.first_step)
    if steps < pace.fewest:
        steps = 0 if session.config.probe and model.has_linear_head else pace.fewest
    told = pace.plan_text(steps, phase.steps_per_epoch)
    session.set_budget(replace(budget, freeze=freeze, steps=steps, reason=told))
    session.show.message(told)
    session.pace = pace
    return steps > 0, freeze


def _pace(session: Session, data: Dataset, model: Network, phase: Phase, freeze: str) -> Pace:
    assert session.deadline is not None
    config, splits = session.config, data.splits
    counts = Counts(len(splits.train), len(splits.val), len(splits.test))
    update = seconds_per_update(config, data, model, session.machine, phase, freeze, updates=1)
    forward = seconds_per_image(data, model, session.machine)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    writing = seconds_to_write(session.run.root, size)
    end = End(counts.end(config, lean=session.plan.lean), REPORT + 2 * writing)
    return Pace(session.deadline, update, forward, counts.val * forward + STATES * writing, end, phase.steps)
