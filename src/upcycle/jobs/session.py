"""One training session of a run directory: it owns the plan, the checkpoints, the record and the signals.

It reads the directory once, and nothing else writes the run's plan, history and checkpoints. A checkpoint is written
after every epoch and, within one, every `checkpoint_every` seconds. When that is decides nothing about the result: from
any checkpoint the run continues to the same bits.
"""

import contextlib
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from upcycle.changes import Budget, Change, changes_from_dicts, changes_to_dicts
from upcycle.config import Config
from upcycle.device import Hardware, environment, out_of_memory
from upcycle.errors import RunError, StorageError, UpcycleError
from upcycle.history import History, ProbeResult, Row
from upcycle.jobs.callables import NO_CALLABLES
from upcycle.jobs.clock import Deadline
from upcycle.jobs.pace import Pace
from upcycle.jobs.signals import Stopping, stopping
from upcycle.jobs.start import UPDATES, Start, as_recorded
from upcycle.manifest import seal, unseal, write_sealed, write_sealed_lines
from upcycle.model import checkpoint
from upcycle.model.network import ModelSpec, Network
from upcycle.planning import Phase, Plan
from upcycle.reporting.progress import Display
from upcycle.rundir import (
    RunDir,
    RunState,
    append_line,
    locked,
    read_json,
    read_lines,
    remove_abandoned,
    write_json,
    write_lines,
)
from upcycle.training.loop import State, Sums, Totals

DIFFERENCES = ("device", "precision", "threads", "processor")
MOST_OF_THE_TIME = 0.05
"""The part of a run's time that writing checkpoints within epochs may take."""


