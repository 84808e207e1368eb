"""How many updates fit into what is left, by a clock that the tests set."""

import itertools
import random

import pytest

from upcycle.changes import Budget, Ending, Replan
from upcycle.config import Config
from upcycle.jobs import pace
from upcycle.jobs.clock import Deadline
from upcycle.jobs.pace import SLACK, End, Pace
from upcycle.planning import Phase, Plan, phases

END = End(images=100, fixed=5.0)
RESERVE = SLACK * (100 * 0.01 + 5.0)


class Clock:
    """A time that moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def of(seconds: float, *, update: float = 1.0, closing: float = 2.0, most: int = 60) -> Pace:
    return Pace(Deadline(seconds, 1000.0), update, 0.01, closing, END, most)


def phase() -> Phase:
    (planned,) = phases(Config(epochs=6), 320)  # 60 updates
    return planned


@pytest.mark.parametrize(
    ("for_training", "steps"),
    [(200.0, 60), (72.1, 60), (71.9, 59), (24.1, 20), (23.9, 19), (12.1, 10), (3.5, 1), (1.0, 0), (-50.0, 0)],
)
def test_updates_and_the_ends_of_their_epochs_fit(clock: Clock, for_training: float, steps: int) -> None:
    assert steps == of(RESERVE + for_training).fits(phase(), 0)


def test_a_plan_that_fits_is_left_alone(clock: Clock) -> None:
    plan = Plan((phase(),), (Budget(100, 224, steps=20),))
    assert of(RESERVE + 24.5).steps_for(plan, 0) is None


def test_a_machine_that_slows_makes_fewer_updates_and_one_that_recovers_more(clock: Clock) -> None:
    going = of(RESERVE + 24.5)
    plan = Plan((phase(),), (Budget(100, 224, steps=20),))
    for step in range(1, 6):  # four times as slow
        clock.now += 4.0
        going.updated()
        assert going.update > 1.0
        steps = going.steps_for(plan, step)
        if steps is not None:
            break
    assert steps is not None
    assert step <= steps < 20
    plan = Plan(plan.phases, (*plan.changes, Replan(step, steps, "slow")))
    for later in range(step + 1, steps):
        clock.now += 0.1
        going.updated()
        more = going.steps_for(plan, later)
        if more is not None:
            break
    assert more is not None
    assert steps < more <= 60


def test_never_more_updates_than_the_recipe_makes_and_none_after_an_ending(clock: Clock) -> None:
    going = of(10_000, most=60)
    assert going.steps_for(Plan((phase(),)), 10) is None
    ending = Plan((phase(),), (Ending(20, 24, "linear", "no better"),))
    assert going.steps_for(ending, 21) is None
    assert going.steps_for(Plan((phase(),), (Budget(100, 224, steps=20),)), 10) == 60


def test_without_time_training_ends_where_it_is(clock: Clock) -> None:
    going = of(RESERVE + 24.5)
    clock.now += 100
    assert going.steps_for(Plan((phase(),), (Budget(100, 224, steps=20),)), 7) == 7


def test_a_noisy_machine_changes_a_long_plan_seldom(clock: Clock) -> None:
    draw = random.Random(0)
    (whole,) = phases(Config(epochs=1000), 3200)  # 100,000 updates
    going = Pace(Deadline(8 * 3600, 1000.0), 1.0, 0.01, 5.0, END, whole.steps)
    steps, changes, step = going.fits(whole, 0), 0, 0
    while step < steps:
        clock.now += max(0.1, draw.gauss(1.0, 0.2))
        going.updated()
        step += 1
        if step % 100 == 0:
            clock.now += 5.0
            going.closed()
        if going.to_look():
            found = going.steps_for(Plan((whole,), (Budget(8 * 3600, 224, steps=steps),)), step)
            changes, steps = (changes, steps) if found is None else (changes + 1, found)
    assert changes <= 100  # most of them in the last minutes
    assert 0.97 * 8 * 3600 < clock.now - 1000.0 < 8 * 3600


def test_it_looks_again_after_a_second(clock: Clock) -> None:
    going = of(RESERVE + 24.5)
    looks = []
    for _ in range(5):
        looks.append(going.to_look())
        clock.now += pace.EVERY / 2
    assert looks == [True, False, True, False, True]


def test_a_plan_made_again_goes_on_from_its_rate_and_ends_at_the_lowest(clock: Clock) -> None:
    plan = Plan((phase(),), (Budget(100, 224, steps=40), Replan(25, 32, "slow"), Replan(29, 36, "quick")))
    rates = [rate.lr for rate in plan.rates]
    assert len(rates) == 36 == plan.last.steps
    assert rates[-1] == pytest.approx(phase().schedule(59).lr)
    peak = rates.index(max(rates))
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[peak:]))


def test_what_the_time_is_for_adds_up(clock: Clock) -> None:
    told = of(40).plan_text(20, 10)
    assert told == "24.0 s training (2.0 epochs, 20 updates), 1.0 s test, 5.0 s report, 10.0 s slack"
    assert of(20).plan_text(0, 10).startswith("fine-tuning is skipped: an update takes 1 s and 20.0 s are left")
