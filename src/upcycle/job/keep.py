"""What a run keeps while it trains, and how it goes on from there.

A state is kept after every epoch and, within one, every `checkpoint_every` seconds. When that is decides nothing
about the result: from any state the run goes on to the same bits.
"""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upcycle.errors import RunError
from upcycle.history import History, Row
from upcycle.job.prepare import Job
from upcycle.model import checkpoint
from upcycle.recipes import Phase
from upcycle.rundir import RunDir, append_line, read_lines, write_lines
from upcycle.training import optim
from upcycle.training.loop import State, Sums, Totals

MOST_OF_THE_TIME = 0.05
"""The part of a run's time that keeping states within epochs may take."""


class Keeper:
    """Writes a phase's states, and knows when the next one within an epoch is due."""

    def __init__(self, job: Job, phase: Phase) -> None:
        self._job, self._phase = job, phase
        self._rests_until = time.monotonic() + job.config.checkpoint_every

    def due(self) -> bool:
        """Whether to pause after the update just made: it is time, or someone asked the run to stop."""
        every = self._job.config.checkpoint_every
        return self._job.work.stopping.asked or (every > 0 and time.monotonic() >= self._rests_until)

    def pause(self, state: State, history: History) -> None:
        """Keep the state in the middle of an epoch; KeyboardInterrupt where someone asked the run to stop."""
        began = time.monotonic()
        self._save(state, history)
        ended = time.monotonic()
        self._rests_until = ended + max(self._job.config.checkpoint_every, (ended - began) / MOST_OF_THE_TIME)
        self._job.work.stopping.obey()

    def epoch(self, state: State, history: History, totals: Totals) -> None:
        """Write the last epoch of `history` down: best weights, its row, the state that resuming starts from."""
        run, row = self._job.run, history.rows[-1]
        if row.best:
            checkpoint.save_model(run.best, state.model, self._job.network)
        append_line(run.history, row.to_dict())
        speed = {"seconds": totals.seconds, "images_per_second": totals.images / totals.seconds}
        append_line(run.timings, {"phase": row.phase, "epoch": row.epoch, **speed})
        self._save(state, history)
        self._rests_until = time.monotonic() + self._job.config.checkpoint_every

    def _save(self, state: State, history: History) -> None:
        # the rows as well: the state's checksum covers them
        rows = history.of(self._phase.name).to_dicts()
        facts = {"epoch": state.epoch, "step": state.step, "sums": asdict(state.sums), "rows": rows}
        moments = optim.state_tensors(state.optimizer, state.names)
        checkpoint.save_state(self._job.run.last, model=state.model, moments=moments, facts=facts)
        self._job.work.tick()


def resumed(job: Job, state: State, phase: Phase, head: tuple[Row, ...]) -> History:
    """Put the last state that was kept into `state`; the history file then holds just what is known.

    Where what was kept is damaged, says so, and the phase begins anew: it comes to the same result.
    """
    rows = head
    kept = _whole(job)
    if kept is not None:
        weights, moments, facts = kept
        checkpoint.load_clone(state.model, weights)
        optim.load_state_tensors(state.optimizer, state.names, moments)
        state.epoch, state.step, state.sums = int(facts["epoch"]), int(facts["step"]), Sums(**facts["sums"])
        rows += History.from_dicts(facts["rows"]).rows
        part = f" and {state.sums.updates} of {phase.steps_per_epoch} updates" if state.sums.updates else ""
        job.show.say(f"going on after epoch {state.epoch} of {phase.epochs}{part}")
    known = History(rows)
    write_lines(job.run.history, known.to_dicts())
    write_lines(job.run.timings, [row for row in _clocks(job) if row["epoch"] <= state.epoch])
    return known


def best_weights(run: RunDir) -> Path:
    """The best weights of fine-tuning: moved aside once the probe was kept instead."""
    return run.fine_tuned if run.fine_tuned.exists() else run.best


def _whole(job: Job) -> checkpoint.Kept | None:
    """The state to go on from, if it and the best weights so far are whole; says what is not."""
    kept, damaged = checkpoint.load_state(job.run.last)
    try:
        if kept is not None and kept[2]["epoch"]:
            checkpoint.load_tensors(best_weights(job.run))
    except RunError as error:
        kept, damaged = None, [*damaged, str(error)]
    for text in damaged:
        job.show.warn(f"{text}; {'the other one is taken' if kept else 'fine-tuning begins again'}")
    if kept is None:
        shutil.rmtree(job.run.last, ignore_errors=True)
        job.run.fine_tuned.unlink(missing_ok=True)
    return kept


def _clocks(job: Job) -> list[dict[str, Any]]:
    """The epochs' clock values, none where their file is damaged: no result depends on them."""
    try:
        return [row for row in read_lines(job.run.timings) if isinstance(row.get("epoch"), int)]
    except (RunError, AttributeError):
        return []
