"""What a run is known by while it works and when it ends, however it ends."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from upcycle import device as machines
from upcycle.device import Machine
from upcycle.errors import RunError, StorageError, UpcycleError
from upcycle.jobs.begin import Start
from upcycle.jobs.stopping import Stopping, stopping
from upcycle.manifest import seal, unseal, write_sealed
from upcycle.reporting.show import Show
from upcycle.rundir import RunDir, State, locked, read_json, remove_abandoned

DIFFERENCES = ("device", "precision", "threads", "processor")


def record_start(start: Start, weights_sha256: str, machine: Machine, show: Show) -> None:
    """Write status, environment and, last, the configuration: until that is there the run has not begun.

    A finished run that is to be extended stays as it is for now: its data may not be what they were.
    """
    run = start.run
    facts = machines.environment(machine)
    if start.anew:
        if run.has_work():  # another process has begun it since
            raise RunError(f"{run.root} is not empty: give another --out")
        run.config.unlink(missing_ok=True)
    if not run.config.exists() or run.status()["state"] != "finished":
        unseal(run)
    if run.config.exists():
        _warn_of_changes(read_json(run.environment), facts, run, show)
        if run.status()["state"] != "finished":
            record_retrying(run, start.config.on_divergence)
        return
    run.set_status("running", seconds=0.0)
    started = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    write_sealed(run, run.environment, {**facts, "command": start.command, "started": started})
    recorded = {**start.config.to_dict(), "data": str(start.data), "weights_sha256": weights_sha256}
    write_sealed(run, run.config, recorded)


def record_retrying(run: RunDir, on_divergence: str) -> None:
    """Write down that the run goes on with another answer to a loss that explodes: its result may depend on that."""
    recorded, environment = read_json(run.config), read_json(run.environment)
    said = str(environment.get("command", ""))
    words = f" --on-divergence {on_divergence}"
    if recorded.get("on_divergence", "stop") != on_divergence:
        write_sealed(run, run.config, {**recorded, "on_divergence": on_divergence})
    elif on_divergence == "stop" or words in said:
        return
    write_sealed(run, run.environment, {**environment, "command": re.sub(r" --on-divergence \w+", "", said) + words})


def _warn_of_changes(before: dict[str, Any], now: dict[str, Any], run: RunDir, show: Show) -> None:
    then, this = ({**facts, **facts.get("versions", {})} for facts in (before, now))
    for name in (*DIFFERENCES, *this.get("versions", {})):
        if name in then and then[name] != this.get(name):
            show.warn(f"{run.root} was begun with {name} {then[name]}, now it is {this.get(name)}: bits may differ")


@dataclass(frozen=True)
class Work:
    """What a run's record says of the work under way: its clock, and details for its end."""

    run: RunDir
    began: float
    earlier: float
    stopping: Stopping
    details: dict[str, Any] = field(default_factory=dict)

    def seconds(self) -> float:
        """Seconds of all sessions so far."""
        return self.earlier + time.monotonic() - self.began

    def tick(self) -> None:
        """Write the clock down, so that a killed run loses little of it."""
        self.run.set_status("running", seconds=self.seconds(), **self.details)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the work inside takes to the details under `name`."""
        began = time.monotonic()
        yield
        self.details[name] = self.details.get(name, 0.0) + time.monotonic() - began


@contextlib.contextmanager
def working(start: Start, weights_sha256: str, machine: Machine, show: Show) -> Iterator[Work]:
    """Record how the work inside begins and ends, with the seconds of all sessions and the value's details.

    No other process may write the run meanwhile. A finished run gets its report; whatever stops it is recorded
    and raised again. Running out of an accelerator's memory becomes one line.
    """
    run = start.run
    with locked(run.root), stopping() as asked:
        remove_abandoned(run.root)
        record_start(start, weights_sha256, machine, show)
        before = run.status()
        kept = {name: value for name, value in before.items() if name.endswith("_seconds")}
        work = Work(run, time.monotonic(), float(before.get("seconds") or 0.0), asked, kept)
        if before["state"] != "finished":
            work.tick()
        try:
            yield work
        except KeyboardInterrupt:
            _record_end(work, "interrupted")
            raise
        except BaseException as error:
            full = isinstance(error, RuntimeError) and machines.out_of_memory(error)
            _record_end(work, "failed", error="out of memory" if full else str(error))
            if full:
                raise UpcycleError(
                    "the accelerator's memory is too small: give a smaller --image-size, or a smaller --arch"
                ) from error
            raise
        # imported here: the page's libraries must not delay the first update
        from upcycle.reporting.run_page import write_report

        seal(run)
        run.set_status("finished", seconds=work.seconds(), **work.details)
        show.say(f"finished in {work.seconds():.0f} s; report: {write_report(run)}")


def _record_end(work: Work, state: State, **why: str) -> None:
    """Write down how work ended that did not finish; a finished run that it has not changed stays one."""
    with contextlib.suppress(StorageError):  # the disk may be what failed; the first reason is the one to hear
        if work.run.status()["state"] != "finished":
            work.run.set_status(state, **why, seconds=work.seconds(), **work.details)
