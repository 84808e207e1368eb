"""Schedules: literal values, invariants, and parity with torch where torch is well defined."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upcycle.changed_schedules import from_dict, to_dict
from upcycle.errors import ConfigError
from upcycle.schedules import Constant, OneCycle, RampSustainDecay, Step, WarmupStableDecay

ARTICLE = {
    0: 1e-5,
    1: 2.8e-5,
    2: 4.6e-5,
    4: 8.2e-5,
    5: 1e-4,
    6: 8.2e-5,
    9: 4.6864e-5,
    19: 1.3958242e-5,
    20: 1.3166593e-5,
    49: 1.0004900e-5,
}


@pytest.mark.parametrize(("epoch", "rate"), ARTICLE.items())
def test_the_articles_schedule_has_the_articles_values(epoch: int, rate: float) -> None:
    assert rate == pytest.approx(RampSustainDecay()(epoch).lr, rel=5e-8)


def test_the_articles_printed_rates_are_reached_to_their_last_digit() -> None:
    schedule = RampSustainDecay()
    assert ["1.3958e-05", "1.3166e-05"] == [f"{int(schedule(at).lr * 1e9) / 1e9:.4e}" for at in (19, 20)]


def test_ramp_sustain_decay_is_the_formula_for_200_epochs() -> None:
    start, top, low, ramp, sustain, decay = 2e-5, 3e-4, 1e-6, 7, 3, 0.9
    schedule = RampSustainDecay(start, top, low, ramp, sustain, decay)
    for epoch in range(200):
        if epoch < ramp:
            expected = start + (top - start) / ramp * epoch
        elif epoch < ramp + sustain:
            expected = top
        else:
            expected = low + (top - low) * decay ** (epoch - ramp - sustain)
        assert abs(expected - schedule(epoch).lr) < 1e-12


def test_a_rate_set_per_epoch_holds_for_every_step_of_the_epoch() -> None:
    schedule = RampSustainDecay(steps_per_epoch=63)
    assert [1e-5, 1e-5, 2.8e-5] == [pytest.approx(schedule(step).lr) for step in (0, 62, 63)]


def test_one_cycle_rises_to_its_peak_and_falls_to_its_end() -> None:
    schedule = OneCycle(1.0, 5, pct_start=0.6, div=10, div_final=100, anneal="linear", moms=(0.9, 0.8, 0.95))
    expected = [(0.1, 0.9), (0.55, 0.85), (1.0, 0.8), (0.505, 0.875), (0.01, 0.95), (0.01, 0.95)]
    assert expected == [pytest.approx(tuple(schedule(step))) for step in range(6)]


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize(("steps", "pct"), [(10, 0.3), (100, 0.25), (1000, 0.1), (37, 0.5)])
def test_one_cycle_agrees_with_torch_where_torch_is_defined(anneal: str, steps: int, pct: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        0.01,
        total_steps=steps,
        pct_start=pct,
        div_factor=25,
        final_div_factor=1e4,
        anneal_strategy=anneal,  # type: ignore[arg-type]
        base_momentum=0.85,
        max_momentum=0.95,
    )
    ours = OneCycle(0.01, steps, pct_start=pct, div=25, div_final=25e4, anneal=anneal)  # type: ignore[arg-type]
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert (group["lr"], group["momentum"]) == pytest.approx(tuple(ours(step)), abs=1e-12)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_is_defined_on_runs_too_short_for_torch(steps: int) -> None:
    rates = [OneCycle(0.01, steps)(step).lr for step in range(steps + 2)]
    assert all(0 < rate <= 0.01 for rate in rates)
    assert 0.01 == max(rates)


RATES = st.floats(1e-8, 10)
SCHEDULES = st.one_of(
    st.builds(Constant, RATES),
    st.builds(
        RampSustainDecay,
        RATES,
        RATES,
        RATES,
        st.integers(0, 9),
        st.integers(0, 9),
        st.floats(0, 1),
        st.integers(1, 9),
    ),
    st.builds(
        OneCycle,
        RATES,
        st.integers(1, 60),
        pct_start=st.floats(0, 1),
        div=st.floats(1, 100),
        div_final=st.floats(1, 1e5),
        anneal=st.sampled_from(["cos", "linear"]),
    ),
    st.builds(OneCycle, RATES, st.integers(1, 60), pct_start=st.floats(0, 0.5), three_phase=st.just(True)),
    st.builds(
        WarmupStableDecay,
        RATES,
        st.integers(1, 60),
        warmup=st.floats(0, 0.5),
        cooldown=st.none() | st.floats(0, 0.5),
        shape=st.sampled_from(["linear", "cos", "1-sqrt"]),
        start=st.floats(0, 1),
        end=st.floats(0, 1),
    ),
    st.builds(Step, RATES, st.integers(1, 9), st.floats(0, 1), st.integers(1, 9)),
)


def _bounds(schedule: object) -> tuple[float, float]:
    rates = [
        getattr(schedule, name) for name in ("lr", "lr_start", "lr_end", "lr_max", "lr_min") if hasattr(schedule, name)
    ]
    if isinstance(schedule, OneCycle):
        rates += [schedule.lr_max / schedule.div, schedule.lr_max / schedule.div_final]
    if isinstance(schedule, WarmupStableDecay):
        rates += [schedule.lr_max * schedule.start, schedule.lr_max * schedule.end]
    if isinstance(schedule, Step):
        rates += [0.0]
    return min(rates), max(rates)


@given(SCHEDULES, st.integers(0, 200))
def test_every_rate_lies_between_the_schedules_own_ends(schedule: object, step: int) -> None:
    low, high = _bounds(schedule)
    rate = schedule(step)  # type: ignore[operator]
    assert low - 1e-9 * high <= rate.lr <= high * (1 + 1e-9)
    assert 0 <= rate.momentum < 1


@given(SCHEDULES)
def test_a_schedule_survives_json(schedule: object) -> None:
    assert schedule == from_dict(json.loads(json.dumps(to_dict(schedule))))  # type: ignore[arg-type]


@given(st.integers(3, 300), st.floats(0.05, 0.95), st.sampled_from(["cos", "linear"]))
def test_one_cycle_has_one_rise_then_one_fall_and_momentum_mirrors_it(steps: int, pct: float, anneal: str) -> None:
    schedule = OneCycle(1.0, steps, pct_start=pct, anneal=anneal)  # type: ignore[arg-type]
    rates = [schedule(step) for step in range(steps)]
    for (at, before), after in zip(enumerate(rates), rates[1:], strict=False):
        if at + 1 <= schedule.peak:
            assert before.lr <= after.lr
            assert before.momentum >= after.momentum
        elif at >= schedule.peak:
            assert before.lr >= after.lr
            assert before.momentum <= after.momentum


@given(SCHEDULES, st.integers(0, 100))
def test_a_rate_depends_on_the_step_alone(schedule: object, step: int) -> None:
    first = schedule(step)  # type: ignore[operator]
    for other in range(20):
        schedule(other)  # type: ignore[operator]
    assert first == schedule(step)  # type: ignore[operator]


EXPECTED = {
    "trapezoid, linear": (
        WarmupStableDecay(1.0, 10, warmup=0.2, cooldown=0.4, shape="linear"),
        [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0],
    ),
    "trapezoid, cos": (
        WarmupStableDecay(1.0, 10, warmup=0.2, cooldown=0.4, shape="cos", start=0.5, end=0.1),
        [0.5, 0.75, 1, 1, 1, 1, 1, 0.868198052, 0.55, 0.231801948, 0.1],
    ),
    "trapezoid, 1-sqrt": (
        WarmupStableDecay(2.0, 10, warmup=0.0, cooldown=0.4),
        [2, 2, 2, 2, 2, 2, 2, 1, 0.585786438, 0.267949192, 0],
    ),
    "cosine with warm-up": (
        WarmupStableDecay(1.0, 6, warmup=0.34, cooldown=None, shape="cos"),
        [0, 1 / 3, 2 / 3, 1, 0.75, 0.25, 0],
    ),
    "linear with warm-up": (
        WarmupStableDecay(1.0, 5, warmup=0.2, cooldown=None, shape="linear"),
        [0, 1, 0.75, 0.5, 0.25, 0],
    ),
    "steps": (Step(1.0, step_size=2, gamma=0.1, steps_per_epoch=2), [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]),
    "one-cycle, linear": (
        OneCycle(1.0, 8, pct_start=0.5, div=4.0, div_final=10.0, anneal="linear"),
        [0.25, 0.5, 0.75, 1, 0.775, 0.55, 0.325, 0.1, 0.1],
    ),
    "one-cycle, cosine": (
        OneCycle(1.0, 6, pct_start=0.5, div=2.0, div_final=10.0),
        [0.5, 0.75, 1, 0.775, 0.325, 0.1, 0.1],
    ),
    "three phases, linear": (
        OneCycle(1.0, 10, pct_start=0.3, div=5.0, div_final=100.0, anneal="linear", three_phase=True),
        [0.2, 0.6, 1, 0.6, 0.2, 0.162, 0.124, 0.086, 0.048, 0.01, 0.01],
    ),
}
"""The rates of every step and of one past the end, computed by hand."""


@pytest.mark.parametrize("name", EXPECTED)
def test_the_rates_are_those_written_out(name: str) -> None:
    schedule, rates = EXPECTED[name]
    assert [schedule(step).lr for step in range(len(rates))] == pytest.approx(rates, abs=1e-9)


def test_the_momentum_of_three_phases_stays_where_it_has_come_back_to() -> None:
    schedule = OneCycle(1.0, 10, pct_start=0.3, moms=(0.95, 0.85, 0.9), three_phase=True, anneal="linear")
    expected = [0.95, 0.9, 0.85, 0.875, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    assert [schedule(step).momentum for step in range(10)] == pytest.approx(expected)


@given(st.integers(10, 300), st.floats(0.25, 0.5), st.sampled_from(["cos", "linear"]))
def test_three_phases_are_torchs(steps: int, pct: float, anneal: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        1.0,
        steps,
        pct_start=pct,
        anneal_strategy=anneal,
        three_phase=True,  # type: ignore[arg-type]
    )
    ours = OneCycle(1.0, steps, pct, 25.0, 25e4, anneal, three_phase=True)  # type: ignore[arg-type]
    for step in range(steps):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["momentum"]) == pytest.approx(tuple(ours(step)), rel=1e-9, abs=1e-12)
        optimizer.step()
        if step + 1 < steps:
            theirs.step()


@given(st.integers(1, 50), st.integers(0, 100))
def test_past_its_end_a_schedule_keeps_its_last_rate(steps: int, more: int) -> None:
    schedule = OneCycle(0.1, steps)
    assert schedule(steps - 1) == schedule(steps - 1 + more)


def test_a_schedule_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant(0.1).lr = 0.2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(float("nan")), "lr = nan is not a learning rate"),
        (lambda: Constant(-1.0), "lr = -1.0 is not a learning rate"),
        (lambda: OneCycle(float("inf"), 10), "lr_max = inf is not a learning rate"),
        (lambda: OneCycle(0.1, 0), "total_steps = 0 is out of range"),
        (lambda: OneCycle(0.1, 10, pct_start=1.5), "pct_start = 1.5 is out of range"),
        (lambda: OneCycle(0.1, 10, div=0.0), "div = 0.0 is out of range"),
        (lambda: OneCycle(0.1, 10, moms=(0.9, 1.0, 0.9)), "momentum 1.0 is out of range"),
        (lambda: RampSustainDecay(rampup=-1), "rampup = -1 is out of range"),
        (lambda: RampSustainDecay(decay=1.1), "decay = 1.1 is out of range"),
        (lambda: Constant(0.1)(-1), "step -1 is negative"),
        (lambda: OneCycle(0.1, 10, pct_start=0.6, three_phase=True), "three_phase rises and falls for pct_start = 0.6"),
        (
            lambda: WarmupStableDecay(0.1, 10, warmup=0.5, cooldown=0.6),
            "warmup and cooldown are 1.1 of the run together",
        ),
        (lambda: WarmupStableDecay(0.1, 10, start=float("nan")), "start = nan is out of range"),
        (lambda: WarmupStableDecay(0.1, 0), "total_steps = 0 is out of range"),
        (lambda: WarmupStableDecay(0.1)(3), "total_steps is left out"),
        (lambda: WarmupStableDecay(0.1, 9, shape="sqrt"), "shape 'sqrt' is none of cos, linear, 1-sqrt"),
        (lambda: Step(0.1, step_size=0), "step_size = 0 is out of range"),
        (lambda: Step(0.1, gamma=-1.0), "gamma = -1.0 is out of range"),
    ],
)
def test_a_value_out_of_range_is_named(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message.replace("(", r"\(")):
        make()  # type: ignore[operator]


def test_schedules_need_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import upcycle.schedules;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'upcycle'}))"
    )
    assert (
        "[]" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
