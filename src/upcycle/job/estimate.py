"""How long a run will take on this machine, from one trial update and one trial forward pass."""

import copy
import time
from collections.abc import Callable

import torch

from upcycle.evaluation.predict import EVAL_BATCH
from upcycle.job.prepare import Job
from upcycle.model import zoo
from upcycle.model.groups import set_training_mode
from upcycle.training.loop import Setting, State

WORTH_ESTIMATING = 60
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

    few = batch.images[:EVAL_BATCH]
    check = few.repeat(-(-EVAL_BATCH // len(few)), 1, 1, 1)[:EVAL_BATCH]

    @torch.inference_mode()
    def look() -> None:
        zoo.logits(model, check, setting.machine)

    return _timed(update, setting.machine.device), _timed(look, setting.machine.device)


def _timed(action: Callable[[], None], device: str) -> float:
    action()  # the first call also allocates
    _wait(device)
    began = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def spoken(seconds: float) -> str:
    """A duration to one sensible unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
