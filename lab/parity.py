"""upcycle's schedules beside those of torch, fastai, transformers, Keras and optax, over every step of a run.

    .venv/adapters/pytorch/bin/python lab/parity.py torch fastai transformers
    .venv/adapters/keras/bin/python lab/parity.py keras
    .venv/adapters/optax/bin/python lab/parity.py optax

in the environments of `make test-adapters` print the rows of lab/2026-11-30-parity. Rates of torch, fastai and
transformers are read from the optimizer as it updates, of Keras and optax from the schedule.
"""

import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from upcycle.changed_schedules import Scaled
from upcycle.schedules import Constant, OneCycle, Schedule, Step, WarmupStableDecay

LENGTHS = (100, 37)
TOP = 0.01
FLOAT64, FLOAT32 = 1e-12, 1e-6
"""The largest difference, as part of the peak, of schedules that mean the same."""


@dataclass(frozen=True)
class Pair:
    """A schedule of another library, the rates of `steps` updates and one more, and ours.

    `within` is None where they are known to disagree.
    """

    name: str
    theirs: Sequence[float]
    ours: Schedule
    words: str
    within: float | None
    why: str = ""

    @property
    def steps(self) -> int:
        return len(self.theirs) - 1

    @property
    def rates(self) -> list[float]:
        return [self.ours(step).lr for step in range(self.steps + 1)]

    @property
    def difference(self) -> float:
        """The largest over the run's updates, as part of the peak."""
        pairs = list(zip(self.theirs, self.rates, strict=True))[: self.steps]
        return max(abs(theirs - ours) for theirs, ours in pairs) / TOP

    def row(self) -> str:
        def both(of: Callable[[Sequence[float]], str]) -> str:
            theirs, ours = of(self.theirs), of(self.rates)
            return theirs if theirs == ours else f"{theirs} / {ours}"

        peak = both(lambda rates: str(max(range(self.steps), key=lambda step: round(rates[step] / TOP, 6))))
        last, past = both(lambda rates: told(rates[-2])), both(lambda rates: told(rates[-1]))
        cells = [self.name, self.words, self.steps, size(self.difference), peak, last, past, self.why]
        return "| " + " | ".join(map(str, cells)) + " |"


def told(rate: float) -> str:
    return "0" if abs(rate) < TOP * FLOAT32 else f"{rate:.3g}"


def size(difference: float) -> str:
    bounds = (("< 1e-12", FLOAT64), ("< 1e-6", FLOAT32))
    return next((words for words, bound in bounds if difference < bound), f"{difference:.2g}")


