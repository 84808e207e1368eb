"""The highest rate of fine-tuning by a range test, which `--lr auto` and `find-lr` have in common."""

from dataclasses import replace

from upcycle.changes import MicroBatch
from upcycle.data.dataset import Dataset
from upcycle.device import out_of_memory
from upcycle.errors import RunError
from upcycle.jobs.finetune import micro_batch, setting_of
from upcycle.jobs.session import Session
from upcycle.model.network import Network
from upcycle.rundir import RunDir, read_json, read_value
from upcycle.training.optim import frozen_in, learns_statistics
from upcycle.training.range_test import Losses, range_test
from upcycle.training.rate_curve import LrFinding, Peak, Sweep, found


def tested(
    session: Session, data: Dataset, model: Network, sweep: Sweep, *, fallback: float, fallback_reason: str
) -> LrFinding:
    """What a range test finds where fine-tuning starts: `model` with its head and frozen layers, the plan's last phase.

    `model` is left as it was.
    """
    with session.timed("range_test_seconds"):
        losses, starts = _measured(session, data, model, sweep)
    return found(sweep, losses, starts, fallback=fallback, fallback_reason=fallback_reason)


def _measured(session: Session, data: Dataset, model: Network, sweep: Sweep) -> tuple[Losses, Losses]:
    """The losses, in micro-batches where memory is short."""
    config, setting = session.config, setting_of(session, data, model)
    images, _ = micro_batch(config, model, session.machine, data.preprocessing.size)
    images = min([images, *(change.images for change in setting.changes)])
    while True:
        divided = (MicroBatch(0, images, ""),) if images < config.batch_size else ()
        try:
            with session.show.progress("range test") as progress:
                return range_test(model, replace(setting, changes=divided), sweep, progress=progress)
        except RuntimeError as error:
            whole = learns_statistics(model.body, frozen=frozen_in(model.body), bn=config.bn)
            if not out_of_memory(error) or images == 1 or whole:
                raise
        images //= 2


def recorded(run: RunDir) -> Peak | None:
    """The rate that a run's checkpoints were trained with; None while it has none, and the test is made again.

    RunError where its file has lost it.
    """
    if not any(run.last.glob("*.safetensors")):
        return None
    known = read_json(run.model)
    if not isinstance(known, dict) or "range_test" not in known:
        raise RunError(f"{run.model} does not hold the rate that the run was started with: start another run")
    return read_value(Peak, known["range_test"], f"{run.model}, range_test,")
