"""When states within an epoch are kept."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from upcycle.jobs import keep
from upcycle.jobs.keep import Keeper
from upcycle.training import features


def test_states_within_an_epoch_wait_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(keep.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(keep, "retries", lambda _: [])
    monkeypatch.setattr(keep, "_is_finite", lambda _: True)
    monkeypatch.setattr(Keeper, "_save", lambda *_: now.__setitem__(0, now[0] + 5))
    stopping = SimpleNamespace(asked=False, obey=lambda: None)
    job = SimpleNamespace(
        run=None, config=SimpleNamespace(checkpoint_every=60), work=SimpleNamespace(stopping=stopping)
    )
    keeper = Keeper(cast(Any, job), cast(Any, None))

    def due_at(seconds: float) -> bool:
        now[0] = seconds
        return keeper.due()

    assert [False, True] == [due_at(59), due_at(60)]
    keeper.pause(cast(Any, None), cast(Any, None))  # a write of 5 s, after which it rests for a hundred
    assert [False, True] == [due_at(164), due_at(165)]
    job.config.checkpoint_every = 0
    assert not keeper.due()
    stopping.asked = True
    assert keeper.due()


def test_no_more_than_1024_images_of_the_features_are_computed_again() -> None:
    assert 1024 == features.PART
