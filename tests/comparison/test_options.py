"""Which options had an effect."""

from upcycle.comparison.options import without_effect
from upcycle.recipes import resolve


def test_an_option_of_another_schedule_is_told() -> None:
    said = without_effect({"pct_start": 0.3, "lr": 0.1}, resolve({"schedule": "constant", "pct_start": 0.3}))
    assert ["pct_start has no effect: it is for the schedule one-cycle, and this one is constant"] == said
    assert [] == without_effect({"pct-start": 0.3, "lr_max": 0.1}, resolve({}))