def updates_of(scheduler_of: Callable[[Any], Any], steps: int, lr: float = TOP) -> list[float]:
    """The rates by which a torch optimizer makes `steps` updates, and the one that it would have next."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler, seen = scheduler_of(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def torch_pairs(n: int) -> Iterator[Pair]:
    from torch.optim import lr_scheduler as theirs

    for anneal in ("cos", "linear"):
        for three in (False, True):
            rates = updates_of(
                lambda optimizer, anneal=anneal, three=three: theirs.OneCycleLR(
                    optimizer, TOP, n, pct_start=0.3, anneal_strategy=anneal, three_phase=three
                ),
                n,
            )
            name = f"torch OneCycleLR {anneal}{' three_phase' if three else ''}"
            ours = OneCycle(TOP, n, pct_start=0.3, div_final=25e4, anneal=anneal, three_phase=three)
            words = f"OneCycle(pct_start=0.3, div_final=25e4, anneal={anneal}{', three_phase' if three else ''})"
            why = "theirs goes on past the end, and is an error one step later; "
            yield Pair(name, rates, ours, words, FLOAT64, why + "`final_div_factor` 1e4 divides the first rate")
            if not three:
                same = OneCycle(TOP, n, pct_start=0.3, anneal=anneal)
                words = f"OneCycle(pct_start=0.3, div_final=1e4, anneal={anneal})"
                yield Pair(name, rates, same, words, None, "`final_div_factor` divides the first rate, ours the peak")
    rates = updates_of(lambda optimizer: theirs.StepLR(optimizer, 10, 0.5), n)
    yield Pair("torch StepLR(10, 0.5)", rates, Step(TOP, 10, 0.5), "Step(step_size=10, gamma=0.5)", FLOAT64)
    up = n // 10
    parts = [lambda optimizer: theirs.LinearLR(optimizer, 0.1, total_iters=up)]
    parts += [lambda optimizer: theirs.CosineAnnealingLR(optimizer, n - up, eta_min=TOP / 100)]
    rates = updates_of(lambda optimizer: theirs.SequentialLR(optimizer, [one(optimizer) for one in parts], [up]), n)
    yield Pair(
        f"torch SequentialLR: LinearLR(0.1, {up}), CosineAnnealingLR({n - up}, 1e-4)",
        rates,
        WarmupStableDecay(TOP, n, warmup=up / n, cooldown=None, shape="cos", start=0.1, end=0.01),
        f"WarmupStableDecay(warmup={up}/{n}, cooldown=None, shape=cos, start=0.1, end=0.01)",
        FLOAT64,
    )
    rates = updates_of(lambda optimizer: theirs.LinearLR(optimizer, 1.0, 0.01, total_iters=n), n)
    yield Pair(
        f"torch LinearLR(1, 0.01, {n})",
        rates,
        WarmupStableDecay(TOP, n, warmup=0, cooldown=None, shape="linear", end=0.01),
        "WarmupStableDecay(warmup=0, cooldown=None, shape=linear, end=0.01)",
        FLOAT64,
    )
    rates = updates_of(lambda optimizer: theirs.ConstantLR(optimizer, 0.25, 5), n)
    ours = Scaled(Constant(TOP / 4), 5, 4.0)
    yield Pair("torch ConstantLR(0.25, 5)", rates, ours, "Scaled(Constant(lr / 4), 5, 4)", FLOAT64)


def fastai_pairs(n: int) -> Iterator[Pair]:
    import torch
    from fastai.callback.core import Callback
    from fastai.callback.schedule import combined_cos
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    def fitted(fit: str, **options: Any) -> list[float]:
        seen: list[float] = []

        class Watch(Callback):
            def before_step(self) -> None:
                seen.append(float(self.opt.hypers[-1]["lr"]))

        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(n, 1), torch.ones(n, 1)))
        learner = Learner(DataLoaders(data, data), torch.nn.Linear(1, 1), loss_func=torch.nn.functional.mse_loss)
        with learner.no_bar(), learner.no_logging():
            getattr(learner, fit)(1, TOP, cbs=Watch(), **options)
        return seen

    rates = [*fitted("fit_one_cycle"), combined_cos(0.25, TOP / 25, TOP, TOP / 1e5)(1.0)]
    ours = OneCycle(TOP, n + 1, pct_start=(n / 4 + 1) / (n + 1), div_final=1e5)
    words = f"OneCycle({n + 1}, pct_start={n / 4 + 1:g}/{n + 1}, div_final=1e5)"
    yield Pair("fastai fit_one_cycle", rates, ours, words, FLOAT32, "its end comes one step past the last update")
    same = OneCycle(TOP, n, div_final=1e5)
    yield Pair(
        "fastai fit_one_cycle", rates, same, "OneCycle(div_final=1e5)", None, "ours peaks a step earlier, as torch"
    )
    rates = [*fitted("fit_flat_cos"), combined_cos(0.75, TOP, TOP, TOP / 1e5)(1.0)]
    even = n % 4 == 0
    yield Pair(
        "fastai fit_flat_cos",
        rates,
        WarmupStableDecay(TOP, n, warmup=0, cooldown=0.25, shape="cos", end=1e-5),
        "WarmupStableDecay(warmup=0, cooldown=0.25, shape=cos, end=1e-5)",
        FLOAT32 if even else None,
        "" if even else f"its decay begins between two updates, at {0.75 * n}; ours takes whole ones",
    )


def transformers_pairs(n: int) -> Iterator[Pair]:
    import transformers as theirs

    up, down = n // 10, n // 5
    given = (up, n)
    warm = {"warmup": up / n, "cooldown": None}
    words = f"WarmupStableDecay(warmup={up}/{n}, cooldown={{}}, shape={{}})"
    for name, shape in (("linear", "linear"), ("cosine", "cos")):
        make = getattr(theirs, f"get_{name}_schedule_with_warmup")
        rates = updates_of(lambda optimizer, make=make: make(optimizer, *given), n)
        ours = WarmupStableDecay(TOP, n, shape=shape, **warm)
        yield Pair(f"transformers {name} with warm-up {up}", rates, ours, words.format(None, shape), FLOAT64)
    rates = updates_of(lambda optimizer: theirs.get_constant_schedule_with_warmup(optimizer, up), n)
    ours = WarmupStableDecay(TOP, n, warmup=up / n, cooldown=0)
    yield Pair(f"transformers constant with warm-up {up}", rates, ours, words.format(0, "any"), FLOAT64)
    for name, shape in (("linear", "linear"), ("cosine", "cos"), ("1-sqrt", "1-sqrt")):
        for least in (0.0, 0.1):
            rates = updates_of(
                lambda optimizer, name=name, least=least: theirs.get_wsd_schedule(
                    optimizer, up, down, n, decay_type=name, min_lr_ratio=least
                ),
                n,
            )
            ours = WarmupStableDecay(TOP, n, up / n, down / n, shape, start=least, end=least)
            ends = f", start={least}, end={least}" if least else ""
            yield Pair(
                f"transformers wsd {up} + {down} {name}{f', min_lr_ratio {least}' if least else ''}",
                rates,
                ours,
                words.format(f"{down}/{n}", shape + ends),
                FLOAT64,
            )


def keras_pairs(n: int) -> Iterator[Pair]:
    from keras.optimizers import schedules as theirs

    def gathered(schedule: Any) -> list[float]:
        return [float(schedule(step)) for step in range(n + 1)]

    up = n // 10
    yield Pair(
        f"Keras CosineDecay(1e-3, {n - up}, alpha=0.01, warmup_target=0.01, warmup_steps={up})",
        gathered(theirs.CosineDecay(TOP / 10, n - up, alpha=0.01, warmup_target=TOP, warmup_steps=up)),
        WarmupStableDecay(TOP, n, up / n, None, "cos", start=0.1, end=0.01),
        f"WarmupStableDecay(warmup={up}/{n}, cooldown=None, shape=cos, start=0.1, end=0.01)",
        FLOAT32,
    )
    ours, words = Step(TOP, 10, 0.5), "Step(step_size=10, gamma=0.5)"
    values = [TOP * 0.5**at for at in range((n - 1) // 10 + 2)]
    for early in (1, 0):
        bounds = [10 * at - early for at in range(1, len(values))]
        name = f"Keras PiecewiseConstantDecay([{bounds[0]}, {bounds[1]}, ...])"
        why = "a boundary is the last step of the rate before it"
        yield Pair(
            name, gathered(theirs.PiecewiseConstantDecay(bounds, values)), ours, words, FLOAT32 if early else None, why
        )


def optax_pairs(n: int) -> Iterator[Pair]:
    import optax as theirs

    def gathered(schedule: Any) -> list[float]:
        return [float(schedule(step)) for step in range(n + 1)]

    peak = int(0.3 * n)
    pct = (peak + 1) / (n + 1)
    later = f"OneCycle({n + 1}, pct_start={peak + 1}/{n + 1}, div_final=25e4"
    rates = gathered(theirs.cosine_onecycle_schedule(n, TOP, pct_start=0.3))
    ours = OneCycle(TOP, n + 1, pct_start=pct, div_final=25e4)
    why = "its end comes one step past the last update; `final_div_factor` 1e4 divides the first rate"
    yield Pair("optax cosine_onecycle_schedule", rates, ours, later + ")", FLOAT32, why)
    same = OneCycle(TOP, n, pct_start=0.3, div_final=25e4)
    words = "OneCycle(pct_start=0.3, div_final=25e4{})"
    yield Pair(
        "optax cosine_onecycle_schedule", rates, same, words.format(""), None, "ours peaks a step earlier, as torch"
    )
    linear: dict[str, Any] = {"div_final": 1e4, "anneal": "linear", "three_phase": True}
    rates = gathered(theirs.linear_onecycle_schedule(n, TOP, pct_start=0.3, pct_final=(2 * peak + 0.5) / n))
    ours = OneCycle(TOP, n + 1, pct_start=pct, **{**linear, "div_final": 25e4})
    name = f"optax linear_onecycle_schedule(pct_final={2 * peak}/{n})"
    yield Pair(name, rates, ours, later + ", linear, three_phase)", FLOAT32, why)
    rates = gathered(theirs.linear_onecycle_schedule(n, TOP, pct_start=0.3))
    ours = OneCycle(TOP, n + 1, pct_start=pct, **{**linear, "div_final": 25e4})
    why = "its fall takes 0.55 of the run: ours is as long as the rise"
    yield Pair("optax linear_onecycle_schedule", rates, ours, later + ", linear, three_phase)", None, why)
    up = n // 10
    rates = gathered(theirs.warmup_cosine_decay_schedule(0.0, TOP, up, n, end_value=TOP / 100))
    ours = WarmupStableDecay(TOP, n, up / n, None, "cos", end=0.01)
    words = f"WarmupStableDecay(warmup={up}/{n}, cooldown=None, shape=cos, end=0.01)"
    yield Pair(f"optax warmup_cosine_decay_schedule(0, lr, {up}, {n}, lr / 100)", rates, ours, words, FLOAT32)
    rates = gathered(theirs.warmup_constant_schedule(0.0, TOP, up))
    ours = WarmupStableDecay(TOP, n, up / n, 0)
    words = f"WarmupStableDecay(warmup={up}/{n}, cooldown=0)"
    yield Pair(f"optax warmup_constant_schedule(0, lr, {up})", rates, ours, words, FLOAT32)
    rates = gathered(theirs.linear_schedule(TOP, 0.0, n))
    ours = WarmupStableDecay(TOP, n, 0, None, "linear")
    yield Pair(
        f"optax linear_schedule(lr, 0, {n})",
        rates,
        ours,
        "WarmupStableDecay(warmup=0, cooldown=None, shape=linear)",
        FLOAT32,
    )
    rates = gathered(theirs.exponential_decay(TOP, 10, 0.5, staircase=True))
    yield Pair(
        "optax exponential_decay(10, 0.5, staircase)",
        rates,
        Step(TOP, 10, 0.5),
        "Step(step_size=10, gamma=0.5)",
        FLOAT32,
    )


PAIRS: dict[str, Callable[[int], Iterator[Pair]]] = {
    "torch": torch_pairs,
    "fastai": fastai_pairs,
    "transformers": transformers_pairs,
    "keras": keras_pairs,
    "optax": optax_pairs,
}


def main(names: Sequence[str]) -> None:
    print(*(f"{name} {importlib.metadata.version(name)}" for name in names), sep=", ", file=sys.stderr)
    warnings.simplefilter("ignore")
    for name in names:
        for steps in LENGTHS:
            for pair in PAIRS[name](steps):
                print(pair.row())


if __name__ == "__main__":
    main(sys.argv[1:])
