"""How long a run will take on this machine, from one trial update and one trial forward pass."""

import copy
import time

import torch

from upcycle.evaluation.predict import EVAL_BATCH
from upcycle.job.prepare import Job
from upcycle.model import zoo
from upcycle.model.groups import set_training_mode
from upcycle.training.loop import Setting, State

WORTH_ESTIMATING = 200
"""Updates from which on a run is long enough to be told about beforehand."""


def say_estimate(job: Job, state: State, setting: Setting) -> None:
    """Say how long fine-tuning takes at most; short runs are not worth the trial."""
    if setting.phase.steps < WORTH_ESTIMATING:
        return
    train, evaluate = trial(state, setting)
    updates = setting.phase.steps * train
    checks = setting.phase.epochs * -(-len(job.prepared.splits.val) // EVAL_BATCH) * evaluate
    most = " at most, if it does not stop early" if job.config.patience else ""
    job.show.say(f"fine-tuning takes about {spoken(updates + checks)} on this machine{most}")


def trial(state: State, setting: Setting) -> tuple[float, float]:
    """Seconds of one update and of one forward pass, on a copy of the model; nothing else changes."""
    model = copy.deepcopy(state.model)
    batch = next(setting.batches.epoch(0))
    set_training_mode(model, frozen=setting.frozen, bn=setting.config.bn)

    def update() -> None:
        setting.objective(zoo.logits(model, batch.images, setting.machine), batch.targets).backward()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def look() -> None:
        zoo.logits(model, batch.images, setting.machine)

    seconds = []
    for action in (update, look):
        action()  # the first call also allocates
        began = time.perf_counter()
        action()
        if setting.machine.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1]


def spoken(seconds: float) -> str:
    """A duration to one sensible unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
