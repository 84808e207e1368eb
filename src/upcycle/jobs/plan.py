"""The schedule of a configuration, shown before it is paid for. Needs no torch."""

import csv as csv_files
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

from upcycle.config import AUTO_RATE, Config, canonical, path_or_none, read_toml
from upcycle.errors import ConfigError, counted
from upcycle.jobs.callables import NO_CALLABLES, Callables, taken
from upcycle.options import TrainOptions
from upcycle.planning import Phase, Plan, epochs_for, phases
from upcycle.recipes import resolve
from upcycle.rundir import write_bytes
from upcycle.schedules import Rate, ScheduleName


def plan(
    *,
    steps_per_epoch: int = 1,
    config: Path | str | None = None,
    schedule: Callable[[int], Rate] | ScheduleName | None = None,
    **options: Unpack[TrainOptions],
) -> Plan:
    """What `train` would do with these options: `plan(epochs=5).rates` has learning rate and momentum of every update.

    Without `steps_per_epoch`, training images over batch size, an update is an epoch. Trains nothing and reads no
    images. ConfigError for options that are wrong.
    """
    file = path_or_none(config, "one TOML file")
    given = {**(read_toml(file) if file else {}), **canonical(options)}
    given, callables = taken(given, schedule=schedule)
    return Plan(planned_phases(given, steps_per_epoch, callables))


def planned_phases(
    options: Mapping[str, Any], steps_per_epoch: int, callables: Callables = NO_CALLABLES
) -> tuple[Phase, ...]:
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
    planned = planned_phases(options, steps_per_epoch)
    name = resolve(options).recipe
    if plot is not None:
        draw({name: planned}, plot)
    if csv:
        write_csv({name: planned})
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
    decided = decided_epochs(resolve(options), steps_per_epoch)
    if decided:
        print(decided)
    if resolve(options).lr == AUTO_RATE:
        print("lr = auto: a range test picks the highest rate as fine-tuning starts; this is with the recipe's own")
    return Plan(planned)


def decided_epochs(config: Config, steps_per_epoch: int) -> str:
    """Which epochs the probe decides on, where it may raise those of the plan and the batches are known; else ""."""
    near, far = (epochs_for(config, steps_per_epoch, far=far) for far in (False, True))
    if steps_per_epoch == 1 or far <= config.epochs:
        return ""
    return f"the probe decides: {counted(near, 'epoch')} near the pretrained features, {far} far from them"


def write_csv(plans: Mapping[str, tuple[Phase, ...]]) -> None:
    """Every step of each plan, one row each; the first column names the plan where there are several."""
    rows = csv_files.writer(sys.stdout, lineterminator="\n")
    several = len(plans) > 1
    rows.writerow([*(["variant"] if several else []), "phase", "step", "epoch", "lr", "momentum"])
    for name, planned in plans.items():
        for phase in planned:
            for step in range(phase.steps):
                place = (phase.name, phase.first_step + step, step // phase.steps_per_epoch)
                rows.writerow([*([name] if several else []), *place, *phase.schedule(step)])


def draw(plans: Mapping[str, tuple[Phase, ...]], path: Path) -> None:
    """Draw the last phase of each plan, of several on the same axes, into an SVG or PNG file."""
    from upcycle.reporting import style
    from upcycle.reporting.figures import PlannedPhase, overlaid_figure, schedule_figure

    if path.suffix not in (".svg", ".png"):
        raise ConfigError(f"cannot draw into {path}: give a name that ends in .svg or .png")
    phases = {name: PlannedPhase.from_dict(planned[-1].to_dict()) for name, planned in plans.items()}
    figure = overlaid_figure(phases) if len(phases) > 1 else schedule_figure(*phases.values())
    write_bytes(path, style.svg(figure).encode() if path.suffix == ".svg" else style.png(figure))
    print(f"drawn: {path}", file=sys.stderr)
