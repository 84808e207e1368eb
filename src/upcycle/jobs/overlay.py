"""Plans of several configurations beside each other: a table, curves in the terminal, a figure, CSV and JSON.

torch is loaded for layers and for a time measured on DATA, and for nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from upcycle.comparison.variants import variants_of
from upcycle.config import Config
from upcycle.errors import ConfigError, UpcycleError
from upcycle.jobs.plan import decided_epochs, draw, planned_phases, write_csv
from upcycle.planning import Phase, Plan
from upcycle.planning import steps_per_epoch as batches
from upcycle.recipes import resolve
from upcycle.reporting.progress import Display
from upcycle.reporting.terminal_plot import terminal_plot
from upcycle.reporting.text import columns, named, rate_text, titled
from upcycle.schedules import Rate

if TYPE_CHECKING:
    from upcycle.jobs.dry_run import DryRun
    from upcycle.jobs.layers import Layers

POINTS = 500
"""Rates of a plan that a terminal's curve goes through, about."""
FAR_APART = 10
"""Peaks of which one is so many times another are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Planned:
    """The plan of a variant; `layers` and `estimate` where they were asked for."""

    name: str
    config: Config
    phases: tuple[Phase, ...]
    layers: tuple["Layers", ...] = ()
    estimate: "DryRun | None" = None

    @property
    def phase(self) -> Phase:
        """The phase that has the schedule."""
        return self.phases[-1]

    @cached_property
    def marks(self) -> tuple[int, int, int]:
        """The first step, that of the highest rate, and the last, counted from the phase's first update."""
        steps = range(self.phase.steps)
        return 0, max(steps, key=lambda step: self.phase.schedule(step).lr), steps[-1]

    @property
    def rates(self) -> tuple[Rate, Rate, Rate]:
        """Rate and momentum there."""
        first, peak, last = map(self.phase.schedule, self.marks)
        return first, peak, last

    def curve(self, value: Callable[[Rate], float]) -> tuple[list[int], list[float]]:
        """Updates, and what `value` says of their rates, to draw."""
        steps = self.phase.steps
        at = sorted({*range(0, steps, max(1, steps // POINTS)), *self.marks})
        return at, [value(self.phase.schedule(step)) for step in at]

    def details(self) -> dict[str, object]:
        """What was asked for beside the plan, as plain values."""
        peak = self.rates[1].lr
        layers = [{**asdict(one), "rate": peak * one.scale} for one in self.layers]
        return {
            **({"layers": layers} if layers else {}),
            **({"estimate": self.estimate.to_dict()} if self.estimate else {}),
        }

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        first, peak, last = self.rates
        return {
            "name": self.name,
            "epochs": self.phase.epochs,
            "updates": self.phase.steps,
            **{"first_rate": first.lr, "highest_rate": peak.lr, "highest_at": self.marks[1], "last_rate": last.lr},
            "momentum": {"first": first.momentum, "highest_rate": peak.momentum, "last": last.momentum},
            **Plan(self.phases).to_dict(),
            **self.details(),
        }


def print_plans(
    options: Mapping[str, Any],
    names: Sequence[str] | None,
    *,
    data: Path | None,
    steps_per_epoch: int | None,
    layers: bool,
    csv: bool,
    plot: Path | None,
    show: Display,
) -> Callable[[], Mapping[str, object]]:
    """Show the plan of each variant, or every step as CSV, and draw them; gives what was found as plain values.

    Without `names`, the one plan that `options` mean; with them, `options` are over those of each variant. `data` gives
    the updates of an epoch, and an estimate of the time. The errors are those of `train`.
    """
    if data is not None and steps_per_epoch is not None:
        raise ConfigError("DATA says how many updates an epoch has: leave --steps-per-epoch out")
    wanted = _wanted(options, names)
    # all are checked before any is measured, which takes time
    steps = 1 if steps_per_epoch is None else steps_per_epoch
    plans = [_planned(name, given, steps) for name, given in wanted.items()]
    if data is not None:
        told = _Once(show)
        plans = [_measured(plan, wanted[plan.name], data, told) for plan in plans]
    if layers or data is not None:
        plans = [_layered(plan) for plan in plans]
    phases = {plan.name: plan.phases for plan in plans}
    if plot is not None:
        draw(phases, plot)
    if csv:
        write_csv(phases)
    else:
        _show(plans, show)
    if names is None:
        return lambda: {**Plan(plans[0].phases).to_dict(), **plans[0].details()}
    return lambda: {"variants": [plan.to_dict() for plan in plans]}


def _wanted(options: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """The options of each plan by its name; a variant that tries several rates has a plan for each."""
    if names is None:
        return {resolve(options).recipe: dict(options)}
    if "recipe" in options:
        raise ConfigError("variants differ in recipe: choose them with --variants, and leave --recipe out")
    found: dict[str, dict[str, Any]] = {}
    for variant in variants_of(names, least=1):
        given = variant.under(options)
        if variant.rates and "lr" not in options:
            found |= {f"{rate_text(lr)} {variant.name}": {**given, "lr": lr} for lr in variant.rates}
        else:
            found[variant.name] = given
    return found


def _planned(name: str, options: Mapping[str, Any], steps: int) -> Planned:
    """A plan; its errors say whose they are."""
    try:
        return Planned(name, resolve(options), planned_phases(options, steps))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _measured(plan: Planned, options: Mapping[str, Any], data: Path, show: Display) -> Planned:
    from upcycle.jobs.dry_run import measure

    show.message(f"{plan.name}: measured here")
    found = measure(data, options, show=show)
    steps = batches(found.training_images, plan.config.batch_size)
    return replace(_planned(plan.name, options, steps), estimate=found)


def _layered(plan: Planned) -> Planned:
    from upcycle.jobs.layers import layers_of

    try:
        return replace(plan, layers=layers_of(plan.config))
    except UpcycleError as error:
        raise type(error)(f"{plan.name}: {error}") from None


class _Once(Display):
    """A display that reports a line once: variants have the same images."""

    def __init__(self, show: Display) -> None:
        self._show = show
        self._told: set[str] = set()

    def message(self, text: str) -> None:
        """The line, unless it was reported."""
        if text not in self._told:
            self._told.add(text)
            self._show.message(text)

    def warn(self, text: str) -> None:
        """The line, unless it was reported."""
        if text not in self._told:
            self._told.add(text)
            self._show.warn(text)


# ---------------------------------------------------------------------------------------- terminal


def _show(plans: Sequence[Planned], show: Display) -> None:
    show.table(titled("Plans" if len(plans) > 1 else "Plan", _rates_table(plans)))
    if plans[0].estimate is not None:
        show.table(titled("On this machine", _times_table(plans)))
    for alike in _by_layers(plans):
        show.table(titled("Highest rate by layers, from the head down", _layers_table(alike)))
    notes = _notes(plans)
    if notes:
        show.message("\n".join([*notes, ""]))
    peaks = [plan.rates[1].lr for plan in plans]
    log = max(peaks) >= FAR_APART * min(peaks) > 0
    rates = {plan.name: plan.curve(lambda rate: rate.lr) for plan in plans}
    momenta = {plan.name: plan.curve(lambda rate: rate.momentum) for plan in plans}
    title = "Learning rate" + (", logarithmic axis" if log else "")
    drawn = (
        terminal_plot(rates, title=title, x_label="update", log_y=log),
        terminal_plot(momenta, title="Momentum", x_label="update", height=12),
    )
    show.table(Text.from_ansi("\n\n".join(drawn), no_wrap=True, overflow="ignore"))


def _notes(plans: Sequence[Planned]) -> list[str]:
    """What the probe decides of layers and epochs."""
    near = any(layer.frozen == "near" for plan in plans for layer in plan.layers)
    notes = ["* trained on tasks far from the pretrained features, frozen near them: the probe decides"] if near else []
    for plan in plans:
        decided = decided_epochs(plan.config, plan.phase.steps_per_epoch)
        if decided:
            notes.append(f"{plan.name}: {decided}" if len(plans) > 1 else decided)
    return notes


def _rates_table(plans: Sequence[Planned]) -> Table:
    grid = columns("variant", "epochs", "updates", "first", "highest", "at step", "last", "momentum")
    for plan in plans:
        first, peak, last = plan.rates
        momenta = [f"{rate.momentum:.4g}" for rate in plan.rates]
        grid.add_row(
            named(plan.name),
            f"{plan.phase.epochs:,}",
            f"{plan.phase.steps:,}",
            *(rate_text(first.lr), rate_text(peak.lr), f"{plan.marks[1]:,}", rate_text(last.lr)),
            " ".join(momenta if len(set(momenta)) > 1 else momenta[:1]),
        )
    return grid


def _times_table(plans: Sequence[Planned]) -> Table:
    grid = columns("variant", "training images", "updates/epoch", "images/s", "about")
    for plan in plans:
        if plan.estimate is not None:
            speed = plan.estimate.stages[-1].images_per_second
            numbers = (f"{plan.estimate.training_images:,}", f"{plan.phase.steps_per_epoch:,}", f"{speed:.3g}")
            grid.add_row(named(plan.name), *numbers, plan.estimate.time)
    return grid


def _by_layers(plans: Sequence[Planned]) -> list[list[Planned]]:
    """Plans that have layers, those with the same ones together."""
    groups: dict[tuple[str, ...], list[Planned]] = {}
    for plan in plans:
        if plan.layers:
            groups.setdefault(tuple(layer.name for layer in plan.layers), []).append(plan)
    return list(groups.values())


def _layers_table(plans: Sequence[Planned]) -> Table:
    grid = columns("layers")
    for plan in plans:
        grid.add_column(named(plan.name), justify="right", min_width=8)
    for row in zip(*(plan.layers for plan in plans), strict=True):
        cells = (_cell(plan.rates[1].lr * layer.scale, layer) for plan, layer in zip(plans, row, strict=True))
        grid.add_row(named(row[0].name), *cells)
    return grid


def _cell(rate: float, layer: "Layers") -> str:
    return "frozen" if layer.frozen == "yes" else f"{rate_text(rate)}{'*' if layer.frozen == 'near' else ' '}"
