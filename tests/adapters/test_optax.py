"""optax: values in compiled code; the rates of updates are in the contract."""

import pytest

from upcycle.errors import ConfigError
from upcycle.schedules import Constant, OneCycle

pytest.importorskip("optax")
jax = pytest.importorskip("jax")


def test_counts_of_a_whole_run_are_gathered_at_once_in_compiled_code() -> None:
    from upcycle.adapters.optax import learning_rate, momentum

    schedule, counts = OneCycle(0.1, 8), jax.numpy.arange(10)
    rates, momenta = (jax.jit(jax.vmap(of(schedule)))(counts) for of in (learning_rate, momentum))
    assert [schedule(step).lr for step in range(10)] == pytest.approx(rates.tolist())
    assert [schedule(step).momentum for step in range(10)] == pytest.approx(momenta.tolist())


def test_a_schedule_without_an_end_needs_the_number_of_updates() -> None:
    from upcycle.adapters.optax import learning_rate

    with pytest.raises(ConfigError, match="give steps, the number of updates"):
        learning_rate(Constant(0.1))
    assert 0.1 == pytest.approx(float(learning_rate(Constant(0.1), 5)(100)))
