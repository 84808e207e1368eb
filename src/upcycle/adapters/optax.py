"""upcycle's schedules as optax schedules: functions of the update's number that can be compiled.

optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate(schedule), b1=momentum(schedule))
optax.MultiSteps(...)  around it accumulates gradients, and counts updates alone
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from upcycle.adapters.table import table
from upcycle.schedules import Schedule

Values = Callable[[jax.typing.ArrayLike], jax.Array]
"""An optax schedule: the number of the update, from 0 -> its value, in jax's float type."""


def learning_rate(schedule: Schedule, steps: int | None = None) -> Values:
    """The schedule's rate of each of `steps` updates; past the end the last one stays.

    `steps` may be left out where the schedule has a `total_steps`.
    """
    return _gathered([rate.lr for rate in table(schedule, steps)])


def momentum(schedule: Schedule, steps: int | None = None) -> Values:
    """The schedule's momentum (Adam's beta1) of each update, likewise: for `optax.inject_hyperparams`."""
    return _gathered([rate.momentum for rate in table(schedule, steps)])


def _gathered(values: list[float]) -> Values:
    def at(count: jax.typing.ArrayLike) -> jax.Array:
        return jnp.asarray(values)[jnp.clip(count, 0, len(values) - 1)]

    return at
