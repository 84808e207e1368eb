"""A schedule as a table, for frameworks that compile the training step and can call no Python function in it."""

from upcycle.errors import ConfigError
from upcycle.schedules import Rate, Schedule


def table(schedule: Schedule, steps: int | None = None) -> list[Rate]:
    """The rates of updates 0 to `steps`, the first past the end included; the last entry holds for all that follow.

    `steps` may be left out where the schedule has a `total_steps`; ConfigError where neither is known.
    """
    length = steps if steps is not None else getattr(schedule, "total_steps", None)
    if length is None:
        raise ConfigError(f"the length of the {schedule.kind} schedule is not known: give steps, the number of updates")
    if length < 1:
        raise ConfigError(f"steps = {length} is out of range: use 1 or more")
    return [schedule(step) for step in range(length + 1)]
