"""Which options had an effect."""

from upcycle.comparison.options import effective, without_effect
from upcycle.recipes import resolve


def test_an_option_of_another_schedule_is_told() -> None:
    said = without_effect({"pct_start": 0.3, "lr": 0.1}, resolve({"schedule": "constant", "pct_start": 0.3}))
    assert ["pct_start has no effect: it is for the schedule one-cycle, and this one is constant"] == said
    assert [] == without_effect({"pct-start": 0.3, "lr_max": 0.1}, resolve({}))


def test_what_a_run_records_beside_its_options_is_no_difference_between_recipes() -> None:
    recorded = {**resolve({}).to_dict(), "data": "photos", "weights_sha256": "ab", "updates": 4}
    assert effective(recorded) == effective({**resolve({}).to_dict(), "more_epochs": []})
