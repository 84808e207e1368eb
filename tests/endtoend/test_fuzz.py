"""Whatever bytes a file holds, it is decoded or refused in one line."""

import pytest

from tests.endtoend.fuzz import fuzz


def test_a_few_hundred_damaged_files_are_dealt_with() -> None:
    tally = fuzz(400, 1)
    assert tally.inputs >= 400
    decoded = sum(count for name, count in tally.outcomes.items() if name.endswith("decoded"))
    assert 40 < decoded < 360


@pytest.mark.slow
def test_fifty_thousand_damaged_files_are_dealt_with() -> None:
    tally = fuzz(50_000, 0)
    print(tally)
    assert tally.inputs >= 50_000
    assert tally.most_memory_kb < 5 * 2**20
