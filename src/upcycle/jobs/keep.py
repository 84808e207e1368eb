"""What a run keeps while it trains, and how it goes on from there.

A state is kept after every epoch and, within one, every `checkpoint_every` seconds. When that is decides nothing
about the result: from any state the run goes on to the same bits.
"""

import shutil
import time
from dataclasses import asdict, replace
from typing import Any

import torch

from upcycle.errors import DivergenceError, RunError
from upcycle.history import History
from upcycle.jobs.extend import UPDATES, best_weights, events, is_fold, restart, retries
from upcycle.jobs.prepare import Job
from upcycle.manifest import write_sealed_lines
from upcycle.model import checkpoint
from upcycle.recipes import Phase
from upcycle.rundir import RunDir, append_line, read_lines, write_lines
from upcycle.training import optim
from upcycle.training.loop import State, Sums, Totals, start

MOST_OF_THE_TIME = 0.05
"""The part of a run's time that keeping states within epochs may take."""
MOST_RETRIES = 2
"""How often a run whose loss explodes goes on at half the rate."""


class Keeper:
    """Writes a phase's states, and knows when the next one within an epoch is due."""

    def __init__(self, job: Job, phase: Phase) -> None:
        self._job, self._phase = job, phase
        self._retries = len(retries(job.run))
        self._rests_until = time.monotonic() + job.config.checkpoint_every

    def due(self) -> bool:
        """Whether to pause after the update just made: it is time, or someone asked the run to stop."""
        every = self._job.config.checkpoint_every
        return self._job.work.stopping.asked or (every > 0 and time.monotonic() >= self._rests_until)

    def pause(self, state: State, history: History) -> None:
        """Keep the state in the middle of an epoch; KeyboardInterrupt where someone asked the run to stop."""
        began = time.monotonic()
        if _is_finite(state):  # the next loss would tell, but a state that is kept must be a good one
            self._save(state, history)
        ended = time.monotonic()
        self._rests_until = ended + max(self._job.config.checkpoint_every, (ended - began) / MOST_OF_THE_TIME)
        self._job.work.stopping.obey()

    def epoch(self, state: State, history: History, totals: Totals) -> History:
        """Write the last epoch of `history` down: best weights, its row, the state that resuming starts from."""
        run, row = self._job.run, history.rows[-1]
        row = replace(row, retries=sum(int(event["step"]) < row.step for event in retries(run)))
        history = History((*history.rows[:-1], row))
        if row.best:
            checkpoint.save_model(run.best, state.model, self._job.network)
        if state.epoch in self._phase.restarts:
            checkpoint.copy(run.best, restart(run, state.epoch))
        append_line(run.history, row.to_dict())
        speed = {"seconds": totals.seconds, "images_per_second": totals.images / totals.seconds}
        append_line(run.timings, {"phase": row.phase, "epoch": row.epoch, **speed})
        self._save(state, history)
        for epoch in self._phase.restarts:
            if epoch < state.epoch - 1:  # no state that is kept begins there
                restart(run, epoch).unlink(missing_ok=True)
        self._rests_until = time.monotonic() + self._job.config.checkpoint_every
        return history

    def _save(self, state: State, history: History) -> None:
        # the rows as well: the state's checksum covers them
        rows = history.of(self._phase.name).to_dicts()
        moments = optim.state_tensors(state.optimizer, state.names)
        weights = state.model.state_dict()
        checkpoint.save_state(
            self._job.run.last, weights=weights, moments=moments, facts=_facts(state, rows, self._retries)
        )
        self._job.work.tick()


def _facts(state: State, rows: list[dict[str, Any]], retried: int) -> dict[str, Any]:
    place = {"step": state.step, "updates": state.sums.updates, "retries": retried}
    return {"epoch": state.epoch, **place, "sums": asdict(state.sums), "rows": rows, "version": UPDATES}


def _is_finite(state: State) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in state.model.parameters())


def resumed(job: Job, state: State, phase: Phase) -> History:
    """Put the last state that was kept into `state`; the history file then holds just what is known.

    Where what was kept is damaged, says so, and the phase begins anew: it comes to the same result. RunError
    where it was kept by an upcycle that makes other updates.
    """
    known = History()
    kept = _whole(job, phase)
    if kept is not None:
        weights, moments, facts = kept
        if facts["version"] != UPDATES:
            whole = "" if is_fold(job.run) else "remove it, or "
            raise RunError(f"{job.run.root} was begun by another version of upcycle: {whole}give another --out")
        checkpoint.load_clone(state.model, weights)
        optim.load_state_tensors(state.optimizer, state.names, moments)
        state.epoch, state.step, state.sums = int(facts["epoch"]), int(facts["step"]), Sums(**facts["sums"])
        known = History.from_dicts(facts["rows"])
        part = f" and {state.sums.updates} of {phase.steps_per_epoch} updates" if state.sums.updates else ""
        job.show.say(f"going on after epoch {state.epoch} of {phase.epochs}{part}")
    write_lines(job.run.history, known.to_dicts())
    write_lines(job.run.timings, [row for row in _clocks(job) if row["epoch"] <= state.epoch])
    return known


def renew(job: Job, state: State, phase: Phase) -> None:
    """Begin again from the best weights, with fresh moments, where the phase restarts after the epoch just done.

    The best until then: the next epoch may have been better, and been cut off before its state was kept.
    """
    if state.epoch in phase.restarts and not state.sums.updates:
        checkpoint.load_clone(state.model, checkpoint.load_tensors(restart(job.run, state.epoch)))
        state.optimizer = start(state.model, job.config).optimizer


# ---------------------------------------------------------------- when the loss explodes


def slowed(run: RunDir, phase: Phase) -> Phase:
    """The phase with the rates that its retries have left of it."""
    for event in retries(run):
        phase = phase.slowed(int(event["step"]), float(event["factor"]))
    return phase


def retry(job: Job, phase: Phase, error: DivergenceError) -> None:
    """Write down that training goes on after its last whole epoch at half the rate.

    Raises `error` again, with what is kept, where that was not asked for or has been done often enough.
    """
    if job.config.on_divergence == "stop" or len(retries(job.run)) >= MOST_RETRIES:
        kept = f"; {job.run.best} holds the best weights until then" if job.run.best.exists() else ""
        raise DivergenceError(f"{error}{kept}") from error
    state, _ = checkpoint.load_state(job.run.last, usable=lambda facts: not facts["updates"] and usable(job.run, facts))
    epoch, step = (state[2]["epoch"], state[2]["step"]) if state else (0, phase.first_step)
    event = {"event": "retry", "step": step, "factor": 0.5, "reason": str(error)}
    write_sealed_lines(job.run, job.run.events, [*events(job.run), event])
    job.show.warn(f"{error}. Going on after epoch {epoch} at half the rate")


def usable(run: RunDir, facts: dict[str, Any]) -> bool:
    """Whether a state belongs to the plan as it now is: made under it, or before the last retry's begin."""
    known = retries(run)
    return facts["retries"] == len(known) or bool(known and facts["step"] <= known[-1]["step"])


def _whole(job: Job, phase: Phase) -> checkpoint.Kept | None:
    """The state to go on from, if it and the best weights so far are whole; says what is not."""
    kept, damaged = checkpoint.load_state(job.run.last, usable=lambda facts: usable(job.run, facts))
    try:
        if kept is not None and kept[2]["epoch"]:
            checkpoint.load_tensors(best_weights(job.run))
        if kept is not None and kept[2]["epoch"] in phase.restarts and not kept[2]["updates"]:
            checkpoint.load_tensors(restart(job.run, kept[2]["epoch"]))
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
