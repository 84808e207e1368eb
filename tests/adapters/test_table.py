"""A schedule's table: the first rate past the end included."""

import pytest

from upcycle.adapters.table import table
from upcycle.errors import ConfigError
from upcycle.schedules import Constant, OneCycle


def test_the_table_ends_with_the_rate_past_the_end() -> None:
    schedule = OneCycle(0.1, 4)
    assert [schedule(step) for step in range(5)] == table(schedule)
    assert [schedule(step) for step in range(3)] == table(schedule, 2)


def test_an_unknown_length_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="^the length of the constant schedule is not known: give steps, the number"):
        table(Constant(0.1))
    with pytest.raises(ConfigError, match="^steps = 0 is out of range: use 1 or more$"):
        table(Constant(0.1), 0)