class Session:
    """The work on one run, from its start or its last checkpoint until it ends or is stopped."""

    callables = NO_CALLABLES
    """The custom parts of the run."""
    deadline: Deadline | None = None
    """When the run must be over."""
    pace: Pace | None = None
    """How fast it trains, where it has a deadline."""

    def __init__(self, run: RunDir, config: Config, machine: Hardware, show: Display, stopping: Stopping) -> None:
        self.run, self.config, self.machine, self.show, self.stopping = run, config, machine, show, stopping
        self.plan = Plan(changes=changes_from_dicts(read_lines(run.events, whole=True)))
        status = run.status()
        self.details: dict[str, float | str] = {
            name: value for name, value in status.items() if name.endswith("_seconds")
        }
        """What the status holds beside its state and seconds."""
        self._earlier, self._started = float(status.get("seconds") or 0.0), time.monotonic()
        self._planned: Plan | None = None
        self._network: ModelSpec | None = None
        self._next_checkpoint = math.inf
        self._next_look = 0.0

    # ------------------------------------------------------------ the record

    def seconds(self) -> float:
        """Seconds of all sessions so far."""
        return self._earlier + time.monotonic() - self._started

    def tick(self) -> None:
        """Write the clock down, so that a killed run loses little of it."""
        self.run.set_status("running", seconds=self.seconds(), **self.details)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the work inside takes to the details under `name`."""
        started = time.monotonic()
        yield
        self.details[name] = float(self.details.get(name, 0.0)) + time.monotonic() - started

    def describe(self, network: ModelSpec, **facts: object) -> None:
        """Write down the network that is trained, which every file of weights will name, and facts about it."""
        self._network = network
        write_json(self.run.model, network.to_dict() | facts)

    def follow(self, plan: Plan) -> None:
        """Follow `plan` from now on: what has changed is written down before it takes effect."""
        if plan.changes != self.plan.changes:
            write_sealed_lines(self.run, self.run.events, changes_to_dicts(plan.changes))
        if plan != self._planned:
            write_json(self.run.plan, plan.to_dict())
        self.plan = self._planned = plan

    def change(self, change: Change) -> None:
        """Follow the plan with one change more."""
        self.follow(replace(self.plan, changes=(*self.plan.changes, change)))

    def set_budget(self, budget: Budget) -> None:
        """What the deadline allows, in place of what was known of that before: the first change."""
        others = tuple(change for change in self.plan.changes if not isinstance(change, Budget))
        self.repeat((budget, *others))

    def repeat(self, changes: Sequence[Change]) -> None:
        """Follow these changes, written down; the phases are planned as they ever are."""
        write_sealed_lines(self.run, self.run.events, changes_to_dicts(changes))
        self.plan = replace(self.plan, changes=tuple(changes))

    def asked_to_finish(self) -> bool:
        """Whether someone asked the run to end early; looks at most twice a second."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + 0.5
        return self.run.request.exists()

    # ------------------------------------------------------------ weights

    def save_best(self, model: Network) -> None:
        """Write the best weights so far."""
        assert self._network is not None
        checkpoint.save_model(self.run.best, model, self._network)

    def calibrate(self, model: Network, temperature: float) -> None:
        """Divide the logits of `model`, the run's, by `temperature` from now on, and write it with that down."""
        assert self._network is not None
        model.temperature, self._network = temperature, replace(self._network, temperature=temperature)
        write_json(self.run.model, {**read_json(self.run.model), **self._network.to_dict()})
        self.save_best(model)

    @property
    def best_of_training(self) -> Path:
        """The best weights of fine-tuning: moved aside once another model was kept instead."""
        return self.run.fine_tuned if self.run.fine_tuned.exists() else self.run.best

    def keep_fine_tuned(self) -> None:
        """The fine-tuned weights are the run's: a choice that was not finished may have moved them aside."""
        if self.run.fine_tuned.exists():
            self.run.fine_tuned.replace(self.run.best)

    def keep_other(self, model: Network) -> None:
        """`model` is the run's, and the best fine-tuned weights are moved aside."""
        if not self.run.fine_tuned.exists():
            self.run.best.replace(self.run.fine_tuned)
        self.save_best(model)

    def record_probe(self, result: ProbeResult) -> None:
        """Write down how good the probe is."""
        write_json(self.run.probe, result.to_dict())

    def record_rows(self, rows: Sequence[Row]) -> None:
        """Write the whole history."""
        write_lines(self.run.history, History(tuple(rows)).to_dicts())

    # ------------------------------------------------------------ checkpoints

    def due(self) -> bool:
        """Whether to pause after the update just made: it is time, or someone asked the run to stop."""
        every = self.config.checkpoint_every
        return self.stopping.asked or (every > 0 and time.monotonic() >= self._next_checkpoint)

    def pause(self, state: State, history: History) -> None:
        """Write a checkpoint within an epoch; KeyboardInterrupt where someone asked the run to stop."""
        started = time.monotonic()
        if _is_finite(state):  # the next loss would show it, but a checkpoint must be a good one
            self._save(state, history)
        ended = time.monotonic()
        self._next_checkpoint = ended + max(self.config.checkpoint_every, (ended - started) / MOST_OF_THE_TIME)
        self.stopping.obey()

    def end_epoch(self, state: State, history: History, totals: Totals) -> History:
        """Write the last epoch of `history` down: best weights, its row, the checkpoint that resuming starts from."""
        row = history.rows[-1]
        row = replace(row, retries=sum(retry.step < row.step for retry in self.plan.retries))
        history = History((*history.rows[:-1], row))
        if row.best:
            self.save_best(state.model)
        append_line(self.run.history, row.to_dict())
        speed = {"seconds": totals.seconds, "images_per_second": totals.images / totals.seconds}
        append_line(self.run.timings, {"phase": row.phase, "epoch": row.epoch, **speed})
        self._save(state, history)
        self._next_checkpoint = time.monotonic() + self.config.checkpoint_every
        return history

    def _save(self, state: State, history: History) -> None:
        # the rows as well: the checkpoint's checksum covers them
        rows = history.of(self.plan.phases[-1].name).to_dicts()
        place = {"epoch": state.epoch, "step": state.step, "updates": state.sums.updates}
        facts = checkpoint.CheckpointFacts(**place, retries=len(self.plan.retries), sums=asdict(state.sums), rows=rows)
        checkpoint.save_state(self.run.last, state.to_tensors(), facts)
        self.tick()

    def resume(self, state: State, phase: Phase) -> History:
        """Put the last checkpoint into `state`; the history file then holds just what is known.

        Where what was kept is damaged, says so, and the phase starts again: it comes to the same result.
        """
        rows: tuple[Row, ...] = ()
        found = self._last_whole()
        if found is not None:
            facts = found.facts
            state.from_tensors(found.tensors)
            state.epoch, state.step, state.sums = facts.epoch, facts.step, Sums(**facts.sums)  # type: ignore[arg-type]
            rows = History.from_dicts(facts.rows).rows
            part = f" and {facts.updates} of {phase.steps_per_epoch} updates" if facts.updates else ""
            self.show.message(f"resuming after epoch {state.epoch} of {phase.epochs}{part}")
            self.show.resumed(self.run.root, state.epoch)
        self.record_rows(rows)
        write_lines(self.run.timings, self._timings(state.epoch))
        self._next_checkpoint = time.monotonic() + self.config.checkpoint_every
        return History(rows)

    def last_step(self, *, between_epochs: bool) -> tuple[int, int]:
        """Epoch and update of the last checkpoint that the plan holds; those of the phase's start without one."""
        found, _ = checkpoint.load_state(
            self.run.last, usable=lambda facts: self._holds(facts) and not (between_epochs and facts.updates)
        )
        return (found.facts.epoch, found.facts.step) if found else (0, self.plan.phases[-1].first_step)

    def _holds(self, facts: checkpoint.CheckpointFacts) -> bool:
        return self.plan.holds(retries=facts.retries, step=facts.step)

    def _last_whole(self) -> checkpoint.Checkpoint | None:
        """The checkpoint to resume from, if it and the best weights so far are whole; says what is not."""
        found, damaged = checkpoint.load_state(self.run.last, usable=self._holds)
        try:
            if found is not None and found.facts.epoch:
                checkpoint.load_tensors(self.best_of_training)
        except RunError as error:
            found, damaged = None, [*damaged, str(error)]
        for text in damaged:
            self.show.warn(f"{text}; {'the other one is taken' if found else 'fine-tuning starts again'}")
        if found is None:
            self.discard_checkpoints()
            self.run.fine_tuned.unlink(missing_ok=True)
        return found

    def discard_checkpoints(self) -> None:
        """Remove them: there is nothing left to resume."""
        shutil.rmtree(self.run.last, ignore_errors=True)

    def _timings(self, epoch: int) -> list[Mapping[str, object]]:
        """The clock values up to an epoch, none where their file is damaged: no result depends on them."""
        try:
            rows = read_lines(self.run.timings)
            return [row for row in rows if isinstance(row.get("epoch"), int) and row["epoch"] <= epoch]
        except (RunError, AttributeError):
            return []

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """Seal the results and write the report."""
        # imported here: the page's libraries must not delay the first update
        from upcycle.reporting.run_page import write_report

        seal(self.run)
        self.run.request.unlink(missing_ok=True)
        self.run.set_status("finished", seconds=self.seconds(), **self.details)
        self.show.message(f"finished in {self.seconds():.0f} s; report: {write_report(self.run)}")
        self.show.finished(self.run.root)

    def fail(self, state: RunState, **why: str) -> None:
        """Record that the work ended unfinished."""
        with contextlib.suppress(StorageError):  # the disk may be what failed; the first reason is the one to hear
            self.run.set_status(state, **why, seconds=self.seconds(), **self.details)


