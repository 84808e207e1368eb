"""`train` as Python calls it, with the command line's words.

What draws and what compares is imported when it is asked for: a run's first update must not wait for it.
"""

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from upcycle.config import IMAGES, canonical, path_or_none, read_config, read_toml
from upcycle.device import crowded
from upcycle.errors import ConfigError
from upcycle.jobs.callables import taken
from upcycle.jobs.follow import follow
from upcycle.jobs.resume import find_moved, record_place
from upcycle.jobs.run import Observer, Run, followed
from upcycle.jobs.start import Start, begin, removed_unless_started, timed
from upcycle.jobs.train import cross_validate, run_training
from upcycle.model.sources import AUTO
from upcycle.options import TrainOptions
from upcycle.rendezvous import joined, may_restart, place_in, restarted
from upcycle.reporting.progress import Display, default_show
from upcycle.rundir import RunDir, locked, remove_abandoned
from upcycle.schedules import Rate, ScheduleName
from upcycle.world import ALONE, World

if TYPE_CHECKING:
    from torch import Tensor

    from upcycle.data.augment import Augment


def train(
    data: Path | str | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    deadline: str | None = None,
    plan: Path | str | None = None,
    config: Path | str | None = None,
    schedule: Callable[[int], Rate] | ScheduleName | None = None,
    loss: "Callable[[Tensor, Tensor], Tensor] | None" = None,
    augment: 'Augment | Literal["auto", "light", "square", "none"] | None' = None,
    observers: Sequence[Observer | str] = (),
    show: Display | None = None,
    began: float | None = None,
    **options: Unpack[TrainOptions],
) -> Run:
    """Do the whole job and return the run.

    `options` are those of `upcycle train --help`: `upcycle.train("photos/", arch="resnet50",
    recipe="classic")`, over those of the TOML file `config`. Raises an UpcycleError with one line that says what is
    wrong.

    `deadline`: a duration such as "10m" from this call, or from the reading `began` of time.monotonic, to the report;
    "slurm" is the end of the Slurm job. `plan`: the plan.jsonl of a run, whose changes under way are repeated.

    `schedule`: a value such as `OneCycle(1e-3)`, or any function from an update to its `Rate`, in place of the flat
    options of the schedule. `loss(logits, targets)`, both float [n, K] with one column per class, gives one loss per
    image, [n]; the probe and the validation loss stay the cross-entropy. `augment(images, generator)` gives
    augmented images: float32 [n, 3, S, S] in 0..1, center crops not yet normalized; it must be a pure function of both,
    and draw from the generator, which is on the CPU, alone. `observers` have some of the methods of `Observer`, or
    are the names of such that packages offer.

    In a script that torchrun starts several times, each process makes the same call; the one of rank 0 does the job.
    """
    began = time.monotonic() if began is None else began
    observing = followed(show or default_show(), observers)
    given, callables = taken(_with_file(options, config), schedule=schedule, loss=loss, augment=augment)
    place, folder = place_in(os.environ), path_or_none(out, "one folder")
    if place and folder is None and may_restart():
        raise ConfigError("processes that torchrun restarts must find their run: give --out RUN")
    with joined(place) as world:
        if world.follows:
            return Run(follow(world, callables))
        again = restarted() and folder is not None and not world.alone
        start = begin(path_or_none(data, IMAGES), given, out=folder, resume=resume or again, callables=callables)
        with removed_unless_started(start.run.root, reserved=out is None):
            if again:
                began -= float(start.run.status().get("seconds") or 0.0)
            start = timed(start, deadline=deadline, began=began, plan=path_or_none(plan, "the plan.jsonl of a run"))
            run = _train(start, observing, world)
        if not world.alone:
            world.tell("end", run=str(run.path))
        return run


def _train(start: Start, show: Display, world: World = ALONE) -> Run:
    """Start the run or resume it."""
    for line in start.warnings:
        show.warn(line)
    index = find_moved(start, show) if start.moved else None
    if start.finished:
        if start.moved:
            with locked(start.run.root):
                for run in (start.run, *map(RunDir, start.run.root.glob("fold-*"))):
                    record_place(run, start.data)
        show.message(f"{start.run.root} is finished already: nothing to do")
        from upcycle.reporting.run_page import write_report

        if not start.run.report.exists():  # killed while it was written
            with locked(start.run.root):
                remove_abandoned(start.run.root)
                write_report(start.run)
        return Run(start.run.root)
    if crowd := crowded(start.config.threads):
        show.warn(crowd)
    if start.config.arch == AUTO:
        from upcycle.jobs.choose import chosen

        start, index = chosen(start, show)
    try:
        (cross_validate if start.config.folds else run_training)(start, show, index=index, world=world)
    except KeyboardInterrupt:
        recorded = read_config(start.run.config) if start.run.config.exists() else None
        if recorded is not None and (recorded == start.config or not start.fresh):
            _show_how_to_resume(start, show)
        raise
    return Run(start.run.root)


def _show_how_to_resume(start: Start, show: Display) -> None:
    if not start.callables.record():
        words = ["upcycle", "train", "--out", str(start.run.root), "--resume"]
        show.message(f"to resume: {shlex.join(words)}")
    elif not start.callables.unresumable:
        call = f"upcycle.train(out={str(start.run.root)!r}, resume=True, ...)"
        show.message(f"to resume: {call}, with the same {', '.join(start.callables.record())}")


def _with_file(options: Mapping[str, Any], config: Path | str | None) -> dict[str, Any]:
    """The options of a TOML file, and those that are given over them."""
    file = path_or_none(config, "one TOML file")
    return {**read_toml(file), **canonical(options)} if file else dict(options)
