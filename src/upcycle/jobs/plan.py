"""The schedule of a configuration, shown before it is paid for. Needs no torch."""

import csv as csv_files
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Unpack

from upcycle.config import AUTO_RATE, Config, canonical, path_or_none, read_toml
from upcycle.errors import ConfigError, counted
from upcycle.jobs.callables import NO_CALLABLES, Callables, taken
from upcycle.options import TrainOptions
from upcycle.planning import Phase, Plan, epochs_for, phases
from upcycle.recipes import resolve
from upcycle.rundir import write_bytes
from upcycle.schedules import Rate


def plan(
    *,
    steps_per_epoch: int = 1,
    config: Path | str | None = None,
    schedule: Callable[[int], Rate] | Literal["one-cycle", "ramp-sustain-decay", "constant"] | None = None,
    **options: Unpack[TrainOptions],
) -> Plan:
    """What `train` would do with these options: `plan(epochs=5).rates` has learning rate and momentum of every update.

    Without `steps_per_epoch`, training images over batch size, an update is an epoch. Trains nothing and reads no
    images. ConfigError for options that are wrong.
    """
    file = path_or_none(config, "one TOML file")
    given = {**(read_toml(file) if file else {}), **canonical(options)}
    given, callables = taken(given, schedule=schedule)
    return Plan(_phases(given, steps_per_epoch, callables))


def _phases(options: Mapping[str, Any], steps_per_epoch: int, callables: Callables) -> tuple[Phase, ...]:
    """The phases; ConfigError where there are none."""
    if not 1 <= steps_per_epoch <= 10_000_000:
        raise ConfigError(f"steps_per_epoch = {steps_per_epoch} is out of range: use 1 or more")
    config = resolve(options)
    callables.check(config, ("schedule",))
    planned = phases(config, steps_per_epoch * config.batch_size, callables.schedule)
    if not planned:
        raise ConfigError(
            f"{'fine_tune = never' if config.epochs else 'epochs = 0'} trains the probe alone, which has no schedule: "
            f"give {'--fine-tune always' if config.epochs else '1 or more --epochs'}"
        )
    return planned


def print_plan(options: Mapping[str, Any], *, steps_per_epoch: int, csv: bool, plot: Path | None) -> Plan:
    """Print the schedule's main rates, or every step as CSV, and draw it; returns the plan.

    Without `steps_per_epoch` (1) a step is an epoch.
    """
    planned = _phases(options, steps_per_epoch, NO_CALLABLES)
    if plot is not None:
        _draw(planned, plot)
    if csv:
        _write_csv(planned)
        return Plan(planned)
    for phase in planned:
        first, last = phase.rate(phase.first_step), phase.rate(phase.first_step + phase.steps - 1)
        peak = max(range(phase.steps), key=lambda step: phase.schedule(step).lr)
        print(
            f"{phase.name}: {counted(phase.epochs, 'epoch')} x {counted(phase.steps_per_epoch, 'update')}, "
            f"{phase.schedule.kind}: "
            f"first rate {first.lr:.10g}, highest {phase.schedule(peak).lr:.10g} at step {phase.first_step + peak}, "
            f"last {last.lr:.10g}"
        )
    _print_epochs(resolve(options), steps_per_epoch)
    if resolve(options).lr == AUTO_RATE:
        print("lr = auto: a range test picks the highest rate as fine-tuning starts; this is with the recipe's own")
    return Plan(planned)


def _print_epochs(config: Config, steps_per_epoch: int) -> None:
    """Say which epochs the probe decides on, where it may raise those of the plan and the batches are known."""
    near, far = (epochs_for(config, steps_per_epoch, far=far) for far in (False, True))
    if steps_per_epoch > 1 and far > config.epochs:
        print(f"the probe decides: {counted(near, 'epoch')} near the pretrained features, {far} far from them")


def _write_csv(planned: tuple[Phase, ...]) -> None:
    rows = csv_files.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["phase", "step", "epoch", "lr", "momentum"])
    for phase in planned:
        for step in range(phase.steps):
            rate = phase.schedule(step)
            rows.writerow([phase.name, phase.first_step + step, step // phase.steps_per_epoch, rate.lr, rate.momentum])


def _draw(planned: tuple[Phase, ...], path: Path) -> None:
    from upcycle.reporting import style
    from upcycle.reporting.figures import PlannedPhase, schedule_figure

    if path.suffix not in (".svg", ".png"):
        raise ConfigError(f"cannot draw into {path}: give a name that ends in .svg or .png")
    figure = schedule_figure(PlannedPhase.from_dict(planned[-1].to_dict()))
    write_bytes(path, style.svg(figure).encode() if path.suffix == ".svg" else style.png(figure))
    print(f"drawn: {path}", file=sys.stderr)