def _is_finite(state: State) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in state.model.parameters())


@contextlib.contextmanager
def open_session(start: Start, weights_sha256: str, machine: Hardware, show: Display) -> Iterator[Session]:
    """The session of a run, which no other process may write meanwhile.

    Once the work inside is done the run gets its report; whatever stops it is recorded and raised again. Running out
    of an accelerator's memory becomes one line.
    """
    run = start.run
    with locked(run.root), stopping() as signals:
        remove_abandoned(run.root)
        _record_start(start, weights_sha256, machine, show)
        session = Session(run, start.config, machine, show, signals)
        session.callables, session.deadline = start.callables, start.deadline
        session.tick()
        show.started(run.root)
        try:
            yield session
        except KeyboardInterrupt:
            session.fail("interrupted")
            raise
        except BaseException as error:
            full = isinstance(error, RuntimeError) and out_of_memory(error)
            session.fail("failed", error="out of memory" if full else str(error))
            if full:
                raise UpcycleError(
                    "the accelerator's memory is too small: give a smaller --image-size, or a smaller --arch"
                ) from error
            raise
        session.finish()


def _record_start(start: Start, weights_sha256: str, machine: Hardware, show: Display) -> None:
    """Write status, environment and, last, the configuration: until that is there the run has not started."""
    run = start.run
    facts = environment(machine)
    if start.fresh:
        if run.has_work():  # another process has started it since
            raise RunError(f"{run.root} is not empty: give another --out")
        for left in (run.config, run.events, run.request):  # of a run that failed before its training began
            left.unlink(missing_ok=True)
    unseal(run)
    if run.config.exists():
        _warn_of_changes(read_json(run.environment), facts, run, show)
        _record_retrying(run, start.config.on_divergence)
        return
    run.set_status("running", seconds=0.0)
    started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    callables = start.callables.record()
    own = {"callables": callables} if callables else {}
    write_sealed(run, run.environment, {**facts, "command": start.command, "started": started, **own})
    if start.changes:  # before the configuration: a run that is resumed has them
        write_sealed_lines(run, run.events, changes_to_dicts(start.changes))
    recorded = {"data": as_recorded(start.data), "weights_sha256": weights_sha256, "updates": UPDATES}
    write_sealed(run, run.config, {**start.config.to_dict(), **recorded})


def _record_retrying(run: RunDir, on_divergence: str) -> None:
    """Write down that the run resumes with another answer to a loss that explodes: its result may depend on that."""
    recorded, computed = read_json(run.config), read_json(run.environment)
    command = str(computed.get("command", ""))
    words = f" --on-divergence {on_divergence}"
    if recorded.get("on_divergence", "stop") != on_divergence:
        write_sealed(run, run.config, {**recorded, "on_divergence": on_divergence})
    elif on_divergence == "stop" or words in command:
        return
    write_sealed(run, run.environment, {**computed, "command": re.sub(r" --on-divergence \w+", "", command) + words})


def _warn_of_changes(before: Mapping[str, Any], now: Mapping[str, Any], run: RunDir, show: Display) -> None:
    then, this = ({**facts, **facts.get("versions", {})} for facts in (before, now))
    for name in (*DIFFERENCES, *this.get("versions", {})):
        if name in then and then[name] != this.get(name):
            show.warn(f"{run.root} was started with {name} {then[name]}, now it is {this.get(name)}: bits may differ")
