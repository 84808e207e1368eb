"""upcycle's families agree with those of other libraries where they mean the same, and the table says where not."""

import sys
from pathlib import Path

import pytest

from tests.adapters.loops import LOOPS
from upcycle.schedules import OneCycle

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "lab" / "2026-11-30-parity" / "README.md"


@pytest.mark.filterwarnings("default")  # fastai and jax warn of their own old calls
@pytest.mark.parametrize("steps", [100, 37])
@pytest.mark.parametrize("library", ["torch", "fastai", "transformers", "keras", "optax"])
def test_every_step_agrees_where_the_meaning_is_the_same(
    library: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in (library, *LOOPS.get(library, ((), ()))[1]):
        pytest.importorskip(package)
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "lab")])
    import parity

    listed = TABLE.read_text(encoding="utf-8").splitlines()
    pairs = list(parity.PAIRS[library](steps))
    assert len(pairs) >= 3
    for pair in pairs:
        if pair.within is None:
            assert pair.difference > parity.FLOAT32, pair.name
        else:
            assert pair.difference < pair.within, pair.name
        assert pair.row() in listed


def test_a_difference_of_one_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "lab")])
    import parity

    schedule = OneCycle(parity.TOP, 100, anneal="linear")  # from 0.04 of the peak to all of it in 24 steps
    late = [schedule(max(0, step - 1)).lr for step in range(101)]
    assert 0.04 == pytest.approx(parity.Pair("late", late, schedule, "", parity.FLOAT64).difference)
