"""When fine-tuning stops."""

from typing import Any

import pytest

from upcycle.jobs import finetune
from upcycle.recipes import resolve


@pytest.mark.parametrize(
    ("options", "armed"),
    [({"recipe": "classic"}, 0), ({"recipe": "default"}, 3), ({"recipe": "default", "start_from_epoch": 5}, 5)],
)
def test_patience_counts_from_the_peak_of_one_cycle(options: dict[str, Any], armed: int) -> None:
    assert armed == finetune.armed_from(resolve({**options, "epochs": 10, "patience": 5}))
